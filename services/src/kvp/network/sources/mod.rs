//! What knows DHCP or the DNS servers of an interface, whichever network manager it has: DHCP
//! clients by their leases, systemd-resolved, `/etc/resolv.conf`, and dnsmasq behind that.

pub mod dhclient;
pub mod dhcpcd;
pub mod dnsmasq;
pub mod resolv_conf;
pub(super) mod resolved;
