//! The supervisor: one mio loop over every device, the kernel's uevents and
//! signals, and a worker thread for each open device.
//!
//! The loop never touches a file system other than sysfs, resolves no name,
//! runs no program and waits for nothing but its own poll.

mod scan;
mod slot;
mod standalone;
mod status;
mod uevents;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use hyperv_services::command::{self, Command};
use hyperv_services::service::Entry;
use hyperv_services::sys;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use slog::{Logger, error, info, o, warn};

use self::scan::Scanner;
use self::slot::{Slot, State};
use self::standalone::Standalone;
use self::status::StatusSources;
use self::uevents::Uevents;
use crate::control_socket::ControlSocket;
use crate::locate::DeviceKey;
use crate::mailbox::{Notice, SupervisorHandle};
use crate::opener::Opener;
use crate::rate_limit::{RateLimit, RateLimitedDrain};
use crate::request::{Client, Readers, Request};
use crate::settings::{Reload, Settings};
use crate::stats::ServiceStats;
use crate::worker::Endpoint;
use crate::worker::control::Control;
use crate::worker::exit::{Failure, WorkerExit};

const WAKER: Token = Token(0);
const SIGNALS: Token = Token(1);
const UEVENTS: Token = Token(2);
const CONTROL: Token = Token(3);
const REQUESTS: Token = Token(4);
const FIRST_ENDPOINT: usize = 16;

/// How long workers have to end, before the process does so without them.
const STOP_LIMIT: Duration = Duration::from_millis(700);

/// How long they have where file systems are frozen: what is frozen thaws
/// whether they end or not, but there may be hooks to run.
const THAW_LIMIT: Duration = Duration::from_secs(8);

/// How often it is looked whether a service that works without a device has ended, when
/// its device is there.
const STANDALONE_PAUSE: Duration = Duration::from_millis(50);

/// For how long nothing happens before the process is at rest.
const REST: Duration = Duration::from_secs(5);

