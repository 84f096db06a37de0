//! The events that end a rehearsal, behind one epoll descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::command::Client;
use crate::stop::Stop;

/// The events. Of several at once, the first in this order counts.
pub(super) const STOP: u64 = 0;
pub(super) const CLIENT: u64 = 1;
pub(super) const HOST: u64 = 2;
pub(super) const GUARD: u64 = 3;
pub(super) const TIMER: u64 = 4;

/// The client of a rehearsal, and what ends it.
pub(super) struct Rehearsal {
    pub(super) client: Box<dyn Client>,
    pub(super) watch: Watch,
    /// Expires when the rehearsal is over; open as long as it is watched.
    pub(super) _timer: OwnedFd,
}

impl Rehearsal {
    /// Readable at any event.
    pub(super) fn watched(&self) -> BorrowedFd<'_> {
        self.watch.0.as_fd()
    }
}

/// An epoll descriptor.
pub(super) struct Watch(pub(super) OwnedFd);

impl Watch {
    /// Watches for what interrupts hooks that run with `freeze`.
    pub(super) fn until_interrupted(
        stop: Option<&Stop>,
        client: &dyn Client,
        host: Option<BorrowedFd<'_>>,
    ) -> Result<Self, Errno> {
        let watch = Self::new(client)?;
        if let Some(stop) = stop {
            watch.add(stop.as_fd(), STOP, EventFlags::IN)?;
        }
        if let Some(host) = host {
            // Edge-triggered, as in the worker, so that the interrupt count is not read here.
            watch.add(host, HOST, EventFlags::IN | EventFlags::ET)?;
        }
        Ok(watch)
    }

    /// Watches for what ends a rehearsal while file systems are frozen. Also returns the
    /// timer, which expires after `hold`.
    pub(super) fn while_held(
        guard: Option<BorrowedFd<'_>>,
        client: &dyn Client,
        hold: Duration,
    ) -> Result<(Self, OwnedFd), Errno> {
        let watch = Self::new(client)?;
        if let Some(guard) = guard {
            watch.add(guard, GUARD, EventFlags::IN)?;
        }
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // A timer set to zero is disarmed.
        let hold = hold.max(Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(hold).map_err(|_| Errno::INVAL)?,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
        watch.add(timer.as_fd(), TIMER, EventFlags::IN)?;
        Ok((watch, timer))
    }

    fn new(client: &dyn Client) -> Result<Self, Errno> {
        let watch = Self(epoll::create(CreateFlags::CLOEXEC)?);
        // A client has nothing to send; only its hang-up counts.
        watch.add(client.as_fd(), CLIENT, EventFlags::RDHUP)?;
        Ok(watch)
    }

    fn add(&self, fd: BorrowedFd<'_>, what: u64, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.0, fd, EventData::new_u64(what), flags)
    }

    /// Returns the first event that is pending, without waiting.
    pub(super) fn first(&self) -> Option<u64> {
        let mut events = Vec::with_capacity(8);
        let none = Timespec::default();
        let spare = rustix::buffer::spare_capacity(&mut events);
        epoll::wait(&self.0, spare, Some(&none)).ok()?;
        events.iter().map(|event| event.data.u64()).min()
    }
}
