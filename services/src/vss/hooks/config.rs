//! The configuration of hooks.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::values;

/// How many hooks there may be: with more, a freeze would exceed the time that the kernel
/// allows.
pub(super) const MAX_HOOKS: usize = 100;

/// The configuration of hooks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Their directory.
    #[serde(deserialize_with = "values::directory")]
    pub directory: PathBuf,
    /// How long each may take.
    #[serde(deserialize_with = "values::seconds")]
    pub time_limit: Duration,
    /// What happens if one fails before a freeze.
    pub on_failure: OnFailure,
    /// How long file systems may stay frozen, for the environment of the hooks.
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

/// What happens if a hook fails before a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Nothing is frozen, and the FREEZE fails.
    #[default]
    Stop,
    /// The freeze continues without the hook.
    GoOn,
}
