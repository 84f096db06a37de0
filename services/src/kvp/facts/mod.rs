//! The facts that the guest reports about itself in pool 2. Protocol section 7.
//!
//! What can change is computed at the request, so it is up to date, with two exceptions: the
//! `full_name` is looked up in the background, and what `os` reads of os-release is kept for a
//! while. `addresses` sorts those of [`interfaces`](super::interfaces).

use std::ffi::CStr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::system::uname;

use self::addresses::Pattern;
use self::full_name::FullName;
use self::keys::FULL_NAME;
pub use self::keys::KEYS;
use self::os::Os;
use super::config::Config;
use super::interfaces::{Interface, Interfaces};

mod addresses;
mod full_name;
pub mod keys;
mod os;

/// The value of `IntegrationServicesVersion` if the driver did not report one: the version
/// of `hv_utils` in every kernel so far. Hosts compare it, so it must not be the version
/// of this program.
const DRIVER_VERSION: &str = "3.1";

/// How long what os-release says is kept.
pub(super) const OS_REFRESH: Duration = Duration::from_secs(10);

/// Returns name and version of the operating system in this root.
pub fn system_name(root: &Path) -> String {
    let Os { name, version_id } = Os::read(root);
    format!("{name} {version_id}").trim_end().to_owned()
}

/// Computes the guest's facts.
pub struct Facts {
    root: PathBuf,
    interfaces: Arc<Interfaces>,
    ignored: Vec<Pattern>,
    exposed: Vec<&'static str>,
    driver_version: Mutex<String>,
    full_name: FullName,
    /// The release of the kernel, which runs until a reboot.
    release: String,
    machine: String,
    /// What os-release said, and when.
    os: Mutex<Option<(Instant, Os)>>,
}

impl Facts {
    /// Starts the look-up of the full name if the host may read it.
    pub fn new(config: &Config, interfaces: Arc<Interfaces>) -> Self {
        let patterns = config.ignored_interfaces.iter();
        let kernel = uname();
        let facts = Self {
            root: config.environment.root.clone(),
            interfaces,
            ignored: patterns.map(|glob| Pattern::new(glob)).collect(),
            exposed: config.access.facts.clone(),
            driver_version: Mutex::new(DRIVER_VERSION.to_owned()),
            full_name: FullName::new(),
            release: text(kernel.release()),
            machine: text(kernel.machine()),
            os: Mutex::default(),
        };
        if facts.exposed.contains(&FULL_NAME) {
            facts.full_name();
        }
        facts
    }

    /// Sets the version of the kernel's driver: `IntegrationServicesVersion`.
    pub fn set_driver_version(&self, version: &str) {
        version.clone_into(&mut lock(&self.driver_version));
    }

    /// Waits for the look-up of the full name that [`Facts::new`] has started, at most this long.
    pub fn wait_for_full_name(&self, limit: Duration) {
        self.full_name.wait(Instant::now() + limit);
    }

    /// Returns the key and value at this index; `None` past the end. Waits like
    /// [`get`](Self::get).
    pub fn at(&self, index: u32) -> Option<(&'static str, String)> {
        let key = KEYS.get(usize::try_from(index).ok()?)?;
        Some((key, self.get(key)?))
    }

    /// Returns the value of this key, empty if the host may not read it; `None` if it is
    /// not the key of a fact. May wait for a disk and for the kernel.
    pub fn get(&self, key: &str) -> Option<String> {
        if let Some(value) = self.known(key, Duration::ZERO) {
            return Some(value);
        }
        let value = match key {
            "NetworkAddressIPv4" | "NetworkAddressIPv6" => {
                let interfaces = self.interfaces.list().unwrap_or_default();
                self.addresses(&interfaces, key)
            }
            "OSName" | "OSMajorVersion" => {
                *lock(&self.os) = Some((Instant::now(), Os::read(&self.root)));
                self.known(key, Duration::MAX)?
            }
            _ => return None,
        };
        Some(value)
    }

