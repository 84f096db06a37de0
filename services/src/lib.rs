//! The integration services of hyperv-agent: what each does with a message from
//! the host. Nothing here knows how a message travelled; see `hyperv-vmbus` for
//! that.

pub mod activity;
pub mod backup;
pub mod command;
pub mod config;
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
mod words;

pub use config::Config;

/// Tag of log records that have the words of a program that was run: how many there
/// are is up to that program.
pub const PROGRAM_OUTPUT: &str = "program output";
