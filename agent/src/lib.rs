//! The agent as a library: one supervisor over every VMBus device that carries
//! an integration service. The binary is a thin shell around [`cli::main`].

mod alone;
pub mod cli;
pub mod config;
pub mod control;
pub mod devices;
mod endpoint;
mod fields;
mod holder;
mod hotplug;
mod journal;
mod limit;
mod lines;
pub mod locate;
pub mod logging;
pub mod opener;
pub mod request;
pub mod runtime;
mod scan;
mod slot;
pub mod status;
pub mod supervisor;
mod tally;
mod terminal;
mod view;
mod waiting;
