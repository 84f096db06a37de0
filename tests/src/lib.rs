//! A simulated Hyper-V host, and the scenarios that it runs against a guest.
//!
//! [`port`] has the traits of a guest machine. [`inprocess`] implements them without
//! privileges, [`blackbox`] around an unmodified program. [`ring`] and [`channel`] are
//! the host's side of a VMBus channel, [`ic`] and [`host`] of the integration-component
//! protocol, [`fcopy`], [`kvp`] and [`vss`] of one service each. [`scenario`] has the list
//! of scenarios, [`replay`] plays captures, [`results`] what a benchmark measured, [`chart`] and [`figures`] how it is shown.

pub mod blackbox;
pub mod channel;
pub mod chaos;
pub mod chart;
pub mod compare;
pub mod fcopy;
pub mod figures;
pub mod files;
pub mod freeze_chaos;
pub mod fuse;
pub mod host;
pub mod ic;
pub mod inprocess;
pub mod kvp;
pub mod network;
pub mod port;
mod recording;
pub mod replay;
pub mod resources;
pub mod results;
pub mod ring;
pub mod scenario;
pub mod slow_disk;
pub mod soak;
pub mod sysfs;
pub mod syslog;
pub mod volumes;
pub mod vss;
pub mod wait;
