//! A script of the administrator's own, for machines whose network is configured by none of the
//! other network managers.

use std::path::Path;

use super::error::InjectError;
use super::manager::{Charge, Manager};
use super::plan::{Context, Plan};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

mod read;
pub(super) mod write;

/// The script.
pub(super) struct Script;

impl Manager for Script {
    fn key(&self) -> &'static str {
        "script"
    }

    fn sign(&self, _: &Interface) -> String {
        "an executable /etc/hyperv-agent/network that only root can change".to_owned()
    }

    /// Whoever installs the script wants all interfaces to be configured by it.
    fn in_charge(&self, root: &Path, _: &Interface) -> Charge {
        Charge::published(read::in_charge(root))
    }

    fn read(&self, root: &Path, interface: &Interface) -> Option<ManagerState> {
        read::read(root, interface)
    }

    fn plan(&self, context: &Context<'_>) -> Result<Plan, InjectError> {
        write::plan(context)
    }
}
