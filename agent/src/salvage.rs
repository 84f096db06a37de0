//! What can be read of a configuration that is wrong.
//!
//! The commands that help in trouble (`thaw`, `status`, `kvp`) work with it: they need
//! directories, and an error elsewhere in the file does not change those. A key that is
//! valid is used. If the file is no TOML, the keys before the wrong line are. The defaults
//! take the place of the others.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use toml::{Table, Value};

use crate::config::{self, Config, ConfigError, DEFAULT_PATH};

/// A configuration, of which a part may be missing.
pub(crate) struct Salvaged {
    pub(crate) config: Config,
    /// What is wrong, if anything is.
    pub(crate) problem: Option<Problem>,
}

/// What is wrong with a configuration.
pub(crate) struct Problem {
    pub(crate) error: ConfigError,
    parts: Parts,
}

/// The parts of a file that are valid and those that are not.
#[derive(Default)]
struct Parts {
    valid: Table,
    /// Keys whose values are wrong, as `table.key`.
    wrong: Vec<String>,
    /// Whether the file was read to its end.
    complete: bool,
}

impl Problem {
    /// Returns whether the value of a key, as `table.key`, is known: it was read, or the
    /// file does not have it.
    pub(crate) fn knows(&self, key: &str) -> bool {
        self.parts.knows(key)
    }
}

/// Reads as much of the configuration as is valid.
///
/// # Errors
///
/// If the file is not there, or may not be read.
pub(crate) fn load(path: Option<&Path>) -> Result<Salvaged, ConfigError> {
    let error = match config::load(path) {
        Ok(config) => {
            return Ok(Salvaged {
                config,
                problem: None,
            });
        }
        Err(ConfigError::Unreadable { path, source })
            if matches!(
                source.kind(),
                ErrorKind::NotFound | ErrorKind::PermissionDenied
            ) =>
        {
            return Err(ConfigError::Unreadable { path, source });
        }
        Err(error) => error,
    };
    let file = path.unwrap_or(Path::new(DEFAULT_PATH));
    let text = fs::read_to_string(file);
    let parts = text.map(|text| Parts::of(&text)).unwrap_or_default();
    match config::from_table(parts.valid.clone()) {
        Ok(config) => Ok(Salvaged {
            config,
            problem: Some(Problem { error, parts }),
        }),
        // Each key was valid beside the others.
        Err(_) => Err(error),
    }
}

impl Parts {
    fn of(text: &str) -> Self {
        let mut parts = Self::default();
        let table = match text.parse::<Table>() {
            Ok(table) => {
                parts.complete = true;
                table
            }
            Err(error) => {
                let end = error.span().map(|span| span.start).unwrap_or_default();
                longest_valid(text.get(..end).unwrap_or_default())
            }
        };
        parts.take(&table, &mut Vec::new());
        parts
    }

    /// Takes over the valid keys of a table, one by one.
    fn take<'a>(&mut self, table: &'a Table, path: &mut Vec<&'a str>) {
        for (key, value) in table {
            path.push(key);
            match value {
                Value::Table(table) => self.take(table, path),
                value => {
                    let mut tried = self.valid.clone();
                    insert(&mut tried, path, value);
                    match config::from_table(tried.clone()) {
                        Ok(_) => self.valid = tried,
                        Err(_) => self.wrong.push(path.join(".")),
                    }
                }
            }
            path.pop();
        }
    }

    fn knows(&self, key: &str) -> bool {
        let mut path = key.split('.');
        let first = path.next().and_then(|name| self.valid.get(name));
        let read = path.fold(first, |value, name| value?.get(name));
        let is_wrong = |wrong: &String| {
            let rest = key.strip_prefix(wrong.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        read.is_some() || (self.complete && !self.wrong.iter().any(is_wrong))
    }
}

/// Parses the longest part of a text, in whole lines from its beginning, that is TOML.
fn longest_valid(text: &str) -> Table {
    let ends = text.match_indices('\n').map(|(end, _)| end);
    let mut ends: Vec<_> = ends.collect();
    while let Some(end) = ends.pop() {
        if let Ok(table) = text.get(..end).unwrap_or_default().parse() {
            return table;
        }
    }
    Table::new()
}

fn insert(table: &mut Table, path: &[&str], value: &Value) {
    match path {
        [] => {}
        [key] => {
            table.insert((*key).to_owned(), value.clone());
        }
        [name, rest @ ..] => {
            let entry = table.entry(*name);
            if let Value::Table(inner) = entry.or_insert_with(|| Table::new().into()) {
                insert(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_keys_are_read_beside_wrong_ones() {
        let parts = Parts::of(
            r#"
            runtime-directory = "/srv/run"
            state-directory = 7
            unknown = { a = 1 }
            [fcopy]
            mode = "0844"
            keep-free = "1 GiB"
            [kvp]
            directory = "/srv/pools"
            network = "none"
            [kvp.publish]
            Role = "web"
            "" = "no key"
            "#,
        );
        let wrong = [
            "fcopy.mode",
            "kvp.network",
            "kvp.publish.",
            "state-directory",
        ];
        assert_eq!(parts.wrong, [&wrong[..], &["unknown.a"]].concat());
        let config = config::from_table(parts.valid.clone()).unwrap();
        assert_eq!(config.environment.runtime_dir, Path::new("/srv/run"));
        assert_eq!(config.service.kvp.directory, Path::new("/srv/pools"));
        assert_eq!(config.service.fcopy.keep_free, Some(1 << 30));
        assert_eq!(config.service.kvp.publish.len(), 1);
        for known in ["runtime-directory", "kvp.directory", "vss.time-limit"] {
            assert!(parts.knows(known), "{known}");
        }
        for unknown in ["state-directory", "kvp.network.backend", "fcopy.mode"] {
            assert!(!parts.knows(unknown), "{unknown}");
        }
    }

    #[test]
    fn what_is_no_toml_is_read_up_to_the_wrong_line() {
        let text = "runtime-directory = \"/srv/run\"\n[fcopy]\ndirectories = [\n\"/a\",\nb\n\
                    [kvp]\ndirectory = \"/srv/pools\"\n";
        let parts = Parts::of(text);
        assert!(parts.knows("runtime-directory"));
        assert!(!parts.knows("kvp.directory") && !parts.knows("fcopy.directories"));
        for text in ["=", "\n\n[[", "a = \"\"\"\n"] {
            assert!(Parts::of(text).valid.is_empty(), "{text:?}");
        }
    }
}
