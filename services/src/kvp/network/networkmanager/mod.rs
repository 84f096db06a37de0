//! NetworkManager, by key files.

use std::path::Path;

use super::error::InjectError;
use super::manager::{Charge, Manager};
use super::plan::{Context, Plan};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

pub(super) mod keep;
pub(super) mod key_file;
mod managed;
pub(super) mod nmcli;
pub(super) mod profiles;
pub(super) mod read;
mod routes;
pub(super) mod write;

/// NetworkManager.
pub(super) struct NetworkManager;

impl Manager for NetworkManager {
    fn key(&self) -> &'static str {
        "networkmanager"
    }

    fn sign(&self, interface: &Interface) -> String {
        format!(
            "managed=true in /run/NetworkManager/devices/{}",
            interface.index
        )
    }

    fn in_charge(&self, root: &Path, interface: &Interface) -> Charge {
        Charge::published(read::in_charge(root, interface))
    }

    fn will_be_in_charge(&self, root: &Path, interface: &Interface) -> bool {
        managed::will_manage(root, interface)
    }

    fn units(&self, _: &Path, _: &Interface) -> &'static [&'static str] {
        &read::UNITS
    }

    fn read(&self, root: &Path, interface: &Interface) -> Option<ManagerState> {
        read::read(root, interface)
    }

    fn plan(&self, context: &Context<'_>) -> Result<Plan, InjectError> {
        write::plan(context)
    }
}
