//! The guest's network, through the helper.

use std::sync::Arc;

use anyhow::Result;
use hyperv_sim::network::{Adapter, Network};

use super::client::Guest;

/// The guest's network: it has nothing else in it but what is made here.
pub struct GuestNetwork {
    /// The guest.
    pub guest: Arc<Guest>,
    /// Path of the program in it.
    pub program: String,
}

impl Network for GuestNetwork {
    fn add(&self, adapter: &Adapter) -> Result<()> {
        let Adapter { name, mac, .. } = *adapter;
        // There is none as yet, where this is the first.
        let _ = self.run(&["ip", "link", "delete", name]);
        self.run(&["ip", "link", "add", "name", name, "type", "dummy"])?;
        self.run(&["ip", "link", "set", "dev", name, "address", mac])?;
        let mode = format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode");
        // No addresses but those that are asked for.
        let quiet = format!("echo 1 >{mode}");
        self.run(&["sh", "-c", &quiet])?;
        self.run(&["ip", "link", "set", "dev", name, "up"])
            .map(drop)
    }

    fn run(&self, command: &[&str]) -> Result<String> {
        self.guest.run(command)
    }

    fn program(&self) -> &str {
        &self.program
    }
}
