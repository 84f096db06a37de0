//! Reads and writes the IP configuration of interfaces. Protocol section 7.
//!
//! `get` reads a configuration for the host and `set` applies one of it. `managers` lists the
//! network managers in order; each has a directory of its own and implements the trait in
//! `manager`. `choose` finds the one in charge of an interface; `startup` tells whether it runs.
//! [`settings`] parses the host's texts. A network manager makes a `plan`, which a `transaction`
//! applies and `verify` checks; [`record`] keeps what became of it. [`sources`] know more about an
//! interface than its manager, and `scripts` are those of the stock daemon.

pub use self::adapters::{
    Adapter, AdaptersError, Candidate, Sources, Target as SetTarget, Told, adapters,
};
pub use self::backend::Backend;
pub use self::dry_run::{DryRun, DryRunError, NewContent, dry_run};
pub(super) use self::early::{Checks, check, is_deferred};
pub(super) use self::error::InjectError;
pub use self::get::{IpInfoError, get};
pub use self::renderings::renderings;
pub(super) use self::set::{recover, rollback, set};
pub use self::undo::{UndoError, Undoable, Undone, undo, undo_files, undoable};

mod adapters;
mod backend;
mod choose;
mod connman;
mod dns;
mod dry_run;
mod early;
mod error;
mod get;
pub mod ifcfg;
pub mod ifupdown;
pub mod ini;
mod mac;
mod manager;
mod managers;
mod netplan;
mod networkd;
mod networkmanager;
mod plan;
pub mod record;
mod renderings;
mod script;
mod scripts;
mod set;
pub mod settings;
pub mod sources;
mod startup;
mod state;
mod target;
#[cfg(test)]
mod testing;
mod transaction;
mod undo;
mod verify;
