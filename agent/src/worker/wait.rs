//! How a worker sleeps until its device is readable, with the device registered with its own
//! poll or the supervisor's.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use hyperv_vmbus::{Channel, ChannelError};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use crate::timeouts::OVERDUE;

const DEVICE: Token = Token(0);
const WAKER: Token = Token(1);
const WATCHED: Token = Token(2);

/// A worker's poll, and the poll that its device is registered with.
pub(crate) struct WorkerPoll {
    /// The worker's own poll.
    poll: Poll,
    events: Events,
    /// The registry of the supervisor's poll.
    supervisor: Registry,
    /// The device's token in the supervisor's poll.
    token: Token,
    /// The poll that the device is registered with.
    registered_with: Option<PollOwner>,
}

/// What a wait has found readable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readable {
    /// The device, if it is registered with the worker's own poll.
    pub(crate) device: bool,
    /// What the service watches.
    pub(crate) watched: bool,
}

/// The owner of a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PollOwner {
    Worker,
    Supervisor,
}

impl WorkerPoll {
    /// Creates a worker's poll. The device is registered with no poll yet; its token in the
    /// supervisor's will be `token`.
    pub(crate) fn new(supervisor: &Registry, token: Token) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(4),
            supervisor: supervisor.try_clone()?,
            token,
            registered_with: None,
        })
    }

    /// Returns the waker of this poll.
    pub(crate) fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKER)
    }

    /// Registers the device with the worker's own poll, or with the supervisor's.
    pub(crate) fn register(
        &mut self,
        channel: &dyn Channel,
        ours: bool,
    ) -> Result<(), ChannelError> {
        let owner = if ours {
            PollOwner::Worker
        } else {
            PollOwner::Supervisor
        };
        if self.registered_with == Some(owner) {
            return Ok(());
        }
        self.deregister(channel);
        let (registry, token) = match owner {
            PollOwner::Worker => (self.poll.registry(), DEVICE),
            PollOwner::Supervisor => (&self.supervisor, self.token),
        };
        let descriptor = channel.as_fd().as_raw_fd();
        registry
            .register(&mut SourceFd(&descriptor), token, Interest::READABLE)
            .map_err(|source| ChannelError::Io {
                call: "watching the device",
                source,
            })?;
        self.registered_with = Some(owner);
        Ok(())
    }

    /// Deregisters the device from its poll.
    pub(crate) fn deregister(&mut self, channel: &dyn Channel) {
        let registry = match self.registered_with.take() {
            Some(PollOwner::Worker) => self.poll.registry(),
            Some(PollOwner::Supervisor) => &self.supervisor,
            None => return,
        };
        let descriptor = channel.as_fd().as_raw_fd();
        // This fails only if the kernel has removed the device from the poll.
        let _ = registry.deregister(&mut SourceFd(&descriptor));
    }

    /// Waits for the device, the supervisor, or `watched`.
    pub(crate) fn wait(
        &mut self,
        limit: Option<Duration>,
        watched: Option<BorrowedFd<'_>>,
    ) -> Result<Readable, ChannelError> {
        // The timeout of a poll is in milliseconds, rounded up.
        let limit = match limit {
            Some(limit) if limit < Duration::from_millis(1) => {
                thread::sleep(limit);
                Some(Duration::ZERO)
            }
            limit => limit,
        };
        // Registered for this wait only: next time the service may watch another
        // descriptor with the same number.
        let number = watched.map(|watched| watched.as_raw_fd());
        let mut source = number.as_ref().map(SourceFd);
        let mut wait = || {
            if let Some(source) = &mut source {
                let registry = self.poll.registry();
                registry.register(source, WATCHED, Interest::READABLE)?;
            }
            let polled = self.poll.poll(&mut self.events, limit);
            if let Some(source) = &mut source {
                self.poll.registry().deregister(source)?;
            }
            match polled {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
                _ => Ok(()),
            }
        };
        wait().map_err(|source| ChannelError::Io {
            call: "waiting for the device",
            source,
        })?;
        let is_readable = |token| {
            let mut events = self.events.iter();
            events.any(|event| event.token() == token && event.is_readable() && !event.is_error())
        };
        Ok(Readable {
            device: is_readable(DEVICE),
            watched: is_readable(WATCHED),
        })
    }
}

/// The longest delay between two attempts to write to a full ring.
const LONGEST_DELAY: Duration = Duration::from_millis(100);

/// The first delay for a host that does not signal room. Each further one is twice as
/// long.
const FIRST_DELAY: Duration = Duration::from_micros(50);

/// The backoff of a reply that waits for room in a full ring.
pub(crate) struct FullRingBackoff {
    since: Instant,
    delay: Duration,
    logged: bool,
}

impl FullRingBackoff {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            delay: FIRST_DELAY,
            logged: false,
        }
    }

    /// Returns how long to wait for an interrupt before the next attempt. A host that
    /// signals room interrupts, but is not trusted to.
    pub(crate) fn next_delay(&mut self, host_signals_room: bool) -> Duration {
        if host_signals_room {
            return LONGEST_DELAY;
        }
        let delay = self.delay;
        self.delay = (delay * 2).min(LONGEST_DELAY);
        delay
    }

    /// Returns, once, how long an overdue reply has waited.
    pub(crate) fn take_overdue(&mut self) -> Option<Duration> {
        let waited = self.since.elapsed();
        if self.logged || waited < OVERDUE {
            return None;
        }
        self.logged = true;
        Some(waited)
    }

    /// Returns how long the reply has waited, if it was reported as overdue.
    pub(crate) fn was_overdue(&self) -> Option<Duration> {
        self.logged.then(|| self.since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_if_the_host_does_not_signal_room() {
        let mut full = FullRingBackoff::new();
        assert_eq!(full.next_delay(true), LONGEST_DELAY);
        let delays: Vec<u128> = (0..13)
            .map(|_| full.next_delay(false).as_micros())
            .collect();
        assert_eq!(
            delays,
            [
                50, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 100_000, 100_000
            ]
        );
    }

    #[test]
    fn a_reply_is_overdue_once_and_says_so_when_it_has_gone() {
        let mut full = FullRingBackoff::new();
        assert_eq!((full.take_overdue(), full.was_overdue()), (None, None));
        full.since = Instant::now().checked_sub(OVERDUE).unwrap_or(full.since);
        assert!(full.take_overdue().is_some_and(|waited| waited >= OVERDUE));
        assert_eq!(full.take_overdue(), None);
        assert!(full.was_overdue().is_some());
    }
}
