//! Undoes what the host has configured, long after the transaction.
//!
//! The state directory has a directory for each interface that the host has configured. An undo
//! log and copies of files in it restore what was there before the first of the host's
//! configurations. A second undo log, `previous`, is the first one as it was before the last
//! configuration: it takes its place if that configuration is rolled back.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Instant;

use super::error::InjectError;
use super::record;
use super::target::is_plain;
use super::transaction::apply::{self, Paths};
use super::transaction::backups::{self, Backups};
use super::transaction::lock::lock;
use super::transaction::undo_log::{self, UndoLog};
use crate::kvp::config::Config;
use crate::kvp::files;

/// The directory of all interfaces, in the state directory.
const DIRECTORY: &str = "network-undo";

/// Most interfaces that a message names.
const MAX_NAMED: usize = 8;

/// An interface that the host has configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undoable {
    /// The interface.
    pub interface: String,
    /// The files, and whether undoing restores each (`true`) or removes it.
    pub files: Vec<(PathBuf, bool)>,
}

/// Why an IP configuration cannot be undone.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// The host has configured no such interface.
    #[error("the host has configured nothing on {interface}{}", elsewhere(.others))]
    Nothing {
        /// The interface.
        interface: String,
        /// The interfaces that the host has configured.
        others: Vec<String>,
    },
    /// It is not known which interfaces the host has configured.
    #[error("cannot read {path}")]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A file or a program failed.
    #[error("cannot undo the host's IP configuration of {interface}")]
    Failed {
        /// The interface.
        interface: String,
        /// The error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn elsewhere(names: &[String]) -> String {
    match names {
        [] => " or any other interface".to_owned(),
        names => format!(", but on {}", names.join(", ")),
    }
}

/// What was undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undone {
    /// The files, and whether each was restored (`true`) or removed.
    pub files: Vec<(PathBuf, bool)>,
    /// The directory with copies of them as they were before that.
    pub copies: PathBuf,
}

/// The files about one interface.
struct Place(PathBuf);

impl Place {
    fn new(config: &Config, interface: &str) -> Self {
        Self(all(config).join(interface))
    }

    fn undo_log(&self) -> PathBuf {
        self.0.join("undo")
    }

    /// The undo log from before the last configuration.
    fn previous(&self) -> PathBuf {
        self.0.join("previous")
    }

    fn copies(&self) -> PathBuf {
        self.0.join("files")
    }

    fn read(&self) -> Option<UndoLog> {
        undo_log::parse(&files::bytes(&self.undo_log())?)
    }

    fn remove(&self) -> Result<(), InjectError> {
        match fs::remove_dir_all(&self.0) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(InjectError::file("remove", &self.0)(cause))
            }
            _ => Ok(()),
        }
    }
}

fn all(config: &Config) -> PathBuf {
    config.environment.state_dir.join(DIRECTORY)
}

/// Keeps how to undo the configuration that was applied last, of this interface.
pub(super) fn keep(config: &Config, interface: &str) -> Result<(), InjectError> {
    let paths = Paths::of(config);
    let place = Place::new(config, interface);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&place.0)
        .map_err(InjectError::file("make the directory", &place.0))?;
    let before = files::bytes(&place.undo_log()).unwrap_or_default();
    let applied = files::bytes(&paths.applied).unwrap_or_default();
    let (log, new) = undo_log::joined(&before, &applied);
    let copies = place.copies();
    let copies = Backups::new(paths.root, &copies);
    for path in new {
        Backups::new(paths.root, &paths.backups).pass_on(&path, &copies)?;
    }
    match before.is_empty() {
        true => backups::remove(&place.previous())?,
        false => backups::write(&place.previous(), &before, 0o600, None)?,
    }
    backups::write(&place.undo_log(), &log, 0o600, None)
}

/// Drops what was kept of the transaction with this undo log: it was rolled back.
pub(super) fn drop_last(config: &Config, rolled_back: &UndoLog) -> Result<(), InjectError> {
    // The first file is the stock daemon's, and named after the interface.
    let first = |log: &UndoLog| log.paths().next().map(PathBuf::from);
    let is_of = |place: &Place| {
        let log = place.read();
        log.is_some_and(|log| first(&log) == first(rolled_back))
    };
    let places = files::in_directory(&all(config)).into_iter().map(Place);
    for place in places.filter(is_of) {
        match fs::rename(place.previous(), place.undo_log()) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => place.remove()?,
            result => result.map_err(InjectError::file("rename", &place.previous()))?,
        }
    }
    Ok(())
}

