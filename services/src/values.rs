//! Reads and checks values of the configuration file, for `deserialize_with`: an error
//! then names the line of the value.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::kvp::facts::keys::KEYS;
use crate::kvp::request::PoolId;
use crate::kvp::wire::{KEY_UNITS, VALUE_UNITS};

/// A string, or each of a list of strings, that must pass a check.
struct Checked<T>(fn(String) -> Result<T, String>);

impl<'de, T> DeserializeSeed<'de> for Checked<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<T, D::Error> {
        (self.0)(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

impl<'de, T> Visitor<'de> for Checked<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Checked(self.0))? {
            list.push(item);
        }
        Ok(list)
    }
}

/// Reads a directory.
///
/// # Errors
///
/// If it is not an absolute path without `..`.
pub fn directory<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    Checked(absolute_path).deserialize(from)
}

/// Reads a directory that has no default.
///
/// # Errors
///
/// As [`directory`].
pub fn optional_directory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    directory(from).map(Some)
}

pub(crate) fn directories<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    let directories = from.deserialize_seq(Checked(absolute_path))?;
    if directories.is_empty() {
        return Err(D::Error::custom(
            "empty list of directories: to accept no files, switch the service off under [services]",
        ));
    }
    Ok(directories)
}

fn absolute_path(text: String) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let plain = path
        .components()
        .all(|component| matches!(component, Component::RootDir | Component::Normal(_)));
    if path.is_absolute() && plain {
        return Ok(path);
    }
    Err(format!(
        "invalid directory `{}`: expected an absolute path without `..`",
        path.display()
    ))
}

/// Reads a time limit of up to a day.
pub(crate) fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let seconds = i64::deserialize(from)?;
    match u64::try_from(seconds) {
        Ok(seconds @ 1..=86400) => Ok(Duration::from_secs(seconds)),
        _ => Err(D::Error::custom(format!(
            "invalid time limit `{seconds}`: expected 1 to 86400 seconds"
        ))),
    }
}

/// Reads permission bits. A number instead of a string could be meant as decimal or as
/// octal.
pub(crate) fn mode<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let check = |text: String| {
        let mode = u32::from_str_radix(&text, 8).ok();
        mode.filter(|mode| *mode <= 0o777).ok_or_else(|| {
            format!("invalid mode `{text}`: expected permission bits in octal, such as \"0644\"")
        })
    };
    Checked(check).deserialize(from)
}

/// Reads permission bits of pool files: the owner reads and writes, nobody executes, and
/// not everybody writes.
pub(crate) fn pool_mode<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let mode = mode(from)?;
    if mode & 0o600 == 0o600 && mode & !0o664 == 0 {
        return Ok(Some(mode));
    }
    Err(D::Error::custom(format!(
        "invalid mode `{mode:04o}`: expected \"0600\" to \"0664\", with read and write \
         permission for the owner"
    )))
}

/// Reads a number of bytes, or a string with a unit.
pub(crate) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    struct Size;

    impl Visitor<'_> for Size {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of bytes, or a string such as \"512 MiB\"")
        }

        fn visit_i64<E: Error>(self, bytes: i64) -> Result<u64, E> {
            self.visit_str(&bytes.to_string())
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
            parse_size(text).ok_or_else(|| {
                E::custom(format!(
                    "invalid size `{text}`: expected a whole number with B, KiB, MiB, GiB or TiB"
                ))
            })
        }
    }

    from.deserialize_any(Size).map(Some)
}

/// Returns the bytes of a size such as `512 MiB`, or of a number without a unit; `None` if it
/// is neither.
pub fn parse_size(text: &str) -> Option<u64> {
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

pub(crate) fn interfaces<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    from.deserialize_seq(Checked(|pattern: String| {
        let plain = |letter: char| letter.is_ascii_graphic() && letter != '/';
        if !pattern.is_empty() && pattern.chars().all(plain) {
            return Ok(pattern);
        }
        Err(format!(
            "invalid pattern {pattern:?}: expected interface names, such as \"docker*\""
        ))
    }))
}

/// Reads keys and values that fit a pool's file and a message to the host.
pub(crate) fn pairs<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    struct Pairs;

    impl<'de> Visitor<'de> for Pairs {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("keys and values")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut pairs = BTreeMap::new();
            let key = || Checked(|text| fitting(text, "key", 1, KEY_UNITS, 511));
            let value = || Checked(|text| fitting(text, "value", 0, VALUE_UNITS, 2047));
            while let Some(key) = entries.next_key_seed(key())? {
                pairs.insert(key, entries.next_value_seed(value())?);
            }
            Ok(pairs)
        }
    }

    from.deserialize_map(Pairs)
}

fn fitting(
    text: String,
    what: &str,
    min: usize,
    units: usize,
    bytes: usize,
) -> Result<String, String> {
    let fits = text.encode_utf16().count() <= units && text.len() <= bytes;
    if fits && text.len() >= min && !text.contains(char::is_control) {
        return Ok(text);
    }
    let short: String = text.chars().take(40).collect();
    Err(format!(
        "invalid {what} {short:?}: expected {min} to {units} characters, at most {bytes} bytes, \
         without control characters"
    ))
}

pub(crate) fn pools<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PoolId>, D::Error> {
    from.deserialize_seq(Checked(|name: String| {
        name.parse::<PoolId>().map_err(|error| error.to_string())
    }))
}

pub(crate) fn facts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<&'static str>, D::Error> {
    from.deserialize_seq(Checked(|name: String| {
        let known = KEYS.into_iter().find(|known| *known == name);
        known.ok_or_else(|| format!("unknown fact `{name}`: expected one of {}", KEYS.join(", ")))
    }))
}

pub(crate) fn mount_points<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    from.deserialize_seq(Checked(|pattern| {
        path_pattern(pattern, "mount points, such as \"/srv/*\"")
    }))
}

pub(crate) fn devices<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    from.deserialize_seq(Checked(|pattern| {
        path_pattern(
            pattern,
            "devices, such as \"/dev/sdb*\" or \"/dev/disk/by-label/data\"",
        )
    }))
}

pub(crate) fn types<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    from.deserialize_seq(Checked(|pattern: String| {
        if pattern.is_empty() || pattern.contains(|it: char| it.is_control() || it == '/') {
            return Err(format!(
                "invalid pattern {pattern:?}: expected types of file systems, such as \"xfs\""
            ));
        }
        Ok(pattern)
    }))
}

/// Returns a glob of absolute paths without what the kernel never has in them: a slash
/// at the end or after another one, `.`, and `..`.
fn path_pattern(pattern: String, what: &str) -> Result<String, String> {
    let invalid = |reason| format!("invalid pattern {pattern:?}: expected {what}{reason}");
    if pattern.is_empty() || pattern.contains(char::is_control) {
        return Err(invalid(""));
    }
    if !pattern.starts_with(['/', '*', '?']) {
        return Err(invalid(", which begin with a slash or a wildcard"));
    }
    let names = pattern.split('/').filter(|name| !matches!(*name, "" | "."));
    let names: Vec<_> = names.collect();
    if names.contains(&"..") {
        return Err(invalid(", without `..`"));
    }
    let root = if pattern.starts_with('/') { "/" } else { "" };
    Ok(format!("{root}{}", names.join("/")))
}
