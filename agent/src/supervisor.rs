//! The supervisor: one mio loop over every device, the kernel's uevents and
//! signals, and a worker thread for each open device.
//!
//! The loop never touches a file system other than sysfs, resolves no name,
//! runs no program and waits for nothing but its own poll.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use hyperv_services::registry::Entry;
use hyperv_vmbus::discovery::{self, Device, DiscoveryError, Roots};
use hyperv_vmbus::{ChannelError, Guid};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use slog::{Logger, debug, error, info, o, warn};

use crate::endpoint::{Control, Ended, Endpoint, Why};
use crate::hotplug::Uevents;
use crate::locate::{Found, Located, has_node, locate};
use crate::logging::RateLimit;
use crate::opener::Opener;

const WAKER: Token = Token(0);
const SIGNALS: Token = Token(1);
const UEVENTS: Token = Token(2);
const FIRST_ENDPOINT: usize = 16;

/// How long workers have to end, before the process does so without them.
const STOP_LIMIT: Duration = Duration::from_millis(700);

/// A device that fails is opened again after this long, twice as long after
/// each further failure.
const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);

/// How often, and how many times in a row, to look again for a device that the
/// kernel is still setting up.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
const SETTLE_LOOKS: u32 = 50;

/// How long a new device may be without a driver before that is a complaint, or
/// the agent binds it.
const DRIVER_GRACE: Duration = Duration::from_secs(1);

/// What the supervisor is to do; read again at SIGHUP.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The services that are switched on.
    pub services: Vec<&'static Entry>,
    /// What they are configured with.
    pub config: Arc<hyperv_services::Config>,
    /// Whether a device that no driver has may be bound to `uio_hv_generic`.
    pub bind_uio: bool,
    /// Where sysfs and the device nodes are.
    pub roots: Roots,
}

/// Gives the settings anew.
///
/// # Errors
///
/// What is wrong with the configuration; the old settings stay then.
pub type Reload = Box<dyn FnMut() -> anyhow::Result<Settings> + Send>;

/// What the loop is told by other threads.
#[derive(Debug)]
pub(crate) enum Notice {
    Ended { token: Token, ended: Ended },
    Rescan,
    Reload,
    Stop,
}

/// How other threads reach the loop.
#[derive(Debug, Clone)]
pub struct Handle {
    notices: Sender<Notice>,
    waker: Arc<Waker>,
}

impl Handle {
    /// Looks for devices, as after a uevent.
    pub fn rescan(&self) {
        self.tell(Notice::Rescan);
    }

    /// Reads the settings again and looks for devices, as SIGHUP does.
    pub fn reload(&self) {
        self.tell(Notice::Reload);
    }

    /// Ends the supervisor in an orderly way, as SIGTERM does.
    pub fn stop(&self) {
        self.tell(Notice::Stop);
    }

    pub(crate) fn tell(&self, notice: Notice) {
        // Both fail only when the loop is gone, and with it whom to tell.
        let _ = self.notices.send(notice);
        let _ = self.waker.wake();
    }
}

/// One device of one service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    service: &'static str,
    device: Located,
}

/// What becomes of a device that is, or was, there.
#[derive(Debug)]
struct Slot {
    entry: &'static Entry,
    state: State,
    /// Failures in a row.
    failures: u32,
    /// The last failure that was logged, so that it is not again.
    complaint: Option<String>,
}

#[derive(Debug)]
enum State {
    Served {
        token: Token,
        control: Arc<Control>,
        thread: thread::JoinHandle<()>,
        stopping: bool,
    },
    /// Not before then.
    BackOff(Instant),
}

/// The poll loop and all that hangs on it.
pub struct Supervisor {
    poll: Poll,
    settings: Settings,
    reload: Reload,
    opener: Arc<dyn Opener>,
    log: Logger,
    signals: Option<Signals>,
    uevents: Option<Uevents>,
    notices: Receiver<Notice>,
    handle: Handle,
    slots: BTreeMap<Key, Slot>,
    next_token: usize,
    settle_looks: u32,
    look_again: Option<Instant>,
    /// Devices that no driver makes accessible, and since when.
    unreachable: BTreeMap<Guid, Instant>,
    /// Discovery's last complaints, so that each is logged once.
    complaints: Vec<String>,
}

