//! What a guest machine is to the simulated host: devices that it offers, and
//! the host's end of each that the guest has opened. Scenarios know nothing
//! beyond this, so the same scenario runs in process and black box.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use hyperv_vmbus::Guid;
use hyperv_vmbus::mapping::MappedRings;
use hyperv_vmbus::ring::RingMemory;

use crate::files::Files;
use crate::network::Network;
use crate::resources::Resources;
use crate::volumes::Volumes;

/// A device that the host offers to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// A VMBus device bound to `uio_hv_generic`.
    Uio {
        /// Class of the device.
        class: Guid,
        /// Instance of the device.
        instance: Guid,
        /// It appears as `/dev/uioN` with this number.
        number: u32,
        /// Bytes of each ring, header page included.
        ring_len: usize,
    },
    /// A VMBus device held by `hv_utils`, seen as its character device.
    HvUtil {
        /// Class of the device.
        class: Guid,
        /// Instance of the device.
        instance: Guid,
        /// Node under `/dev`, for example `vmbus/hv_fcopy`.
        node: &'static str,
    },
}

/// A device that has been offered.
pub trait Device: Send + Sync {
    /// Waits until the guest has opened the device, and returns the host's end of
    /// it: fresh rings at each open, as the kernel makes them.
    ///
    /// # Errors
    ///
    /// If the guest has not opened it in time.
    fn accept(&self, timeout: Duration) -> Result<Port>;

    /// Takes the device away, as a host does: the guest's descriptor reports an
    /// error from now on, and the device is gone from the guest's `/sys` and
    /// `/dev`.
    ///
    /// # Errors
    ///
    /// If the device could not be removed from the guest's view.
    fn rescind(&self) -> Result<()>;

    /// Takes the device away, and announces nothing to the guest, where that can be held
    /// back: its descriptor reports an error from now on, and that is all. The rest
    /// follows with [`Device::rescind`].
    ///
    /// # Errors
    ///
    /// As [`Device::rescind`].
    fn rescind_unannounced(&self) -> Result<()> {
        self.rescind()
    }
}

/// The host's end of an open device.
pub enum Port {
    /// Rings and a doorbell.
    Uio(UioPort),
    /// Rings whose other end is the guest's `hv_utils`, which answers some
    /// requests by itself and hands the program the others.
    Kernel(UioPort),
    /// Messages through a character device.
    HvUtil(Arc<dyn Pipe>),
}

/// The host's end of an open channel.
pub struct UioPort {
    /// The rings, named as the guest sees them: the host reads `outgoing` and
    /// writes `incoming`.
    pub rings: Rings,
    /// Interrupts and signals.
    pub bell: Arc<dyn Bell>,
}

/// A ring, wherever its memory is.
pub type Ring = Arc<dyn RingMemory + Send + Sync>;

/// Both directions of a channel, named as the guest sees them.
pub struct Rings {
    /// Guest to host.
    pub outgoing: Ring,
    /// Host to guest.
    pub incoming: Ring,
}

impl From<MappedRings> for Rings {
    fn from(rings: MappedRings) -> Self {
        Self {
            outgoing: Arc::new(rings.outgoing),
            incoming: Arc::new(rings.incoming),
        }
    }
}

/// What a wait came back with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The guest signalled.
    Signalled,
    /// The guest closed the device.
    Closed,
    /// Nothing happened in time.
    TimedOut,
}

/// Interrupts to the guest and signals from it.
pub trait Bell: Send + Sync {
    /// Interrupts the guest, whatever the ring's mask says: whether to is the
    /// caller's decision.
    fn interrupt(&self);

    /// Waits until the guest has signalled more than this many times since the
    /// device was opened.
    fn wait_beyond(&self, signals: u64, timeout: Duration) -> Event;

    /// How many signals [`Bell::wait`] has reported.
    fn reported(&self) -> &AtomicU64;

    /// Waits for the guest to signal. Two that wait at once would take signals
    /// from each other.
    fn wait(&self, timeout: Duration) -> Event {
        let reported = self.reported();
        let event = self.wait_beyond(reported.load(Ordering::Relaxed), timeout);
        if event == Event::Signalled {
            reported.store(self.signals(), Ordering::Relaxed);
        }
        event
    }

