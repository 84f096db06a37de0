//! Which manager an interface's configuration is written for.

use std::fs;

use super::error::InjectError;
use super::plan::{Context, Plan};
use super::{ifcfg, ifupdown, netplan, networkd, networkmanager};
use crate::kvp::config::Backend;

/// The plan for the manager that the configuration names, or else for the first
/// that is in charge of the interface: netplan (it writes the files of the two
/// that follow), NetworkManager and systemd-networkd (both say which interfaces
/// are theirs), `ifcfg` files, ifupdown.
pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    match context.config.network.backend {
        Backend::Off => Err(InjectError::Off),
        Backend::Netplan => netplan::plan(context),
        Backend::NetworkManager => networkmanager::plan(context),
        Backend::Networkd => networkd::plan(context),
        Backend::Ifcfg => ifcfg::plan(context),
        Backend::Ifupdown => ifupdown::plan(context),
        Backend::Auto if netplan_is_used(context) => netplan::plan(context),
        Backend::Auto if networkmanager::manages(context) => networkmanager::plan(context),
        Backend::Auto if networkd::manages(context) => networkd::plan(context),
        Backend::Auto if ifcfg::manages(context) => ifcfg::plan(context),
        Backend::Auto if ifupdown::manages(context) => ifupdown::plan(context),
        Backend::Auto => Err(InjectError::NoManager(context.target.name.clone())),
    }
}

/// It has files to read: many machines have it without.
fn netplan_is_used(context: &Context<'_>) -> bool {
    context.program("netplan").is_ok()
        && fs::read_dir(context.path("etc/netplan")).is_ok_and(|entries| {
            entries.flatten().any(|entry| {
                entry
                    .path()
                    .extension()
                    .is_some_and(|ending| ending == "yaml")
            })
        })
}
