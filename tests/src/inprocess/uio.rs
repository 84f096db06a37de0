//! A UIO device within one process: rings in anonymous memory that is mapped
//! twice, and a doorbell.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use hyperv_vmbus::mapping::{MappedRing, MappedRings};
use hyperv_vmbus::ring::{FEATURE_PENDING_SEND_SIZE, RingMemory, Word};
use hyperv_vmbus::uio::{Doorbell, UioChannel};
use hyperv_vmbus::{Channel, ChannelError};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::port::{Bell, Event, UioPort};

/// What the two ends of a doorbell share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Each write is an edge, even when nobody has read the last one.
    interrupt: EventFd,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    signals: u64,
    interrupts: u64,
    closed: bool,
    gone: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // The count saturates only after 2^64 interrupts.
        let _ = self.interrupt.write(1);
    }

    /// The host takes the device away.
    pub(super) fn rescind(&self) {
        self.state().gone = true;
        self.wake();
    }
}

/// The guest's end: what its file is to a real device.
#[derive(Debug)]
struct GuestBell {
    shared: Arc<Shared>,
    incoming: MappedRing,
}

impl GuestBell {
    fn check(&self) -> io::Result<()> {
        match self.shared.state().gone {
            true => Err(Errno::EIO.into()),
            false => Ok(()),
        }
    }
}

impl Doorbell for GuestBell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.interrupt.as_fd()
    }

    fn acknowledge(&self) -> io::Result<()> {
        self.check()?;
        self.shared.interrupt.read()?;
        Ok(())
    }

    fn signal(&self) -> io::Result<()> {
        self.check()?;
        // The kernel's driver unmasks the interrupt and signals, in this order.
        self.incoming.store(Word::InterruptMask, 0);
        self.incoming.fence();
        self.shared.state().signals += 1;
        self.shared.changed.notify_all();
        Ok(())
    }
}

impl Drop for GuestBell {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_all();
    }
}

/// The host's end.
#[derive(Debug)]
struct HostBell {
    shared: Arc<Shared>,
    incoming: MappedRing,
    reported: AtomicU64,
}

impl Bell for HostBell {
    fn interrupt(&self) {
        // The kernel's driver masks before it wakes the program.
        self.incoming.store(Word::InterruptMask, 1);
        self.shared.state().interrupts += 1;
        self.shared.wake();
    }

    fn wait_beyond(&self, signals: u64, timeout: Duration) -> Event {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.state();
        loop {
            if state.signals > signals {
                return Event::Signalled;
            }
            if state.closed {
                return Event::Closed;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Event::TimedOut;
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn reported(&self) -> &AtomicU64 {
        &self.reported
    }

    fn signals(&self) -> u64 {
        self.shared.state().signals
    }

    fn interrupts(&self) -> u64 {
        self.shared.state().interrupts
    }
}

/// The two ends of a newly opened device.
pub(super) struct Opened {
    pub(super) guest: Box<dyn Channel>,
    pub(super) host: UioPort,
    pub(super) shared: Arc<Shared>,
}

/// Opens a device with rings of `ring_len` bytes each.
pub(super) fn open(ring_len: usize) -> Result<Opened, ChannelError> {
    let error = |call| move |source: io::Error| ChannelError::Io { call, source };
    let memory = memfd_create("rings", MFdFlags::MFD_CLOEXEC)
        .map_err(|errno| error("memfd_create")(errno.into()))?;
    let memory = std::fs::File::from(memory);
    memory
        .set_len(2 * ring_len as u64)
        .map_err(error("ftruncate"))?;
    let page = page_size().map_err(error("sysconf"))?;
    let map = || MappedRings::map(&memory, ring_len, page).map_err(error("mmap"));
    let (guest, host) = (map()?, map()?);
    // The kernel's way to prepare both.
    for ring in [&host.outgoing, &host.incoming] {
        ring.store(Word::FeatureBits, FEATURE_PENDING_SEND_SIZE);
    }
    let interrupt = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|errno| error("eventfd")(errno.into()))?;
    let shared = Arc::new(Shared {
        interrupt,
        state: Mutex::default(),
        changed: Condvar::new(),
    });
    let guest_bell = GuestBell {
        shared: Arc::clone(&shared),
        incoming: guest.incoming.clone(),
    };
    let host_bell = HostBell {
        shared: Arc::clone(&shared),
        incoming: host.incoming.clone(),
        reported: AtomicU64::new(0),
    };
    Ok(Opened {
        guest: Box::new(UioChannel::new(guest_bell, guest)?),
        host: UioPort {
            rings: host.into(),
            bell: Arc::new(host_bell),
        },
        shared,
    })
}

fn page_size() -> io::Result<usize> {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or_default();
    usize::try_from(size).map_err(io::Error::other)
}
