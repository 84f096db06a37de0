//! Chooses the network manager that a configuration of the host is written for.

use std::fmt;
use std::path::Path;

use super::backend::Backend;
use super::error::InjectError;
use super::manager::{Charge, Manager};
use super::managers::{self, MANAGERS};
use super::startup::{self, BUS, Startup};
use super::target::Found;
use crate::kvp::interfaces::Interface;

/// A network manager for an interface.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    pub(super) manager: &'static dyn Manager,
    /// Whether its programs can be run. Otherwise it is about to start.
    pub(super) running: bool,
    /// Why it was chosen.
    pub(super) why: Why,
}

/// Why a network manager was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    InCharge,
    /// It will be in charge when this unit has started.
    WillBe(&'static str),
    Installed,
    Named,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InCharge => f.write_str("it is in charge of the interface"),
            Self::WillBe(unit) => write!(f, "it will be in charge when {unit} has started"),
            Self::Installed => f.write_str("it is installed, and no other one is in charge"),
            Self::Named => f.write_str("the configuration names it (backend)"),
        }
    }
}

/// Returns the network manager for the interface of a device, as [`choose`], if it can configure
/// that one: the device may be a port.
///
/// # Errors
///
/// [`InjectError::Enslaved`], and those of [`choose`].
pub(super) fn choose_for(
    root: &Path,
    backend: Backend,
    found: &Found,
) -> Result<Choice, InjectError> {
    let interface = &found.interface;
    let choice = choose(root, backend, interface).or_else(|error| {
        found.refuse_master("any network manager it knows")?;
        Err(error)
    })?;
    if !choice.manager.configures_masters(root, interface) {
        found.refuse_master(choice.manager.key())?;
    }
    Ok(choice)
}

/// Returns the network manager that the configuration names. Otherwise the first one that is in
/// charge of the interface, or else the first one that will be in this boot, or else the first
/// one that is merely installed. `root` stands for `/`.
///
/// # Errors
///
/// [`InjectError::Off`] and [`InjectError::NoManager`].
pub(super) fn choose(
    root: &Path,
    backend: Backend,
    interface: &Interface,
) -> Result<Choice, InjectError> {
    let all;
    let candidates: &[&'static dyn Manager] = match backend {
        Backend::Off => return Err(InjectError::Off),
        Backend::Auto => &MANAGERS,
        Backend::Manager(key) => {
            all = managers::find(key);
            all.as_slice()
        }
    };
    let first = |charge| {
        let mut candidates = candidates.iter();
        candidates.find(|manager| manager.in_charge(root, interface) == charge)
    };
    if let Some(manager) = first(Charge::Now) {
        let running = !awaits_bus(*manager, root, interface);
        return Ok(Choice {
            manager: *manager,
            running,
            why: Why::InCharge,
        });
    }
    let mut failed = None;
    for manager in candidates {
        if !manager.will_be_in_charge(root, interface) {
            continue;
        }
        let units = manager.units(root, interface);
        match startup::of(root, units) {
            Startup::Starting => {
                return Ok(Choice {
                    manager: *manager,
                    running: false,
                    why: Why::WillBe(units.first().copied().unwrap_or_default()),
                });
            }
            Startup::Failed => failed = failed.or(units.first().copied()),
            Startup::Running | Startup::Absent => {}
        }
    }
    let why = match backend {
        Backend::Manager(_) => Why::Named,
        _ => Why::Installed,
    };
    let named = candidates.first().filter(|_| why == Why::Named);
    let manager = first(Charge::Perhaps).or(named);
    manager
        .map(|manager| Choice {
            manager: *manager,
            running: true,
            why,
        })
        .ok_or_else(|| InjectError::NoManager {
            interface: interface.name.clone(),
            managers: managers::keys(),
            failed,
        })
}

/// Returns whether programs of a manager that runs would wait for the system bus.
pub(super) fn awaits_bus(manager: &dyn Manager, root: &Path, interface: &Interface) -> bool {
    manager.units(root, interface).contains(&BUS)
        && startup::systemd(root, &[BUS]) == Some(Startup::Starting)
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