impl Supervisor {
    /// Sets the loop up; nothing is opened yet.
    ///
    /// # Errors
    ///
    /// Where the process cannot have a poll, or not register with it.
    pub fn new(
        settings: Settings,
        reload: Reload,
        opener: Arc<dyn Opener>,
        log: Logger,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (sender, notices) = channel();
        Ok(Self {
            poll,
            settings,
            reload,
            opener,
            log,
            signals: None,
            uevents: None,
            notices,
            handle: Handle {
                notices: sender,
                waker,
            },
            slots: BTreeMap::new(),
            next_token: FIRST_ENDPOINT,
            settle_looks: 0,
            look_again: None,
            unreachable: BTreeMap::new(),
            complaints: Vec::new(),
        })
    }

    /// Takes SIGTERM, SIGINT and SIGHUP from now on.
    ///
    /// # Errors
    ///
    /// Where they cannot be taken.
    pub fn take_signals(&mut self) -> io::Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        self.poll
            .registry()
            .register(&mut signals, SIGNALS, Interest::READABLE)?;
        self.signals = Some(signals);
        Ok(())
    }

    /// Listens for the kernel's uevents from now on.
    ///
    /// # Errors
    ///
    /// Where the kernel does not allow it; devices that appear later are then
    /// found at SIGHUP only.
    pub fn listen_for_devices(&mut self) -> io::Result<()> {
        let uevents = Uevents::listen()?;
        self.poll
            .registry()
            .register(&mut SourceFd(&uevents.fd()), UEVENTS, Interest::READABLE)?;
        self.uevents = Some(uevents);
        Ok(())
    }

    /// How other threads reach this supervisor.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until it is told to stop.
    ///
    /// # Errors
    ///
    /// Only the loss of the poll itself.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        self.look_for_devices();
        tell_service_manager(&[NotifyState::Ready]);
        if self.slots.is_empty() {
            info!(
                self.log,
                "no device to serve yet, waiting for the host to offer one"
            );
        }
        loop {
            match self.poll.poll(&mut events, self.until_next_deadline()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            let mut look = self.deadline_has_passed();
            for event in &events {
                match event.token() {
                    // What it woke for lies in the queue.
                    WAKER => {}
                    SIGNALS => {
                        for signal in self.pending_signals() {
                            match signal {
                                SIGHUP => {
                                    self.reload();
                                    look = true;
                                }
                                signal => {
                                    let name = signal_name(signal);
                                    info!(self.log, "stopping"; "signal" => name);
                                    return self.stop();
                                }
                            }
                        }
                    }
                    UEVENTS => look |= self.take_uevents(),
                    token => self.wake_worker(token),
                }
            }
            while let Ok(notice) = self.notices.try_recv() {
                match notice {
                    Notice::Ended { token, ended } => self.worker_ended(token, ended),
                    Notice::Rescan => {}
                    Notice::Reload => self.reload(),
                    Notice::Stop => return self.stop(),
                }
                look = true;
            }
            if look {
                self.look_for_devices();
            }
        }
    }

    fn pending_signals(&mut self) -> Vec<i32> {
        self.signals
            .as_mut()
            .map(|signals| signals.pending().collect())
            .unwrap_or_default()
    }

    fn take_uevents(&mut self) -> bool {
        match self.uevents.as_ref().map(Uevents::drain) {
            Some(Ok(look)) => {
                if look {
                    self.settle_looks = 0;
                }
                look
            }
            Some(Err(error)) => {
                warn!(self.log, "cannot hear of new devices any more, send SIGHUP to look for them";
                    "error" => %error);
                self.uevents = None;
                true
            }
            None => false,
        }
    }

    fn wake_worker(&self, token: Token) {
        let served = self.slots.values().find_map(|slot| match &slot.state {
            State::Served {
                token: its,
                control,
                ..
            } if *its == token => Some(control),
            _ => None,
        });
        if let Some(control) = served {
            control.wake();
        }
    }

    /// Time until a device may be opened again, or is to be looked for again;
    /// `None` to wait for as long as it takes.
    fn until_next_deadline(&self) -> Option<Duration> {
        self.deadlines()
            .min()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn deadline_has_passed(&self) -> bool {
        let now = Instant::now();
        self.deadlines().any(|deadline| deadline <= now)
    }

    fn deadlines(&self) -> impl Iterator<Item = Instant> {
        let back_offs = self.slots.values().filter_map(|slot| match slot.state {
            State::BackOff(until) => Some(until),
            State::Served { .. } => None,
        });
        back_offs.chain(self.look_again)
    }

    /// Compares what there is with what is served: starts and stops workers.
    fn look_for_devices(&mut self) {
        self.look_again = None;
        let mut complaints = Vec::new();
        let wanted = self.wanted(&mut complaints);
        for complaint in &complaints {
            if !self.complaints.contains(complaint) {
                warn!(self.log, "{}", complaint);
            }
        }
        self.complaints = complaints;

        self.slots.retain(|key, slot| match &mut slot.state {
            _ if wanted.contains_key(key) => true,
            State::Served {
                control, stopping, ..
            } => {
                // Its end is reported, and the slot goes then.
                if !*stopping {
                    *stopping = true;
                    control.stop();
                }
                true
            }
            State::BackOff(_) => false,
        });
        let now = Instant::now();
        for (key, entry) in wanted {
            let due = match self.slots.get(&key).map(|slot| &slot.state) {
                None => true,
                Some(State::BackOff(until)) => *until <= now,
                Some(State::Served { .. }) => false,
            };
            if due {
                self.serve(key, entry);
            }
        }
    }

    /// The devices of all services that are switched on.
    fn wanted(&mut self, complaints: &mut Vec<String>) -> BTreeMap<Key, &'static Entry> {
        let now = Instant::now();
        let mut wanted = BTreeMap::new();
        let mut unreachable_now = Vec::new();
        let roots = self.settings.roots.clone();
        let services: Vec<_> = self
            .settings
            .services
            .iter()
            .map(|entry| (*entry, has_node(entry, &roots)))
            .collect();
        let devices = match discovery::devices(&roots) {
            Ok(devices) => devices,
            // The bus can be missing where the nodes are not, as in containers.
            Err(DiscoveryError::NoVmbus(_)) => Vec::new(),
            Err(error) => {
                complaints.push(format!("cannot look for devices: {error}"));
                Vec::new()
            }
        };
        for (entry, has_node) in services {
            let Found {
                located,
                unreachable,
                settling,
            } = locate(entry, &devices, &roots, has_node);
            if settling && self.settle_looks < SETTLE_LOOKS {
                self.settle_looks += 1;
                self.look_again = Some(now + SETTLE_PAUSE);
            }
            for device in unreachable {
                unreachable_now.push(device.instance);
                // A driver may be on its way: the module is being loaded, or
                // udev is at work.
                let since = self.unreachable.entry(device.instance).or_insert(now);
                if now.duration_since(*since) < DRIVER_GRACE {
                    self.look_again = Some(*since + DRIVER_GRACE);
                    continue;
                }
                match self.make_reachable(entry, &device) {
                    Ok(()) => self.look_again = Some(now + SETTLE_PAUSE),
                    Err(complaint) => complaints.push(complaint),
                }
            }
            for device in located {
                let service = entry.name;
                wanted.insert(Key { service, device }, entry);
            }
        }
        self.unreachable
            .retain(|instance, _| unreachable_now.contains(instance));
        wanted
    }

    /// Binds a device to `uio_hv_generic`, where it may; or says why nobody can
    /// reach it.
    fn make_reachable(&self, entry: &Entry, device: &Device) -> Result<(), String> {
        let (service, instance) = (entry.name, device.instance);
        if let Some(driver) = &device.driver {
            return Err(format!(
                "{service}: the driver {driver} has device {instance}, but there is no {}: is \
                 /dev complete?",
                self.settings.roots.dev.join(entry.hvutil.node).display()
            ));
        }
        if !self.settings.bind_uio {
            return Err(format!(
                "{service}: the host offers device {instance}, but no driver has it: install the \
                 udev rule 60-hyperv-agent.rules, or load the module uio_hv_generic (kernels \
                 before 6.10: hv_utils) and set bind-uio in the configuration"
            ));
        }
        discovery::bind_to_uio(&self.settings.roots, device).map_err(|error| {
            format!("{service}: device {instance} has no driver and cannot be bound: {error}")
        })?;
        info!(self.log, "bound to uio_hv_generic"; "service" => service, "device" => %instance);
        Ok(())
    }

    fn serve(&mut self, key: Key, entry: &'static Entry) {
        let token = Token(self.next_token);
        self.next_token += 1;
        let log = Logger::root(
            RateLimit::new(self.log.clone()),
            o!("service" => entry.name),
        );
        let endpoint = Endpoint {
            entry,
            device: key.device.clone(),
            opener: Arc::clone(&self.opener),
            config: Arc::clone(&self.settings.config),
            log,
        };
        let started = endpoint.start(self.poll.registry(), token, self.handle());
        let slot = self.slots.entry(key).or_insert(Slot {
            entry,
            state: State::BackOff(Instant::now()),
            failures: 0,
            complaint: None,
        });
        match started {
            Ok((control, thread)) => {
                slot.state = State::Served {
                    token,
                    control,
                    thread,
                    stopping: false,
                };
            }
            Err(error) => {
                slot.failures += 1;
                slot.state = State::BackOff(Instant::now() + back_off(slot.failures));
                error!(self.log, "cannot start a worker: {}", error; "service" => entry.name);
            }
        }
    }

    fn worker_ended(&mut self, token: Token, ended: Ended) {
        let Ended {
            why,
            served_anything,
        } = ended;
        let Some(key) = self.slots.iter().find_map(|(key, slot)| match slot.state {
            State::Served { token: its, .. } if its == token => Some(key.clone()),
            _ => None,
        }) else {
            return;
        };
        let Some(mut slot) = self.slots.remove(&key) else {
            return;
        };
        let State::Served { thread, .. } = slot.state else {
            return;
        };
        // It has told of its end, so this does not wait for more than its exit.
        let _ = thread.join();
        let log = self.log.new(
            o!("service" => slot.entry.name, "device" => key.device.node().display().to_string()),
        );
        if served_anything {
            slot.failures = 0;
            slot.complaint = None;
        }
        let complaint = match why {
            Why::Stopped => {
                info!(log, "no longer served");
                return;
            }
            Why::NotOpened(error) => format!("cannot be opened: {error}"),
            Why::Failed(ChannelError::Gone) => "the device went away".to_owned(),
            Why::Failed(error) => format!("closed, to be opened again: {error}"),
            Why::Panicked(message) => {
                format!("the service panicked and will be restarted: {message}")
            }
        };
        slot.failures += 1;
        let pause = back_off(slot.failures);
        if slot.complaint.as_ref() == Some(&complaint) {
            debug!(log, "{}", complaint; "retry_in" => ?pause);
        } else {
            warn!(log, "{}", complaint);
            slot.complaint = Some(complaint);
        }
        slot.state = State::BackOff(Instant::now() + pause);
        self.slots.insert(key, slot);
    }

    fn reload(&mut self) {
        tell_service_manager(&[NotifyState::Reloading]);
        match (self.reload)() {
            Ok(settings) => {
                let config_changed = settings.config != self.settings.config;
                self.settings = settings;
                if config_changed {
                    for slot in self.slots.values() {
                        if let State::Served { control, .. } = &slot.state {
                            control.configure(Arc::clone(&self.settings.config));
                        }
                    }
                }
                info!(self.log, "configuration read again");
            }
            Err(error) => {
                error!(self.log, "the configuration stays as it was: {:#}", error);
            }
        }
        // Whoever sends SIGHUP wants every device to be tried again at once.
        self.settle_looks = 0;
        let now = Instant::now();
        for slot in self.slots.values_mut() {
            if let State::BackOff(until) = &mut slot.state {
                *until = now;
            }
        }
        tell_service_manager(&[NotifyState::Ready]);
    }

    /// Lets every worker end, for as long as [`STOP_LIMIT`].
    fn stop(mut self) -> io::Result<()> {
        tell_service_manager(&[NotifyState::Stopping]);
        for slot in self.slots.values() {
            if let State::Served { control, .. } = &slot.state {
                control.stop();
            }
        }
        self.slots
            .retain(|_, slot| matches!(slot.state, State::Served { .. }));
        let deadline = Instant::now() + STOP_LIMIT;
        while !self.slots.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.notices.recv_timeout(left) {
                Ok(Notice::Ended { token, .. }) => {
                    self.slots.retain(|_, slot| {
                        !matches!(slot.state, State::Served { token: its, .. } if its == token)
                    });
                }
                Ok(_) => {}
                Err(_) => {
                    for key in self.slots.keys() {
                        warn!(self.log, "ending although a request is still being worked on";
                            "service" => key.service, "device" => %key.device.node().display());
                    }
                    break;
                }
            }
        }
        info!(self.log, "stopped");
        Ok(())
    }
}

fn back_off(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_BACK_OFF * 2u32.pow(doublings)).min(LONGEST_BACK_OFF)
}

/// Tells systemd, where it is the one that started the agent.
fn tell_service_manager(state: &[NotifyState<'_>]) {
    // Nothing depends on it: a service manager that cannot be told only waits.
    let _ = sd_notify::notify(state);
}

fn signal_name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("?")
}
