//! The supervisor's settings, and how they are reloaded.

use std::path::PathBuf;
use std::sync::Arc;

use hyperv_services::service::Entry;
use hyperv_vmbus::discovery::Roots;

/// The supervisor's settings. SIGHUP reloads them.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The enabled services.
    pub services: Vec<&'static Entry>,
    /// Their configuration, with the environment that they work in.
    pub config: Arc<hyperv_services::Config>,
    /// Whether a device without a driver is bound to `uio_hv_generic`.
    pub bind_uio: bool,
    /// Where sysfs and the device nodes are.
    pub roots: Roots,
    /// Where udev and systemd say what they are doing: `/run`, except in tests.
    pub run: PathBuf,
}

/// Loads the settings again. After an error, the old settings stay in use.
pub type Reload = Box<dyn FnMut() -> anyhow::Result<Settings> + Send>;
