//! The configuration file: TOML. Every key is optional, unknown keys are errors.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hyperv_services::registry::{self, SERVICES};
use hyperv_services::{Config as ServiceConfig, Environment, fcopy, kvp, values, vss};
use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::logging::LogLevel;

/// Path of the configuration file, unless a flag names another one.
pub const DEFAULT_PATH: &str = "/etc/hyperv-agent/config.toml";

/// The configuration, with defaults for missing keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// Whether a device without a driver is bound to `uio_hv_generic`.
    pub bind_uio: bool,
    /// The directories of the machine. A reload does not move the sockets.
    pub environment: Environment,
    /// Services that the configuration enables or disables, by name.
    pub services: BTreeMap<&'static str, bool>,
    /// The configuration of the services.
    pub service: ServiceConfig,
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The file is not valid.
    #[error("invalid configuration {}:\n{source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The error with its line.
        source: toml::de::Error,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    log_level: Option<LogLevel>,
    bind_uio: Option<bool>,
    #[serde(default, deserialize_with = "values::optional_directory")]
    state_directory: Option<PathBuf>,
    #[serde(default, deserialize_with = "values::optional_directory")]
    runtime_directory: Option<PathBuf>,
    #[serde(default)]
    services: BTreeMap<ServiceName, bool>,
    #[serde(default)]
    fcopy: fcopy::Config,
    #[serde(default)]
    kvp: kvp::Config,
    #[serde(default)]
    vss: vss::Config,
}

/// The name of a service in the registry.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct ServiceName(&'static str);

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        let entry = registry::by_name(&name).ok_or_else(|| {
            let names = SERVICES.map(|entry| entry.name).join(", ");
            D::Error::custom(format!("unknown service `{name}`: expected one of {names}"))
        })?;
        Ok(Self(entry.name))
    }
}

/// Reads the configuration at `path`, or at [`DEFAULT_PATH`], where the file may be missing.
///
/// # Errors
///
/// [`ConfigError::Unreadable`] if the file cannot be read, [`ConfigError::Invalid`] if a line
/// of it is wrong.
pub fn load(path: Option<&Path>) -> Result<Config, ConfigError> {
    let file = path.unwrap_or(Path::new(DEFAULT_PATH));
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_none() => String::new(),
        Err(source) => {
            return Err(ConfigError::Unreadable {
                path: file.to_owned(),
                source,
            });
        }
    };
    parse(&text).map_err(|source| ConfigError::Invalid {
        path: file.to_owned(),
        source,
    })
}

/// Returns the configuration of an empty file.
///
/// # Errors
///
/// None: the defaults are valid.
pub fn defaults() -> Result<Config, ConfigError> {
    parse("").map_err(|source| ConfigError::Invalid {
        path: DEFAULT_PATH.into(),
        source,
    })
}

fn parse(text: &str) -> Result<Config, toml::de::Error> {
    toml::from_str(text).map(config)
}

/// Returns the configuration that a file with these keys describes.
///
/// # Errors
///
/// If one of them is wrong.
pub(crate) fn from_table(table: toml::Table) -> Result<Config, toml::de::Error> {
    table.try_into().map(config)
}

