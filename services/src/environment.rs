//! The directories of the machine that the services use.

use std::path::PathBuf;

/// The directories of the machine that the services use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The directory that stands for `/` when the machine's own files are read: `/`,
    /// except in tests.
    pub root: PathBuf,
    /// The directory of what outlives the agent: the names of unfinished files, the keys
    /// that were published last, and IP configurations that are being applied.
    pub state_dir: PathBuf,
    /// The directory of what a reboot deletes: the sockets, the lock, and the record of
    /// what is frozen. It is on no file system that can be frozen.
    pub runtime_dir: PathBuf,
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
            state_dir: PathBuf::from("/var/lib/hyperv-agent"),
            runtime_dir: PathBuf::from("/run/hyperv-agent"),
        }
    }
}
