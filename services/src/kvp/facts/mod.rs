//! What the guest tells the host of itself: pool 2. Protocol section 7.
//!
//! Everything is looked up when the host asks, so that it is true then; only
//! the `full_name` comes from a look-up in the background. `os` reads
//! os-release, `addresses` orders what [`net`] knows.

use std::ffi::CStr;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use rustix::system::uname;
use wildmatch::WildMatch;

use self::full_name::FullName;
use self::keys::FULL_NAME;
pub use self::keys::KEYS;
use super::config::Config;
use super::net;

mod addresses;
mod full_name;
pub mod keys;
mod os;

/// What `IntegrationServicesVersion` is where no driver said: the version that
/// the kernel's `hv_utils` gives itself, on every kernel so far. Hosts compare
/// it, so it is no place for this program's own.
const DRIVER_VERSION: &str = "3.1";

/// The guest's facts.
pub struct Facts {
    root: PathBuf,
    ignored: Vec<WildMatch>,
    exposed: Vec<&'static str>,
    driver_version: String,
    full_name: FullName,
}

impl Facts {
    /// The facts of this machine.
    pub fn new(config: &Config) -> Self {
        let patterns = config.ignored_interfaces.iter();
        let facts = Self {
            root: config.environment.root.clone(),
            ignored: patterns.map(|glob| WildMatch::new(glob)).collect(),
            exposed: config.access.facts.clone(),
            driver_version: DRIVER_VERSION.to_owned(),
            full_name: FullName::new(),
        };
        // So that it is known by the time the host asks.
        if facts.exposed.contains(&FULL_NAME) {
            facts.full_name();
        }
        facts
    }

    /// The kernel's driver said which version it has: the value of
    /// `IntegrationServicesVersion`.
    pub fn set_driver_version(&mut self, version: &str) {
        version.clone_into(&mut self.driver_version);
    }

    /// The key and value at this position, 0 to 9.
    pub fn at(&mut self, index: u32) -> Option<(&'static str, String)> {
        let key = KEYS.get(usize::try_from(index).ok()?)?;
        Some((key, self.get(key)?))
    }

    /// The value of this key; empty where the host is not to be told.
    pub fn get(&mut self, key: &str) -> Option<String> {
        if KEYS.contains(&key) && !self.exposed.contains(&key) {
            return Some(String::new());
        }
        let value = match key {
            FULL_NAME => self.full_name(),
            "IntegrationServicesVersion" => self.driver_version.clone(),
            "NetworkAddressIPv4" => self.addresses(IpAddr::is_ipv4),
            "NetworkAddressIPv6" => self.addresses(IpAddr::is_ipv6),
            "OSBuildNumber" => words(uname().release()),
            "OSName" => os::name(&self.root),
            "OSMajorVersion" => os::version_id(&self.root),
            // The whole of VERSION_ID is in OSMajorVersion, as the stock daemon
            // has it. Somebody who joins the two is not to read `22.04.04`.
            "OSMinorVersion" => String::new(),
            "OSVersion" => {
                let release = words(uname().release());
                let version = release.split('-').next().unwrap_or_default();
                version.to_owned()
            }
            "ProcessorArchitecture" => words(uname().machine()),
            _ => return None,
        };
        Some(value)
    }

    fn full_name(&self) -> String {
        let host = words(uname().nodename());
        self.full_name.best_known(&host, Instant::now())
    }

    /// Without an answer of the kernel there is no address to tell; the host
    /// asks again.
    fn addresses(&self, of_family: fn(&IpAddr) -> bool) -> String {
        let interfaces = net::interfaces().unwrap_or_default();
        let on_vmbus = |name: &str| net::vmbus_device(&self.root, name).is_some();
        addresses::list(&interfaces, &self.ignored, on_vmbus, of_family)
    }
}

fn words(text: &CStr) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::kvp::Access;

    fn facts() -> (tempfile::TempDir, Facts) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let os_release = "NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"13.1\"\n";
        fs::write(root.path().join("etc/os-release"), os_release).unwrap();
        let config = Config {
            environment: crate::Environment {
                root: root.path().to_owned(),
                ..crate::Environment::default()
            },
            ..Config::default()
        };
        (root, Facts::new(&config))
    }

    #[test]
    fn there_are_ten_by_index_and_by_key() {
        let (_root, mut facts) = facts();
        for (index, expected) in (0..).zip(KEYS) {
            let (key, value) = facts.at(index).unwrap();
            assert_eq!(key, expected);
            // The look-up of the full name may end in between.
            if key != FULL_NAME {
                assert_eq!(facts.get(key), Some(value));
            }
        }
        assert_eq!(facts.at(10), None);
        assert_eq!(facts.at(u32::MAX), None);
        assert_eq!(facts.get("osname"), None);
    }

    #[test]
    fn the_kernel_and_os_release_are_quoted() {
        let (root, mut facts) = facts();
        let kernel = |file: &str| {
            let text = fs::read_to_string(format!("/proc/sys/kernel/{file}")).unwrap();
            text.trim().to_owned()
        };
        let mut get = |key: &str| facts.get(key).unwrap();
        let release = kernel("osrelease");
        assert_eq!(get("OSBuildNumber"), release);
        assert_eq!(get("OSVersion"), release.split('-').next().unwrap());
        assert_eq!(get("ProcessorArchitecture"), std::env::consts::ARCH);
        assert_eq!(get("OSName"), "Debian GNU/Linux");
        assert_eq!(get("OSMajorVersion"), "13.1");
        assert_eq!(get("OSMinorVersion"), "");
        assert!(!get("FullyQualifiedDomainName").is_empty());
        // It is read each time.
        fs::write(root.path().join("etc/os-release"), "NAME=Other\n").unwrap();
        assert_eq!(get("OSName"), "Other");
        assert_eq!(get("OSMajorVersion"), "");
    }

    #[test]
    fn a_fact_that_is_kept_back_is_empty_in_its_place() {
        let (root, _) = facts();
        let config = Config {
            environment: crate::Environment {
                root: root.path().to_owned(),
                ..crate::Environment::default()
            },
            access: Access {
                facts: vec!["OSName"],
                ..Access::default()
            },
            ..Config::default()
        };
        let mut facts = Facts::new(&config);
        for (index, key) in (0..).zip(KEYS) {
            let value = match key {
                "OSName" => "Debian GNU/Linux",
                _ => "",
            };
            assert_eq!(facts.at(index), Some((key, value.to_owned())));
            assert_eq!(facts.get(key).as_deref(), Some(value));
        }
        assert_eq!(facts.get("no fact"), None);
    }

    #[test]
    fn the_drivers_version_is_what_it_said() {
        let (_root, mut facts) = facts();
        let key = "IntegrationServicesVersion";
        assert_eq!(facts.get(key).as_deref(), Some("3.1"));
        facts.set_driver_version("3.2");
        assert_eq!(facts.get(key).as_deref(), Some("3.2"));
    }
}
