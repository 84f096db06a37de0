//! Waits until the kernel shows a configuration on the interface. Network managers continue after
//! their programs have returned, and these succeed even if another file takes precedence.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::error::InjectError;
use super::settings::{Settings, joined};
use crate::kvp::interfaces::Interface;
use crate::timeouts::IP_VERIFY;

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How an interface differs from its settings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// Addresses that the interface does not have.
    absent: Vec<IpAddr>,
    /// Absent and tentative addresses, and gateways without a route.
    missing: Vec<IpAddr>,
    /// Addresses and gateways of the previous configuration.
    stale: Vec<IpAddr>,
}

/// For the log: empty if there are none.
impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, ips) in [
            ("not on the interface yet", &self.missing),
            ("still on the interface", &self.stale),
        ] {
            if !ips.is_empty() {
                write!(f, " ({what}: {})", joined(ips, ", "))?;
            }
        }
        Ok(())
    }
}

impl Differences {
    /// Returns whether the interface lacks an address.
    pub(super) fn is_absent(&self) -> bool {
        !self.absent.is_empty()
    }

    /// Compares the interface as it is now. `before` is the interface before the change.
    pub(super) fn new(settings: &Settings, before: &Interface, now: &Interface) -> Self {
        let wanted: Vec<IpAddr> = settings.addresses().map(|(ip, _)| ip).collect();
        let gateways: Vec<IpAddr> = settings.routes().map(|route| route.gateway).collect();
        let has = |ip: &IpAddr| now.addresses.iter().any(|address| address.ip == *ip);
        let is_usable = |ip: &IpAddr| {
            let mut addresses = now.addresses.iter();
            addresses.any(|address| address.ip == *ip && !address.tentative)
        };
        let absent = wanted.iter().filter(|ip| !has(ip));
        let unusable = wanted.iter().filter(|ip| !is_usable(ip));
        let unrouted = gateways.iter().filter(|ip| !now.gateways.contains(ip));
        let replaced = |ip: &IpAddr| settings.replaces(*ip);
        // DHCP may lease the same address again, and routers continue to announce theirs.
        let may_stay = |ip: IpAddr| ip.is_ipv6() || settings.dhcp4;
        let addresses = before.addresses.iter().filter(|address| {
            let expected = wanted.contains(&address.ip) || address.dynamic && may_stay(address.ip);
            !expected && !address.is_link_local() && replaced(&address.ip) && has(&address.ip)
        });
        let routes = before.gateways.iter().filter(|gateway| {
            !gateways.contains(gateway)
                && replaced(gateway)
                && !may_stay(**gateway)
                && now.gateways.contains(gateway)
        });
        Self {
            absent: absent.copied().collect(),
            missing: unusable.chain(unrouted).copied().collect(),
            stale: addresses
                .map(|address| address.ip)
                .chain(routes.copied())
                .collect(),
        }
    }
}

