//! Publishes the configured keys in pool 1. A state file records them, so that a key that
//! is no longer configured is deleted, and keys of other programs are kept.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use super::config::Config;
use super::pool::{PoolError, Pools};
use super::request::PoolId;
use crate::replace::NewFile;
use crate::trusted::make_state_directory;

/// Why not all keys were published.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    #[error("cannot {doing} {}", path.display())]
    StateFile {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// The file in the state directory that records the keys, one a line.
const STATE_FILE: &str = "kvp-published";

/// Sets the configured keys in pool 1 and deletes those that are no longer configured.
pub(super) fn update(config: &Config, pools: &mut Pools) -> Result<(), PublishError> {
    let path = config.environment.state_dir.join(STATE_FILE);
    let failed = |doing, source| PublishError::StateFile {
        doing,
        path: path.clone(),
        source,
    };
    let write = |content: &str| {
        let directory = make_state_directory(&config.environment.state_dir)?;
        let file = NewFile {
            name: STATE_FILE.as_ref(),
            bytes: content.as_bytes(),
            mode: 0o600,
            owner: None,
            sync: true,
        };
        file.write(&directory)
    };
    // A state file of another user could name any key to delete.
    if config.environment.state_dir.exists() {
        make_state_directory(&config.environment.state_dir)
            .map_err(|error| failed("read", error))?;
    }
    let before = match fs::read_to_string(&path) {
        Ok(before) => before,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed("read", error)),
    };
    let dropped: Vec<&str> = before
        .lines()
        .filter(|key| !config.publish.contains_key(*key))
        .collect();
    let keys: String = config.publish.keys().flat_map(|key| [key, "\n"]).collect();
    // Records old and new keys before changing the pool, so that none is forgotten
    // if this is interrupted.
    if keys != before {
        let both: String = dropped.iter().flat_map(|key| [key, "\n"]).collect();
        write(&(both + &keys)).map_err(|error| failed("write", error))?;
    }
    for key in &dropped {
        pools.delete(PoolId::Guest, key)?;
    }
    for (key, value) in &config.publish {
        if pools.get(PoolId::Guest, key)?.as_ref() != Some(value) {
            pools.set(PoolId::Guest, key, value)?;
        }
    }
    if !dropped.is_empty() {
        write(&keys).map_err(|error| failed("write", error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    fn config(directory: &TempDir, publish: &[(&str, &str)]) -> Config {
        Config {
            directory: directory.path().join("pools"),
            environment: crate::Environment {
                state_dir: directory.path().join("state"),
                ..crate::Environment::default()
            },
            publish: publish
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..Config::default()
        }
    }

    fn pool(config: &Config) -> Vec<(String, String)> {
        let records = Pools::new(&config.directory).list(PoolId::Guest).unwrap();
        let pairs = records.into_iter().map(|record| (record.key, record.value));
        pairs.collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let pairs = expected.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_key_that_is_no_longer_configured_is_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let first = config(&directory, &[("a", "1"), ("b", "2")]);
        let mut pools = Pools::new(&first.directory);
        pools.set(PoolId::Guest, "others", "x").unwrap();
        update(&first, &mut pools).unwrap();
        assert_eq!(
            pool(&first),
            pairs(&[("others", "x"), ("a", "1"), ("b", "2")])
        );
        let second = config(&directory, &[("b", "3"), ("c", "4")]);
        update(&second, &mut pools).unwrap();
        assert_eq!(
            pool(&first),
            pairs(&[("others", "x"), ("b", "3"), ("c", "4")])
        );
        let none = config(&directory, &[]);
        update(&none, &mut pools).unwrap();
        assert_eq!(pool(&first), pairs(&[("others", "x")]));
    }

    #[test]
    fn a_key_is_not_forgotten_if_the_pool_cannot_be_changed() {
        let directory = tempfile::tempdir().unwrap();
        let first = config(&directory, &[("a", "1")]);
        update(&first, &mut Pools::new(&first.directory)).unwrap();
        let second = config(&directory, &[("b", "2")]);
        // A directory in place of the pool.
        let elsewhere = directory.path().join("elsewhere");
        fs::create_dir_all(elsewhere.join(".kvp_pool_1")).unwrap();
        update(&second, &mut Pools::new(&elsewhere)).unwrap_err();
        update(&second, &mut Pools::new(&second.directory)).unwrap();
        assert_eq!(pool(&second), pairs(&[("b", "2")]));
    }

    #[test]
    fn a_state_file_in_a_directory_of_other_users_deletes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory, &[]);
        let mut pools = Pools::new(&config.directory);
        pools.set(PoolId::Guest, "others", "x").unwrap();
        fs::create_dir(&config.environment.state_dir).unwrap();
        fs::write(
            config.environment.state_dir.join("kvp-published"),
            "others\n",
        )
        .unwrap();
        let mode = |mode| {
            let permissions = fs::Permissions::from_mode(mode);
            fs::set_permissions(&config.environment.state_dir, permissions).unwrap();
        };
        mode(0o777);
        update(&config, &mut pools).unwrap_err();
        assert_eq!(pool(&config), pairs(&[("others", "x")]));
        mode(0o700);
        update(&config, &mut pools).unwrap();
        assert_eq!(pool(&config), []);
    }

    #[test]
    fn nothing_to_publish_leaves_no_trace() {
        let directory = tempfile::tempdir().unwrap();
        let none = config(&directory, &[]);
        update(&none, &mut Pools::new(&none.directory)).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
