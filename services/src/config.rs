//! The configuration of all services.

use crate::environment::Environment;
use crate::fcopy::config as fcopy;
use crate::kvp::config as kvp;
use crate::vss::config as vss;

/// The configuration of all services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// File copy.
    pub fcopy: fcopy::Config,
    /// Key-value pairs and IP configuration.
    pub kvp: kvp::Config,
    /// Freezing file systems.
    pub vss: vss::Config,
}

impl Config {
    /// Returns the configuration with its services in another environment.
    #[must_use]
    pub fn in_environment(mut self, environment: &Environment) -> Self {
        self.fcopy.environment = environment.clone();
        self.kvp.environment = environment.clone();
        self.vss.environment = environment.clone();
        self
    }
}