/// Waits until the interface has its settings and keeps them for `stable_for`, at most for
/// [`IP_VERIFY`]; for addresses that are `required`, until `deadline`. Returns the differences that
/// remain. `before` is the interface before the change.
///
/// # Errors
///
/// [`InjectError::NotInEffect`] if required addresses are absent.
pub(super) fn verify(
    before: &Interface,
    settings: &Settings,
    required: bool,
    stable_for: Duration,
    deadline: Instant,
    interfaces: &dyn Fn() -> io::Result<Vec<Interface>>,
) -> Result<Differences, InjectError> {
    let end = deadline.min(Instant::now() + IP_VERIFY);
    let mut same_since = None;
    loop {
        let interfaces = interfaces().unwrap_or_default();
        let now = interfaces.iter().find(|now| now.name == before.name);
        // An interface that is gone has no addresses.
        let empty = Interface {
            addresses: Vec::new(),
            gateways: Vec::new(),
            ..before.clone()
        };
        let differences = Differences::new(settings, before, now.unwrap_or(&empty));
        let time = Instant::now();
        let same = now.is_some() && differences == Differences::default();
        same_since = same.then_some(same_since.unwrap_or(time));
        let stable = same_since.is_some_and(|since| time.duration_since(since) >= stable_for);
        let enough = differences.absent.is_empty() || !required;
        if stable || enough && time >= end {
            return Ok(differences);
        }
        if time >= deadline {
            return Err(InjectError::NotInEffect {
                interface: before.name.clone(),
                absent: joined(differences.absent, ", "),
                obstacle: None,
            });
        }
        thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::interfaces::{Address, testing};
    use crate::kvp::request::{Family, IpInfo};

    /// An interface with these addresses: `?` marks a tentative one, `~` a dynamic one.
    fn interface(addresses: &[&str], gateways: &[&str]) -> Interface {
        let address = |text: &&str| Address {
            dynamic: text.starts_with('~'),
            tentative: text.starts_with('?'),
            ..testing::address(text.trim_start_matches(['?', '~']), 24)
        };
        Interface {
            addresses: addresses.iter().map(address).collect(),
            gateways: gateways.iter().map(|ip| ip.parse().unwrap()).collect(),
            ..testing::interface(2, "eth0")
        }
    }

    fn settings(dhcp: bool, addresses: &str, subnets: &str, gateways: &str) -> Settings {
        let info = IpInfo {
            family: Family::BOTH,
            dhcp,
            addresses: addresses.to_owned(),
            subnets: subnets.to_owned(),
            gateways: gateways.to_owned(),
            ..IpInfo::default()
        };
        Settings::parse(&info).unwrap()
    }

    #[test]
    fn missing_and_stale_addresses_differ() {
        let fixed = settings(false, "10.0.0.5;fd00::5", "/24;/64", "10.0.0.1");
        let by_dhcp = settings(true, "fd00::5", "/64", "");
        let v6_only = Settings {
            families: Family::V6,
            ..settings(false, "fd00::5", "/64", "")
        };
        let before = interface(
            &[
                "10.0.0.9",
                "~10.0.0.8",
                "fd00::9",
                "~fd99::9",
                "fe80::9",
                "10.0.0.5",
            ],
            &["10.0.0.254", "fe80::1"],
        );
        for (settings, addresses, gateways, words) in [
            (&fixed, &["10.0.0.5", "fd00::5"][..], &["10.0.0.1"][..], ""),
            (
                &fixed,
                &["10.0.0.5", "?fd00::5"],
                &[],
                " (not on the interface yet: fd00::5, 10.0.0.1)",
            ),
            (
                &fixed,
                &["10.0.0.5", "10.0.0.9", "~10.0.0.8", "fd00::5", "fd00::9"],
                &["10.0.0.1", "10.0.0.254"],
                " (still on the interface: 10.0.0.9, 10.0.0.8, fd00::9, 10.0.0.254)",
            ),
            // Announced by routers, link-local, or added by somebody else meanwhile.
            (
                &fixed,
                &["10.0.0.5", "fd00::5", "~fd99::9", "fe80::9", "10.7.7.7"],
                &["10.0.0.1", "fe80::1", "10.7.7.1"],
                "",
            ),
            (
                &by_dhcp,
                &["fd00::5", "~10.0.0.8"],
                &["10.0.0.254", "fe80::1"],
                "",
            ),
            (
                &by_dhcp,
                &["fd00::5", "10.0.0.9"],
                &[],
                " (still on the interface: 10.0.0.9)",
            ),
            // IPv4 is left as it is.
            (
                &v6_only,
                &["fd00::5", "10.0.0.9", "fd00::9"],
                &["10.0.0.254"],
                " (still on the interface: fd00::9)",
            ),
        ] {
            let now = interface(addresses, gateways);
            let found = Differences::new(settings, &before, &now).to_string();
            assert_eq!(found, words, "{addresses:?} {gateways:?}");
        }
    }

    #[test]
    fn verify_waits_for_stable_settings() {
        let fixed = settings(false, "10.0.0.5", "/24", "10.0.0.1");
        let before = interface(&["10.0.0.9"], &["10.0.0.254"]);
        let calls = std::cell::Cell::new(0);
        let interfaces = || {
            calls.set(calls.get() + 1);
            match calls.get() {
                1 => Err(io::ErrorKind::TimedOut.into()),
                2 => Ok(vec![before.clone()]),
                3 => Ok(vec![interface(&["10.0.0.5", "10.0.0.9"], &["10.0.0.1"])]),
                // It has to be stable.
                5 => Ok(vec![interface(&[], &[])]),
                _ => Ok(vec![interface(&["10.0.0.5"], &["10.0.0.1"])]),
            }
        };
        let long = Instant::now() + Duration::from_secs(60);
        let found = verify(&before, &fixed, true, POLL_INTERVAL, long, &interfaces).unwrap();
        assert_eq!((found, calls.get()), (Differences::default(), 7));
    }
}
