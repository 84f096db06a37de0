//! A supervisor with fake devices: nodes in a temporary directory that open as socket pairs.
//! The test has the other ends.

#![expect(dead_code, unreachable_pub)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hyperv_agent::control_socket::ControlSocket;
use hyperv_agent::locate::DeviceNode;
use hyperv_agent::mailbox::SupervisorHandle;
use hyperv_agent::opener::{OpenContext, OpenError, Opener};
use hyperv_agent::settings::Settings;
use hyperv_agent::status::Document;
use hyperv_agent::status::client::fetch;
use hyperv_agent::supervisor::Supervisor;
use hyperv_services::backup::{Backup, HookRun, Kind, MOUNT_POINTS, Outcome, ThawedBy};
use hyperv_services::command::{Client, Command};
use hyperv_services::counters::ServiceRecord;
use hyperv_services::description::Description;
use hyperv_services::progress::{Operation, OperationGuard, Progress};
use hyperv_services::service::{Entry, Service};
use hyperv_vmbus::discovery::Roots;
use hyperv_vmbus::hvutil::{HvUtil, HvUtilChannel};
use hyperv_vmbus::ic::{MessageType, Status, Version};
use hyperv_vmbus::message::ReplyLayout;
use hyperv_vmbus::packet::{IN_BAND, Packet};
use hyperv_vmbus::{Channel, ChannelError, Encoding, Guid, Message, Reply, Sent};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use slog::{Drain, Logger, Never, OwnedKVList, Record, o, warn};

/// A timeout that no test reaches.
pub const LONG: Duration = Duration::from_secs(20);

pub const REGISTRATION: &[u8] = b"register";

/// Length of the shortest request in bytes.
const REQUEST_LEN: usize = 8;

/// A service that replies with the mode in its configuration, and that panics, hangs, fails
/// or begins an operation on request.
struct Probe {
    mode: u32,
    log: Logger,
    progress: Arc<Progress>,
    operation: Option<OperationGuard>,
    record: Arc<ServiceRecord>,
    client: Option<Box<dyn Client>>,
}

/// A backup with as many and as long texts as possible.
pub fn long_backup() -> Backup {
    Backup {
        kind: Kind::Backup,
        began: std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        frozen_for: Some(Duration::from_millis(1250)),
        thawed_by: Some(ThawedBy::TimeLimit),
        file_systems: 1000,
        mount_points: vec![PathBuf::from("/é".repeat(2000)); MOUNT_POINTS],
        hooks: (0..200)
            .map(|number| HookRun {
                name: format!("{:0250}", number % 100),
                action: "freeze",
                took: Duration::from_millis(3),
                failure: Some("é".repeat(4000)),
            })
            .collect(),
        outcome: Outcome::Inconsistent("é".repeat(4000)),
    }
}

/// Releases a service that hangs.
pub static RELEASE: AtomicBool = AtomicBool::new(false);

/// Whether a service hangs.
pub static HANGS: AtomicBool = AtomicBool::new(false);

impl Service for Probe {
    fn handle(&mut self, encoding: Encoding, body: &mut [u8]) -> Status {
        if encoding == Encoding::Utf16 {
            return Status::FAIL;
        }
        let mut status = Status::OK;
        let end = body.iter().position(|byte| *byte == 0);
        match &body[..end.unwrap_or(body.len())] {
            b"panic" => panic!("asked to"),
            b"hang" => {
                HANGS.store(true, Ordering::Relaxed);
                while !RELEASE.load(Ordering::Relaxed) {
                    thread::park_timeout(Duration::from_millis(10));
                }
            }
            b"fail" => {
                warn!(self.log, "failed"; "because" => "asked to");
                status = Status::FAIL;
            }
            b"end" => status = Status::NO_MORE_ITEMS,
            b"work" => {
                let operation = self.progress.begin(Operation::Copying {
                    path: "/a/file".into(),
                    done: 0,
                    size: 10,
                });
                operation.set_done(3);
                self.operation = Some(operation);
            }
            b"backup" => self.record.end_backup(long_backup()),
            b"frozen" => {
                self.operation = Some(self.progress.begin(Operation::Frozen {
                    file_systems: 1000,
                    mount_points: vec!["/é".repeat(2000); MOUNT_POINTS],
                    rehearsal: false,
                }));
            }
            b"finish" => self.operation = None,
            _ => {}
        }
        body[4..8].copy_from_slice(&self.mode.to_le_bytes());
        status
    }

