//! The integration services of hyperv-agent: file copy, key-value pairs and backups, as
//! handlers of messages from the host. The transports are in `hyperv-vmbus`.

pub mod backup;
pub mod boot;
pub mod clock;
pub mod command;
pub mod config;
pub mod counters;
pub mod description;
mod environment;
mod error_chain;
pub mod fcopy;
pub mod kvp;
pub mod processes;
mod program;
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

/// Tag of log records that quote the output of a program. The program decides how many
/// there are.
pub const PROGRAM_OUTPUT: &str = "program output";
