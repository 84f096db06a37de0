//! What the agent is set up with: read when it starts, and when it reads its
//! configuration again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyperv_services::Config;
use hyperv_services::service::Entry;

/// What the agent is set up with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The services that are switched on.
    pub services: Vec<&'static Entry>,
    /// What they are configured with.
    pub config: Config,
    /// Whether the configuration cannot be read: the agent keeps what it has.
    pub unreadable: bool,
}

/// A setup that the agent reads and the machine changes.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Mutex<Setup>>);

impl Shared {
    pub(super) fn new(setup: Setup) -> Self {
        Self(Arc::new(Mutex::new(setup)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Setup> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