    fn busy(&self) -> bool {
        self.operation.is_some()
    }

    fn progress(&self) -> Option<Arc<Progress>> {
        Some(Arc::clone(&self.progress))
    }

    fn record_in(&mut self, record: &Arc<ServiceRecord>) {
        self.record = Arc::clone(record);
    }

    /// Ends at once if the hold time is zero, and with the service otherwise.
    fn command(
        &mut self,
        command: Command,
        mut client: Box<dyn Client>,
        host: Option<BorrowedFd<'_>>,
    ) {
        let Command::Rehearse(what) = command;
        client.progress(if host.is_some() {
            "device"
        } else {
            "no device"
        });
        match what.hold.is_zero() {
            true => {
                self.record.end_backup(long_backup());
                client.end(Ok(long_backup()));
            }
            false => self.client = Some(client),
        }
    }
}

const VERSIONS: &[Version] = &[Version::new(1, 0)];

const fn probe(name: &'static str, node: &'static str, class: u128) -> Entry {
    Entry {
        name,
        summary: "a test's own",
        class: Guid::from_u128(class),
        message_type: MessageType(99),
        frameworks: VERSIONS,
        versions: VERSIONS,
        hvutil: HvUtil {
            node,
            registration: REGISTRATION,
            message_len: 64,
            reply: ReplyLayout::StatusInBody,
        },
        default: true,
        mounts_wait: |_| Duration::ZERO,
        prepare: None,
        describe: |_, _| Description::new("TEST", None),
        data: |_| None,
        make: |config, log| {
            Box::new(Probe {
                mode: config.fcopy.mode,
                log: log.clone(),
                progress: Arc::default(),
                operation: None,
                record: Arc::default(),
                client: None,
            })
        },
    }
}

pub static ONE: Entry = probe("one", "vmbus/one", 1);
pub static TWO: Entry = probe("two", "vmbus/two", 2);

/// A service with a command.
pub static VSS: Entry = probe("vss", "vmbus/vss", 4);

/// A service whose messages are framed as over a ring.
pub static RING: Entry = probe("ring", "vmbus/ring", 3);

/// A device that the agent has opened, from the kernel's side.
pub struct Opened {
    pub service: &'static str,
    /// Whether the agent, since its last message over a ring, has woken without one.
    pub woken_without_message: Arc<AtomicBool>,
    kernel: File,
}

impl Opened {
    /// Sends a request and returns the reply: the mode in the configuration.
    pub fn call(&mut self, request: &[u8]) -> u32 {
        let reply = self.exchange(request);
        assert_eq!(reply.len(), REQUEST_LEN, "no reply");
        u32::from_le_bytes(*reply.last_chunk().unwrap())
    }

    /// Sends a message and returns the reply.
    pub fn exchange(&mut self, message: &[u8]) -> Vec<u8> {
        self.send(message);
        let mut reply = [0; 64];
        let len = self.read(&mut reply);
        reply[..len].to_vec()
    }

    /// Sends a message, padded so that its reply has room for a status and a mode.
    pub fn send(&mut self, message: &[u8]) {
        let mut message = message.to_vec();
        message.resize(message.len().max(REQUEST_LEN), 0);
        self.kernel.write_all(&message).unwrap();
    }

    /// Waits until the agent has closed the device.
    pub fn wait_closed(&mut self) {
        assert_eq!(self.read(&mut [0; 64]), 0, "it is still open");
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        self.kernel.read(buffer).expect("the agent does nothing")
    }
}

/// A channel over a socket that preserves message boundaries.
struct Ring {
    socket: File,
    woken_without_message: Arc<AtomicBool>,
}

