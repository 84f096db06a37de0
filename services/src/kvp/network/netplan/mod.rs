//! Netplan, which generates files for systemd-networkd or NetworkManager.

pub(super) mod write;
