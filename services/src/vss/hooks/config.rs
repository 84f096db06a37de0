//! How hooks are run.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::values;

/// Hooks that are run at the most: with more, a freeze would not be done in the
/// time that the kernel gives it.
pub(super) const MAX_HOOKS: usize = 100;

/// How hooks are run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The directory that they are in.
    #[serde(deserialize_with = "values::directory")]
    pub directory: PathBuf,
    /// How long each may take.
    #[serde(deserialize_with = "values::seconds")]
    pub time_limit: Duration,
    /// What is done when one fails before a freeze.
    pub on_failure: OnFailure,
    /// How long file systems may stay frozen; told to the hooks.
    #[serde(skip)]
    pub freeze_limit: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/etc/hyperv-agent/vss.d"),
            time_limit: Duration::from_secs(60),
            on_failure: OnFailure::Stop,
            freeze_limit: Duration::from_secs(10 * 60),
        }
    }
}

/// What is done when a hook fails before a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Nothing is frozen, and the host is told so.
    #[default]
    Stop,
    /// The freeze goes on without what the hook was for.
    GoOn,
}
