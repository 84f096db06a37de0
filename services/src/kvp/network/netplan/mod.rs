//! Netplan, which generates files for systemd-networkd or NetworkManager.

use std::path::Path;

use self::write::Renderer;
use super::error::InjectError;
use super::manager::{Charge, Manager};
use super::networkd::read as networkd;
use super::networkmanager::read as networkmanager;
use super::plan::{Context, Plan};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

pub(super) mod keep;
mod read;
pub(super) mod write;

/// Netplan.
pub(super) struct Netplan;

impl Manager for Netplan {
    fn key(&self) -> &'static str {
        "netplan"
    }

    fn sign(&self, _: &Interface) -> String {
        "a `.yaml` file in /etc/netplan, and the program netplan".to_owned()
    }

    fn in_charge(&self, root: &Path, interface: &Interface) -> Charge {
        match read::has_files(root) {
            true if write::is_rendered(root, interface) => Charge::Now,
            has_files => Charge::installed(has_files),
        }
    }

    fn will_be_in_charge(&self, root: &Path, _: &Interface) -> bool {
        read::has_files(root)
    }

    fn units(&self, root: &Path, interface: &Interface) -> &'static [&'static str] {
        match write::renderer(root, interface) {
            Renderer::Networkd => &networkd::UNITS,
            Renderer::NetworkManager => &networkmanager::UNITS,
        }
    }

    fn configures_masters(&self, root: &Path, interface: &Interface) -> bool {
        write::renderer(root, interface) == Renderer::Networkd
    }

    /// Nothing: systemd-networkd or NetworkManager reads what netplan generates.
    fn read(&self, _: &Path, _: &Interface) -> Option<ManagerState> {
        None
    }

    fn plan(&self, context: &Context<'_>) -> Result<Plan, InjectError> {
        write::plan(context)
    }
}
