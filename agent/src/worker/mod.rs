//! The worker of one device: a thread that owns the device's channel and its service, and
//! handles each request.
//!
//! An idle device is registered with the supervisor's poll, and the worker sleeps until the
//! supervisor wakes it. While the service is busy, as in a file copy, and for a moment after
//! each message, the device is registered with the worker's own poll: a request then costs
//! one wait, the service's work and one signal to the host, without a detour through another
//! thread.

mod busy_poll;
pub(crate) mod control;
pub(crate) mod exit;
pub(crate) mod panics;
pub(crate) mod state;
mod wait;

use std::io;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hyperv_services::service::Entry;
use hyperv_services::service::Service;
use hyperv_vmbus::ic::{IcError, Negotiated, Status};
use hyperv_vmbus::{Channel, ChannelError, Encoding, Message, Reply, Request, Sent};
use mio::{Registry, Token};
use slog::{Logger, debug, info, warn};

use self::busy_poll::BusyPoll;
use self::control::Control;
use self::exit::{Failure, Health, WorkerExit};
use self::panics::catch_panic;
use self::wait::{FullRingBackoff, WorkerPoll};
use crate::capture::EventKind;
use crate::capture::recorder::{Recorder, Tap};
use crate::locate::DeviceNode;
use crate::mailbox::{Notice, SupervisorHandle};
use crate::opener::{OpenContext, Opener};
use crate::stats::ServiceStats;

/// How long the worker keeps its device after a message. The host sends many requests one
/// after the other, as for all of its key-value pairs.
const BURST_GAP: Duration = Duration::from_millis(20);

/// Everything that a worker needs to open its device and serve it.
pub(crate) struct Endpoint {
    pub(crate) entry: &'static Entry,
    pub(crate) device: DeviceNode,
    pub(crate) opener: Arc<dyn Opener>,
    pub(crate) config: Arc<hyperv_services::Config>,
    pub(crate) stats: Arc<ServiceStats>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) supervisor: SupervisorHandle,
    pub(crate) log: Logger,
}

impl Endpoint {
    /// Starts the worker. It opens the device itself, as that may take long, registers it
    /// with the supervisor's poll under `token`, and reports its end.
    pub(crate) fn start(
        self,
        registry: &Registry,
        token: Token,
    ) -> io::Result<(Arc<Control>, thread::JoinHandle<()>)> {
        let poll = WorkerPoll::new(registry, token)?;
        let control = Arc::new(Control::new(poll.waker()?));
        let its_control = Arc::clone(&control);
        let supervisor = self.supervisor.clone();
        let thread = thread::Builder::new()
            .name(self.entry.name.to_owned())
            .spawn(move || {
                let mut health = Health::default();
                let failure = catch_panic(|| self.run(&its_control, poll, &mut health))
                    .unwrap_or_else(|panic| Err(Failure::Panicked(panic)))
                    .err();
                let healthy = health.was_healthy(failure.as_ref(), Instant::now());
                let ended = WorkerExit { failure, healthy };
                supervisor.send(Notice::WorkerEnded { token, ended });
            })?;
        Ok((control, thread))
    }

    fn run(self, control: &Control, poll: WorkerPoll, health: &mut Health) -> Result<(), Failure> {
        // Another device may have the node by now.
        if control.stopping() {
            return Ok(());
        }
        let log = self.log;
        let opening = OpenContext {
            log: &log,
            state: &control.state,
        };
        let channel = self
            .opener
            .open(&self.device, self.entry, &opening)
            .map_err(Failure::NotOpened)?;
        health.opened = Some(Instant::now());
        self.stats.opened.add(1);
        let tap = Tap::open(&self.recorder, self.entry, &self.device);
        let mut service = (self.entry.make)(&self.config, &log);
        service.record_in(&self.stats.record);
        if let Some(took) = control.state.was_overdue() {
            let node = self.device.node().display();
            info!(
                log,
                "opening {} has taken {} s in all",
                node,
                took.as_secs()
            );
        }
        control.state.opened(&*service);
        info!(log, "serving"; "device" => %self.device.node().display());
        self.supervisor.wake();
        let mut worker = Worker {
            entry: self.entry,
            node: self.device.node(),
            service,
            channel,
            tap,
            control,
            poll,
            negotiated: None,
            health,
            stats: self.stats,
            supervisor: self.supervisor,
            log,
        };
        let ended = worker.serve();
        worker.poll.deregister(&*worker.channel);
        if let Err(error) = &ended {
            worker.tap.failed(error);
        }
        ended.map_err(Failure::Closed)
    }
}

