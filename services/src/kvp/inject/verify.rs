//! Waits for a configuration to be seen: managers work on when their programs
//! are done, and those can succeed where another file has precedence.

use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::error::InjectError;
use super::parse::{Settings, joined};
use crate::kvp::net::Interface;

/// Longest wait for all to be well: an IPv6 address takes some two seconds to be
/// found unique.
const LONGEST: Duration = Duration::from_secs(4);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// How an interface differs from what it is to be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// Addresses that the interface does not have.
    absent: Vec<IpAddr>,
    /// Those, the ones that are not usable, and gateways without a route.
    missing: Vec<IpAddr>,
    /// Addresses and gateways of the configuration before.
    left: Vec<IpAddr>,
}

impl Differences {
    /// For the log; nothing where there are none.
    pub(super) fn in_words(&self) -> String {
        let part = |what: &str, ips: &[IpAddr]| match ips {
            [] => String::new(),
            ips => format!(" ({what}: {})", joined(ips, ", ")),
        };
        part("not on the interface yet", &self.missing)
            + &part("still on the interface", &self.left)
    }

    fn of(settings: &Settings, before: &Interface, now: &Interface) -> Self {
        let wanted: Vec<IpAddr> = settings.addresses().map(|(ip, _)| ip).collect();
        let routes = settings.routes4().chain(settings.routes6());
        let gateways: Vec<IpAddr> = routes.map(|route| route.gateway).collect();
        let has = |ip: &IpAddr| now.addresses.iter().any(|address| address.ip == *ip);
        let usable = |ip: &IpAddr| {
            let mut own = now.addresses.iter();
            own.any(|address| address.ip == *ip && !address.tentative)
        };
        let absent = wanted.iter().filter(|ip| !has(ip));
        let addresses = wanted.iter().filter(|ip| !usable(ip));
        let missing = addresses.chain(
            gateways
                .iter()
                .filter(|gateway| !now.gateways.contains(gateway)),
        );
        // A lease of DHCP may be the one before, and routers go on announcing.
        let stays = |ip: IpAddr| ip.is_ipv6() || settings.dhcp4;
        let others = before.addresses.iter().filter(|address| {
            let expected = wanted.contains(&address.ip) || address.dynamic && stays(address.ip);
            !expected && !address.is_link_local() && has(&address.ip)
        });
        let routes = before.gateways.iter().filter(|gateway| {
            !gateways.contains(gateway) && !stays(**gateway) && now.gateways.contains(gateway)
        });
        Self {
            absent: absent.copied().collect(),
            missing: missing.copied().collect(),
            left: others
                .map(|address| address.ip)
                .chain(routes.copied())
                .collect(),
        }
    }
}

/// Waits a while for the interface to be as it is to be, and to stay so for
/// `stable_for`; until `until` for its addresses, where these are required. Says how it
/// differs all the same. `before` is what it was.
///
/// # Errors
///
/// [`InjectError::NotInEffect`] where required addresses did not come.
pub(super) fn verify(
    before: &Interface,
    settings: &Settings,
    required: bool,
    stable_for: Duration,
    until: Instant,
    interfaces: &dyn Fn() -> io::Result<Vec<Interface>>,
) -> Result<Differences, InjectError> {
    let end = until.min(Instant::now() + LONGEST);
    let mut well_since = None;
    loop {
        let now = interfaces().unwrap_or_default();
        let now = now.iter().find(|now| now.name == before.name);
        // An interface that is not there now has nothing.
        let nothing = Interface {
            addresses: Vec::new(),
            gateways: Vec::new(),
            ..before.clone()
        };
        let found = Differences::of(settings, before, now.unwrap_or(&nothing));
        let time = Instant::now();
        let well = now.is_some() && found == Differences::default();
        well_since = well.then_some(well_since.unwrap_or(time));
        let stayed = well_since.is_some_and(|since| time.duration_since(since) >= stable_for);
        let enough = found.absent.is_empty() || !required;
        if stayed || enough && time >= end {
            return Ok(found);
        }
        if time >= until {
            return Err(InjectError::NotInEffect {
                interface: before.name.clone(),
                absent: joined(found.absent, ", "),
            });
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::net::Address;
    use crate::kvp::request::{Family, IpInfo};

    /// An interface with these addresses, `?` before a tentative one and `~`
    /// before one with an end.
    fn interface(addresses: &[&str], gateways: &[&str]) -> Interface {
        let address = |text: &&str| Address {
            ip: text.trim_start_matches(['?', '~']).parse().unwrap(),
            prefix: 24,
            dynamic: text.starts_with('~'),
            tentative: text.starts_with('?'),
        };
        Interface {
            index: 2,
            name: "eth0".to_owned(),
            mac: None,
            up: true,
            loopback: false,
            master: None,
            kind: None,
            addresses: addresses.iter().map(address).collect(),
            gateways: gateways.iter().map(|ip| ip.parse().unwrap()).collect(),
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
    fn what_is_missing_and_what_is_left_differs() {
        let fixed = settings(false, "10.0.0.5;fd00::5", "/24;/64", "10.0.0.1");
        let by_dhcp = settings(true, "fd00::5", "/64", "");
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
            // Of routers, of the link, and of somebody who came meanwhile.
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
        ] {
            let now = interface(addresses, gateways);
            let found = Differences::of(settings, &before, &now).in_words();
            assert_eq!(found, words, "{addresses:?} {gateways:?}");
        }
    }

    #[test]
    fn what_comes_later_is_waited_for() {
        let fixed = settings(false, "10.0.0.5", "/24", "10.0.0.1");
        let before = interface(&["10.0.0.9"], &["10.0.0.254"]);
        let looks = std::cell::Cell::new(0);
        let interfaces = || {
            looks.set(looks.get() + 1);
            match looks.get() {
                1 => Err(io::ErrorKind::TimedOut.into()),
                2 => Ok(vec![before.clone()]),
                3 => Ok(vec![interface(&["10.0.0.5", "10.0.0.9"], &["10.0.0.1"])]),
                // A moment of having it is not enough.
                5 => Ok(vec![interface(&[], &[])]),
                _ => Ok(vec![interface(&["10.0.0.5"], &["10.0.0.1"])]),
            }
        };
        let long = Instant::now() + Duration::from_secs(60);
        let found = verify(&before, &fixed, true, PAUSE, long, &interfaces).unwrap();
        assert_eq!((found, looks.get()), (Differences::default(), 7));
    }
}
