//! What the configuration's values may be: each is checked while it is read, so
//! that what is wrong is named with its line.

use std::fmt;
use std::path::{Component, PathBuf};
use std::time::Duration;

use hyperv_services::kvp::Backend;
use hyperv_services::kvp::facts::KEYS;
use hyperv_services::kvp::request::PoolId;
use hyperv_services::kvp::wire::{KEY_UNITS, VALUE_UNITS};
use hyperv_services::registry::{self, SERVICES};
use hyperv_services::vss::hooks::OnFailure;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

/// A service's name that is in the registry.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ServiceName(pub(super) &'static str);

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        registry::by_name(&name)
            .map(|entry| Self(entry.name))
            .ok_or_else(|| {
                let names: Vec<_> = SERVICES.iter().map(|entry| entry.name).collect();
                de::Error::custom(format!(
                    "unknown service `{name}`: expected one of {}",
                    names.join(", ")
                ))
            })
    }
}

/// A directory: absolute, without `..`.
pub(super) struct Directory(pub(super) PathBuf);

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
                "invalid directory `{}`: expected an absolute path without `..`",
                path.display()
            )))
        }
    }
}

/// A glob of interface names.
pub(super) struct Glob(pub(super) String);

impl<'de> Deserialize<'de> for Glob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let glob = String::deserialize(deserializer)?;
        let plain = |letter: char| letter.is_ascii_graphic() && letter != '/';
        if !glob.is_empty() && glob.chars().all(plain) {
            Ok(Self(glob))
        } else {
            Err(de::Error::custom(format!(
                "invalid pattern {glob:?}: expected interface names, such as \"docker*\""
            )))
        }
    }
}

/// A key of a pool.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(pub(super) String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "key", 1, KEY_UNITS, 511).map(Self)
    }
}

/// A value of a pool.
pub(super) struct Value(pub(super) String);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "value", 0, VALUE_UNITS, 2047).map(Self)
    }
}

/// A text that has room in a pool's file and in a message to the host.
fn text<'de, D: Deserializer<'de>>(
    deserializer: D,
    what: &str,
    min: usize,
    units: usize,
    bytes: usize,
) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let fits = text.encode_utf16().count() <= units && text.len() <= bytes;
    if fits && text.len() >= min && !text.contains(char::is_control) {
        return Ok(text);
    }
    let short: String = text.chars().take(40).collect();
    Err(de::Error::custom(format!(
        "invalid {what} {short:?}: expected {min} to {units} characters, at most {bytes} bytes, \
         without control characters"
    )))
}

/// What writes IP configurations.
pub(super) struct BackendName(pub(super) Backend);

impl<'de> Deserialize<'de> for BackendName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const NAMES: [(&str, Backend); 7] = [
            ("auto", Backend::Auto),
            ("off", Backend::Off),
            ("netplan", Backend::Netplan),
            ("networkd", Backend::Networkd),
            ("networkmanager", Backend::NetworkManager),
            ("ifupdown", Backend::Ifupdown),
            ("ifcfg", Backend::Ifcfg),
        ];
        let name = String::deserialize(deserializer)?;
        let known = NAMES.into_iter().find(|(known, _)| *known == name);
        known.map(|(_, backend)| Self(backend)).ok_or_else(|| {
            let names = NAMES.map(|(known, _)| known).join(", ");
            de::Error::custom(format!("unknown backend `{name}`: expected one of {names}"))
        })
    }
}

/// A pool, by number or name.
pub(super) struct Pool(pub(super) PoolId);

impl<'de> Deserialize<'de> for Pool {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map(Self).map_err(de::Error::custom)
    }
}

/// The key of one of the guest's facts.
pub(super) struct FactKey(pub(super) &'static str);

impl<'de> Deserialize<'de> for FactKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = KEYS.into_iter().find(|known| *known == name);
        known.map(Self).ok_or_else(|| {
            let names = KEYS.join(", ");
            de::Error::custom(format!("unknown fact `{name}`: expected one of {names}"))
        })
    }
}

/// A glob of directories at which file systems are mounted.
pub(super) struct MountPoint(pub(super) String);

impl<'de> Deserialize<'de> for MountPoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        path_pattern(deserializer, "mount points, such as \"/srv/*\"").map(Self)
    }
}

