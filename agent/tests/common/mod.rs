//! A supervisor on made-up devices: nodes in a temporary directory, opened as
//! socket pairs whose other ends the test holds.

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
use hyperv_services::backup::{Backup, HookRun, Kind, LastBackup, MOUNT_POINTS, Outcome};
use hyperv_services::command::{Client, Command};
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

/// Far beyond what anything here takes.
pub const LONG: Duration = Duration::from_secs(20);

pub const REGISTRATION: &[u8] = b"register";

/// Bytes of the shortest request.
const REQUEST_LEN: usize = 8;

/// A service that answers with the mode its configuration has, and that panics,
/// hangs, fails or works when it is asked to.
struct Probe {
    mode: u32,
    log: Logger,
    progress: Arc<Progress>,
    operation: Option<OperationGuard>,
    last_backup: Arc<LastBackup>,
    client: Option<Box<dyn Client>>,
}

/// A backup of which everything is as long as it gets.
pub fn long_backup() -> Backup {
    Backup {
        kind: Kind::Backup,
        began: std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        frozen_for: Some(Duration::from_millis(1250)),
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

/// Lets a service that hangs go on.
pub static RELEASE: AtomicBool = AtomicBool::new(false);

/// Whether one hangs.
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
                    size: 10,
                });
                operation.set_done(3);
                self.operation = Some(operation);
            }
            b"backup" => self.last_backup.set(long_backup()),
            b"frozen" => {
                self.operation = Some(self.progress.begin(Operation::Frozen {
                    file_systems: 1000,
                    mount_points: long_backup().mount_points,
                    rehearsal: false,
                }));
            }
            b"finish" => self.operation = None,
            _ => {}
        }
        body[4..8].copy_from_slice(&self.mode.to_le_bytes());
        status
    }

    fn progress(&self) -> Option<Arc<Progress>> {
        Some(Arc::clone(&self.progress))
    }

    fn keep_in(&mut self, last: &Arc<LastBackup>) {
        self.last_backup = Arc::clone(last);
    }

    /// Takes as long as it is to hold: no time, or until its own end.
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
                self.last_backup.set(long_backup());
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
        make: |config, log| {
            Box::new(Probe {
                mode: config.fcopy.mode,
                log: log.clone(),
                progress: Arc::default(),
                operation: None,
                last_backup: Arc::default(),
                client: None,
            })
        },
    }
}

pub static ONE: Entry = probe("one", "vmbus/one", 1);
pub static TWO: Entry = probe("two", "vmbus/two", 2);

/// A service of which something can be asked.
pub static VSS: Entry = probe("vss", "vmbus/vss", 4);

/// Its messages are as over a ring.
pub static RING: Entry = probe("ring", "vmbus/ring", 3);

/// A device that the agent has opened, from the kernel's side.
pub struct Opened {
    pub service: &'static str,
    kernel: File,
}

impl Opened {
    /// Sends a request and gives the reply: the mode of the configuration.
    pub fn call(&mut self, request: &[u8]) -> u32 {
        let reply = self.exchange(request);
        assert_eq!(reply.len(), REQUEST_LEN, "no reply");
        u32::from_le_bytes(*reply.last_chunk().unwrap())
    }

    /// Sends a message and gives the reply, whatever it is.
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

/// A channel that carries each packet of a ring as one record of a socket.
struct Ring(File);

impl Channel for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn buffer_len(&self) -> usize {
        64
    }

    fn recv<'a>(&mut self, buffer: &'a mut [u8]) -> Result<Option<Message<'a>>, ChannelError> {
        let len = match self.0.read(buffer) {
            Ok(0) => return Err(ChannelError::Gone),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(source) => {
                let call = "read";
                return Err(ChannelError::Io { call, source });
            }
        };
        Ok(Some(Message::from_packet(Packet {
            kind: IN_BAND,
            transaction: 0,
            payload: &mut buffer[..len],
        })))
    }

    fn send(&mut self, reply: Reply<'_>) -> Result<Sent, ChannelError> {
        self.0.write_all(reply.payload).unwrap();
        Ok(Sent::Done)
    }

    fn arm(&mut self) -> bool {
        false
    }

    fn pending(&mut self) -> bool {
        false
    }

    fn acknowledge(&mut self) -> Result<(), ChannelError> {
        Ok(())
    }
}

/// Hands devices out as socket pairs, or refuses.
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
        let channel: Box<dyn Channel> = if entry.name == RING.name {
            fcntl(&guest, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
            Box::new(Ring(guest.into()))
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
            kernel,
        };
        self.opened.lock().unwrap().send(opened).unwrap();
        Ok(channel)
    }
}

/// Keeps log lines.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub fn with(&self, words: &str) -> usize {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line.contains(words)).count()
    }

    /// Waits for a line; the lines come from other threads.
    pub fn wait_for(&self, words: &str) {
        self.wait_for_count(words, 1);
    }

    /// Waits until that many lines have come.
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
    /// Starts a supervisor with these services, before any device is there.
    pub fn start(services: &[&'static Entry]) -> Self {
        Self::start_after(services, |_| {})
    }

    /// As [`Guest::start`]; `first` is given the control socket's path, when
    /// clients can connect to it and nobody answers them yet.
    pub fn start_after(services: &[&'static Entry], first: impl FnOnce(&Path)) -> Self {
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
            Box::new(move || Ok(latest.lock().unwrap().clone())),
            Arc::new(opener),
            Logger::root(log.clone(), o!()),
        )
        .unwrap();
        let control = root.path().join("control");
        let socket = ControlSocket::bind(&control).unwrap();
        supervisor.serve_status_on(socket).unwrap();
        let socket = ControlSocket::bind(&root.path().join("request")).unwrap();
        supervisor.serve_requests_on(socket).unwrap();
        first(&control);
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

    /// Makes a service's device appear.
    pub fn offer(&self, entry: &Entry) {
        fs::write(self.node(entry), "").unwrap();
        self.handle.rescan();
    }

    /// A path under the made-up sysfs.
    pub fn sys(&self, relative: &str) -> PathBuf {
        self.root.path().join("sys").join(relative)
    }

    /// Makes a service's device appear on the bus, without a driver.
    pub fn offer_without_driver(&self, entry: &Entry) {
        let device = self.sys("bus/vmbus/devices/00000000-0000-0000-0000-0000000000aa");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("class_id"), format!("{{{}}}\n", entry.class)).unwrap();
        self.handle.rescan();
    }

    /// Takes a service's device away.
    pub fn withdraw(&self, entry: &Entry) {
        fs::remove_file(self.node(entry)).unwrap();
        self.handle.rescan();
    }

    /// Where the agent tells its status.
    pub fn control(&self) -> PathBuf {
        self.root.path().join("control")
    }

    /// Where the agent takes requests.
    pub fn requests(&self) -> PathBuf {
        self.root.path().join("request")
    }

    /// The agent's status.
    pub fn status(&self) -> Document {
        serde_json::from_str(&fetch(&self.control()).unwrap()).unwrap()
    }

    /// Changes the settings and lets them be read again.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings.lock().unwrap());
        self.handle.reload();
    }

    /// Waits for the agent to open a device of that service.
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