    /// Returns the value of this key without waiting; `None` if that takes a [`get`](Self::get).
    /// `max_age` is that of files.
    pub(super) fn known(&self, key: &str, max_age: Duration) -> Option<String> {
        if KEYS.contains(&key) && !self.exposed.contains(&key) {
            return Some(String::new());
        }
        let os = || {
            let os = lock(&self.os);
            let (_, os) = os.as_ref().filter(|(read, _)| read.elapsed() < max_age)?;
            Some(os.clone())
        };
        let value = match key {
            FULL_NAME => self.full_name(),
            "IntegrationServicesVersion" => lock(&self.driver_version).clone(),
            "NetworkAddressIPv4" | "NetworkAddressIPv6" => {
                self.addresses(&self.interfaces.current()?, key)
            }
            "OSBuildNumber" => self.release.clone(),
            "OSName" => os()?.name,
            "OSMajorVersion" => os()?.version_id,
            // OSMajorVersion has the whole VERSION_ID, as in the stock daemon. Joining
            // both must not result in `22.04.04`.
            "OSMinorVersion" => String::new(),
            "OSVersion" => {
                let version = self.release.split('-').next().unwrap_or_default();
                version.to_owned()
            }
            "ProcessorArchitecture" => self.machine.clone(),
            _ => return None,
        };
        Some(value)
    }

    fn full_name(&self) -> String {
        let host = text(uname().nodename());
        self.full_name.best_known(&host, Instant::now())
    }

    fn addresses(&self, interfaces: &[Interface], key: &str) -> String {
        let of_family = match key {
            "NetworkAddressIPv4" => IpAddr::is_ipv4,
            _ => IpAddr::is_ipv6,
        };
        addresses::list(interfaces, &self.ignored, of_family)
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(text: &CStr) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::kvp::Access;

    fn new(config: &Config) -> Facts {
        Facts::new(config, Arc::new(Interfaces::new("/".as_ref())))
    }

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
        (root, new(&config))
    }

    #[test]
    fn ten_facts_by_index_and_by_key() {
        let (_root, facts) = facts();
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
    fn facts_are_of_the_kernel_and_os_release() {
        let (root, facts) = facts();
        let kernel = |file: &str| {
            let text = fs::read_to_string(format!("/proc/sys/kernel/{file}")).unwrap();
            text.trim().to_owned()
        };
        let get = |key: &str| facts.get(key).unwrap();
        let release = kernel("osrelease");
        assert_eq!(get("OSBuildNumber"), release);
        assert_eq!(get("OSVersion"), release.split('-').next().unwrap());
        assert_eq!(get("ProcessorArchitecture"), std::env::consts::ARCH);
        assert_eq!(get("OSName"), "Debian GNU/Linux");
        assert_eq!(get("OSMajorVersion"), "13.1");
        assert_eq!(get("OSMinorVersion"), "");
        assert!(!get("FullyQualifiedDomainName").is_empty());
        fs::write(root.path().join("etc/os-release"), "NAME=Other\n").unwrap();
        assert_eq!(get("OSName"), "Other");
        assert_eq!(get("OSMajorVersion"), "");
    }

    #[test]
    fn a_fact_of_a_file_is_known_once_it_was_read() {
        let (root, facts) = facts();
        assert_eq!(facts.known("OSName", Duration::MAX), None);
        facts.get("OSMajorVersion");
        let known = |age| facts.known("OSName", age);
        assert_eq!(known(Duration::MAX).as_deref(), Some("Debian GNU/Linux"));
        fs::write(root.path().join("etc/os-release"), "NAME=Other\n").unwrap();
        assert_eq!(known(Duration::MAX).as_deref(), Some("Debian GNU/Linux"));
        assert_eq!(known(Duration::ZERO), None);
        assert_eq!(facts.get("OSName").as_deref(), Some("Other"));
        assert_eq!(known(Duration::MAX).as_deref(), Some("Other"));
    }

    #[test]
    fn a_fact_that_the_host_may_not_read_is_empty() {
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
        let facts = new(&config);
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
        let (_root, facts) = facts();
        let key = "IntegrationServicesVersion";
        assert_eq!(facts.get(key).as_deref(), Some("3.1"));
        facts.set_driver_version("3.2");
        assert_eq!(facts.get(key).as_deref(), Some("3.2"));
    }
}
