//! systemd-networkd.

use std::path::Path;

use super::error::InjectError;
use super::manager::{Charge, Manager};
use super::plan::{Context, Plan};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

mod base;
mod directories;
pub(super) mod keep;
mod matching;
pub(super) mod read;
mod settle;
pub(super) mod write;

/// systemd-networkd.
pub(super) struct Networkd;

impl Manager for Networkd {
    fn key(&self) -> &'static str {
        "networkd"
    }

    fn sign(&self, interface: &Interface) -> String {
        let state = format!("/run/systemd/netif/links/{}", interface.index);
        format!("an ADMIN_STATE such as configured in {state}")
    }

    fn in_charge(&self, root: &Path, interface: &Interface) -> Charge {
        Charge::published(read::in_charge(root, interface))
    }

    fn will_be_in_charge(&self, root: &Path, interface: &Interface) -> bool {
        matching::file(root, interface, &|_| true).is_some()
    }

    fn units(&self, _: &Path, _: &Interface) -> &'static [&'static str] {
        &read::UNITS
    }

    fn configures_masters(&self, _: &Path, _: &Interface) -> bool {
        true
    }

    fn read(&self, root: &Path, interface: &Interface) -> Option<ManagerState> {
        read::read(root, interface)
    }

    fn plan(&self, context: &Context<'_>) -> Result<Plan, InjectError> {
        write::plan(context)
    }
}