/// Returns the interfaces that the host has configured, by name.
///
/// # Errors
///
/// [`UndoError::Unreadable`] if they are not known: only root may read the directory.
pub fn undoable(config: &Config) -> Result<Vec<Undoable>, UndoError> {
    let path = all(config);
    match fs::read_dir(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(UndoError::Unreadable { path, source });
        }
        _ => {}
    }
    let paths = files::in_directory(&path);
    let names = paths
        .iter()
        .filter_map(|path| path.file_name()?.to_str().filter(|name| is_plain(name)));
    let undoable = names.filter_map(|name| {
        Some(Undoable {
            interface: name.to_owned(),
            files: Place::new(config, name).read()?.files,
        })
    });
    Ok(undoable.collect())
}

/// Restores the files of an interface to what they were before the host configured it, and has
/// the network manager load them, by `deadline`.
///
/// # Errors
///
/// Any [`UndoError`]. Unless it is [`UndoError::Nothing`], it can be tried again.
pub fn undo(config: &Config, interface: &str, deadline: Instant) -> Result<Undone, UndoError> {
    undo_with(config, interface, deadline, |log| log)
}

/// Restores the files as [`undo`] does, and runs no program: the network manager loads them at
/// the next boot.
///
/// # Errors
///
/// As for [`undo`].
pub fn undo_files(
    config: &Config,
    interface: &str,
    deadline: Instant,
) -> Result<Undone, UndoError> {
    undo_with(config, interface, deadline, UndoLog::without_steps)
}

fn undo_with(
    config: &Config,
    interface: &str,
    deadline: Instant,
    change: fn(UndoLog) -> UndoLog,
) -> Result<Undone, UndoError> {
    let mut others: Vec<_> = undoable(config)?
        .into_iter()
        .map(|one| one.interface)
        .collect();
    if !others.iter().any(|name| name == interface) {
        others.truncate(MAX_NAMED);
        return Err(UndoError::Nothing {
            interface: interface.to_owned(),
            others,
        });
    }
    restore(config, interface, deadline, change).map_err(|error| UndoError::Failed {
        interface: interface.to_owned(),
        source: Box::new(error),
    })
}

