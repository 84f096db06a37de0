//! What a manager needs for a configuration to be in use: files and programs.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::InjectError;
use super::parse::Settings;
use super::target::Target;
use crate::kvp::config::Config;
use crate::subprocess::{Output, run};

const DIRECTORIES: [&str; 4] = ["usr/sbin", "usr/bin", "sbin", "bin"];

/// Everything that a manager is asked to do, decided before anything is done.
#[derive(Debug)]
pub(super) struct Plan {
    /// What the manager is called.
    pub(super) manager: &'static str,
    /// Run while the previous files are in place, and before they are put back.
    pub(super) before: Vec<Step>,
    /// What is written then.
    pub(super) files: Vec<NewFile>,
    /// Run when the new files are in place.
    pub(super) apply: Vec<Step>,
    /// Run when the previous files are back.
    pub(super) revert: Vec<Step>,
    /// For how long the interface has to be as it is to be: the manager may not
    /// have begun when its programs are done. Zero where these wait for it.
    pub(super) stable_for: Duration,
}

/// A file as it is to be.
#[derive(Debug)]
pub(super) struct NewFile {
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// Permission bits; `None` keeps the previous file's, or is 0644.
    pub(super) mode: Option<u32>,
}

/// A program that is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    program: PathBuf,
    args: Vec<String>,
    /// What the program prints where it refuses the files although its status
    /// does not say so.
    refusal: Option<&'static str>,
    /// A failure does not matter.
    optional: bool,
}

/// What a back-end plans with.
pub(super) struct Context<'a> {
    pub(super) config: &'a Config,
    pub(super) target: &'a Target,
    pub(super) settings: &'a Settings,
    /// When the configuration is to be in use.
    pub(super) until: Instant,
}

impl Context<'_> {
    /// A path of the machine.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.config
            .environment
            .root
            .join(path.trim_start_matches('/'))
    }

    /// Where a program is.
    pub(super) fn program(&self, name: &'static str) -> Result<PathBuf, InjectError> {
        DIRECTORIES
            .iter()
            .map(|directory| self.path(directory).join(name))
            .find(|path| is_executable(path))
            .ok_or(InjectError::NoProgram(name))
    }

    /// A program and its arguments.
    pub(super) fn step(&self, name: &'static str, args: &[&str]) -> Result<Step, InjectError> {
        Ok(Step {
            program: self.program(name)?,
            args: args.iter().copied().map(str::to_owned).collect(),
            refusal: None,
            optional: false,
        })
    }

    /// Whether the interface has a carrier, or may have one once it is up.
    pub(super) fn has_carrier(&self) -> bool {
        let carrier = self.path(&format!("sys/class/net/{}/carrier", self.target.name));
        !fs::read_to_string(carrier).is_ok_and(|carrier| carrier.trim() == "0")
    }

    /// Whole seconds that a program may be told to wait, at least one.
    pub(super) fn seconds(&self) -> u64 {
        let left = self.until.saturating_duration_since(Instant::now());
        left.saturating_sub(Duration::from_secs(1)).as_secs().max(1)
    }
}

impl Step {
    /// The program's failure does not matter.
    pub(super) fn optional(self) -> Self {
        Self {
            optional: true,
            ..self
        }
    }

    /// The program prints this where it refuses the files.
    pub(super) fn fails_on(self, said: &'static str) -> Self {
        Self {
            refusal: Some(said),
            ..self
        }
    }

    /// A program at this path.
    pub(super) fn of(program: PathBuf, args: &[&str]) -> Self {
        Self {
            program,
            args: args.iter().copied().map(str::to_owned).collect(),
            refusal: None,
            optional: false,
        }
    }

    /// Which program.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// Its arguments.
    pub(super) fn args(&self) -> &[String] {
        &self.args
    }

    /// Runs the program.
    ///
    /// # Errors
    ///
    /// Where it is not done in time, or fails and that matters.
    pub(super) fn run(&self, deadline: Instant) -> Result<Output, InjectError> {
        let args: Vec<&OsStr> = self.args.iter().map(OsStr::new).collect();
        let mut output = run(&self.program, &args, &[], deadline, None)?;
        if !self.optional {
            output = output.success(&self.program)?;
        }
        if let Some(refusal) = self.refusal {
            let said = String::from_utf8_lossy(&output.stderr);
            if let Some(line) = said.lines().find(|line| line.contains(refusal)) {
                return Err(InjectError::Refused {
                    program: self.program.display().to_string(),
                    said: line.chars().take(300).collect(),
                });
            }
        }
        Ok(output)
    }
}

/// Whether this is a file that may be run.
pub(super) fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}
