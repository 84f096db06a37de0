//! The configuration of the service.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::facts::keys::KEYS;
use super::network::Backend;
use super::request::PoolId;
use crate::environment::Environment;
use crate::values;

/// Interfaces of containers and virtual machines. These patterns do not apply to an interface that
/// has a default route or is above a VMBus device: `br-ex` may have the machine's address.
pub(super) const DEFAULT_IGNORED: [&str; 5] = ["docker*", "veth*", "br-*", "virbr*", "cni*"];

/// The configuration of the service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Directory of the pool files and of the files for `hv_set_ifconfig`.
    #[serde(deserialize_with = "values::directory")]
    pub directory: PathBuf,
    /// Globs (`*` and `?`) of interface names whose addresses are left out of the
    /// guest's facts.
    #[serde(deserialize_with = "values::interfaces")]
    pub ignored_interfaces: Vec<String>,
    /// Keys and values that the guest publishes in pool 1.
    #[serde(deserialize_with = "values::pairs")]
    pub publish: BTreeMap<String, String>,
    /// Mode of new and existing pool files. `None` creates new ones with 0644 and leaves
    /// existing ones.
    #[serde(deserialize_with = "values::pool_mode")]
    pub mode: Option<u32>,
    /// What the host may read and write.
    #[serde(rename = "host")]
    pub access: Access,
    /// How IP configurations are read and written.
    pub network: Network,
    /// The directories of the machine.
    #[serde(skip)]
    pub environment: Environment,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/hyperv"),
            ignored_interfaces: DEFAULT_IGNORED.map(str::to_owned).into(),
            publish: BTreeMap::new(),
            mode: None,
            access: Access::default(),
            network: Network::default(),
            environment: Environment::default(),
        }
    }
}

/// How IP configurations are read and written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Network {
    /// The network manager that they are written for.
    pub backend: Backend,
    /// Directory of the distribution's scripts `hv_get_dns_info`, `hv_get_dhcp_info` and
    /// `hv_set_ifconfig`. Those that exist are run instead of the built-in code; `None`
    /// runs none.
    #[serde(deserialize_with = "values::optional_directory")]
    pub scripts: Option<PathBuf>,
}

/// What the host may read and write. By default everything; [`Backend::Off`] refuses IP
/// configurations.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Access {
    /// Pools in which the host may set and delete keys.
    #[serde(deserialize_with = "values::pools")]
    pub writable_pools: Vec<PoolId>,
    /// Facts that the host may read, of [`KEYS`]; the others have an empty value.
    #[serde(deserialize_with = "values::facts")]
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
