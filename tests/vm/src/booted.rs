//! A guest that has been booted and answers.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};

use crate::guest::Guest;
use crate::hypercall::Host;
use crate::monitor::{Config, Ending, Monitor, Stop};
use crate::vmbus::{Version, VmBus};

/// A guest that has been booted.
pub struct Booted {
    /// Its VMBus.
    pub bus: VmBus,
    /// The helper in it.
    pub guest: Arc<Guest>,
    stop: Stop,
    thread: JoinHandle<Result<Ending>>,
}

impl Booted {
    /// Boots a guest and starts the helper in it.
    ///
    /// # Errors
    ///
    /// If there is no machine, or the guest does not come up.
    pub fn new(config: &Config) -> Result<Self> {
        let monitor = Monitor::new(config)?;
        let bus = VmBus::new(monitor.memory(), monitor.synic(), Version::NEWEST);
        let (control, stop) = (monitor.control(), monitor.stopper());
        let host: Arc<dyn Host> = Arc::new(bus.clone());
        let thread = thread::Builder::new()
            .name("machine".to_owned())
            .spawn(move || monitor.run(&host))?;
        let guest = Guest::connect(control);
        let guest = guest.with_context(|| format!("VMBus so far:\n{}", bus.journal()));
        match guest {
            Ok(guest) => Ok(Self {
                bus,
                guest: Arc::new(guest),
                stop,
                thread,
            }),
            Err(error) => {
                stop.stop();
                let ended = thread.join();
                Err(error.context(format!("the machine ended: {ended:?}")))
            }
        }
    }

    /// Stops the machine, and says how it ended.
    ///
    /// # Errors
    ///
    /// As [`Monitor::run`].
    pub fn end(self) -> Result<Ending> {
        self.stop.stop();
        let ended = self.thread.join();
        ended.map_err(|_| anyhow!("the monitor panicked"))?
    }
}
