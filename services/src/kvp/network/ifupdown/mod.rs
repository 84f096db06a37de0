//! ifupdown, by `/etc/network/interfaces.d`.

use std::path::Path;

pub use self::read::{Entry, parse};
use super::error::InjectError;
use super::manager::Manager;
use super::plan::{Context, Plan};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

mod read;
pub(super) mod write;

/// ifupdown.
pub(super) struct Ifupdown;

impl Manager for Ifupdown {
    fn key(&self) -> &'static str {
        "ifupdown"
    }

    fn in_charge(&self, root: &Path, _: &Interface) -> bool {
        read::in_charge(root)
    }

    fn read(&self, root: &Path, interface: &Interface) -> Option<ManagerState> {
        read::read(root, interface)
    }

    fn plan(&self, context: &Context<'_>) -> Result<Plan, InjectError> {
        write::plan(context)
    }
}
