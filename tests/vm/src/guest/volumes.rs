//! The guest's file systems, through the helper.

use std::sync::Arc;

use anyhow::Result;
use hyperv_sim::volumes::Volumes;

use super::client::Guest;

/// The guest's file systems: all that it has are its own.
pub struct GuestVolumes {
    /// The guest.
    pub guest: Arc<Guest>,
    /// Path of the program in it.
    pub program: String,
}

impl Volumes for GuestVolumes {
    fn run(&self, command: &[&str]) -> Result<String> {
        self.guest.run(command)
    }

    fn program(&self) -> &str {
        &self.program
    }
}