/// The poll loop and all that hangs on it.
pub struct Supervisor {
    poll: Poll,
    settings: Settings,
    reload: Reload,
    opener: Arc<dyn Opener>,
    /// Where all logs go, without a limit.
    unlimited: Logger,
    /// How much may be logged that is of no service.
    limit: Arc<RateLimit>,
    /// The log within that limit.
    log: Logger,
    signals: Option<Signals>,
    uevents: Option<Uevents>,
    control: Option<ControlSocket>,
    requests: Option<ControlSocket>,
    readers: Readers,
    notices: Receiver<Notice>,
    handle: SupervisorHandle,
    slots: BTreeMap<DeviceKey, Slot>,
    /// A service that works for a local user, without a device.
    standalone: Option<Standalone>,
    /// Of every service that was ever switched on.
    stats: BTreeMap<&'static str, Arc<ServiceStats>>,
    started: SystemTime,
    next_token: usize,
    scanner: Scanner,
    /// When the process is at rest, unless something happens before.
    rest: Option<Instant>,
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
        let handle = SupervisorHandle::new(sender, waker);
        let unlimited = log;
        let limit = Arc::new(limit(&handle));
        let limited = RateLimitedDrain {
            to: unlimited.clone(),
            limit: Arc::clone(&limit),
        };
        let log = Logger::root(limited, o!());
        let scanner = Scanner::new(log.clone());
        Ok(Self {
            poll,
            settings,
            reload,
            opener,
            unlimited,
            limit,
            log,
            signals: None,
            uevents: None,
            control: None,
            requests: None,
            readers: Readers::default(),
            notices,
            handle,
            slots: BTreeMap::new(),
            standalone: None,
            stats: BTreeMap::new(),
            started: SystemTime::now(),
            next_token: FIRST_ENDPOINT,
            scanner,
            rest: Some(Instant::now() + REST),
        })
    }

    /// Takes SIGTERM, SIGINT and SIGHUP from now on.
    ///
    /// # Errors
    ///
    /// Where they cannot be taken.
    pub fn handle_signals(&mut self) -> io::Result<()> {
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
    pub fn listen_for_uevents(&mut self) -> io::Result<()> {
        let uevents = Uevents::listen()?;
        self.poll
            .registry()
            .register(&mut SourceFd(&uevents.fd()), UEVENTS, Interest::READABLE)?;
        self.uevents = Some(uevents);
        Ok(())
    }

    /// Answers who asks for the status on `socket` from now on.
    ///
    /// # Errors
    ///
    /// Where the poll does not take the socket.
    pub fn serve_status_on(&mut self, socket: ControlSocket) -> io::Result<()> {
        self.poll
            .registry()
            .register(&mut SourceFd(&socket.fd()), CONTROL, Interest::READABLE)?;
        self.control = Some(socket);
        Ok(())
    }

    /// Takes what is asked at `socket` from now on.
    ///
    /// # Errors
    ///
    /// Where the poll does not take the socket.
    pub fn serve_requests_on(&mut self, socket: ControlSocket) -> io::Result<()> {
        self.poll
            .registry()
            .register(&mut SourceFd(&socket.fd()), REQUESTS, Interest::READABLE)?;
        self.requests = Some(socket);
        Ok(())
    }

    /// How other threads reach this supervisor.
    pub fn handle(&self) -> SupervisorHandle {
        self.handle.clone()
    }

    /// Serves until it is told to stop.
    ///
    /// # Errors
    ///
    /// Only the loss of the poll itself.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        self.scan_devices();
        notify_service_manager(&[NotifyState::Ready]);
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
            if !events.is_empty() {
                self.rest = Some(Instant::now() + REST);
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
                    CONTROL => self.answer_clients(),
                    REQUESTS => self.take_requests(),
                    token => self.wake_worker(token),
                }
            }
            while let Ok(notice) = self.notices.try_recv() {
                match notice {
                    Notice::WorkerEnded { token, ended } => self.worker_ended(token, ended),
                    Notice::Request { request, client } => {
                        self.dispatch_request(&request, client);
                        continue;
                    }
                    Notice::StandaloneEnded => self.standalone_ended(),
                    Notice::Rescan => {}
                    Notice::Reload => self.reload(),
                    Notice::Stop => return self.stop(),
                }
                look = true;
            }
            if look {
                self.scan_devices();
            }
            self.log_suppressed(Some(Instant::now()));
            self.log_slow_openings();
            if self.rest.is_some_and(|at| at <= Instant::now()) {
                self.rest();
            }
        }
    }

    /// Gives memory back, where no service is at anything that its code is needed
    /// for soon.
    fn rest(&mut self) {
        let busy = self.slots.values().any(|slot| slot.operation().is_some());
        self.rest = if busy || self.standalone.is_some() {
            Some(Instant::now() + REST)
        } else {
            sys::release_memory();
            None
        };
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
                    self.scanner.expect_news();
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

    fn answer_clients(&self) {
        let Some(socket) = &self.control else {
            return;
        };
        let known = StatusSources {
            started: self.started,
            settings: &self.settings,
            slots: &self.slots,
            standalone: self.standalone.as_ref(),
            stats: &self.stats,
            limit: &self.limit,
            problems: self.scanner.problems(),
        };
        let document = || serde_json::to_vec_pretty(&known.document()).unwrap_or_default();
        if socket.answer(&self.log, document) {
            self.rearm(socket, CONTROL);
        }
    }

    /// Looked at anew, a socket is readable where more clients wait.
    fn rearm(&self, socket: &ControlSocket, token: Token) {
        let registry = self.poll.registry();
        let registered =
            registry.reregister(&mut SourceFd(&socket.fd()), token, Interest::READABLE);
        if let Err(error) = registered {
            warn!(self.log, "cannot answer more clients: {}", error);
        }
    }

    fn take_requests(&self) {
        let Some(socket) = &self.requests else {
            return;
        };
        let more = socket.each(&self.log, |stream| {
            let handle = self.handle();
            self.readers.read(stream, move |request, client| {
                handle.tell(Notice::Request { request, client });
            });
        });
        if more {
            self.rearm(socket, REQUESTS);
        }
    }

    /// Hands what was asked over to the worker of the service, or to a service of its
    /// own where there is no device.
    fn dispatch_request(&mut self, request: &Request, client: Client) {
        let (name, command) = request.command();
        let on = &self.settings.services;
        let Some(&entry) = on.iter().find(|entry| entry.name == name) else {
            client.refuse(&format!("the service {name} is switched off"));
            return;
        };
        let slots = self.slots.iter();
        let slots: Vec<_> = slots.filter(|(key, _)| key.service == name).collect();
        if self.standalone.is_some() || slots.iter().any(|(_, slot)| slot.operation().is_some()) {
            client.refuse(
                "a backup of the host is in progress, or another rehearsal: try again when it has \
                 ended",
            );
            return;
        }
        let served = slots.iter().find_map(|(_, slot)| match &slot.state {
            State::Running {
                control,
                stopping: false,
                ..
            } if control.state.snapshot().open => Some(control),
            _ => None,
        });
        match served {
            Some(control) => control.command(command, Box::new(client)),
            None if slots.is_empty() => self.start_standalone(entry, command, client),
            None => client.refuse(&format!(
                "the device of the service {name} is not open yet: `hyperv-agent status` says more"
            )),
        }
    }

    fn start_standalone(&mut self, entry: &'static Entry, command: Command, client: Client) {
        let (stats, log) = self.stats_and_log(entry);
        let config = Arc::clone(&self.settings.config);
        let asked: (_, Box<dyn command::Client>) = (command, Box::new(client));
        let handle = self.handle();
        let ended = move || handle.tell(Notice::StandaloneEnded);
        match Standalone::start(entry, config, stats, log, asked, ended) {
            Ok(standalone) => self.standalone = Some(standalone),
            // The client goes with what could not be started, and is told so.
            Err(error) => warn!(self.log, "cannot start a thread: {}", error),
        }
    }

    fn standalone_ended(&mut self) {
        if let Some(standalone) = self.standalone.take() {
            standalone.join();
        }
    }

    fn wake_worker(&self, token: Token) {
        let served = self.slots.values().find_map(|slot| match &slot.state {
            State::Running {
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

    /// Time until a device may be opened again, or is to be looked for again, or
    /// the process is at rest; `None` to wait for as long as it takes.
    fn until_next_deadline(&self) -> Option<Duration> {
        self.deadlines()
            .chain(self.limits().filter_map(|(_, limit)| limit.summary_due()))
            .chain(self.rest)
            .chain(
                self.workers()
                    .filter_map(|control| control.state.overdue_at()),
            )
            .min()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn workers(&self) -> impl Iterator<Item = &Arc<Control>> {
        self.slots.values().filter_map(|slot| match &slot.state {
            State::Running { control, .. } => Some(control),
            State::Backoff(_) => None,
        })
    }

    /// Tells which devices take long to open, and what is waited for.
    fn log_slow_openings(&self) {
        for (key, slot) in &self.slots {
            let State::Running { control, .. } = &slot.state else {
                continue;
            };
            let stats = self.stats.get(key.service);
            if let Some(((waited, waits_for), stats)) = control.state.is_overdue().zip(stats) {
                let log = stats.logger(self.unlimited.clone());
                warn!(
                    log.new(o!("service" => key.service)),
                    "opening {} has taken {} s so far: it waits for {}",
                    key.device.node().display(),
                    waited.as_secs(),
                    waits_for
                );
            }
        }
    }

    fn deadline_has_passed(&self) -> bool {
        let now = Instant::now();
        self.deadlines().any(|deadline| deadline <= now)
    }

    fn deadlines(&self) -> impl Iterator<Item = Instant> {
        let backoffs = self.slots.values().filter_map(|slot| match slot.state {
            State::Backoff(until) => Some(until),
            State::Running { .. } => None,
        });
        backoffs.chain(self.scanner.look_again())
    }

    /// Compares what there is with what is served: starts and stops workers.
    fn scan_devices(&mut self) {
        let wanted = self.scanner.scan(&self.settings);
        self.slots.retain(|key, slot| match &mut slot.state {
            _ if wanted.contains_key(key) => true,
            State::Running {
                control, stopping, ..
            } => {
                // Its end is reported, and the slot goes then.
                if !*stopping {
                    *stopping = true;
                    control.stop();
                }
                true
            }
            State::Backoff(_) => false,
        });
        let now = Instant::now();
        for (key, entry) in wanted {
            let due = match self.slots.get(&key).map(|slot| &slot.state) {
                None => true,
                Some(State::Backoff(until)) => *until <= now,
                Some(State::Running { .. }) => false,
            };
            if due {
                self.serve(key, entry);
            }
        }
    }

    fn serve(&mut self, key: DeviceKey, entry: &'static Entry) {
        if let Some(standalone) = &self.standalone {
            if standalone.entry.name == entry.name {
                // The host goes first: the device is opened when that has ended.
                standalone.stop();
                let slot = self.slots.entry(key).or_insert_with(|| Slot::new(entry));
                slot.state = State::Backoff(Instant::now() + STANDALONE_PAUSE);
                return;
            }
        }
        let token = Token(self.next_token);
        self.next_token += 1;
        let (stats, log) = self.stats_and_log(entry);
        let node = key.device.node().display().to_string();
        let endpoint = Endpoint {
            entry,
            device: key.device.clone(),
            opener: Arc::clone(&self.opener),
            config: Arc::clone(&self.settings.config),
            stats,
            log: log.new(o!("HYPERV_DEVICE" => node)),
        };
        let started = endpoint.start(self.poll.registry(), token, self.handle());
        let slot = self.slots.entry(key).or_insert_with(|| Slot::new(entry));
        match started {
            Ok((control, thread)) => {
                slot.state = State::Running {
                    token,
                    control,
                    thread,
                    stopping: false,
                };
            }
            Err(error) => {
                slot.start_backoff(Failure::NotStarted(error), false, &log);
            }
        }
    }

    /// What is counted of a service, and its log, within its limit.
    fn stats_and_log(&mut self, entry: &'static Entry) -> (Arc<ServiceStats>, Logger) {
        let stats = self.stats.entry(entry.name);
        let stats = stats.or_insert_with(|| ServiceStats::new(limit(&self.handle)));
        let log = stats.logger(self.unlimited.clone());
        (Arc::clone(stats), log.new(o!("service" => entry.name)))
    }

    /// The limits of logs: the agent's own, and each service's with its name.
    fn limits(&self) -> impl Iterator<Item = (Option<&'static str>, &RateLimit)> {
        let services = self.stats.iter();
        let services = services.map(|(name, stats)| (Some(*name), &*stats.limit));
        services.chain([(None, &*self.limit)])
    }

    /// Logs what the limits have kept from the log, where that is due by then, or all.
    fn log_suppressed(&self, by: Option<Instant>) {
        for (service, limit) in self.limits() {
            let due = limit.summary_due();
            if due.is_some_and(|due| by.is_none_or(|by| due <= by)) {
                let log = match service {
                    Some(name) => self.unlimited.new(o!("service" => name)),
                    None => self.unlimited.clone(),
                };
                limit.tell(&log);
            }
        }
    }

    fn worker_ended(&mut self, token: Token, ended: WorkerExit) {
        let Some(key) = self.slots.iter().find_map(|(key, slot)| match slot.state {
            State::Running { token: its, .. } if its == token => Some(key.clone()),
            _ => None,
        }) else {
            return;
        };
        let Some(mut slot) = self.slots.remove(&key) else {
            return;
        };
        slot.join();
        let (_, log) = self.stats_and_log(slot.entry);
        let log = log.new(o!("device" => key.device.node().display().to_string()));
        let Some(failure) = ended.failure else {
            info!(log, "no longer served");
            return;
        };
        slot.start_backoff(failure, ended.healthy, &log);
        self.slots.insert(key, slot);
    }

    fn reload(&mut self) {
        notify_service_manager(&[NotifyState::Reloading]);
        match (self.reload)() {
            Ok(settings) => {
                let config_changed = settings.config != self.settings.config;
                self.settings = settings;
                if config_changed {
                    for slot in self.slots.values() {
                        if let State::Running { control, .. } = &slot.state {
                            control.configure(Arc::clone(&self.settings.config));
                        }
                    }
                }
                let then = if config_changed {
                    "; each service says when it uses the new one"
                } else {
                    ""
                };
                info!(self.log, "configuration read again{}", then);
            }
            Err(error) => {
                error!(self.log, "the configuration stays as it was: {:#}", error);
            }
        }
        // Whoever sends SIGHUP wants every device to be tried again at once.
        self.scanner.expect_news();
        let now = Instant::now();
        for slot in self.slots.values_mut() {
            if let State::Backoff(until) = &mut slot.state {
                *until = now;
            }
        }
        notify_service_manager(&[NotifyState::Ready]);
    }

    /// Lets every worker end, for as long as [`STOP_LIMIT`], or [`THAW_LIMIT`].
    fn stop(mut self) -> io::Result<()> {
        notify_service_manager(&[NotifyState::Stopping]);
        for slot in self.slots.values() {
            if let State::Running { control, .. } = &slot.state {
                control.stop();
            }
        }
        if let Some(standalone) = &self.standalone {
            standalone.stop();
        }
        self.slots
            .retain(|_, slot| matches!(slot.state, State::Running { .. }));
        let began = Instant::now();
        while !self.slots.is_empty() || self.standalone.is_some() {
            let frozen = self.slots.values().any(Slot::is_frozen);
            let limit = if frozen || self.standalone.is_some() {
                THAW_LIMIT
            } else {
                STOP_LIMIT
            };
            let left = (began + limit).saturating_duration_since(Instant::now());
            match self.notices.recv_timeout(left) {
                Ok(Notice::WorkerEnded { token, .. }) => {
                    self.slots.retain(|_, slot| {
                        !matches!(slot.state, State::Running { token: its, .. } if its == token)
                    });
                }
                Ok(Notice::StandaloneEnded) => self.standalone_ended(),
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
        self.log_suppressed(None);
        info!(self.log, "stopped");
        Ok(())
    }
}

/// A limit that wakes the loop when a summary will be due.
fn limit(handle: &SupervisorHandle) -> RateLimit {
    let handle = handle.clone();
    RateLimit::new(move || handle.wake())
}

/// Tells systemd, where it is the one that started the agent.
fn notify_service_manager(state: &[NotifyState<'_>]) {
    // Nothing depends on it: a service manager that cannot be told only waits.
    let _ = sd_notify::notify(state);
}

fn signal_name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("?")
}
