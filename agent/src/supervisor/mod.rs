//! The supervisor: one mio loop over idle devices, uevents, signals, timers and local
//! clients. It starts and stops a worker thread for each device.
//!
//! The loop accesses no file system other than sysfs and `/run`, resolves no name, runs no
//! program and waits for nothing but its poll.

mod scan;
mod slot;
mod standalone;
mod status;
mod summary;
mod uevents;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use hyperv_services::boot;
use hyperv_services::command::{self, Command};
use hyperv_services::registry;
use hyperv_services::service::Entry;
use hyperv_services::sys;
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use slog::{Logger, error, info, o, warn};

use self::scan::{Mounts, Scanner};
use self::slot::{Slot, State};
use self::standalone::Standalone;
use self::status::StatusSources;
use self::summary::summary;
use self::uevents::Uevents;
use crate::capture::recorder::Recorder;
use crate::capture::{Level, stream};
use crate::control_socket::ControlSocket;
use crate::locate::DeviceKey;
use crate::mailbox::{Notice, SupervisorHandle};
use crate::opener::Opener;
use crate::rate_limit::{RateLimit, RateLimitedDrain};
use crate::request::{Client, Readers, Request};
use crate::service_manager::ServiceManager;
use crate::settings::{Reload, Settings};
use crate::stats::ServiceStats;
use crate::timeouts;
use crate::worker::Endpoint;
use crate::worker::control::Control;
use crate::worker::exit::{Failure, WorkerExit};

/// How soon the opening of a device is tried again while its service runs standalone.
const STANDALONE_RETRY: Duration = Duration::from_millis(50);

/// How long the loop must be idle before the process releases memory.
const REST_AFTER: Duration = Duration::from_secs(5);

/// What an event means for the loop. A later variant includes the earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reaction {
    /// Nothing: the event does not concern the agent.
    Ignored,
    /// The event was handled.
    Handled,
    /// The devices are to be scanned.
    Scan,
    /// The agent ends.
    Stop,
}

/// Handles the events of a source.
type Handler = fn(&mut Supervisor) -> Reaction;

/// The poll loop and its state.
pub struct Supervisor {
    poll: Poll,
    settings: Settings,
    reload: Reload,
    opener: Arc<dyn Opener>,
    /// The log without a rate limit.
    unlimited: Logger,
    /// The rate limit of records that belong to no service.
    limit: Arc<RateLimit>,
    /// The log within that limit.
    log: Logger,
    /// The handler of each source but the devices.
    handlers: BTreeMap<Token, Handler>,
    signals: Option<Signals>,
    uevents: Option<Uevents>,
    control: Option<(ControlSocket, Token)>,
    requests: Option<(ControlSocket, Token)>,
    service_manager: Option<ServiceManager>,
    readers: Readers,
    recorder: Arc<Recorder>,
    notices: Receiver<Notice>,
    handle: SupervisorHandle,
    slots: BTreeMap<DeviceKey, Slot>,
    /// The service that runs for a local command, without a device.
    standalone: Option<Standalone>,
    /// Statistics of every service that was ever enabled.
    stats: BTreeMap<&'static str, Arc<ServiceStats>>,
    started: SystemTime,
    /// Time and error of the last reload, if it failed.
    failed_reload: Option<(SystemTime, String)>,
    next_token: usize,
    scanner: Scanner,
    /// When the process releases memory, unless something happens before.
    rest: Option<Instant>,
}