fn config(mut file: File) -> Config {
    let defaults = Environment::default();
    let environment = Environment {
        root: defaults.root,
        state_dir: file.state_directory.unwrap_or(defaults.state_dir),
        runtime_dir: file.runtime_directory.unwrap_or(defaults.runtime_dir),
    };
    file.vss.hooks.freeze_limit = file.vss.time_limit;
    let service = ServiceConfig {
        fcopy: file.fcopy,
        kvp: file.kvp,
        vss: file.vss,
    };
    let services = file.services.into_iter();
    Config {
        log_level: file.log_level.unwrap_or(LogLevel::Info),
        bind_uio: file.bind_uio.unwrap_or(true),
        services: services.map(|(name, on)| (name.0, on)).collect(),
        service: service.in_environment(&environment),
        environment,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyperv_services::kvp::request::PoolId;

    use super::*;

    #[test]
    fn an_empty_file_means_the_defaults() {
        let config = parse("").unwrap();
        assert_eq!(config.service, ServiceConfig::default());
        assert_eq!(config.log_level, LogLevel::Info);
        assert!(config.bind_uio && config.services.is_empty());
    }

    #[test]
    fn the_installed_configuration_states_the_defaults() {
        let installed = include_str!("../../packaging/config.toml");
        let read = |text: &str| {
            let mut config = parse(text).unwrap();
            for (name, on) in std::mem::take(&mut config.services) {
                let entry = SERVICES.into_iter().find(|entry| entry.name == name);
                assert_eq!(on, entry.unwrap().default, "{name}");
            }
            config
        };
        let defaults = parse("").unwrap();
        assert_eq!(read(installed), defaults);
        let uncommented: String = installed
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if key.contains('=') && !key.starts_with(' ') => key,
                _ => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let mut config = read(&uncommented);
        // These examples have no default.
        config.service.fcopy.max_size = None;
        config.service.fcopy.keep_free = None;
        config.service.kvp.publish.clear();
        config.service.kvp.mode = None;
        config.service.kvp.network.scripts = None;
        assert_eq!(config, defaults);
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            r#"
            log-level = "debug"
            bind-uio = false
            state-directory = "/var/tmp/agent"
            runtime-directory = "/var/tmp/run"
            [services]
            fcopy = false
            vss = true
            [fcopy]
            directories = ["/srv/in", "/tmp"]
            mode = "0640"
            max-size = "16 GiB"
            keep-free = "2 GiB"
            idle-limit = 60
            sync = false
            [kvp]
            directory = "/srv/pools"
            mode = "0600"
            ignored-interfaces = ["lxc*"]
            [kvp.publish]
            "Role" = "web"
            [kvp.host]
            writable-pools = ["external", "3"]
            facts = ["OSName", "OSVersion"]
            ip-info = false
            [kvp.network]
            backend = "networkd"
            scripts = "/usr/libexec/hypervkvpd"
            [vss]
            time-limit = 90
            prepare-limit = 30
            other-namespaces = false
            [vss.include]
            mount-points = ["/srv/*"]
            [vss.exclude]
            types = ["btrfs"]
            devices = ["/dev/sdb*"]
            [vss.hooks]
            directory = "/etc/vss.d"
            time-limit = 5
            on-failure = "go-on"
            "#,
        )
        .unwrap();
        assert_eq!(config.log_level, LogLevel::Debug);
        assert!(!config.bind_uio);
        let environment = Environment {
            root: "/".into(),
            state_dir: "/var/tmp/agent".into(),
            runtime_dir: "/var/tmp/run".into(),
        };
        assert_eq!(config.environment, environment);
        assert_eq!(
            config.services.into_iter().collect::<Vec<_>>(),
            [("fcopy", false), ("vss", true)]
        );
        assert_eq!(
            config.service.fcopy,
            fcopy::Config {
                directories: vec!["/srv/in".into(), "/tmp".into()],
                mode: 0o640,
                max_size: Some(16 << 30),
                keep_free: Some(2 << 30),
                idle_limit: Duration::from_secs(60),
                sync: false,
                environment: environment.clone(),
            }
        );
        assert_eq!(
            config.service.kvp,
            kvp::Config {
                directory: "/srv/pools".into(),
                ignored_interfaces: vec!["lxc*".to_owned()],
                publish: [("Role".to_owned(), "web".to_owned())].into(),
                mode: Some(0o600),
                access: kvp::Access {
                    writable_pools: vec![PoolId::External, PoolId::AutoExternal],
                    facts: vec!["OSName", "OSVersion"],
                    ip_info: false,
                },
                network: kvp::Network {
                    backend: kvp::Backend::Manager("networkd"),
                    scripts: Some("/usr/libexec/hypervkvpd".into()),
                },
                environment: environment.clone(),
            }
        );
        assert_eq!(
            config.service.vss,
            vss::Config {
                include: vss::Patterns {
                    mount_points: vec!["/srv/*".to_owned()],
                    ..vss::Patterns::default()
                },
                exclude: vss::Patterns {
                    types: vec!["btrfs".to_owned()],
                    devices: vec!["/dev/sdb*".to_owned()],
                    ..vss::Patterns::default()
                },
                time_limit: Duration::from_secs(90),
                other_namespaces: false,
                prepare_limit: Duration::from_secs(30),
                hooks: vss::hooks::Config {
                    directory: "/etc/vss.d".into(),
                    time_limit: Duration::from_secs(5),
                    on_failure: vss::hooks::OnFailure::GoOn,
                    freeze_limit: Duration::from_secs(90),
                },
                environment,
            }
        );
    }

    #[test]
    fn published_texts_fit_their_fields() {
        let publish = |key: &str, value: &str| {
            let text = format!("[kvp.publish]\n{key:?} = {value:?}");
            parse(&text).map(drop)
        };
        publish("k", "").unwrap();
        publish(&"k".repeat(254), &"v".repeat(1022)).unwrap();
        publish(&"é".repeat(254), &"é".repeat(1022)).unwrap();
        publish(&"k".repeat(255), "").unwrap_err();
        publish("k", &"v".repeat(1023)).unwrap_err();
        publish(&"語".repeat(171), "").unwrap_err();
        publish("", "v").unwrap_err();
        publish("a\tb", "v").unwrap_err();
    }

    #[test]
    fn patterns_of_paths_are_written_as_the_kernel_writes_paths() {
        for (pattern, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("/mnt/", "/mnt"),
            ("//srv/./data//", "/srv/data"),
            ("/srv/*/", "/srv/*"),
            ("*", "*"),
            ("*/data/", "*/data"),
            ("?mnt", "?mnt"),
            ("/.hidden/..x", "/.hidden/..x"),
        ] {
            let text =
                format!("[vss.include]\nmount-points = [{pattern:?}]\ndevices = [{pattern:?}]");
            let include = parse(&text).unwrap().service.vss.include;
            assert_eq!(include.mount_points, [expected]);
            assert_eq!(include.devices, [expected]);
        }
    }

    #[test]
    fn an_error_names_the_line_and_what_is_expected() {
        for (text, line, words) in [
            ("\nlog-levl = \"info\"", 2, "unknown field `log-levl`"),
            ("[fcopy]\n\ndirectory = []", 3, "unknown field `directory`"),
            (
                "[services]\nfcpy = true",
                2,
                "unknown service `fcpy`: expected one of fcopy, kvp, vss",
            ),
            ("[fcopy]\ndirectories = []", 2, "switch the service off"),
            (
                "[vss]\ntime-limit = 0",
                2,
                "`0`: expected 1 to 86400 seconds",
            ),
            ("[vss.include]\ntypes = [\"\"]", 2, "invalid pattern"),
            ("[vss.include]\ntypes = [\"/\"]", 2, "expected types"),
            (
                "[vss.exclude]\nmount-points = [\"\"]",
                2,
                "expected mount points",
            ),
            (
                "[vss.exclude]\n\nmount-points = [\"/srv\", \"mnt\"]",
                3,
                "invalid pattern \"mnt\": expected mount points, such as \"/srv/*\", which begin \
                 with a slash",
            ),
            (
                "[vss.exclude]\nmount-points = [\"./mnt\"]",
                2,
                "begin with a slash",
            ),
            (
                "[vss.exclude]\nmount-points = [\"/a/../b\"]",
                2,
                "without `..`",
            ),
            (
                "[vss.exclude]\ndevices = [\"UUID=0815\"]",
                2,
                "/dev/disk/by-label/data",
            ),
            (
                "[vss.hooks]\non-failure = \"no\"",
                2,
                "unknown variant `no`, expected `stop` or `go-on`",
            ),
            (
                "[fcopy]\ndirectories = [\"srv\"]",
                2,
                "directory `srv`: expected an absolute path",
            ),
            (
                "[fcopy]\ndirectories = [\"/srv/../etc\"]",
                2,
                "without `..`",
            ),
            (
                "[fcopy]\nmode = \"0844\"",
                2,
                "invalid mode `0844`: expected permission bits",
            ),
            (
                "[fcopy]\nmode = \"4755\"",
                2,
                "invalid mode `4755`: expected permission bits",
            ),
            ("[fcopy]\nmode = 744", 2, "expected a string"),
            (
                "[kvp]\nmode = \"0444\"",
                2,
                "invalid mode `0444`: expected \"0600\" to",
            ),
            (
                "[kvp]\nmode = \"0666\"",
                2,
                "invalid mode `0666`: expected \"0600\" to",
            ),
            (
                "[fcopy]\nmax-size = \"many\"",
                2,
                "invalid size `many`: expected",
            ),
            ("[fcopy]\nmax-size = -1", 2, "invalid size `-1`: expected"),
            ("[fcopy]\nmax-size = \"99999999 TiB\"", 2, "invalid size"),
            ("log-level = \"loud\"", 1, "unknown variant `loud`"),
            ("bind-uio = 1", 1, "expected a boolean"),
            (
                "[kvp.network]\nbackend = \"wicked\"",
                2,
                "unknown backend `wicked`: expected one of auto, off, script, netplan, networkmanager, \
                 networkd, connman, ifcfg, ifupdown",
            ),
            (
                "[kvp.host]\nwritable-pools = [\"host\"]",
                2,
                "expected 0 to 4, or one of external, guest",
            ),
            (
                "[kvp.host]\nfacts = [\"OSNames\"]",
                2,
                "unknown fact `OSNames`: expected one of FullyQualifiedDomainName, Integration",
            ),
            (
                "[kvp]\nignored-interfaces = [\"\"]",
                2,
                "expected interface names",
            ),
            ("[kvp.publish]\nRole = 1", 2, "expected a string"),
            (
                "[kvp.network]\nscript = \"/x\"",
                2,
                "unknown field `script`",
            ),
            ("]", 1, ""),
        ] {
            let error = parse(text).map(drop).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line},")), "{text}: {error}");
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn only_the_default_file_may_be_missing() {
        assert!(load(Some(Path::new("/nonexistent.toml"))).is_err());
    }
}
