//! Waits for a configuration to be seen: managers work on when their programs
//! are done.

use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::parse::Settings;
use crate::kvp::net::Interface;

/// Longest wait: an IPv6 address takes some two seconds to be found unique.
const LONGEST: Duration = Duration::from_secs(4);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The static addresses that are not usable on the interface, although they were
/// waited for.
pub(super) fn missing(
    name: &str,
    settings: &Settings,
    deadline: Instant,
    interfaces: &dyn Fn() -> io::Result<Vec<Interface>>,
) -> Vec<IpAddr> {
    let end = deadline.min(Instant::now() + LONGEST);
    loop {
        let there: Vec<IpAddr> = interfaces()
            .unwrap_or_default()
            .into_iter()
            .filter(|interface| interface.name == name)
            .flat_map(|interface| interface.addresses)
            .filter(|address| !address.tentative)
            .map(|address| address.ip)
            .collect();
        let missing: Vec<IpAddr> = settings
            .addresses()
            .map(|(ip, _)| ip)
            .filter(|ip| !there.contains(ip))
            .collect();
        if missing.is_empty() || Instant::now() >= end {
            return missing;
        }
        thread::sleep(PAUSE);
    }
}
