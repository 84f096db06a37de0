//! What knows DHCP or the DNS servers of an interface, whichever network manager it has: DHCP
//! clients by their leases, systemd-resolved, and `/etc/resolv.conf`.

pub mod dhclient;
pub mod dhcpcd;
pub mod resolv_conf;
pub(super) mod resolved;
