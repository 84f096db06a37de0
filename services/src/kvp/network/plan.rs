//! What applies a configuration: files to write and programs to run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::InjectError;
use super::settings::{Settings, joined};
use super::target::{self, Target};
use crate::kvp::files;
use crate::kvp::interfaces::Interface;
use crate::program;
use crate::subprocess::{Output, run};

/// Longest part of a program's error line in a message, in characters.
const MAX_LINE_LEN: usize = 300;

/// The first line of every file of the agent's own.
pub(super) const HEADER: &str =
    "# Written by hyperv-agent: what the Hyper-V host wants this interface to have.\n";

/// How a network manager applies a configuration, decided before anything is done.
#[derive(Debug)]
pub(super) struct Plan {
    /// The network manager's name, for messages.
    pub(super) manager: &'static str,
    /// Run before the files are replaced, and again before a rollback restores them.
    pub(super) stop: Vec<Step>,
    /// The files to write and to remove.
    pub(super) files: Vec<NewFile>,
    /// Run when the files are written.
    pub(super) apply: Vec<Step>,
    /// Run when a rollback has restored the previous files.
    pub(super) revert: Vec<Step>,
    /// How long the interface has to keep its settings. Not zero for a network manager whose
    /// programs return before it begins.
    pub(super) stable_for: Duration,
    /// What the previous configuration had and the new files do not, for the log: each with its
    /// file and key, such as `10-eth0.network: PreferredSource=192.168.7.7`.
    pub(super) lost: Vec<String>,
    /// The units of the network manager, set by the caller of [`Manager::plan`]. None if the agent
    /// cannot tell whether it runs.
    ///
    /// [`Manager::plan`]: super::manager::Manager::plan
    pub(super) units: &'static [&'static str],
    /// Waits for the network manager to use the files, and helps it to.
    pub(super) settle: Option<Settle>,
    /// Returns what keeps the files from being in force, for the message if addresses are missing.
    pub(super) obstacle: Option<fn(&Context<'_>) -> Option<String>>,
}

pub(super) type Settle = fn(&Context<'_>) -> Result<(), InjectError>;

impl Plan {
    /// Returns a plan that stops nothing first, and whose programs wait for the network manager.
    pub(super) fn new(
        manager: &'static str,
        files: Vec<NewFile>,
        apply: Vec<Step>,
        revert: Vec<Step>,
    ) -> Self {
        Self {
            manager,
            stop: Vec::new(),
            files,
            apply,
            revert,
            stable_for: Duration::ZERO,
            lost: Vec::new(),
            units: &[],
            settle: None,
            obstacle: None,
        }
    }

    /// Returns the paths of the files, for messages.
    pub(super) fn paths(&self) -> String {
        joined(self.files.iter().map(|file| file.path.display()), ", ")
    }
}

/// A file to write or to remove.
#[derive(Debug)]
pub(super) struct NewFile {
    pub(super) path: PathBuf,
    /// `None` removes the file, which need not exist.
    pub(super) text: Option<String>,
    /// Permission bits; `None` keeps those of the previous file, or is 0644.
    pub(super) mode: Option<u32>,
    /// User and group; `None` keeps those of the previous file if `mode` is `None`, too, or is
    /// root.
    pub(super) owner: Option<(u32, u32)>,
}

impl NewFile {
    /// Returns a file of the agent's own.
    pub(super) fn new(path: PathBuf, text: String, mode: u32) -> Self {
        Self {
            path,
            text: Some(text),
            mode: Some(mode),
            owner: None,
        }
    }

    /// Returns a file to remove, which need not exist.
    pub(super) fn removed(path: PathBuf) -> Self {
        Self {
            path,
            text: None,
            mode: None,
            owner: None,
        }
    }

    /// Returns a file that keeps its permission bits and its owner.
    pub(super) fn changed(path: PathBuf, text: String) -> Self {
        Self {
            path,
            text: Some(text),
            mode: None,
            owner: None,
        }
    }
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    /// A line of standard error with this text is a failure, whatever the exit status.
    error_text: Option<&'static str>,
    /// A failure does not matter.
    may_fail: bool,
    /// It works while the network manager does not run.
    pub(super) offline: bool,
}

/// What a network manager's plan is made from.
pub(super) struct Context<'a> {
    /// What stands for `/`.
    pub(super) root: &'a Path,
    /// The interface before the change.
    pub(super) interface: &'a Interface,
    pub(super) target: &'a Target,
    pub(super) settings: &'a Settings,
    /// Whether the network manager runs. If it does not run yet, planning runs no program, which
    /// might wait for it.
    pub(super) running: bool,
    /// When the configuration has to be in effect.
    pub(super) deadline: Instant,
}

impl Context<'_> {
    /// Returns a path below the root.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        files::under(self.root, path)
    }

    /// Finds a program.
    pub(super) fn program(&self, name: &str) -> Result<PathBuf, InjectError> {
        Ok(program::find(self.root, name)?)
    }

    /// Finds the program of a step.
    pub(super) fn step(&self, name: &str, args: &[&str]) -> Result<Step, InjectError> {
        Ok(Step::new(self.program(name)?, args))
    }

    /// Returns `false` if the interface is up and has no carrier.
    pub(super) fn has_carrier(&self) -> bool {
        target::has_carrier(self.root, &self.target.name)
    }

    /// Returns how many seconds a program may wait, at least one.
    pub(super) fn seconds_left(&self) -> u64 {
        let left = self.deadline.saturating_duration_since(Instant::now());
        left.saturating_sub(Duration::from_secs(1)).as_secs().max(1)
    }
}

impl Step {
    pub(super) fn new(program: PathBuf, args: &[&str]) -> Self {
        Self {
            program,
            args: args.iter().copied().map(str::to_owned).collect(),
            error_text: None,
            may_fail: false,
            offline: false,
        }
    }

    /// Ignores a failure of the program.
    pub(super) fn may_fail(mut self) -> Self {
        self.may_fail = true;
        self
    }

    /// Marks a program that works while the network manager does not run, and prepares files for
    /// it.
    pub(super) fn offline(mut self) -> Self {
        self.offline = true;
        self
    }

    /// Takes a line of standard error with this text for a failure.
    pub(super) fn fails_on(mut self, error_text: &'static str) -> Self {
        self.error_text = Some(error_text);
        self
    }

    /// Runs the program.
    ///
    /// # Errors
    ///
    /// [`InjectError::Run`] if it does not succeed by `deadline`, [`InjectError::Rejected`] if it
    /// prints its error text.
    pub(super) fn run(&self, deadline: Instant) -> Result<Output, InjectError> {
        let args: Vec<&OsStr> = self.args.iter().map(OsStr::new).collect();
        let mut output = run(&self.program, &args, &[], deadline, None)?;
        if !self.may_fail {
            output = output.success(&self.program)?;
        }
        if let Some(error_text) = self.error_text {
            let stderr = String::from_utf8_lossy(&output.stderr);
            if let Some(line) = stderr.lines().find(|line| line.contains(error_text)) {
                return Err(InjectError::Rejected {
                    program: self.program.display().to_string(),
                    line: line.chars().take(MAX_LINE_LEN).collect(),
                });
            }
        }
        Ok(output)
    }
}
