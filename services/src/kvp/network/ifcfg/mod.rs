//! `ifcfg` files of Red Hat and SUSE.

use std::path::Path;

pub use self::read::parse;
use super::error::InjectError;
use super::manager::{Charge, Manager};
use super::plan::{Context, Plan};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

pub(super) mod read;
pub(super) mod red_hat;
mod red_hat_routes;
pub(super) mod suse;
mod variables;
pub(super) mod write;

/// What reads `ifcfg` files: the network scripts of Red Hat, NetworkManager, wicked.
pub(super) struct Ifcfg;

impl Manager for Ifcfg {
    fn key(&self) -> &'static str {
        "ifcfg"
    }

    fn sign(&self, _: &Interface) -> String {
        "/etc/sysconfig/network-scripts and the program ifup, or /etc/sysconfig/network and wicked"
            .to_owned()
    }

    fn in_charge(&self, root: &Path, _: &Interface) -> Charge {
        Charge::installed(read::in_charge(root))
    }

    fn will_be_in_charge(&self, root: &Path, interface: &Interface) -> bool {
        read::in_charge(root) && read::has_file(root, interface)
    }

    fn units(&self, root: &Path, _: &Interface) -> &'static [&'static str] {
        match read::is_suse(root) {
            true => &["wicked.service"],
            false => &["network.service"],
        }
    }

    fn read(&self, root: &Path, interface: &Interface) -> Option<ManagerState> {
        read::read(root, interface)
    }

    fn plan(&self, context: &Context<'_>) -> Result<Plan, InjectError> {
        write::plan(context)
    }
}
