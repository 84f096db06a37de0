//! NetworkManager, by key files.

use std::path::Path;

use super::error::InjectError;
use super::manager::Manager;
use super::plan::{Context, Plan};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

pub(super) mod read;
pub(super) mod write;

/// NetworkManager.
pub(super) struct NetworkManager;

impl Manager for NetworkManager {
    fn key(&self) -> &'static str {
        "networkmanager"
    }

    fn in_charge(&self, root: &Path, interface: &Interface) -> bool {
        read::in_charge(root, interface)
    }

    fn read(&self, root: &Path, interface: &Interface) -> Option<ManagerState> {
        read::read(root, interface)
    }

    fn plan(&self, context: &Context<'_>) -> Result<Plan, InjectError> {
        write::plan(context)
    }
}
