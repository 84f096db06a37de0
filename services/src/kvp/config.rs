//! The configuration of the service.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::facts::keys::KEYS;
use super::request::PoolId;
use crate::environment::Environment;

/// The configuration of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Directory of the pool files and of the files for `hv_set_ifconfig`.
    pub directory: PathBuf,
    /// Globs (`*` and `?`) of interface names whose addresses are left out of the
    /// guest's facts.
    pub ignored_interfaces: Vec<String>,
    /// Keys and values that the guest publishes in pool 1.
    pub publish: BTreeMap<String, String>,
    /// Mode of new and existing pool files. `None` creates new ones with 0644 and leaves
    /// existing ones.
    pub mode: Option<u32>,
    /// What the host may read and write.
    pub access: Access,
    /// How IP configurations are read and written.
    pub network: Network,
    /// The directories of the machine.
    pub environment: Environment,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/hyperv"),
            ignored_interfaces: ["docker*", "veth*", "br-*", "virbr*", "cni*"]
                .map(str::to_owned)
                .into(),
            publish: BTreeMap::new(),
            mode: None,
            access: Access::default(),
            network: Network::default(),
            environment: Environment::default(),
        }
    }
}

/// How IP configurations are read and written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Network {
    /// The backend that writes them.
    pub backend: Backend,
    /// Directory of the distribution's scripts `hv_get_dns_info`, `hv_get_dhcp_info` and
    /// `hv_set_ifconfig`. Those that exist are run instead of the built-in code; `None`
    /// runs none.
    pub scripts: Option<PathBuf>,
}

/// The backends that write IP configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// The network manager that runs on the machine.
    #[default]
    Auto,
    /// None: the host cannot set IP configurations.
    Off,
    /// Netplan.
    Netplan,
    /// systemd-networkd.
    Networkd,
    /// NetworkManager, by key files.
    NetworkManager,
    /// ifupdown, by `/etc/network/interfaces.d`.
    Ifupdown,
    /// `ifcfg` files of Red Hat and SUSE.
    Ifcfg,
}

/// What the host may read and write. By default everything; [`Backend::Off`] refuses IP
/// configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Pools in which the host may set and delete keys.
    pub writable_pools: Vec<PoolId>,
    /// Facts that the host may read, of [`KEYS`]; the others have an empty value.
    pub facts: Vec<&'static str>,
    /// Whether the host may read the IP configuration of an interface.
    pub ip_info: bool,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            writable_pools: PoolId::ALL.into(),
            facts: KEYS.into(),
            ip_info: true,
        }
    }
}
