//! ifupdown, ifupdown-ng and BusyBox, by `/etc/network/interfaces` and what it sources.

use std::path::Path;

pub use self::interfaces::{Entry, Family, parse};
use super::error::InjectError;
use super::manager::{Charge, Manager};
use super::plan::{Context, Plan};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

mod hook;
mod in_place;
mod interfaces;
mod kept;
mod metric;
pub(super) mod read;
mod resolv_conf;
mod stanzas;
pub(super) mod write;

/// ifupdown.
pub(super) struct Ifupdown;

impl Manager for Ifupdown {
    fn key(&self) -> &'static str {
        "ifupdown"
    }

    fn sign(&self, interface: &Interface) -> String {
        let name = &interface.name;
        format!("/etc/network/interfaces and the program ifup; {name} in /run/network/ifstate")
    }

    fn in_charge(&self, root: &Path, interface: &Interface) -> Charge {
        match read::in_charge(root) {
            true if read::is_up(root, interface) => Charge::Now,
            installed => Charge::installed(installed),
        }
    }

    fn will_be_in_charge(&self, root: &Path, interface: &Interface) -> bool {
        read::in_charge(root) && read::read(root, interface).is_some()
    }

    fn units(&self, _: &Path, _: &Interface) -> &'static [&'static str] {
        &["networking.service"]
    }

    fn read(&self, root: &Path, interface: &Interface) -> Option<ManagerState> {
        read::read(root, interface)
    }

    fn plan(&self, context: &Context<'_>) -> Result<Plan, InjectError> {
        write::plan(context)
    }
}
