//! How a worker waits for its device: asleep, on its own poll or on the
//! supervisor's, or awake for a moment.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use hyperv_vmbus::{Channel, ChannelError};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};

const DEVICE: Token = Token(0);
const WAKER: Token = Token(1);
const WATCHED: Token = Token(2);

/// How long a busy worker looks for the next request before it sleeps. A host
/// that takes longer than this is waited for asleep.
const BUSY_POLL_LIMIT: Duration = Duration::from_micros(200);

/// Where a worker waits, and on whose poll its device is meanwhile.
pub(crate) struct WorkerPoll {
    /// The worker's own poll.
    poll: Poll,
    events: Events,
    /// The supervisor's.
    supervisor: Registry,
    /// The device's token there.
    token: Token,
    /// Which poll has the device, if one does.
    device_on: Option<PollOwner>,
}

/// Whose poll a device is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PollOwner {
    Worker,
    Supervisor,
}

impl WorkerPoll {
    /// A worker's waiting, with the device on no poll yet; on the supervisor's
    /// it will be under `token`.
    pub(crate) fn new(supervisor: &Registry, token: Token) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(4),
            supervisor: supervisor.try_clone()?,
            token,
            device_on: None,
        })
    }

    /// What wakes the worker.
    pub(crate) fn waker(&self) -> io::Result<Waker> {
        Waker::new(self.poll.registry(), WAKER)
    }

    /// Has the device on the worker's own poll, or on the supervisor's.
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
        if self.device_on == Some(owner) {
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
        self.device_on = Some(owner);
        Ok(())
    }

    /// Takes the device off the poll it is on.
    pub(crate) fn deregister(&mut self, channel: &dyn Channel) {
        let registry = match self.device_on.take() {
            Some(PollOwner::Worker) => self.poll.registry(),
            Some(PollOwner::Supervisor) => &self.supervisor,
            None => return,
        };
        let descriptor = channel.as_fd().as_raw_fd();
        // It fails only where the kernel has dropped the device by itself.
        let _ = registry.deregister(&mut SourceFd(&descriptor));
    }

    /// Waits for the device, for the supervisor, or for what the service has
    /// watched: `true` where that is readable.
    pub(crate) fn wait(
        &mut self,
        limit: Option<Duration>,
        watched: Option<BorrowedFd<'_>>,
    ) -> Result<bool, ChannelError> {
        // A poll counts in milliseconds, and rounds up.
        let limit = match limit {
            Some(limit) if limit < Duration::from_millis(1) => {
                thread::sleep(limit);
                Some(Duration::ZERO)
            }
            limit => limit,
        };
        // Registered for this wait only: the service may have another one the
        // next time, with the same number.
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
        Ok(self.events.iter().any(|event| event.token() == WATCHED))
    }
}

/// The longest pause between two looks at a full ring.
const LONGEST_DELAY: Duration = Duration::from_millis(100);

/// The first one, where the host does not say that there is room. Each further
/// one is twice as long.
const FIRST_DELAY: Duration = Duration::from_micros(50);

/// How long a reply may find no room before somebody is to know.
const OVERDUE: Duration = Duration::from_secs(5);

/// How a reply waits for room in a ring that is full.
pub(crate) struct FullRingBackoff {
    since: Instant,
    pause: Duration,
    overdue: bool,
}

impl FullRingBackoff {
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            pause: FIRST_DELAY,
            overdue: false,
        }
    }

    /// How long to wait before the next look, where no interrupt comes. A host
    /// that announces room interrupts, and is not trusted to.
    pub(crate) fn pause(&mut self, host_signals_room: bool) -> Duration {
        if host_signals_room {
            return LONGEST_DELAY;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_DELAY);
        pause
    }

    /// How long the reply has waited, where that is too long: told once.
    pub(crate) fn is_overdue(&mut self) -> Option<Duration> {
        let waited = self.since.elapsed();
        if self.overdue || waited < OVERDUE {
            return None;
        }
        self.overdue = true;
        Some(waited)
    }

    /// How long the reply has waited, where that was told to be too long.
    pub(crate) fn was_overdue(&self) -> Option<Duration> {
        self.overdue.then(|| self.since.elapsed())
    }
}

/// Looking for the next request before going to sleep, for as long as that
/// pays.
pub(crate) struct BusyPoll {
    worthwhile: bool,
    several_processors: bool,
}

impl BusyPoll {
    pub(crate) fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, |count| count.get());
        Self {
            worthwhile: true,
            several_processors: processors > 1,
        }
    }

    /// Looks for a moment; `true` where a request came.
    pub(crate) fn finds_request(
        &self,
        channel: &mut dyn Channel,
        stopping: impl Fn() -> bool,
    ) -> bool {
        if !self.worthwhile || !self.several_processors {
            return false;
        }
        let until = Instant::now() + BUSY_POLL_LIMIT;
        while Instant::now() < until && !stopping() {
            if channel.pending() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// How long the worker slept tells whether looking would have found the
    /// request.
    pub(crate) fn slept_for(&mut self, asleep: Duration) {
        self.worthwhile = asleep < BUSY_POLL_LIMIT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_where_no_room_is_announced() {
        let mut full = FullRingBackoff::new();
        assert_eq!(full.pause(true), LONGEST_DELAY);
        let pauses: Vec<u128> = (0..13).map(|_| full.pause(false).as_micros()).collect();
        assert_eq!(
            pauses,
            [
                50, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 100_000, 100_000
            ]
        );
    }

    #[test]
    fn a_reply_is_overdue_once_and_says_so_when_it_has_gone() {
        let mut full = FullRingBackoff::new();
        assert_eq!((full.is_overdue(), full.was_overdue()), (None, None));
        full.since = Instant::now().checked_sub(OVERDUE).unwrap_or(full.since);
        assert!(full.is_overdue().is_some_and(|waited| waited >= OVERDUE));
        assert_eq!(full.is_overdue(), None);
        assert!(full.was_overdue().is_some());
    }
}