impl Supervisor {
    /// Creates the loop. It opens no device yet.
    ///
    /// # Errors
    ///
    /// If the poll or its waker cannot be created.
    pub fn new(
        settings: Settings,
        reload: Reload,
        opener: Arc<dyn Opener>,
        log: Logger,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker_token = Token(0);
        let waker = Arc::new(Waker::new(poll.registry(), waker_token)?);
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
            handlers: BTreeMap::from([(waker_token, Self::receive_notices as Handler)]),
            signals: None,
            uevents: None,
            control: None,
            requests: None,
            service_manager: None,
            readers: Readers::default(),
            recorder: Arc::default(),
            notices,
            handle,
            slots: BTreeMap::new(),
            standalone: None,
            stats: BTreeMap::new(),
            started: SystemTime::now(),
            failed_reload: None,
            next_token: 1,
            scanner,
            rest: Some(Instant::now() + REST_AFTER),
        })
    }

    fn new_token(&mut self) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        token
    }

    /// Registers a source of events with the poll; `handler` is called for its events.
    fn register(&mut self, source: &mut impl Source, handler: Handler) -> io::Result<Token> {
        let token = self.new_token();
        let registry = self.poll.registry();
        registry.register(source, token, Interest::READABLE)?;
        self.handlers.insert(token, handler);
        Ok(token)
    }

    /// Starts to handle SIGTERM, SIGINT and SIGHUP.
    ///
    /// # Errors
    ///
    /// If the signal handlers cannot be installed.
    pub fn handle_signals(&mut self) -> io::Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        self.register(&mut signals, Self::receive_signals)?;
        self.signals = Some(signals);
        Ok(())
    }

    /// Starts to listen for uevents of the kernel.
    ///
    /// # Errors
    ///
    /// If the netlink socket cannot be opened. Without it, new devices are found at
    /// SIGHUP only.
    pub fn listen_for_uevents(&mut self) -> io::Result<()> {
        let uevents = Uevents::listen()?;
        self.register(&mut SourceFd(&uevents.fd()), Self::receive_uevents)?;
        self.uevents = Some(uevents);
        Ok(())
    }

    /// Starts to send the status to each client that connects to `socket`.
    ///
    /// # Errors
    ///
    /// If the socket cannot be registered with the poll.
    pub fn serve_status_on(&mut self, socket: ControlSocket) -> io::Result<()> {
        let token = self.register(&mut SourceFd(&socket.fd()), Self::serve_status)?;
        self.control = Some((socket, token));
        Ok(())
    }

    /// Starts to execute the requests of clients that connect to `socket`.
    ///
    /// # Errors
    ///
    /// If the socket cannot be registered with the poll.
    pub fn serve_requests_on(&mut self, socket: ControlSocket) -> io::Result<()> {
        let token = self.register(&mut SourceFd(&socket.fd()), Self::read_requests)?;
        self.requests = Some((socket, token));
        Ok(())
    }

    /// Tells `service_manager` of readiness, reloads and the status.
    pub fn report_to(&mut self, service_manager: ServiceManager) {
        self.service_manager = Some(service_manager);
    }

    /// Returns the handle by which other threads reach this supervisor.
    pub fn handle(&self) -> SupervisorHandle {
        self.handle.clone()
    }

    /// Runs the loop until the agent ends.
    ///
    /// # Errors
    ///
    /// If the poll fails.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        self.await_mounts();
        self.scan_devices();
        // It may wait for a disk, which may even be frozen until a worker thaws it.
        let _ = self.prepare_services().recv_timeout(timeouts::PREPARE);
        self.report_change("READY=1");
        if self.slots.is_empty() {
            info!(
                self.log,
                "no device to serve yet, waiting for the host to offer one"
            );
        }
        self.report_status();
        loop {
            match self.poll.poll(&mut events, self.until_next_deadline()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            let deadline = self.deadline_has_passed().then_some(Reaction::Scan);
            let handled = events
                .iter()
                .map(|event| self.dispatch(event.token()))
                .max();
            if let Some(reaction) = handled {
                self.rest = Some(rest_after(self.rest, reaction, Instant::now()));
            }
            match handled.max(deadline) {
                Some(Reaction::Stop) => return self.stop(),
                Some(Reaction::Scan) => self.scan_devices(),
                _ => {}
            }
            self.log_suppressed(Some(Instant::now()));
            self.log_slow_openings();
            self.report_status();
            if self.rest.is_some_and(|at| at <= Instant::now()) {
                self.release_memory();
            }
        }
    }

    fn report_change(&mut self, change: &'static str) {
        if let Some(service_manager) = &mut self.service_manager {
            service_manager.change(change, Instant::now());
        }
    }

    fn report_status(&mut self) {
        if let Some(service_manager) = &mut self.service_manager {
            let (services, reload_failed) = (&self.settings.services, self.failed_reload.is_some());
            let status = summary(services, &self.slots, &self.scanner, reload_failed);
            service_manager.set_status(status, Instant::now());
        }
    }

    /// Starts to wait for the local file systems that systemd mounts. The devices of
    /// services that need them stay closed until then.
    fn await_mounts(&mut self) {
        if !boot::has_systemd(&self.settings.run) {
            return;
        }
        let handle = self.handle();
        let wait = move || {
            boot::wait_for_local_file_systems(|| handle.send(Notice::Mounting));
            handle.send(Notice::Mounted);
        };
        match thread::Builder::new().name("mounts".to_owned()).spawn(wait) {
            Ok(_) => self.scanner.set_mounts(Mounts::Unknown),
            Err(error) => warn!(self.log, "cannot start a thread: {}", error),
        }
    }

    /// Starts to create what other programs expect of the enabled services. Returns a
    /// channel that is closed when that is done or has failed.
    fn prepare_services(&mut self) -> Receiver<()> {
        let (done, ended) = channel();
        let services = self.settings.services.clone();
        let services: Vec<_> = services
            .into_iter()
            .filter_map(|entry| Some((entry.prepare?, self.stats_and_log(entry).1)))
            .collect();
        let config = Arc::clone(&self.settings.config);
        let prepare = move || {
            let _done = done;
            for (prepare, log) in services {
                if let Err(problem) = prepare(&config) {
                    warn!(log, "{}", problem);
                }
            }
        };
        let thread = thread::Builder::new().name("prepare".to_owned());
        if let Err(error) = thread.spawn(prepare) {
            warn!(self.log, "cannot start a thread: {}", error);
        }
        ended
    }

    /// Calls the handler of a source, or wakes the worker of a device.
    fn dispatch(&mut self, token: Token) -> Reaction {
        match self.handlers.get(&token) {
            Some(handler) => handler(self),
            None => self.wake_worker(token),
        }
    }

    /// Releases memory, unless a worker is at work, or expects requests whose code would be
    /// loaded again at once.
    fn release_memory(&mut self) {
        let at_rest = self.workers().all(|it| it.state.is_at_rest());
        self.rest = if !at_rest || self.standalone.is_some() {
            Some(Instant::now() + REST_AFTER)
        } else {
            sys::release_memory();
            None
        };
    }

    fn receive_notices(&mut self) -> Reaction {
        let mut reaction = Reaction::Handled;
        while let Ok(notice) = self.notices.try_recv() {
            match notice {
                Notice::WorkerEnded { token, ended } => self.worker_ended(token, ended),
                Notice::Request { request, client } => match (request.command(), request) {
                    (Some((name, command)), _) => {
                        self.dispatch_request(name, command, client);
                        continue;
                    }
                    (None, Request::Capture { services, content }) => {
                        self.begin_capture(services, content, client);
                        continue;
                    }
                    (None, _) => client.reloaded(self.reload()),
                },
                Notice::StandaloneEnded => self.standalone_ended(),
                Notice::Rescan => {}
                Notice::Mounting => self.scanner.set_mounts(Mounts::Pending),
                Notice::Mounted => self.scanner.set_mounts(Mounts::Done),
                Notice::Reload => drop(self.reload()),
                Notice::Stop => return Reaction::Stop,
            }
            reaction = Reaction::Scan;
        }
        reaction
    }

    fn receive_signals(&mut self) -> Reaction {
        let pending = self.signals.as_mut().map(|signals| signals.pending());
        let pending: Vec<_> = pending.into_iter().flatten().collect();
        for signal in pending {
            if signal != SIGHUP {
                info!(self.log, "stopping"; "signal" => signal_name(signal));
                return Reaction::Stop;
            }
            // The log has the reason if it fails.
            let _ = self.reload();
        }
        Reaction::Scan
    }

    fn receive_uevents(&mut self) -> Reaction {
        match self.uevents.as_ref().map(Uevents::drain) {
            Some(Ok(true)) => {
                self.scanner.expect_news();
                Reaction::Scan
            }
            Some(Err(error)) => {
                warn!(self.log, "cannot receive uevents, send SIGHUP to look for devices";
                    "error" => %error);
                self.uevents = None;
                Reaction::Scan
            }
            Some(Ok(false)) | None => Reaction::Ignored,
        }
    }

    fn serve_status(&mut self) -> Reaction {
        let Some((socket, token)) = &self.control else {
            return Reaction::Ignored;
        };
        let sources = StatusSources {
            started: self.started,
            settings: &self.settings,
            slots: &self.slots,
            standalone: self.standalone.as_ref(),
            stats: &self.stats,
            limit: &self.limit,
            failed_reload: self.failed_reload.as_ref(),
            capture: self.recorder.status(),
            scanner: &self.scanner,
        };
        let document = || serde_json::to_vec_pretty(&sources.document()).unwrap_or_default();
        if socket.send_to_clients(&self.log, document) {
            self.rearm(socket, *token);
        }
        Reaction::Handled
    }

    fn read_requests(&mut self) -> Reaction {
        let Some((socket, token)) = &self.requests else {
            return Reaction::Ignored;
        };
        let more = socket.for_each_client(&self.log, |stream| {
            let handle = self.handle();
            self.readers.read(stream, move |request, client| {
                handle.send(Notice::Request { request, client });
            });
        });
        if more {
            self.rearm(socket, *token);
        }
        Reaction::Handled
    }

    /// Makes the poll report again that a socket is readable: more clients wait there.
    fn rearm(&self, socket: &ControlSocket, token: Token) {
        let registry = self.poll.registry();
        let registered =
            registry.reregister(&mut SourceFd(&socket.fd()), token, Interest::READABLE);
        if let Err(error) = registered {
            warn!(self.log, "cannot answer more clients: {}", error);
        }
    }

    /// Hands a local request to the worker of its service, or to a standalone service if
    /// there is no device.
    fn dispatch_request(&mut self, name: &str, command: Command, client: Client) {
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
            None if self.scanner.holds(name) => client.refuse(&format!(
                "the service {name} waits until systemd has mounted all local file systems: try \
                 again when `systemctl list-jobs` does not list local-fs.target"
            )),
            None if slots.is_empty() => self.start_standalone(entry, command, client),
            None => client.refuse(&format!(
                "the device of the service {name} is not open yet: see `hyperv-agent status`"
            )),
        }
    }

    /// Begins a capture of these services, or of all that are or will be enabled.
    fn begin_capture(&self, mut services: Vec<String>, content: Level, client: Client) {
        services.sort();
        services.dedup();
        let on: Vec<_> = self.settings.services.iter().map(|it| it.name).collect();
        if let Some(name) = services.iter().find(|name| !on.contains(&name.as_str())) {
            client.refuse(&match registry::by_name(name) {
                Some(_) => format!(
                    "the service {name} is switched off: it has no messages, enable it or leave it \
                     out"
                ),
                None => format!("unknown service `{name}`: expected {}", on.join(", ")),
            });
            return;
        }
        let of = match services[..] {
            [] => "all services".to_owned(),
            _ => services.join(", "),
        };
        let begun = match stream::begin(&self.recorder, services, content) {
            Ok(begun) => begun,
            Err(error) => return client.refuse(&error.to_string()),
        };
        info!(self.log, "a capture of {} begins", of);
        let streams = client
            .into_capture()
            .and_then(|stream| begun.stream(stream, self.log.clone()));
        if let Err(error) = streams {
            warn!(self.log, "cannot begin a capture: {}", error);
        }
    }

    fn start_standalone(&mut self, entry: &'static Entry, command: Command, client: Client) {
        let (stats, log) = self.stats_and_log(entry);
        let config = Arc::clone(&self.settings.config);
        let asked: (_, Box<dyn command::Client>) = (command, Box::new(client));
        let handle = self.handle();
        let ended = move || handle.send(Notice::StandaloneEnded);
        match Standalone::start(entry, config, stats, log, asked, ended) {
            Ok(standalone) => self.standalone = Some(standalone),
            // Dropping the client tells it that its request was not executed.
            Err(error) => warn!(self.log, "cannot start a thread: {}", error),
        }
    }

    fn standalone_ended(&mut self) {
        if let Some(standalone) = self.standalone.take() {
            standalone.join();
        }
    }

    fn wake_worker(&self, token: Token) -> Reaction {
        let slot = self.slots.values().find(|slot| slot.has_token(token));
        if let Some(control) = slot.and_then(Slot::control) {
            control.wake();
        }
        Reaction::Handled
    }

    /// Returns the time until the next thing to do that no event announces; `None` if
    /// there is none.
    fn until_next_deadline(&self) -> Option<Duration> {
        self.deadlines()
            .chain(self.limits().filter_map(|(_, limit)| limit.summary_due()))
            .chain(self.rest)
            .chain(
                self.service_manager
                    .as_ref()
                    .and_then(ServiceManager::deadline),
            )
            .chain(
                self.workers()
                    .filter_map(|control| control.state.overdue_at()),
            )
            .min()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn workers(&self) -> impl Iterator<Item = &Arc<Control>> {
        self.slots.values().filter_map(Slot::control)
    }

    /// Logs which devices take long to open, and what their workers wait for.
    fn log_slow_openings(&self) {
        for (key, slot) in &self.slots {
            let overdue = slot.control().and_then(|it| it.state.take_overdue());
            let stats = self.stats.get(key.service);
            if let Some(((waited, waits_for), stats)) = overdue.zip(stats) {
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
        backoffs.chain(self.scanner.next_scan())
    }

    /// Compares the devices with the workers, and starts and stops workers.
    fn scan_devices(&mut self) {
        let wanted = self.scanner.scan(&self.settings);
        self.slots.retain(|key, slot| match &mut slot.state {
            _ if wanted.contains_key(key) => true,
            State::Running {
                control, stopping, ..
            } => {
                // The slot is removed when the worker has ended.
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
                // The host takes precedence. Its device is opened when the standalone
                // service has ended.
                standalone.stop();
                let slot = self.slots.entry(key).or_insert_with(|| Slot::new(entry));
                slot.state = State::Backoff(Instant::now() + STANDALONE_RETRY);
                return;
            }
        }
        let token = self.new_token();
        let (stats, log) = self.stats_and_log(entry);
        let node = key.device.node().display().to_string();
        let endpoint = Endpoint {
            entry,
            device: key.device.clone(),
            opener: Arc::clone(&self.opener),
            config: Arc::clone(&self.settings.config),
            stats,
            recorder: Arc::clone(&self.recorder),
            supervisor: self.handle(),
            log: log.new(o!("HYPERV_DEVICE" => node)),
        };
        let started = endpoint.start(self.poll.registry(), token);
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

    /// Returns the statistics of a service, and its log within its rate limit.
    fn stats_and_log(&mut self, entry: &'static Entry) -> (Arc<ServiceStats>, Logger) {
        let stats = self.stats.entry(entry.name);
        let stats = stats.or_insert_with(|| ServiceStats::new(limit(&self.handle)));
        let log = stats.logger(self.unlimited.clone());
        (Arc::clone(stats), log.new(o!("service" => entry.name)))
    }

    /// Returns the rate limit of each service with its name, and the agent's own.
    fn limits(&self) -> impl Iterator<Item = (Option<&'static str>, &RateLimit)> {
        let services = self.stats.iter();
        let services = services.map(|(name, stats)| (Some(*name), &*stats.limit));
        services.chain([(None, &*self.limit)])
    }

    /// Logs the summaries of suppressed records that are due by then, or all of them.
    fn log_suppressed(&self, by: Option<Instant>) {
        for (service, limit) in self.limits() {
            let due = limit.summary_due();
            if due.is_some_and(|due| by.is_none_or(|by| due <= by)) {
                let log = match service {
                    Some(name) => self.unlimited.new(o!("service" => name)),
                    None => self.unlimited.clone(),
                };
                limit.log_summary(&log);
            }
        }
    }

    fn worker_ended(&mut self, token: Token, ended: WorkerExit) {
        let mut slots = self.slots.iter();
        let key = slots.find_map(|(key, slot)| slot.has_token(token).then(|| key.clone()));
        let Some((key, mut slot)) = key.and_then(|key| self.slots.remove_entry(&key)) else {
            return;
        };
        slot.join();
        let (stats, log) = self.stats_and_log(slot.entry);
        let log = log.new(o!("device" => key.device.node().display().to_string()));
        let Some(failure) = ended.failure else {
            info!(log, "no longer served");
            return;
        };
        stats.device_failures.add(1);
        slot.start_backoff(failure, ended.healthy, &log);
        self.slots.insert(key, slot);
    }

    /// Reads the configuration again. Returns why it stays as it was.
    fn reload(&mut self) -> Result<(), String> {
        self.report_change("RELOADING=1");
        let result = match (self.reload)() {
            Ok(settings) => {
                self.failed_reload = None;
                let config_changed = settings.config != self.settings.config;
                self.settings = settings;
                for control in self.workers().filter(|_| config_changed) {
                    control.configure(Arc::clone(&self.settings.config));
                }
                // Another directory of the pools, or a file system that is no longer
                // read-only.
                drop(self.prepare_services());
                info!(self.log, "configuration reloaded"; "changed" => config_changed);
                Ok(())
            }
            Err(error) => {
                error!(self.log, "the configuration stays as it was: {}", error);
                let error = error.to_string();
                self.failed_reload = Some((SystemTime::now(), error.clone()));
                Err(error)
            }
        };
        // A reload retries every device at once.
        self.scanner.expect_news();
        let now = Instant::now();
        for slot in self.slots.values_mut() {
            if let State::Backoff(until) = &mut slot.state {
                *until = now;
            }
        }
        self.report_change("READY=1");
        result
    }

    /// Ends every worker, within [`timeouts::STOP`] or [`timeouts::STOP_FROZEN`].
    fn stop(mut self) -> io::Result<()> {
        self.report_change("STOPPING=1");
        self.workers().for_each(|control| control.stop());
        if let Some(standalone) = &self.standalone {
            standalone.stop();
        }
        self.slots.retain(|_, slot| slot.control().is_some());
        let began = Instant::now();
        while !self.slots.is_empty() || self.standalone.is_some() {
            let frozen = self.slots.values().any(Slot::is_frozen);
            let limit = if frozen || self.standalone.is_some() {
                timeouts::STOP_FROZEN
            } else {
                timeouts::STOP
            };
            let left = (began + limit).saturating_duration_since(Instant::now());
            match self.notices.recv_timeout(left) {
                Ok(Notice::WorkerEnded { token, .. }) => {
                    self.slots.retain(|_, slot| !slot.has_token(token));
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
        self.recorder.stop(timeouts::CAPTURE_FLUSH);
        self.log_suppressed(None);
        info!(self.log, "stopped");
        Ok(())
    }
}

/// Returns when the process releases memory after an event. One that does not concern the
/// agent postpones nothing.
fn rest_after(due: Option<Instant>, reaction: Reaction, now: Instant) -> Instant {
    let due = due.filter(|_| reaction == Reaction::Ignored);
    due.unwrap_or(now + REST_AFTER)
}

/// Returns a rate limit that wakes the loop when a summary will be due.
fn limit(handle: &SupervisorHandle) -> RateLimit {
    let handle = handle.clone();
    RateLimit::new(move || handle.wake())
}

fn signal_name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_do_not_concern_the_agent_do_not_postpone_its_rest() {
        let start = Instant::now();
        let due = rest_after(None, Reaction::Ignored, start);
        assert_eq!(due, start + REST_AFTER);
        let now = start + REST_AFTER / 2;
        assert_eq!(rest_after(Some(due), Reaction::Ignored, now), due);
        for reaction in [Reaction::Handled, Reaction::Scan] {
            assert_eq!(rest_after(Some(due), reaction, now), now + REST_AFTER);
        }
    }
}