    /// How often the guest has signalled since the device was opened.
    fn signals(&self) -> u64;

    /// How often the guest was interrupted since the device was opened.
    fn interrupts(&self) -> u64;
}

/// The kernel's end of a `/dev/vmbus/hv_*` device.
pub trait Pipe: Send + Sync {
    /// Gives the guest a message to read.
    ///
    /// # Errors
    ///
    /// If the guest has closed the device.
    fn send(&self, message: &[u8]) -> Result<()>;

    /// Waits for what the guest writes; `None` if nothing came in time.
    ///
    /// # Errors
    ///
    /// If the guest has closed the device.
    fn recv(&self, timeout: Duration) -> Result<Option<Vec<u8>>>;

    /// Lets each write of the guest fail with `EINVAL` from now on, as the
    /// kernel does with a reply that comes too late.
    fn refuse_writes(&self);

    /// Lets each write of the guest wait from now on, until they are refused.
    ///
    /// # Errors
    ///
    /// If the guest has closed the device, or its writes cannot wait.
    fn hold_writes(&self) -> Result<()>;

    /// Waits until one of the guest's writes waits.
    ///
    /// # Errors
    ///
    /// If none does in time.
    fn wait_for_held(&self, timeout: Duration) -> Result<()>;
}

/// A guest machine with the one program that is looked at.
pub trait Machine {
    /// Makes a device appear in the guest.
    ///
    /// # Errors
    ///
    /// If it could not be put into the guest's view.
    fn offer(&mut self, offer: Offer) -> Result<Arc<dyn Device>>;

    /// Gives the agent these lines of configuration: at once where it runs, and at
    /// each start from now on.
    ///
    /// # Errors
    ///
    /// If that cannot be done here.
    fn configure(&mut self, _lines: &str) -> Result<()> {
        bail!("the program cannot be given a configuration here")
    }

    /// Starts the program.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    fn start(&mut self) -> Result<()>;

    /// Ends the program in an orderly way (SIGTERM), and waits for it.
    ///
    /// # Errors
    ///
    /// If it does not end in time.
    fn stop(&mut self) -> Result<()>;

    /// Captures what host and guest say from now on until the agent, which runs, ends, in a
    /// file of this machine. Private content is replaced by placeholders.
    ///
    /// # Errors
    ///
    /// If it cannot record here.
    fn capture(&mut self, _path: &Path) -> Result<()> {
        bail!("the program cannot record here")
    }

    /// Ends the program at once (SIGKILL), where that can be done: in process
    /// it cannot.
    ///
    /// # Errors
    ///
    /// If the program is not a separate process.
    fn kill(&mut self) -> Result<()>;

    /// Process id of the program, if it is a separate process.
    fn pid(&self) -> Option<u32>;

    /// Whether the program runs.
    fn is_running(&mut self) -> bool;

    /// What the program holds; `None` if it is not a separate process.
    ///
    /// # Errors
    ///
    /// If it cannot be looked at.
    fn resources(&self) -> Result<Option<Resources>> {
        self.pid().map(Resources::of).transpose()
    }

    /// A directory that exists for the program, and under the same path in
    /// [`Machine::files`], on an ordinary file system.
    fn directory(&self) -> &Path;

    /// The directory of the program's pool files, under its path in
    /// [`Machine::files`]. It is there, and nobody but the program and the
    /// scenario uses it.
    fn pools(&self) -> PathBuf;

    /// A network that the program has to itself from its next start on, and
    /// that has nothing in it but what is made there.
    ///
    /// # Errors
    ///
    /// If it cannot have one.
    fn network(&mut self) -> Result<Arc<dyn Network>>;

    /// File systems that the program may freeze, none of which is this
    /// machine's.
    ///
    /// # Errors
    ///
    /// If it has others.
    fn volumes(&mut self) -> Result<Arc<dyn Volumes>>;

    /// Lets nobody read what is sent to syslog any more, and fills its socket:
    /// who writes to it from now on waits. Or lets it be read again.
    ///
    /// # Errors
    ///
    /// If the program has no private syslog.
    fn stall_syslog(&mut self, stalled: bool) -> Result<()>;

    /// The files that the program sees.
    fn files(&self) -> Arc<dyn Files>;

    /// What the program has logged so far.
    fn log(&self) -> String;
}
