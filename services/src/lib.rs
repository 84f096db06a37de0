//! The integration services of hyperv-agent: what each does with a message from
//! the host. Nothing here knows how a message travelled; see `hyperv-vmbus` for
//! that.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

pub mod activity;
pub mod backup;
pub mod command;
pub mod fcopy;
pub mod kernel;
pub mod kvp;
pub mod registry;
mod run;
pub mod service;
pub mod stop;
pub mod vss;

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

/// Makes the directory of what outlasts the agent where it is missing; what is in
/// there is root's alone.
fn make_state_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
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
