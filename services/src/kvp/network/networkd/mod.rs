//! systemd-networkd.

use std::path::Path;

use super::error::InjectError;
use super::manager::Manager;
use super::plan::{Context, Plan};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

mod read;
pub(super) mod write;

/// systemd-networkd.
pub(super) struct Networkd;

impl Manager for Networkd {
    fn key(&self) -> &'static str {
        "networkd"
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
