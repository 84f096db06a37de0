//! Why an IP configuration is not in use, in words for the administrator and as
//! a status for the host.

use std::io;
use std::path::PathBuf;

use hyperv_vmbus::ic::Status;

use super::parse::Invalid;
use crate::error_chain::display_chain;
use crate::subprocess::RunError;
use crate::trusted::Refusal;

/// Why an IP configuration is not in use.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// The configuration says that the host's are refused.
    #[error("the configuration refuses IP configurations of the host (backend = \"off\")")]
    Off,

    /// A value is not what it should be. Nothing was changed.
    #[error(transparent)]
    Invalid(#[from] Invalid),

    /// The host does not name a network device of this guest.
    #[error("no network interface has the device {0:?}")]
    NoInterface(String),

    /// The kernel did not say what interfaces there are.
    #[error("cannot list the network interfaces")]
    Interfaces(#[source] io::Error),

    /// The interface's name cannot be written into every manager's files.
    #[error(
        "the interface name {0:?} has other letters than A-Z, a-z, 0-9, `.`, `_` and `-`; rename \
         the interface"
    )]
    InterfaceName(String),

    /// The interface belongs to a bond, a bridge or the like, which would lose it.
    #[error("{interface} is part of another interface, {master}, and has no addresses of its own")]
    Enslaved {
        /// Its name.
        interface: String,
        /// What it is part of.
        master: String,
    },

    /// None of the managers that are known runs on the machine.
    #[error(
        "neither netplan, NetworkManager, systemd-networkd, ifcfg files nor ifupdown is in charge \
         of {0}; name one in the configuration (backend)"
    )]
    NoManager(String),

    /// The manager cannot have this configuration from the agent.
    #[error("{manager} cannot be used: {why}")]
    Unsupported {
        /// Which manager.
        manager: &'static str,
        /// Why not, and what to do.
        why: String,
    },

    /// A manager's program is missing.
    #[error("the program {0} is not installed, or not in /usr/sbin, /usr/bin, /sbin or /bin")]
    NoProgram(&'static str),

    /// A call on a file failed.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was to be done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },

    /// Others could have put there what would be read, replaced or run.
    #[error("{} is not used", path.display())]
    Untrusted {
        /// The file, program or directory.
        path: PathBuf,
        /// Why not.
        source: Refusal,
    },

    /// Another IP configuration is still being set or taken back.
    #[error("another IP configuration is still being applied or taken back")]
    Busy,

    /// The host was told that it failed, as it took too long.
    #[error("the host no longer waits for it")]
    Late,

    /// What would be replaced is no file.
    #[error("{} is not a regular file and will not be replaced", .0.display())]
    NotAFile(PathBuf),

    /// A program could not be run, failed, or was not done in time.
    #[error(transparent)]
    Run(#[from] RunError),

    /// A manager's program said that it refuses the new file.
    #[error("{program} refuses the configuration, saying {said:?}")]
    Refused {
        /// Which program.
        program: String,
        /// What it said.
        said: String,
    },

    /// All programs succeeded, and the interface is not as it was to be.
    #[error(
        "{interface} did not get {absent}; does another file of its configuration come before \
         the agent's?"
    )]
    NotInEffect {
        /// Which interface.
        interface: String,
        /// The addresses that it does not have.
        absent: String,
    },

    /// The new configuration was written and taken back.
    #[error("{manager} did not take the configuration, and the previous one is back")]
    RolledBack {
        /// Which manager.
        manager: &'static str,
        /// Why.
        source: Box<InjectError>,
    },

    /// The new configuration was written and could not be taken back fully.
    #[error(
        "{manager} did not take the configuration, and the previous one could not be brought back \
         ({}); what its files held is below {}", display_chain(.undoing), kept.display()
    )]
    RollbackFailed {
        /// Which manager.
        manager: &'static str,
        /// Why.
        source: Box<InjectError>,
        /// Why the previous one is not back.
        undoing: Box<InjectError>,
        /// Where the previous files are.
        kept: PathBuf,
    },
}

impl InjectError {
    /// Whether the host was told of a failure before it was done, and it was taken back.
    pub(in crate::kvp) fn is_late(&self) -> bool {
        match self {
            Self::Late => true,
            Self::RolledBack { source, .. } => source.is_late(),
            _ => false,
        }
    }

    /// What the host is told. The one place where that is decided.
    pub fn status(&self) -> Status {
        match self {
            Self::Invalid(_) => Status::INVALID_ARGUMENT,
            Self::NoInterface(_) => Status::GUID_NOT_FOUND,
            Self::Off | Self::NoManager(_) | Self::Unsupported { .. } | Self::NoProgram(_) => {
                Status::NOT_SUPPORTED
            }
            Self::Interfaces(_)
            | Self::InterfaceName(_)
            | Self::Enslaved { .. }
            | Self::File { .. }
            | Self::Untrusted { .. }
            | Self::Busy
            | Self::Late
            | Self::NotAFile(_)
            | Self::Run(_)
            | Self::Refused { .. }
            | Self::NotInEffect { .. }
            | Self::RolledBack { .. }
            | Self::RollbackFailed { .. } => Status::FAIL,
        }
    }
}
