//! What every network manager has in common.

use std::path::Path;

use super::error::InjectError;
use super::plan::{Context, Plan};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

/// A program that configures interfaces by files. `root` stands for `/`.
pub(super) trait Manager: Sync {
    /// Returns the name that selects it in the configuration (`backend`).
    fn key(&self) -> &'static str;

    /// Returns whether it is in charge of the interface, so that a configuration of the host is
    /// written for it. A manager that does not publish which interfaces it manages is in charge
    /// of all if it is installed.
    fn in_charge(&self, root: &Path, interface: &Interface) -> bool;

    /// Reads what its files say about the interface; returns `None` if they do not configure it.
    fn read(&self, root: &Path, interface: &Interface) -> Option<ManagerState>;

    /// Plans how to apply a configuration of the host. It changes nothing, and may run programs
    /// that only read.
    ///
    /// # Errors
    ///
    /// [`InjectError::Unsupported`] if it cannot apply this configuration,
    /// [`InjectError::NoProgram`] if a program is missing, and any error of reading a file.
    fn plan(&self, context: &Context<'_>) -> Result<Plan, InjectError>;
}
