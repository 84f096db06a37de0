//! The agent as a library: one supervisor over every VMBus device that carries
//! an integration service. The binary is a thin shell around [`cli::main`].

pub mod capture;
pub mod cli;
pub mod config;
pub mod control_socket;
pub mod devices;
pub mod doctor;
mod fields;
mod holder;
mod journal;
mod lines;
pub mod locate;
pub mod logging;
pub mod mailbox;
pub mod opener;
mod rate_limit;
pub mod request;
pub mod runtime;
mod salvage;
pub mod service_manager;
pub mod settings;
mod stats;
pub mod status;
mod stock_daemons;
pub mod supervisor;
#[cfg(feature = "syslog")]
mod syslog;
mod terminal;
mod timeouts;
mod worker;
