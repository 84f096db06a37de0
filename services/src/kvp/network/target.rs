//! The interface to configure, and the names for it in the files of network managers.

use std::fs;
use std::path::Path;

use hyperv_vmbus::Guid;

use super::error::InjectError;
use super::mac;
use crate::kvp::interfaces::Interface;

/// An interface of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Letters, digits, `.`, `_` and `-` only.
    pub(super) name: String,
    pub(super) mac: Option<[u8; 6]>,
    /// Nobody has replaced the Ethernet address of the device.
    pub(super) permanent: bool,
    /// The VMBus device.
    pub(super) device: Guid,
}

/// The interface of a device, or its topmost master if it is a port.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) target: Target,
    /// The target, before the change.
    pub(super) interface: Interface,
    /// The device's interface if that is a port of the target.
    pub(super) port: Option<String>,
}

impl Found {
    /// Returns an error if the target is a master. `manager` cannot configure those.
    pub(super) fn refuse_master(&self, manager: &'static str) -> Result<(), InjectError> {
        match &self.port {
            None => Ok(()),
            Some(port) => Err(InjectError::Enslaved {
                interface: port.clone(),
                master: self.target.name.clone(),
                manager,
            }),
        }
    }
}

impl Target {
    /// Returns the interface of a device. `root` stands for `/`.
    pub(super) fn new(root: &Path, interface: &Interface, device: Guid) -> Self {
        let assigned = attribute(root, &interface.name, "addr_assign_type");
        Self {
            name: interface.name.clone(),
            mac: interface.mac,
            permanent: assigned.is_some_and(|kind| kind.trim() == "0"),
            device,
        }
    }

    /// Returns the Ethernet address in lower case, with colons.
    pub(super) fn mac(&self) -> Option<String> {
        self.mac.map(mac::format)
    }

    /// Returns the Ethernet address for network managers that compare it with the permanent one.
    pub(super) fn permanent_mac(&self) -> Option<String> {
        self.mac().filter(|_| self.permanent)
    }

    /// Returns the stem of the names of the agent's files and connections.
    pub(super) fn stem(&self) -> String {
        format!("hyperv-agent-{}", self.name)
    }

    /// Returns the UUID of the agent's NetworkManager connection for this interface. It is made
    /// from the device's GUID, and of version 8, which RFC 9562 reserves for such uses.
    pub(super) fn uuid(&self) -> Guid {
        const SALT: u128 = 0x6879_7065_7276_0000_0000_6167_656e_7400;
        const VERSION: u128 = 0xf << 76;
        const VARIANT: u128 = 0b11 << 62;
        let mixed = (self.device.to_u128() ^ SALT) & !VERSION & !VARIANT;
        Guid::from_u128(mixed | (8 << 76) | (0b10 << 62))
    }
}

/// Returns `false` if the interface is up and has no carrier.
pub(super) fn has_carrier(root: &Path, name: &str) -> bool {
    attribute(root, name, "carrier").is_none_or(|carrier| carrier.trim() != "0")
}

/// Returns whether udev, where it runs, has set the interface up. It may rename it before.
pub(super) fn is_set_up(root: &Path, name: &str) -> bool {
    let data = root.join("run/udev/data");
    let Some(index) = attribute(root, name, "ifindex").filter(|_| data.is_dir()) else {
        return true;
    };
    let entry = fs::read_to_string(data.join(format!("n{}", index.trim())));
    entry.is_ok_and(|entry| entry.lines().any(|line| line.starts_with("I:")))
}

fn attribute(root: &Path, name: &str, attribute: &str) -> Option<String> {
    fs::read_to_string(root.join(format!("sys/class/net/{name}/{attribute}"))).ok()
}

/// Returns whether a name can be written into the files of every network manager as it is.
pub(super) fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_stable_and_well_formed() {
        let target = |device: &str| Target {
            name: "eth0".to_owned(),
            mac: None,
            permanent: false,
            device: device.parse().unwrap(),
        };
        let one = target("f8615163-0000-1000-2000-00155d010203").uuid();
        assert_eq!(one.to_string(), "90182106-7276-8000-a000-6172386f7603");
        let text = one.to_string();
        assert_eq!((&text[14..15], &text[19..20]), ("8", "a"));
        let other = target("f8615163-0000-1000-2000-00155d010204").uuid();
        assert_ne!(one, other);
    }

    #[test]
    fn plain_names_have_nothing_to_escape() {
        for name in ["eth0", "enP1s1", "eth0.100", "a-b_c"] {
            assert!(is_plain(name), "{name}");
        }
        for name in ["", "eth*", "eth0\n", "..", "-x", "e\"", "é0", "a/b"] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