fn restore(
    config: &Config,
    interface: &str,
    deadline: Instant,
    change: fn(UndoLog) -> UndoLog,
) -> Result<Undone, InjectError> {
    let _lock = lock(config, deadline)?;
    let place = Place::new(config, interface);
    let path = place.undo_log();
    let log = place
        .read()
        .ok_or_else(|| InjectError::file("read", &path)(io::ErrorKind::InvalidData.into()))?;
    let paths = Paths::of(config);
    // Somebody may have changed them since.
    let mut now = Backups::new(paths.root, &paths.backups);
    let before = place.copies();
    let before = Backups::new(paths.root, &before);
    for (path, existed) in &log.files {
        // If an attempt has failed after this, its copy is of the file as it was.
        if !before.is_restored(path, *existed)? {
            now.add(path)?;
        }
    }
    let copies = paths.backups.clone();
    let paths = Paths {
        backups: place.copies(),
        ..paths
    };
    let log = change(log);
    apply::rollback(&log, &paths, deadline)?;
    record::remove(&config.environment.runtime_dir, interface);
    place.remove()?;
    Ok(Undone {
        files: log.files,
        copies,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    struct Machine {
        place: tempfile::TempDir,
        config: Config,
    }

    impl Machine {
        fn new() -> Self {
            let place = tempfile::tempdir().unwrap();
            let root = place.path().join("root");
            for directory in ["etc", "pools"] {
                fs::create_dir_all(root.join(directory)).unwrap();
            }
            let script = root.join("reload");
            fs::write(&script, "#!/bin/sh\necho \"$@\" >>\"$0.ran\"\n").unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            let mut config = Config::default();
            config.environment.root = root;
            config.environment.state_dir = place.path().join("state");
            fs::create_dir(&config.environment.state_dir).unwrap();
            Self { place, config }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.config.environment.root.join(name)
        }

        /// Does what a transaction does to these files, and records it.
        fn set(&self, interface: &str, names: &[&str], text: &str) {
            let paths = Paths::of(&self.config);
            let note = format!("pools/ifcfg-{interface}");
            let names = [&[note.as_str()], names].concat();
            let mut log = String::new();
            let mut copies = Backups::new(paths.root, &paths.backups);
            for name in names {
                let path = self.path(name);
                let kind = if path.exists() { "replaced" } else { "new" };
                copies.add(&path).unwrap();
                fs::write(&path, text).unwrap();
                log += &format!("{kind}\0{}\n", path.display());
            }
            log += &format!("revert\0{}\0{text}\nend", self.path("reload").display());
            fs::write(&paths.applied, log).unwrap();
            keep(&self.config, interface).unwrap();
        }

        fn undo(&self, interface: &str) -> Result<Undone, UndoError> {
            undo(
                &self.config,
                interface,
                Instant::now() + Duration::from_secs(60),
            )
        }

        fn text(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.path(name)).ok()
        }
    }

    #[test]
    fn undo_leads_to_what_was_before_the_first_configuration() {
        let machine = Machine::new();
        fs::write(machine.path("etc/a"), "mine").unwrap();
        machine.set("eth0", &["etc/a"], "first");
        machine.set("eth0", &["etc/a", "etc/b"], "second");
        let [known] = &undoable(&machine.config).unwrap()[..] else {
            panic!("one interface")
        };
        let files = known.files.iter();
        let files: Vec<_> = files
            .map(|(path, existed)| (path.clone(), *existed))
            .collect();
        assert_eq!((&*known.interface, files.len()), ("eth0", 3));
        assert!(files.contains(&(machine.path("etc/a"), true)), "{files:?}");
        assert!(files.contains(&(machine.path("etc/b"), false)), "{files:?}");

        let undone = machine.undo("eth0").unwrap();
        assert_eq!(undone.files.len(), 3);
        assert_eq!(machine.text("etc/a").as_deref(), Some("mine"));
        assert_eq!(
            (machine.text("etc/b"), machine.text("pools/ifcfg-eth0")),
            (None, None)
        );
        assert_eq!(
            fs::read_to_string(undone.copies.join("etc/a")).unwrap(),
            "second"
        );
        assert!(machine.text("reload.ran").unwrap().starts_with("first\n"));
        assert_eq!(undoable(&machine.config).unwrap(), []);
        let again = machine.undo("eth0").unwrap_err().to_string();
        assert_eq!(
            again,
            "the host has configured nothing on eth0 or any other interface"
        );
    }

    #[test]
    fn files_are_restored_without_a_program() {
        let machine = Machine::new();
        machine.set("eth0", &["etc/a"], "first");
        let deadline = Instant::now() + Duration::from_secs(60);
        undo_files(&machine.config, "eth0", deadline).unwrap();
        assert_eq!(machine.text("etc/a"), None);
        assert_eq!(machine.text("reload.ran"), None);
    }

    #[test]
    fn interfaces_are_undone_one_by_one() {
        let machine = Machine::new();
        machine.set("eth0", &["etc/a"], "first");
        machine.set("eth1", &["etc/b"], "second");
        for name in ["eth2", "..", "eth0/../eth0", ""] {
            let refused = machine.undo(name).unwrap_err().to_string();
            assert!(refused.ends_with(", but on eth0, eth1"), "{refused}");
        }
        machine.undo("eth0").unwrap();
        assert_eq!(
            (machine.text("etc/a"), machine.text("etc/b").is_some()),
            (None, true)
        );
        machine.undo("eth1").unwrap();
        assert_eq!(machine.text("etc/b"), None);
    }

    #[test]
    fn what_was_rolled_back_is_dropped() {
        let machine = Machine::new();
        machine.set("eth1", &["etc/b"], "other");
        machine.set("eth0", &["etc/a"], "first");
        machine.set("eth0", &["etc/a", "etc/c"], "second");
        let log = || {
            let log = fs::read(&Paths::of(&machine.config).applied).unwrap();
            undo_log::parse(&log).unwrap()
        };
        let known = || {
            let known = undoable(&machine.config).unwrap().into_iter();
            known
                .map(|one| (one.interface, one.files.len()))
                .collect::<Vec<_>>()
        };
        let pair = |name: &str, files: usize| (name.to_owned(), files);
        drop_last(&machine.config, &log()).unwrap();
        assert_eq!(known(), [pair("eth0", 2), pair("eth1", 2)]);
        drop_last(&machine.config, &log()).unwrap();
        assert_eq!(known(), [pair("eth1", 2)]);
    }

    #[test]
    fn a_failed_undo_can_be_tried_again() {
        let machine = Machine::new();
        fs::write(machine.path("etc/b"), "mine").unwrap();
        machine.set("eth0", &["etc/a", "etc/b"], "first");
        fs::write(machine.path("etc/b"), "changed").unwrap();
        let (script, away) = (machine.path("reload"), machine.place.path().join("away"));
        fs::rename(&script, &away).unwrap();
        let failed = machine.undo("eth0").unwrap_err();
        assert!(matches!(failed, UndoError::Failed { .. }), "{failed}");
        fs::rename(&away, &script).unwrap();
        let undone = machine.undo("eth0").unwrap();
        assert_eq!(machine.text("etc/a"), None);
        assert_eq!(machine.text("etc/b").as_deref(), Some("mine"));
        // The copies are those of the first attempt.
        let copy = |name| fs::read_to_string(undone.copies.join(name)).unwrap();
        assert_eq!((&*copy("etc/a"), &*copy("etc/b")), ("first", "changed"));
    }
}
