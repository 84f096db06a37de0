//! `ifcfg` files of Red Hat and SUSE.

use std::path::Path;

pub use self::read::parse;
use super::error::InjectError;
use super::manager::Manager;
use super::plan::{Context, Plan};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

pub(super) mod read;
pub(super) mod write;

/// What reads `ifcfg` files: the network scripts of Red Hat, NetworkManager, wicked.
pub(super) struct Ifcfg;

impl Manager for Ifcfg {
    fn key(&self) -> &'static str {
        "ifcfg"
    }

    fn in_charge(&self, root: &Path, _: &Interface) -> bool {
        read::in_charge(root)
    }

    fn read(&self, root: &Path, interface: &Interface) -> Option<ManagerState> {
        read::read(root, interface)
    }

    fn plan(&self, context: &Context<'_>) -> Result<Plan, InjectError> {
        write::plan(context)
    }
}
