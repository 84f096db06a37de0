//! The guest's network, through the helper.

use std::sync::Arc;

use anyhow::{Result, bail};
use hyperv_sim::network::{Adapter, Network};

use super::client::Guest;
use super::request::{Reply, Request};

/// The guest's network: it has nothing else in it but what is made here.
pub struct GuestNetwork(pub Arc<Guest>);

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
        let words = command.iter().map(|word| (*word).to_owned()).collect();
        match self.0.call(&Request::Run(words))? {
            Reply::Text(text) => Ok(text),
            other => bail!("the helper answered {other:?}"),
        }
    }
}
