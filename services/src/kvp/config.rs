//! What key-value pairs and IP configurations are configured with.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::facts::keys::KEYS;
use super::request::PoolId;
use crate::environment::Environment;

/// What the service is configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the pool files are, and where IP configurations are noted.
    pub directory: PathBuf,
    /// Globs (`*` and `?`) of interface names whose addresses are not told the
    /// host among the guest's facts.
    pub ignored_interfaces: Vec<String>,
    /// Keys and values that the guest publishes in pool 1, in order of keys.
    pub publish: BTreeMap<String, String>,
    /// Permission bits of pool files, also of those that are there; `None`: new ones
    /// are made with 0644, and others keep theirs.
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
    /// What writes them.
    pub backend: Backend,
    /// Directory of the distribution's helper scripts `hv_get_dns_info`,
    /// `hv_get_dhcp_info` and `hv_set_ifconfig`; those that are there are run in
    /// place of what is built in. `None`: none is run.
    pub scripts: Option<PathBuf>,
}

/// What writes IP configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// What runs on the machine.
    #[default]
    Auto,
    /// Nothing: the host's IP configurations are refused.
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

/// What the host may read and write. By default everything; that an interface
/// gets an IP configuration is [`Backend::Off`]'s affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Pools in which the host may set and delete keys.
    pub writable_pools: Vec<PoolId>,
    /// Keys of the guest's facts, of [`KEYS`]; the host is told an empty
    /// value of each other one.
    pub facts: Vec<&'static str>,
    /// Whether the host is told the IP configuration of an interface.
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
