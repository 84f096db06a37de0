//! The scripts of a distribution or a site that the stock daemon runs: `hv_get_dns_info` and
//! `hv_get_dhcp_info` (`hv_get`), and [`hv_set_ifconfig`], with the two files that the stock
//! daemon writes for it. `trusted` checks that only root can have put them there.

pub(super) mod hv_get;
pub(super) mod hv_set_ifconfig;
mod trusted;
