//! What file copy is configured with.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::environment::Environment;
use crate::values;

/// What the service is configured with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Directories under which files may be written, absolute; each must exist.
    /// `/` among them allows all.
    #[serde(deserialize_with = "values::directories")]
    pub directories: Vec<PathBuf>,
    /// Permission bits of a new file.
    #[serde(deserialize_with = "values::mode")]
    pub mode: u32,
    /// Bytes a file may have at most; `None` for no limit.
    #[serde(deserialize_with = "values::size")]
    pub max_size: Option<u64>,
    /// Bytes that a copy leaves available to others on its file system; `None` for
    /// a twentieth of it, and 1 GiB at most.
    #[serde(deserialize_with = "values::size")]
    pub keep_free: Option<u64>,
    /// How long the host may send nothing of a file before its copy is dropped.
    #[serde(deserialize_with = "values::seconds")]
    pub idle_limit: Duration,
    /// Whether a file is synced to its disk before the host is told that it is
    /// complete.
    pub sync: bool,
    /// The directories of the machine.
    #[serde(skip)]
    pub environment: Environment,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directories: vec![PathBuf::from("/")],
            mode: 0o744,
            max_size: None,
            keep_free: None,
            idle_limit: Duration::from_secs(300),
            sync: true,
            environment: Environment::default(),
        }
    }
}
