//! Errors of IP configurations, for the log and as a status for the host.

use std::io;
use std::path::{Path, PathBuf};

use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::Status;

use super::settings::Invalid;
use crate::error_chain::display_chain;
use crate::program;
use crate::subprocess::RunError;
use crate::trusted::Refusal;

/// Why an IP configuration is not in effect.
#[derive(Debug, thiserror::Error)]
pub(in crate::kvp) enum InjectError {
    #[error("the configuration refuses IP configurations from the host (backend = \"off\")")]
    Off,

    /// A value is not valid. Nothing was changed.
    #[error(transparent)]
    Invalid(#[from] Invalid),

    #[error("no network interface belongs to device {0}")]
    NoInterface(Guid),

    #[error("cannot list the network interfaces")]
    Interfaces(#[source] io::Error),

    /// The interface's name cannot be written into the files of network managers.
    #[error(
        "interface name {0:?} has characters other than A-Z, a-z, 0-9, `.`, `_` and `-`; rename \
         the interface"
    )]
    InterfaceName(String),

    /// The interface is a port of a bond, a bridge or the like, whose addresses the network
    /// manager's back-end cannot set.
    #[error(
        "{interface} is a port of {master} and has no addresses of its own, and the agent cannot \
         set those of {master} with {manager}; set them there"
    )]
    Enslaved {
        interface: String,
        master: String,
        manager: &'static str,
    },

    #[error(
        "none of {managers} is in charge of {interface}{}; `hyperv-agent kvp ip` shows what each \
         needs; name one in the configuration (backend), or put a script of your own at \
         /etc/hyperv-agent/network",
        failed.map(|unit| format!(" ({unit} failed to start)")).unwrap_or_default()
    )]
    NoManager {
        interface: String,
        managers: String,
        /// The unit of a manager that would be in charge if it had started.
        failed: Option<&'static str>,
    },

    /// The agent was waiting for the network manager with this unit.
    #[error("{0} failed to start")]
    Startup(&'static str),

    /// The agent was waiting for a network manager, and another one took charge of the interface.
    #[error("another network manager is in charge of the interface")]
    Overtaken,

    /// The network manager cannot apply this configuration.
    #[error("{manager} cannot be used: {why}")]
    Unsupported { manager: &'static str, why: String },

    #[error(transparent)]
    NoProgram(#[from] program::Missing),

    #[error("cannot {doing} {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    /// Another user than root could change what would be read, replaced or run.
    #[error("refusing to use {}", path.display())]
    Untrusted { path: PathBuf, source: Refusal },

    #[error("another IP configuration is still being applied or rolled back")]
    Busy,

    /// The host was told of a failure, since it took too long.
    #[error("the host no longer waits for it")]
    Late,

    /// The file that would be replaced is a directory, a link or the like, or too long.
    #[error("{} is not a regular file and will not be replaced", .0.display())]
    NotAFile(PathBuf),

    /// The name of a file or an argument would end a line of the undo log.
    #[error("cannot write {}: the name of a file to replace contains a line end", .0.display())]
    LineEnd(PathBuf),

    #[error(transparent)]
    Run(#[from] RunError),

    /// A program of the network manager printed that it rejects the new file.
    #[error("{program} rejected the configuration, saying {line:?}")]
    Rejected { program: String, line: String },

    /// All programs succeeded, but the interface lacks addresses.
    #[error("{interface} did not get {absent}; {}", obstacle.as_deref().unwrap_or(
        "does another file take precedence over the agent's?"
    ))]
    NotInEffect {
        interface: String,
        absent: String,
        /// What is in the way, if that is known.
        obstacle: Option<String>,
    },

    #[error("{manager} did not apply the configuration; rolled back to the previous one")]
    RolledBack {
        manager: &'static str,
        source: Box<InjectError>,
    },

    #[error(
        "{manager} did not apply the configuration, and the rollback to the previous one failed \
         ({}); copies of its files are in {}", display_chain(.rollback), backups.display()
    )]
    RollbackFailed {
        manager: &'static str,
        source: Box<InjectError>,
        rollback: Box<InjectError>,
        backups: PathBuf,
    },
}

impl InjectError {
    /// Returns a function that makes an error of a failed call on `path`.
    pub(super) fn file(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            doing,
            path: path.clone(),
            source,
        }
    }

    /// Returns whether another network manager took charge, and nothing is left of the attempt.
    pub(super) fn is_overtaken(&self) -> bool {
        match self {
            Self::Overtaken => true,
            Self::RolledBack { source, .. } => source.is_overtaken(),
            _ => false,
        }
    }

    /// Adds what keeps a configuration from being in effect.
    pub(super) fn because_of(self, cause: Option<String>) -> Self {
        match self {
            Self::NotInEffect {
                interface, absent, ..
            } => Self::NotInEffect {
                interface,
                absent,
                obstacle: cause,
            },
            other => other,
        }
    }

    /// Returns whether the host was told of a failure before the configuration was in effect.
    pub(in crate::kvp) fn is_late(&self) -> bool {
        match self {
            Self::Late => true,
            Self::RolledBack { source, .. } => source.is_late(),
            _ => false,
        }
    }

    /// Returns the status for the host.
    pub(in crate::kvp) fn status(&self) -> Status {
        match self {
            Self::Invalid(_) => Status::INVALID_ARGUMENT,
            Self::NoInterface(_) => Status::GUID_NOT_FOUND,
            Self::Off | Self::NoManager { .. } | Self::Unsupported { .. } | Self::NoProgram(_) => {
                Status::NOT_SUPPORTED
            }
            _ => Status::FAIL,
        }
    }
}
