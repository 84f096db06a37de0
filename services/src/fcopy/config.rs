//! The configuration of file copy.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::environment::Environment;
use crate::values;

/// The configuration of the service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Absolute paths of existing directories below which files may be written; `/` allows
    /// all.
    #[serde(deserialize_with = "values::directories")]
    pub directories: Vec<PathBuf>,
    /// Permission bits of a new file.
    #[serde(deserialize_with = "values::mode")]
    pub mode: u32,
    /// Largest file in bytes; `None` for no limit.
    #[serde(deserialize_with = "values::size")]
    pub max_size: Option<u64>,
    /// Bytes that a copy leaves free on its file system; `None` for a twentieth of the
    /// file system, but at most 1 GiB.
    #[serde(deserialize_with = "values::size")]
    pub keep_free: Option<u64>,
    /// How long a copy may receive no data before it fails.
    #[serde(deserialize_with = "values::seconds")]
    pub idle_limit: Duration,
    /// Whether a file is synced to its disk before COMPLETE succeeds.
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
