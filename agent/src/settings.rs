//! What the agent is to do, and how that is read again.

use std::sync::Arc;

use hyperv_services::service::Entry;
use hyperv_vmbus::discovery::Roots;

/// What the supervisor is to do; read again at SIGHUP.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The services that are switched on.
    pub services: Vec<&'static Entry>,
    /// What they are configured with.
    pub config: Arc<hyperv_services::Config>,
    /// Whether a device that no driver has may be bound to `uio_hv_generic`.
    pub bind_uio: bool,
    /// Where sysfs and the device nodes are.
    pub roots: Roots,
}

/// Gives the settings anew.
///
/// # Errors
///
/// What is wrong with the configuration; the old settings stay then.
pub type Reload = Box<dyn FnMut() -> anyhow::Result<Settings> + Send>;