/// A glob of devices.
pub(super) struct Device(pub(super) String);

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let example = "devices, such as \"/dev/sdb*\" or \"/dev/disk/by-label/data\"";
        path_pattern(deserializer, example).map(Self)
    }
}

/// A glob of types of file systems.
pub(super) struct Type(pub(super) String);

impl<'de> Deserialize<'de> for Type {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pattern = String::deserialize(deserializer)?;
        if pattern.is_empty() || pattern.contains(|it: char| it.is_control() || it == '/') {
            return Err(de::Error::custom(format!(
                "invalid pattern {pattern:?}: expected types of file systems, such as \"xfs\""
            )));
        }
        Ok(Self(pattern))
    }
}

/// A glob of absolute paths, without what the kernel never has in them: a slash at
/// the end or after another one, `.`, and `..`.
fn path_pattern<'de, D: Deserializer<'de>>(
    deserializer: D,
    what: &str,
) -> Result<String, D::Error> {
    let pattern = String::deserialize(deserializer)?;
    if pattern.is_empty() || pattern.contains(char::is_control) {
        return Err(de::Error::custom(format!(
            "invalid pattern {pattern:?}: expected {what}"
        )));
    }
    if !pattern.starts_with(['/', '*', '?']) {
        return Err(de::Error::custom(format!(
            "invalid pattern {pattern:?}: expected {what}, which begin with a slash or a wildcard"
        )));
    }
    let names = pattern.split('/').filter(|name| !matches!(*name, "" | "."));
    let names: Vec<_> = names.collect();
    if names.contains(&"..") {
        return Err(de::Error::custom(format!(
            "invalid pattern {pattern:?}: expected {what}, without `..`"
        )));
    }
    let root = if pattern.starts_with('/') { "/" } else { "" };
    Ok(format!("{root}{}", names.join("/")))
}

/// A time of up to a day.
pub(super) struct Seconds(pub(super) Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seconds = i64::deserialize(deserializer)?;
        match u64::try_from(seconds) {
            Ok(seconds @ 1..=86400) => Ok(Self(Duration::from_secs(seconds))),
            _ => Err(de::Error::custom(format!(
                "invalid time limit `{seconds}`: expected 1 to 86400 seconds"
            ))),
        }
    }
}

/// What is done when a hook fails.
pub(super) struct OnFailureName(pub(super) OnFailure);

impl<'de> Deserialize<'de> for OnFailureName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "stop" => Ok(Self(OnFailure::Stop)),
            "go-on" => Ok(Self(OnFailure::GoOn)),
            other => Err(de::Error::custom(format!(
                "unknown value `{other}`: expected `stop` or `go-on`"
            ))),
        }
    }
}

/// At least one directory.
pub(super) struct Directories(pub(super) Vec<PathBuf>);

impl<'de> Deserialize<'de> for Directories {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let directories = Vec::<Directory>::deserialize(deserializer)?;
        if directories.is_empty() {
            return Err(de::Error::custom(
                "empty list of directories: to accept no files, switch the service off under \
                 [services]",
            ));
        }
        Ok(Self(directories.into_iter().map(|each| each.0).collect()))
    }
}

/// Permission bits, written in octal as a string.
pub(super) struct Mode(pub(super) u32);

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
                    "invalid mode `{text}`: expected permission bits in octal, such as \"0644\""
                ))
            })
    }
}

/// Permission bits of pool files: their owner reads and writes, nobody runs them, and
/// not everybody writes.
pub(super) struct PoolMode(pub(super) u32);

impl<'de> Deserialize<'de> for PoolMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Mode(mode) = Mode::deserialize(deserializer)?;
        if mode & 0o600 == 0o600 && mode & !0o664 == 0 {
            Ok(Self(mode))
        } else {
            Err(de::Error::custom(format!(
                "invalid mode `{mode:04o}`: expected \"0600\" to \"0664\", with read and write \
                 permission for the owner"
            )))
        }
    }
}

/// A number of bytes, or a string with a unit.
pub(super) struct Size(pub(super) u64);

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
                    .map_err(|_| E::custom(format!("invalid size `{bytes}`: expected 0 or more")))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                parse_size(text).map(Size).ok_or_else(|| {
                    E::custom(format!(
                        "invalid size `{text}`: expected a whole number with B, KiB, MiB, GiB or TiB"
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
