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
mod kvp_command;
mod layers;
mod limit;
mod lines;
pub mod locate;
pub mod logging;
pub mod opener;
mod rehearse_command;
pub mod request;
pub mod runtime;
mod scan;
mod slot;
pub mod status;
pub mod supervisor;
mod table;
mod tally;
mod thaw_command;
mod view;
mod vss_command;
mod waiting;
