//! A directory of hooks, and what they do.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyperv_needs::skip;
use hyperv_services::vss::hooks::{
    Config, Found, HookError, OnFailure, PendingHooks, find, run_pre_freeze,
};
use slog::{Drain, Logger, Never, OwnedKVList, Record, o};

/// Far more than any hook of a test needs.
pub const LONG: Duration = Duration::from_secs(60);

pub struct Hooks {
    place: tempfile::TempDir,
    pub config: Config,
    pub log: Lines,
}

impl Hooks {
    pub fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("vss.d");
        fs::create_dir(&directory).unwrap();
        let config = Config {
            directory,
            time_limit: LONG,
            on_failure: OnFailure::Stop,
            freeze_limit: Duration::from_secs(77),
        };
        Self {
            place,
            config,
            log: Lines::default(),
        }
    }

    /// A place beside the directory.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.config.directory.join(name)
    }

    /// A hook that notes that it was run, and then does what `body` says.
    pub fn add(&self, name: &str, body: &str) -> PathBuf {
        let path = self.path(name);
        self.script(&path, name, body);
        path
    }

    pub fn script(&self, path: &Path, name: &str, body: &str) {
        let journal = self.beside("journal");
        let text = format!(
            "#!/bin/sh\necho '{name}' \"$@\" >>'{}'\n{body}\n",
            journal.display()
        );
        Self::text(path, &text);
    }

    /// A hook with this text.
    pub fn text(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        mode(path, 0o755);
    }

    pub fn link(&self, name: &str, target: &Path) {
        symlink(target, self.path(name)).unwrap();
    }

    pub fn find(&self) -> Result<Found, HookError> {
        find(&self.config.directory)
    }

    /// The names of the hooks that would be run, and the errors of those that
    /// are refused.
    pub fn found(&self) -> (Vec<String>, Vec<String>) {
        let found = self.find().unwrap();
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        (
            found.hooks.iter().map(name).collect(),
            found.refused.iter().map(in_words).collect(),
        )
    }

    pub fn freeze(&self) -> Result<PendingHooks, HookError> {
        self.freeze_by(soon())
    }

    pub fn freeze_by(&self, deadline: Instant) -> Result<PendingHooks, HookError> {
        run_pre_freeze(&self.config, deadline, None, |_| (), &self.log.logger())
    }

    /// What was run with what, line by line.
    pub fn journal(&self) -> Vec<String> {
        let text = fs::read_to_string(self.beside("journal")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

pub fn soon() -> Instant {
    Instant::now() + LONG
}

pub fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Gives the path to another user, where the test may.
pub fn give_away(path: &Path) -> bool {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(4711), None).unwrap();
        return true;
    }
    skip("only root may give files away");
    false
}

/// An error with its causes, as it is logged.
pub fn in_words(error: &HookError) -> String {
    let mut words = error.to_string();
    let mut error = std::error::Error::source(error);
    while let Some(cause) = error {
        write!(words, ": {cause}").unwrap();
        error = cause.source();
    }
    words
}

/// What was logged.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub fn logger(&self) -> Logger {
        Logger::root(self.clone(), o!())
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// The lines of this level, without it.
    pub fn of(&self, level: &str) -> Vec<String> {
        let lines = self.lines();
        let of = lines.iter().filter_map(|line| line.strip_prefix(level));
        of.map(|line| line.trim_start().to_owned()).collect()
    }
}

impl Drain for Lines {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        let line = format!("{} {}", record.level(), record.msg());
        self.0.lock().unwrap().push(line);
        Ok(())
    }
}
