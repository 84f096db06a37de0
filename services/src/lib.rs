//! The integration services of hyperv-agent: what each does with a message from
//! the host. Nothing here knows how a message travelled; see `hyperv-vmbus` for
//! that.

pub mod backup;
pub mod clock;
pub mod command;
pub mod config;
mod environment;
mod error_chain;
pub mod fcopy;
pub mod kvp;
pub mod processes;
pub mod progress;
pub mod registry;
mod replace;
pub mod retry;
pub mod service;
pub mod stop;
mod subprocess;
pub mod sys;
pub mod timeouts;
pub mod trusted;
pub mod values;
pub mod vss;

pub use config::Config;
pub use environment::Environment;

/// Tag of log records that have the words of a program that was run: how many there
/// are is up to that program.
pub const PROGRAM_OUTPUT: &str = "program output";
