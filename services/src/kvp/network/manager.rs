//! What every network manager has in common.

use std::path::Path;

use super::error::InjectError;
use super::plan::{Context, Plan};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

/// Whether a network manager is in charge of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Charge {
    /// It is not.
    No,
    /// It is installed, and does not publish which interfaces it manages.
    Perhaps,
    /// It has published that it manages the interface.
    Now,
}

impl Charge {
    /// Of a manager that publishes which interfaces it manages.
    pub(super) fn published(manages: bool) -> Self {
        if manages { Self::Now } else { Self::No }
    }

    /// Of a manager that is installed, and publishes nothing.
    pub(super) fn installed(installed: bool) -> Self {
        if installed { Self::Perhaps } else { Self::No }
    }
}

/// A program that configures interfaces by files. `root` stands for `/`.
pub(super) trait Manager: Sync {
    /// Returns the name that selects it in the configuration (`backend`).
    fn key(&self) -> &'static str;

    /// Returns what shows that it is in charge of the interface, for people, such as the file that
    /// says so.
    fn sign(&self, interface: &Interface) -> String;

    /// Returns whether it is in charge of the interface, so that a configuration of the host is
    /// written for it.
    fn in_charge(&self, root: &Path, interface: &Interface) -> Charge;

    /// Returns whether it will be in charge of the interface once it runs, by its configuration.
    /// Asked only while its [units](Manager::units) are starting.
    fn will_be_in_charge(&self, _root: &Path, _interface: &Interface) -> bool {
        false
    }

    /// Returns its units of systemd, for this interface: the one that configures interfaces, and
    /// those that its programs need. None if the agent cannot tell whether it runs.
    fn units(&self, _root: &Path, _interface: &Interface) -> &'static [&'static str] {
        &[]
    }

    /// Returns whether its plans work for a bridge, bond or team, too: they change nothing of the
    /// file in force but the addresses.
    fn configures_masters(&self, _root: &Path, _interface: &Interface) -> bool {
        false
    }

    /// Reads what its files say about the interface; returns `None` if they do not configure it.
    fn read(&self, root: &Path, interface: &Interface) -> Option<ManagerState>;

    /// Plans how to apply a configuration of the host. It changes nothing, and may run programs
    /// that only read; none if the manager [does not run yet](Context::running).
    ///
    /// # Errors
    ///
    /// [`InjectError::Unsupported`] if it cannot apply this configuration,
    /// [`InjectError::NoProgram`] if a program is missing, and any error of reading a file.
    fn plan(&self, context: &Context<'_>) -> Result<Plan, InjectError>;
}
