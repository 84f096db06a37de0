//! A supervisor on made-up devices: nodes in a temporary directory, opened as
//! socket pairs whose other ends the test holds.

#![allow(dead_code, unreachable_pub)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hyperv_agent::locate::Located;
use hyperv_agent::opener::{OpenError, Opener};
use hyperv_agent::supervisor::{Handle, Settings, Supervisor};
use hyperv_services::registry::{Entry, HvUtil};
use hyperv_services::service::Service;
use hyperv_vmbus::discovery::Roots;
use hyperv_vmbus::hvutil::HvUtilChannel;
use hyperv_vmbus::ic::{MessageType, Status, Version};
use hyperv_vmbus::{Channel, ChannelError, Guid};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use slog::{Drain, Logger, Never, OwnedKVList, Record, o};

/// Far beyond what anything here takes.
pub const LONG: Duration = Duration::from_secs(20);

pub const REGISTRATION: &[u8] = b"register";

/// A service that answers with the mode its configuration has, panics when it
/// is asked to, and hangs when it is asked to.
struct Probe {
    mode: u32,
}

/// Lets a service that hangs go on.
pub static RELEASE: AtomicBool = AtomicBool::new(false);

impl Service for Probe {
    fn handle_uio(&mut self, _body: &mut [u8]) -> Status {
        Status::FAIL
    }

    fn handle_hvutil(&mut self, buffer: &mut [u8], len: usize) -> usize {
        match &buffer[..len] {
            b"panic" => panic!("asked to"),
            b"hang" => {
                while !RELEASE.load(Ordering::Relaxed) {
                    thread::park_timeout(Duration::from_millis(10));
                }
            }
            _ => {}
        }
        buffer[..4].copy_from_slice(&self.mode.to_le_bytes());
        4
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
        },
        default: true,
        make: |config, _| {
            Box::new(Probe {
                mode: config.fcopy.mode,
            })
        },
    }
}

pub static ONE: Entry = probe("one", "vmbus/one", 1);
pub static TWO: Entry = probe("two", "vmbus/two", 2);

/// A device that the agent has opened, from the kernel's side.
pub struct Opened {
    pub service: &'static str,
    kernel: File,
}

impl Opened {
    /// Sends a request and gives the reply: the mode of the configuration.
    pub fn call(&mut self, request: &[u8]) -> u32 {
        self.send(request);
        let mut reply = [0; 64];
        assert_eq!(self.read(&mut reply), 4, "no reply");
        u32::from_le_bytes(*reply.first_chunk().unwrap())
    }

    pub fn send(&mut self, request: &[u8]) {
        self.kernel.write_all(request).unwrap();
    }

    /// Waits until the agent has closed the device.
    pub fn wait_closed(&mut self) {
        assert_eq!(self.read(&mut [0; 64]), 0, "it is still open");
    }

    fn read(&mut self, buffer: &mut [u8]) -> usize {
        self.kernel.read(buffer).expect("the agent does nothing")
    }
}

/// Hands devices out as socket pairs, or refuses.
struct TestOpener {
    opened: Mutex<Sender<Opened>>,
    refuse: Arc<AtomicBool>,
}

impl Opener for TestOpener {
    fn open(&self, device: &Located, entry: &Entry) -> Result<Box<dyn Channel>, OpenError> {
        let Located::HvUtil { node } = device else {
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
        let channel = HvUtilChannel::new(guest, REGISTRATION, entry.hvutil.message_len)?;
        let mut kernel = File::from(kernel);
        nix::sys::socket::setsockopt(
            &kernel,
            nix::sys::socket::sockopt::ReceiveTimeout,
            &nix::sys::time::TimeVal::new(20, 0),
        )
        .unwrap();
        let mut registration = [0; 64];
        let len = kernel.read(&mut registration).unwrap();
        assert_eq!(&registration[..len], REGISTRATION);
        kernel.write_all(b"registered").unwrap();
        let opened = Opened {
            service: entry.name,
            kernel,
        };
        self.opened.lock().unwrap().send(opened).unwrap();
        Ok(Box::new(channel))
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
    pub handle: Handle,
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
        let supervisor = Supervisor::new(
            now,
            Box::new(move || Ok(latest.lock().unwrap().clone())),
            Arc::new(opener),
            Logger::root(log.clone(), o!()),
        )
        .unwrap();
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
