//! Netplan, which generates files for systemd-networkd or NetworkManager.

use std::path::Path;

use super::error::InjectError;
use super::manager::Manager;
use super::plan::{Context, Plan};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

mod read;
pub(super) mod write;

/// Netplan.
pub(super) struct Netplan;

impl Manager for Netplan {
    fn key(&self) -> &'static str {
        "netplan"
    }

    fn in_charge(&self, root: &Path, _: &Interface) -> bool {
        read::in_charge(root)
    }

    /// Nothing: systemd-networkd or NetworkManager reads what netplan generates.
    fn read(&self, _: &Path, _: &Interface) -> Option<ManagerState> {
        None
    }

    fn plan(&self, context: &Context<'_>) -> Result<Plan, InjectError> {
        write::plan(context)
    }
}