impl Channel for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn buffer_len(&self) -> usize {
        64
    }

    fn recv<'a>(&mut self, buffer: &'a mut [u8]) -> Result<Option<Message<'a>>, ChannelError> {
        let len = match self.socket.read(buffer) {
            Ok(0) => return Err(ChannelError::Gone),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(source) => {
                let call = "read";
                return Err(ChannelError::Io { call, source });
            }
        };
        self.woken_without_message.store(false, Ordering::SeqCst);
        Ok(Some(Message::from_packet(Packet {
            kind: IN_BAND,
            flags: 0,
            transaction: 0,
            payload: &mut buffer[..len],
        })))
    }

    fn readable(&mut self) {}

    fn send(&mut self, reply: Reply<'_>) -> Result<Sent, ChannelError> {
        self.socket.write_all(reply.payload).unwrap();
        Ok(Sent::Done)
    }

    fn arm(&mut self) -> bool {
        false
    }

    fn pending(&mut self) -> Option<bool> {
        None
    }

    fn acknowledge(&mut self) -> Result<(), ChannelError> {
        self.woken_without_message.store(true, Ordering::SeqCst);
        Ok(())
    }
}

/// Opens devices as socket pairs, or fails.
struct TestOpener {
    opened: Mutex<Sender<Opened>>,
    refuse: Arc<AtomicBool>,
}

impl Opener for TestOpener {
    fn open(
        &self,
        device: &DeviceNode,
        entry: &Entry,
        _: &OpenContext<'_>,
    ) -> Result<Box<dyn Channel>, OpenError> {
        let DeviceNode::HvUtil { node } = device else {
            unreachable!("only character devices are made up here");
        };
        if self.refuse.load(Ordering::Relaxed) {
            let error = ChannelError::Io {
                call: "open",
                source: nix::errno::Errno::EBUSY.into(),
            };
            return Err(error.into());
        }
        assert!(node.ends_with(entry.hvutil.node));
        let (guest, kernel): (OwnedFd, OwnedFd) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let woken_without_message = Arc::<AtomicBool>::default();
        let channel: Box<dyn Channel> = if entry.name == RING.name {
            fcntl(&guest, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
            Box::new(Ring {
                socket: guest.into(),
                woken_without_message: Arc::clone(&woken_without_message),
            })
        } else {
            Box::new(HvUtilChannel::new(guest, &entry.hvutil)?)
        };
        let mut kernel = File::from(kernel);
        nix::sys::socket::setsockopt(
            &kernel,
            nix::sys::socket::sockopt::ReceiveTimeout,
            &nix::sys::time::TimeVal::new(20, 0),
        )
        .unwrap();
        if entry.name != RING.name {
            let mut registration = [0; 64];
            let len = kernel.read(&mut registration).unwrap();
            assert_eq!(&registration[..len], REGISTRATION);
            kernel.write_all(b"registered").unwrap();
        }
        let opened = Opened {
            service: entry.name,
            woken_without_message,
            kernel,
        };
        self.opened.lock().unwrap().send(opened).unwrap();
        Ok(channel)
    }
}

/// A drain that keeps the lines.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub fn with(&self, words: &str) -> usize {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line.contains(words)).count()
    }

    /// Waits for a line from any thread.
    pub fn wait_for(&self, words: &str) {
        self.wait_for_count(words, 1);
    }

    /// Waits for that many such lines.
    pub fn wait_for_count(&self, words: &str, count: usize) {
        let deadline = Instant::now() + LONG;
        while self.with(words) < count {
            assert!(Instant::now() < deadline, "no line with {words:?}");
            thread::yield_now();
        }
    }
}

impl Drain for Lines {
    type Ok = ();
    type Err = Never;
    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        self.0.lock().unwrap().push(record.msg().to_string());
        Ok(())
    }
}

/// A running supervisor.
pub struct Guest {
    pub handle: SupervisorHandle,
    pub log: Lines,
    pub refuse: Arc<AtomicBool>,
    settings: Arc<Mutex<Settings>>,
    opened: Receiver<Opened>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
    root: tempfile::TempDir,
}

