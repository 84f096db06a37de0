//! The configuration file: TOML, every key optional, unknown keys refused.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use hyperv_services::registry::{self, SERVICES};
use hyperv_services::{Config as ServiceConfig, fcopy, kvp};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::logging::LogLevel;

/// Where the configuration is looked for, unless a flag says otherwise.
pub const DEFAULT_PATH: &str = "/etc/hyperv-agent/config.toml";

/// A configuration as it was read, with defaults where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The least severe level that is logged.
    pub log_level: LogLevel,
    /// Whether a device that no driver has may be bound to `uio_hv_generic`.
    pub bind_uio: bool,
    /// Services that the configuration switches on or off, by name.
    pub services: BTreeMap<&'static str, bool>,
    /// What the services are configured with.
    pub service: ServiceConfig,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration {} is wrong:\n{source}", path.display())]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// What and where, with the line.
        source: toml::de::Error,
    },
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    log_level: Option<LogLevel>,
    bind_uio: Option<bool>,
    state_directory: Option<Directory>,
    #[serde(default)]
    services: BTreeMap<ServiceName, bool>,
    #[serde(default)]
    fcopy: Fcopy,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Fcopy {
    directories: Option<Directories>,
    mode: Option<Mode>,
    max_size: Option<Size>,
    sync: Option<bool>,
}

/// Reads the configuration at `path`; where there is none and none was asked
/// for by name, that is no error.
///
/// # Errors
///
/// Any [`ConfigError`].
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
    parse(&text).map_err(|source| ConfigError::Wrong {
        path: file.to_owned(),
        source,
    })
}

fn parse(text: &str) -> Result<Config, toml::de::Error> {
    let file: File = toml::from_str(text)?;
    let defaults = fcopy::Config::default();
    let fcopy = fcopy::Config {
        directories: match file.fcopy.directories {
            Some(Directories(directories)) => directories,
            None => defaults.directories,
        },
        mode: file.fcopy.mode.map_or(defaults.mode, |mode| mode.0),
        max_size: file.fcopy.max_size.map(|size| size.0),
        sync: file.fcopy.sync.unwrap_or(defaults.sync),
        state_directory: file
            .state_directory
            .map_or(defaults.state_directory, |directory| directory.0),
    };
    Ok(Config {
        log_level: file.log_level.unwrap_or(LogLevel::Info),
        bind_uio: file.bind_uio.unwrap_or(true),
        services: file
            .services
            .into_iter()
            .map(|(name, on)| (name.0, on))
            .collect(),
        service: ServiceConfig {
            fcopy,
            kvp: kvp::Config::default(),
        },
    })
}

/// A service's name that is in the registry.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct ServiceName(&'static str);

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        registry::by_name(&name)
            .map(|entry| Self(entry.name))
            .ok_or_else(|| {
                let names: Vec<_> = SERVICES.iter().map(|entry| entry.name).collect();
                de::Error::custom(format!(
                    "there is no service `{name}`, only {}",
                    names.join(", ")
                ))
            })
    }
}

/// A directory: absolute, without `..`.
struct Directory(PathBuf);

impl<'de> Deserialize<'de> for Directory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = PathBuf::deserialize(deserializer)?;
        let plain = path
            .components()
            .all(|component| matches!(component, Component::RootDir | Component::Normal(_)));
        if path.is_absolute() && plain {
            Ok(Self(path))
        } else {
            Err(de::Error::custom(format!(
                "`{}` is no absolute path without `..`",
                path.display()
            )))
        }
    }
}

/// At least one directory.
struct Directories(Vec<PathBuf>);

impl<'de> Deserialize<'de> for Directories {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let directories = Vec::<Directory>::deserialize(deserializer)?;
        if directories.is_empty() {
            return Err(de::Error::custom(
                "with no directory nothing can be copied: switch the service off under [services] \
                 instead",
            ));
        }
        Ok(Self(directories.into_iter().map(|each| each.0).collect()))
    }
}

/// Permission bits, written in octal as a string.
struct Mode(u32);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A number would be read as a decimal one by some and as an octal one
        // by others.
        let text = String::deserialize(deserializer)?;
        u32::from_str_radix(&text, 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .map(Self)
            .ok_or_else(|| {
                de::Error::custom(format!(
                    "`{text}` is no file mode: write the permission bits in octal, such as \"0644\""
                ))
            })
    }
}

/// A number of bytes, or a string with a unit.
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or a string such as \"512 MiB\"")
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes)
                    .map(Size)
                    .map_err(|_| E::custom(format!("`{bytes}` is no size")))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                parse_size(text).map(Size).ok_or_else(|| {
                    E::custom(format!(
                        "`{text}` is no size: write a whole number and B, KiB, MiB, GiB or TiB"
                    ))
                })
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
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
        let mut config = parse(installed).unwrap();
        let services = std::mem::take(&mut config.services);
        assert_eq!(config, parse("").unwrap());
        for entry in SERVICES {
            if let Some(on) = services.get(entry.name) {
                assert_eq!(*on, entry.default, "{}", entry.name);
            }
        }
        // What is commented out there is right, too.
        let uncommented: String = installed
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if key.contains('=') && !key.starts_with(' ') => key,
                _ => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        parse(&uncommented).unwrap();
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            r#"
            log-level = "debug"
            bind-uio = false
            state-directory = "/var/tmp/agent"
            [services]
            fcopy = false
            vss = true
            [fcopy]
            directories = ["/srv/in", "/tmp"]
            mode = "0640"
            max-size = "16 GiB"
            sync = false
            "#,
        )
        .unwrap();
        assert_eq!(config.log_level, LogLevel::Debug);
        assert!(!config.bind_uio);
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
                sync: false,
                state_directory: "/var/tmp/agent".into(),
            }
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, words) in [
            ("\nlog-levl = \"info\"", 2, "unknown field `log-levl`"),
            ("[fcopy]\n\ndirectory = []", 3, "unknown field `directory`"),
            (
                "[services]\nfcpy = true",
                2,
                "there is no service `fcpy`, only fcopy, kvp, vss",
            ),
            ("[fcopy]\ndirectories = []", 2, "switch the service off"),
            (
                "[fcopy]\ndirectories = [\"srv\"]",
                2,
                "`srv` is no absolute path",
            ),
            (
                "[fcopy]\ndirectories = [\"/srv/../etc\"]",
                2,
                "without `..`",
            ),
            ("[fcopy]\nmode = \"0844\"", 2, "`0844` is no file mode"),
            ("[fcopy]\nmode = \"4755\"", 2, "`4755` is no file mode"),
            ("[fcopy]\nmode = 744", 2, "expected a string"),
            ("[fcopy]\nmax-size = \"many\"", 2, "`many` is no size"),
            ("[fcopy]\nmax-size = -1", 2, "`-1` is no size"),
            ("[fcopy]\nmax-size = \"99999999 TiB\"", 2, "is no size"),
            ("log-level = \"loud\"", 1, "unknown variant `loud`"),
            ("bind-uio = 1", 1, "expected a boolean"),
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
