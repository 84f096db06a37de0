//! What freezing file systems is configured with.

use std::time::Duration;

use serde::Deserialize;

use super::hooks::config as hooks;
use crate::environment::Environment;
use crate::values;

/// What the service is configured with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Only these file systems are frozen; all, where it names none.
    pub include: Patterns,
    /// These are not.
    pub exclude: Patterns,
    /// Whether those are frozen that are mounted in other mount namespaces only.
    pub other_namespaces: bool,
    /// How long file systems stay frozen before they are thawed without having
    /// been asked to.
    #[serde(deserialize_with = "values::seconds")]
    pub time_limit: Duration,
    /// How long it may take, after the hooks, until the first file system is
    /// frozen: to look them up, and to write out what is not on the disk yet.
    #[serde(deserialize_with = "values::seconds")]
    pub prepare_limit: Duration,
    /// The programs that are run before and after.
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

/// File systems, named by globs (`*` and `?`, which match a `/` too). A file
/// system is meant if any of the globs is its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Patterns {
    /// Of a directory at which it is mounted, or of a symbolic link to one.
    #[serde(deserialize_with = "values::mount_points")]
    pub mount_points: Vec<String>,
    /// Of its type, such as `xfs`.
    #[serde(deserialize_with = "values::types")]
    pub types: Vec<String>,
    /// Of its devices: the source that it was mounted from, or any name below
    /// `/dev` of those that it is on.
    #[serde(deserialize_with = "values::devices")]
    pub devices: Vec<String>,
}
