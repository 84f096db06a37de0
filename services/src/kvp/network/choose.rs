//! Chooses the network manager that an interface's configuration is written for.

use super::error::InjectError;
use super::ifcfg::write as ifcfg;
use super::ifupdown::write as ifupdown;
use super::netplan::write as netplan;
use super::networkd::write as networkd;
use super::networkmanager::write as networkmanager;
use super::plan::{Context, Plan};
use crate::kvp::config::Backend;

/// Makes the plan of the network manager that the configuration names, or of the first that is in
/// charge of the interface: netplan, which writes the files of the next two; NetworkManager and
/// systemd-networkd, which publish the interfaces that they manage; `ifcfg` files; ifupdown.
pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    match context.config.network.backend {
        Backend::Off => Err(InjectError::Off),
        Backend::Netplan => netplan::plan(context),
        Backend::NetworkManager => networkmanager::plan(context),
        Backend::Networkd => networkd::plan(context),
        Backend::Ifcfg => ifcfg::plan(context),
        Backend::Ifupdown => ifupdown::plan(context),
        Backend::Auto if netplan::manages(context) => netplan::plan(context),
        Backend::Auto if networkmanager::manages(context) => networkmanager::plan(context),
        Backend::Auto if networkd::manages(context) => networkd::plan(context),
        Backend::Auto if ifcfg::manages(context) => ifcfg::plan(context),
        Backend::Auto if ifupdown::manages(context) => ifupdown::plan(context),
        Backend::Auto => Err(InjectError::NoManager(context.target.name.clone())),
    }
}
