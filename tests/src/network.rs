//! The private network of a guest.

use anyhow::Result;
use hyperv_vmbus::Guid;

/// A network adapter that the host gives the guest.
#[derive(Debug, Clone, Copy)]
pub struct Adapter {
    /// The interface's name in the guest.
    pub name: &'static str,
    /// Its Ethernet address, in lower case with colons.
    pub mac: &'static str,
    /// Instance of its VMBus device.
    pub device: Guid,
}

/// The network that a program sees, and what a machine configures it with.
pub trait Network: Send + Sync {
    /// Makes an interface without addresses, switched on. One of the same name
    /// that is there already goes.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    fn add(&self, adapter: &Adapter) -> Result<()>;

    /// Runs a command where the program runs, and returns what it prints.
    ///
    /// # Errors
    ///
    /// If it cannot be run, or fails.
    fn run(&self, command: &[&str]) -> Result<String>;

    /// Path of the program, as these commands see it.
    fn program(&self) -> &str;
}

/// Files and directories of the tools with which a guest's network is
/// configured, where a simulated host has put its own: [`crate::blackbox`].
pub mod tools {
    /// A line for each call of a tool.
    pub const CALLS: &str = "/run/hyperv-sim/calls";

    /// While it is there, tools do not end.
    pub const HANG: &str = "/run/hyperv-sim/hang";

    /// While it is there, tools fail.
    pub const FAIL: &str = "/run/hyperv-sim/fail";

    /// Process ids of tools that did not end.
    pub const HUNG: &str = "/run/hyperv-sim/hung";

    /// Where configurations are.
    pub const CONFIGURATIONS: &str = "/etc/systemd/network";
}
