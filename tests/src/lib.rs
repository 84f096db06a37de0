//! A simulated Hyper-V host, and the scenarios that it plays with a guest.
//!
//! [`port`] is what a guest machine is to it; [`inprocess`] is one without
//! privileges, [`blackbox`] one around an unmodified program. [`ring`] and
//! [`channel`] are the host's side of a VMBus channel, [`ic`] and [`host`] of
//! what is said over it whatever the service, [`fcopy`], [`kvp`] and [`vss`] of
//! what is said to one; [`scenario`] has the list of what is tried.

pub mod blackbox;
pub mod channel;
pub mod chaos;
pub mod compare;
pub mod fcopy;
pub mod files;
pub mod freeze_chaos;
pub mod host;
pub mod ic;
pub mod inprocess;
pub mod kvp;
pub mod network;
pub mod port;
pub mod resources;
pub mod ring;
pub mod scenario;
pub mod soak;
pub mod sysfs;
pub mod syslog;
pub mod volumes;
pub mod vss;
pub mod wait;
