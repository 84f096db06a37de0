//! ConnMan.

use std::path::Path;

use super::error::InjectError;
use super::manager::{Charge, Manager};
use super::plan::{Context, Plan};
use super::state::ManagerState;
use crate::kvp::interfaces::Interface;

mod read;
pub(super) mod write;

/// ConnMan.
pub(super) struct Connman;

impl Manager for Connman {
    fn key(&self) -> &'static str {
        "connman"
    }

    fn sign(&self, interface: &Interface) -> String {
        format!("ConnMan runs, and has a service of {}", interface.name)
    }

    fn in_charge(&self, root: &Path, interface: &Interface) -> Charge {
        Charge::published(read::in_charge(root, interface))
    }

    fn will_be_in_charge(&self, root: &Path, interface: &Interface) -> bool {
        read::service(root, interface).is_some()
    }

    fn units(&self, _: &Path, _: &Interface) -> &'static [&'static str] {
        &read::UNITS
    }

    fn read(&self, root: &Path, interface: &Interface) -> Option<ManagerState> {
        read::read(root, interface)
    }

    fn plan(&self, context: &Context<'_>) -> Result<Plan, InjectError> {
        write::plan(context)
    }
}
