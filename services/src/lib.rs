//! The integration services of hyperv-agent: what each does with a message from
//! the host. Nothing here knows how a message travelled; see `hyperv-vmbus` for
//! that.

pub mod fcopy;
pub mod kvp;
pub mod registry;
mod run;
pub mod service;
mod unsupported;
pub mod vss;

/// What the services are configured with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// File copy.
    pub fcopy: fcopy::Config,
    /// Key-value pairs and IP configuration.
    pub kvp: kvp::Config,
}
