//! The status document of the running agent, which `hyperv-agent status` shows.
//!
//! The supervisor `gather`s a [`Document`] when a client connects to the control
//! socket; the command fetches it and shows it as it is, or as [`text`].

use std::time::SystemTime;

use hyperv_services::clock;
use hyperv_services::counters::Counters;
pub use hyperv_services::progress::{Operation, Snapshot as Progress};
use serde::{Deserialize, Serialize};

use self::backup::LastBackup;
pub use crate::rate_limit::Suppressed;

pub mod backup;
pub mod check;
pub mod client;
pub mod ip_configuration;
pub mod openmetrics;
pub mod text;

/// The status of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Version of the running agent.
    pub version: String,
    /// Its process ID.
    pub pid: u32,
    /// When it was started.
    #[serde(with = "clock::rfc3339")]
    pub since: SystemTime,
    /// Every service, the enabled ones first.
    pub services: Vec<Service>,
    /// Suppressed log records that belong to no service.
    #[serde(default)]
    pub suppressed: Suppressed,
    /// The last reload of the configuration, if it failed: the one before is in use.
    #[serde(default)]
    pub failed_reload: Option<LastError>,
    /// The capture that is running.
    #[serde(default)]
    pub capture: Option<Capture>,
    /// What the services have done since the agent was started.
    #[serde(default)]
    pub counters: Counters,
    /// What keeps devices from being served, as text.
    pub problems: Vec<String>,
}

/// A running capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// When it began.
    #[serde(with = "clock::rfc3339")]
    pub since: SystemTime,
    /// The services that are captured; all of them if there is none.
    pub services: Vec<String>,
    /// Messages and events so far.
    pub records: u64,
    /// Those that were dropped, because the client does not read fast enough.
    pub dropped: u64,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name in flags and in the configuration.
    pub name: String,
    /// What it does.
    pub summary: String,
    /// Whether it is enabled.
    pub on: bool,
    /// Number of requests since the agent was started, without negotiations.
    pub requests: u64,
    /// How many of them failed.
    pub failures: u64,
    /// How often a device was opened: more than once if it was closed in between.
    #[serde(default)]
    pub devices_opened: u64,
    /// How often a device could not be opened, or was closed after an error.
    #[serde(default)]
    pub device_failures: u64,
    /// The last error.
    pub last_error: Option<LastError>,
    /// Its suppressed log records.
    #[serde(default)]
    pub suppressed: Suppressed,
    /// The last backup, of a service that has backups.
    pub last_backup: Option<LastBackup>,
    /// An operation without a device: a rehearsal while the host offers none.
    pub operation: Option<Progress>,
    /// What its devices stay closed for, early in the boot.
    #[serde(default)]
    pub waits_for: Option<String>,
    /// Its open devices, and those that are about to be opened.
    pub devices: Vec<Device>,
}

/// The last error, as it was logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// Its time.
    #[serde(with = "clock::rfc3339")]
    pub at: SystemTime,
    /// Its message, which may contain text from the host.
    pub text: String,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its node.
    pub node: String,
    /// Instance GUID; `null` if sysfs does not show the device.
    pub instance: Option<String>,
    /// Its transport.
    pub transport: Transport,
    /// Its state.
    #[serde(flatten)]
    pub state: State,
    /// The negotiated versions; `null` before the negotiation, and if the kernel negotiates.
    pub versions: Option<Versions>,
    /// Whether a request is being handled.
    pub working: bool,
    /// The operation in progress, if it takes longer than a request.
    pub operation: Option<Progress>,
}

/// The transport of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Rings mapped through UIO.
    Uio,
    /// A character device of `hv_utils`.
    HvUtil,
}

/// The state of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// The device is being opened.
    Opening,
    /// The device is open.
    Serving,
    /// The device will be closed. A request may still be in progress.
    Closing,
    /// The device cannot be opened, or was closed after an error.
    Failed {
        /// The error; `null` if the device is about to be opened.
        failure: Option<String>,
        /// Seconds until the agent opens it again.
        retry_in: u64,
    },
}

/// The versions that were negotiated with the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Framework version.
    pub framework: String,
    /// Message version of the service.
    pub message: String,
}
