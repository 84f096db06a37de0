//! `hyperv-agent status`: what the running agent does.
//!
//! The supervisor `gather`s a [`Document`] when a client connects to the control
//! socket; the command [`ask`]s for it and shows it as it is, or as [`text`].

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use self::backup::LastBackup;

pub mod backup;
pub mod client;
pub(crate) mod clock;
pub mod text;

/// The status of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Version of the agent that runs.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it was started.
    #[serde(with = "clock::rfc3339")]
    pub since: SystemTime,
    /// Every service, those that are switched on first.
    pub services: Vec<Service>,
    /// Log messages that were suppressed and are of no service.
    #[serde(default)]
    pub suppressed: Suppressed,
    /// What keeps devices from being served, in sentences.
    pub problems: Vec<String>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name in flags and configuration.
    pub name: String,
    /// What it does.
    pub summary: String,
    /// Whether it is switched on.
    pub on: bool,
    /// Requests that came since the agent was started, negotiations aside.
    pub requests: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// What went wrong last.
    pub last_error: Option<LastError>,
    /// Log messages that were suppressed.
    #[serde(default)]
    pub suppressed: Suppressed,
    /// The last backup, of a service that makes any.
    pub last_backup: Option<LastBackup>,
    /// Work that needs no device: a rehearsal while the host offers none.
    pub operation: Option<Progress>,
    /// The devices that carry it: none while the host offers none.
    pub devices: Vec<Device>,
}

/// Log messages that were suppressed since the agent started: more came than may be
/// logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Suppressed {
    /// How many.
    pub total: u64,
    /// Warnings and errors among them.
    pub warnings: u64,
    /// Among them records of the end of a backup or a copy (`HYPERV_EVENT`); those that
    /// tell of a failure are warnings, too.
    pub events: u64,
}

/// What went wrong last, as it was logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// When.
    #[serde(with = "clock::rfc3339")]
    pub at: SystemTime,
    /// What; it may have the host's words in it.
    pub text: String,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its node.
    pub node: String,
    /// Instance GUID; `null` where the kernel does not show the device on its
    /// bus.
    pub instance: Option<String>,
    /// How it is reached.
    pub transport: Transport,
    /// What becomes of it.
    #[serde(flatten)]
    pub state: State,
    /// What was settled with the host; `null` before that, and where the kernel
    /// negotiates.
    pub versions: Option<Versions>,
    /// Whether a request is being worked on at this moment.
    pub working: bool,
    /// Work that takes longer than a request.
    pub operation: Option<Progress>,
}

/// How a device is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Rings mapped through UIO.
    Uio,
    /// A character device of `hv_utils`.
    HvUtil,
}

/// What becomes of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// It is being opened.
    Opening,
    /// It is open.
    Serving,
    /// It is to be closed, and a request may still be worked on.
    Closing,
    /// It cannot be opened, or was closed by an error.
    Failed {
        /// Why; `null` where it is about to be opened.
        failure: Option<String>,
        /// Seconds until it is opened again.
        retry_in: u64,
    },
}

/// What was settled with the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Version of the framework.
    pub framework: String,
    /// Version of the service's messages.
    pub message: String,
}

/// Work that takes longer than a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Since when.
    #[serde(with = "clock::rfc3339")]
    pub since: SystemTime,
    /// What it is.
    #[serde(flatten)]
    pub operation: Operation,
    /// Where the file system is mounted that is waited for, once that takes long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

/// What work it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Operation {
    /// A file comes from the host.
    Copying {
        /// Where it goes, in the host's words.
        path: String,
        /// Bytes that are there, from its start without a hole.
        done: u64,
        /// Bytes that were announced.
        size: u64,
    },
    /// Applications are brought to rest, and file systems frozen.
    Freezing,
    /// File systems are frozen, or applications at rest for a rehearsal.
    Frozen {
        /// How many.
        file_systems: usize,
        /// Where the first of them are mounted.
        mount_points: Vec<String>,
        /// Whether it is for a rehearsal.
        rehearsal: bool,
    },
    /// An interface gets an IP configuration.
    Configuring {
        /// The GUID of its VMBus device, in the host's words.
        adapter: String,
    },
}
