//! The integration services of hyperv-agent: what each does with a message from
//! the host. Nothing here knows how a message travelled; see `hyperv-vmbus` for
//! that.

pub mod activity;
pub mod backup;
pub mod command;
pub mod fcopy;
pub mod kernel;
pub mod kvp;
pub mod processes;
pub mod registry;
mod run;
pub mod service;
pub mod stop;
pub mod trusted;
pub mod vss;

/// Tag of log records that have the words of a program that was run: how many there
/// are is up to that program.
pub const PROGRAM_OUTPUT: &str = "program output";

/// What the services are configured with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// File copy.
    pub fcopy: fcopy::Config,
    /// Key-value pairs and IP configuration.
    pub kvp: kvp::Config,
    /// Freezing file systems.
    pub vss: vss::Config,
}

/// An error and what caused it, in one line.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}
