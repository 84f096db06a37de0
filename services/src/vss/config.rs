//! The configuration of the service.

use std::time::Duration;

use serde::Deserialize;

use super::hooks::config as hooks;
use crate::environment::Environment;
use crate::values;

/// The configuration of the service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The file systems to freeze; if empty, all of them.
    pub include: Patterns,
    /// The file systems not to freeze.
    pub exclude: Patterns,
    /// Whether to freeze file systems that only other mount namespaces have.
    pub other_namespaces: bool,
    /// How long file systems stay frozen at most: the guard thaws them then.
    #[serde(deserialize_with = "values::seconds")]
    pub time_limit: Duration,
    /// How long it may take after the hooks to find the file systems and to write out
    /// their dirty pages, until the first one is frozen.
    #[serde(deserialize_with = "values::seconds")]
    pub prepare_limit: Duration,
    /// The programs to run before and after a freeze.
    pub hooks: hooks::Config,
    /// The directories of the machine.
    #[serde(skip)]
    pub environment: Environment,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            include: Patterns::default(),
            exclude: Patterns::default(),
            other_namespaces: true,
            time_limit: Duration::from_secs(10 * 60),
            prepare_limit: Duration::from_secs(5 * 60),
            hooks: hooks::Config::default(),
            environment: Environment::default(),
        }
    }
}

/// Globs that select file systems: `*` and `?`, which match a `/` too. A file system is
/// selected if any glob matches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Patterns {
    /// Match a mount point, or name a symbolic link to one.
    #[serde(deserialize_with = "values::mount_points")]
    pub mount_points: Vec<String>,
    /// Match the type, such as `xfs`.
    #[serde(deserialize_with = "values::types")]
    pub types: Vec<String>,
    /// Match a device: the source of the mount, or any name of a device below `/dev` that
    /// the file system is on.
    #[serde(deserialize_with = "values::devices")]
    pub devices: Vec<String>,
}