impl Guest {
    /// Starts a supervisor with these services, without devices.
    pub fn start(services: &[&'static Entry]) -> Self {
        Self::start_after(services, |_, _| {})
    }

    /// As [`Guest::start`], but calls `first` with the path of the control socket when
    /// clients can connect and nobody answers yet.
    pub fn start_after(
        services: &[&'static Entry],
        first: impl FnOnce(&mut Supervisor, &Path),
    ) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("sys/bus/vmbus/devices")).unwrap();
        fs::create_dir_all(root.path().join("dev/vmbus")).unwrap();
        let settings = Arc::new(Mutex::new(Settings {
            services: services.to_vec(),
            config: Arc::default(),
            bind_uio: false,
            roots: Roots {
                sys: root.path().join("sys"),
                dev: root.path().join("dev"),
            },
            run: root.path().join("run"),
        }));
        let (sender, opened) = channel();
        let refuse = Arc::new(AtomicBool::new(false));
        let opener = TestOpener {
            opened: Mutex::new(sender),
            refuse: Arc::clone(&refuse),
        };
        let log = Lines::default();
        let latest = Arc::clone(&settings);
        let now = settings.lock().unwrap().clone();
        let mut supervisor = Supervisor::new(
            now,
            Box::new(move || {
                let settings = latest.lock().unwrap().clone();
                anyhow::ensure!(settings.run != Path::new(""), "invalid\nsettings");
                Ok(settings)
            }),
            Arc::new(opener),
            Logger::root(log.clone(), o!()),
        )
        .unwrap();
        let control = root.path().join("control");
        let socket = ControlSocket::bind(&control).unwrap();
        supervisor.serve_status_on(socket).unwrap();
        let socket = ControlSocket::bind(&root.path().join("request")).unwrap();
        supervisor.serve_requests_on(socket).unwrap();
        first(&mut supervisor, &control);
        let handle = supervisor.handle();
        let thread = Some(thread::spawn(move || supervisor.run()));
        Self {
            handle,
            log,
            refuse,
            settings,
            opened,
            thread,
            root,
        }
    }

    fn node(&self, entry: &Entry) -> PathBuf {
        self.root.path().join("dev").join(entry.hvutil.node)
    }

    /// Creates the device of a service.
    pub fn offer(&self, entry: &Entry) {
        fs::write(self.node(entry), "").unwrap();
        self.handle.rescan();
    }

    /// Returns a path in the fake sysfs.
    pub fn sys(&self, relative: &str) -> PathBuf {
        self.root.path().join("sys").join(relative)
    }

    /// Creates the device of a service on the bus, without a driver.
    pub fn offer_without_driver(&self, entry: &Entry) {
        let device = self.sys("bus/vmbus/devices/00000000-0000-0000-0000-0000000000aa");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("class_id"), format!("{{{}}}\n", entry.class)).unwrap();
        self.handle.rescan();
    }

    /// Removes the device of a service.
    pub fn withdraw(&self, entry: &Entry) {
        fs::remove_file(self.node(entry)).unwrap();
        self.handle.rescan();
    }

    /// Returns the path of the control socket.
    pub fn control(&self) -> PathBuf {
        self.root.path().join("control")
    }

    /// Returns the path of the request socket.
    pub fn requests(&self) -> PathBuf {
        self.root.path().join("request")
    }

    /// Returns the agent's status.
    pub fn status(&self) -> Document {
        serde_json::from_str(&fetch(&self.control()).unwrap()).unwrap()
    }

    /// Changes the settings and reloads them. An empty path of `run` is refused.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings.lock().unwrap());
        self.handle.reload();
    }

    /// Waits until the agent has opened a device of that service.
    pub fn opened(&self, entry: &Entry) -> Opened {
        let opened = self.opened.recv_timeout(LONG).expect("no device is opened");
        assert_eq!(opened.service, entry.name);
        opened
    }

    /// Ends the supervisor.
    pub fn stop(mut self) {
        self.handle.stop();
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}