struct Worker<'a> {
    entry: &'static Entry,
    /// The device's node, for the log.
    node: &'a Path,
    /// Dropped before the channel: closing that may wait for the host, and what the service
    /// still has to do must not.
    service: Box<dyn Service>,
    channel: Box<dyn Channel>,
    /// Dropped after the channel: it records that this was closed.
    tap: Tap,
    control: &'a Control,
    poll: WorkerPoll,
    negotiated: Option<Negotiated>,
    health: &'a mut Health,
    stats: Arc<ServiceStats>,
    supervisor: SupervisorHandle,
    log: Logger,
}

impl Worker<'_> {
    /// Serves the device until the supervisor stops the worker.
    fn serve(&mut self) -> Result<(), ChannelError> {
        // Messages are copied here, replies are encoded in place.
        let mut buffer = vec![0; self.channel.buffer_len()];
        self.poll.register(&*self.channel, false)?;
        // The first message may be there already: it wakes nobody.
        let mut busy_poll = BusyPoll::new(Instant::now());
        let mut config = None;
        let mut was_busy = false;
        while !self.control.stopping() {
            let mut received = 0_u32;
            while let Some(message) = self.channel.recv(&mut buffer)? {
                received = received.saturating_add(1);
                self.handle(message)?;
                // A host that sends without a pause must not delay these.
                if self.control.stopping() || self.control.has_new_config() {
                    break;
                }
            }
            if self.control.stopping() {
                break;
            }
            if self.control.has_command() {
                // From here on, a message of the host makes the device readable.
                self.channel.acknowledge()?;
                if !self.channel.arm() {
                    if let Some((command, client)) = self.control.take_command() {
                        let host = Some(self.channel.as_fd());
                        self.service.command(command, client, host);
                    }
                }
                continue;
            }
            if let Some(new) = self.control.take_config() {
                config = (!self.reconfigure(&new)).then_some(new);
            }
            let busy = self.service.busy();
            if mem::replace(&mut was_busy, busy) != busy {
                // What it tells the service manager may have changed.
                self.supervisor.wake();
            }
            if !busy {
                if let Some(config) = config.take() {
                    self.configure(&config);
                }
            }
            let stopping = || self.control.stopping();
            if busy && busy_poll.finds_request(&mut *self.channel, received, stopping) {
                continue;
            }
            if received == 0 {
                // A device that went away wakes its worker without a message.
                self.channel.acknowledge()?;
            }
            let burst = received > 0 && !busy;
            self.control.state.set_keeps_device(busy || burst);
            self.poll.register(&*self.channel, busy || burst)?;
            if self.channel.arm() {
                continue;
            }
            self.wait(burst.then_some(BURST_GAP))?;
        }
        Ok(())
    }

    /// Waits for the device, the supervisor, and what the service watches.
    fn wait(&mut self, limit: Option<Duration>) -> Result<(), ChannelError> {
        let until = self.service.deadline();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let limit = limit.into_iter().chain(left).min();
        let readable = self.poll.wait(limit, self.service.watched())?;
        if readable.device {
            self.channel.readable();
        }
        if readable.watched || until.is_some_and(|until| until <= Instant::now()) {
            self.service.woken();
        }
        Ok(())
    }

    /// Applies a configuration to a busy service. Returns `false` if the service must be
    /// created again instead.
    fn reconfigure(&mut self, config: &hyperv_services::Config) -> bool {
        if !self.service.busy() {
            return false;
        }
        let applied = self.service.reconfigure(config);
        if applied {
            info!(self.log, "new configuration in use");
        } else {
            info!(
                self.log,
                "the new configuration will be in use when the current operation ends"
            );
        }
        applied
    }

    fn configure(&mut self, config: &hyperv_services::Config) {
        self.service = (self.entry.make)(config, &self.log);
        self.service.record_in(&self.stats.record);
        self.control.state.opened(&*self.service);
        if let Some(negotiated) = self.negotiated {
            self.service.negotiated(negotiated);
        }
        info!(self.log, "new configuration in use");
    }

    /// Handles one message and sends its reply.
    fn handle(&mut self, message: Message<'_>) -> Result<(), ChannelError> {
        self.tap.received(&message);
        match message {
            Message::Request(request) => self.handle_request(request),
            Message::Negotiation(negotiation) => {
                let (outcome, reply) =
                    negotiation.answer(self.entry.frameworks, self.entry.versions);
                self.negotiated(outcome);
                self.send(reply)
            }
            Message::Malformed(message) => {
                self.begin_request();
                let error = message.error();
                let reply = message.refuse();
                match reply {
                    Some(_) => warn!(self.log, "malformed message: {}", error),
                    None => warn!(self.log, "a message has no room for a reply: {}", error),
                }
                self.end_request(Status::INVALID_ARGUMENT);
                reply.map_or(Ok(()), |reply| self.send(reply))
            }
            Message::Registered(answer) => {
                self.service.registered(answer);
                debug!(self.log, "registered with the kernel");
                Ok(())
            }
            Message::Other(packet) => {
                debug!(self.log, "a packet of type {} is ignored", packet.kind);
                Ok(())
            }
        }
    }

    fn handle_request(&mut self, mut request: Request<'_>) -> Result<(), ChannelError> {
        self.begin_request();
        let encoding = request.encoding();
        let status = match request.message_type() {
            Some(kind) if kind != self.entry.message_type => {
                warn!(
                    self.log,
                    "a message of type {} is not for this service", kind.0
                );
                Status::NOT_SUPPORTED
            }
            _ => self.service.handle(encoding, request.body()),
        };
        self.end_request(status);
        let sent = self.send(request.reply(status));
        // The host learns from the kernel that its request failed.
        if sent.is_err() && encoding == Encoding::Utf8 {
            self.service.unanswered();
        }
        sent
    }

    fn begin_request(&self) {
        self.stats.request();
        self.control.state.set_working(true);
    }

    fn end_request(&mut self, status: Status) {
        self.health.succeeded |= status == Status::OK;
        self.control.state.set_working(false);
        self.stats.outcome(status);
    }

    fn negotiated(&mut self, outcome: Result<Option<Negotiated>, IcError>) {
        match outcome {
            Ok(Some(negotiated)) => {
                info!(
                    self.log,
                    "negotiated version {} with the host (framework {})",
                    negotiated.message,
                    negotiated.framework
                );
                self.negotiated = Some(negotiated);
                self.control.state.negotiated(negotiated);
                self.tap.negotiated(negotiated);
                self.service.negotiated(negotiated);
            }
            Ok(None) => warn!(
                self.log,
                "the host offers no version that this service speaks"
            ),
            Err(error) => warn!(self.log, "malformed negotiation: {}", error),
        }
    }

    /// Sends a reply, and waits for room in the ring if it is full.
    fn send(&mut self, reply: Reply<'_>) -> Result<(), ChannelError> {
        // What follows in a capture says if it is not sent at once.
        self.tap.sent(reply);
        let mut full = FullRingBackoff::new();
        let mut was_full = false;
        while let Sent::Full { host_signals_room } = self.channel.send(reply)? {
            if !mem::replace(&mut was_full, true) {
                self.tap.event(EventKind::Full);
            }
            if self.control.stopping() {
                return Ok(());
            }
            if let Some(waited) = full.take_overdue() {
                warn!(
                    self.log,
                    "the host does not read: a reply has found no room in the ring of {} for {} s",
                    self.node.display(),
                    waited.as_secs()
                );
            }
            self.poll.register(&*self.channel, true)?;
            self.wait(Some(full.next_delay(host_signals_room)))?;
            // Reading the device shows whether it went away; the ring does not.
            self.channel.acknowledge()?;
        }
        if was_full {
            self.tap.event(EventKind::Room);
        }
        if let Some(waited) = full.was_overdue() {
            info!(
                self.log,
                "the reply has found room in the ring of {} after {} s",
                self.node.display(),
                waited.as_secs()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use hyperv_services::fcopy;
    use hyperv_vmbus::discovery::Roots;
    use mio::{Poll, Waker};
    use slog::o;

    use super::*;
    use crate::opener::KernelOpener;
    use crate::rate_limit::RateLimit;

    #[test]
    fn a_worker_that_is_stopped_before_it_opens_its_device_leaves_it_closed() {
        let poll = Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), Token(1)).unwrap();
        let poll = WorkerPoll::new(poll.registry(), Token(0)).unwrap();
        let log = Logger::root(slog::Discard, o!());
        let endpoint = Endpoint {
            entry: &fcopy::ENTRY,
            device: DeviceNode::HvUtil {
                node: "/nowhere/to/be/found".into(),
            },
            opener: Arc::new(KernelOpener {
                roots: Roots::default(),
            }),
            config: Arc::default(),
            stats: ServiceStats::new(RateLimit::new(|| {})),
            recorder: Arc::default(),
            supervisor: SupervisorHandle::new(channel().0, Arc::new(waker)),
            log,
        };
        let control = Control::new(poll.waker().unwrap());
        control.stop();
        let mut health = Health::default();
        // Opening it would fail.
        assert!(endpoint.run(&control, poll, &mut health).is_ok());
        assert!(health.opened.is_none());
    }
}
