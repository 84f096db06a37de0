//! Applies a plan as a transaction: afterwards either the new configuration or the previous one
//! is in effect.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::backups::{self, Backups};
use super::undo_log::{self, UndoLog};
use crate::kvp::config::Config;
use crate::kvp::network::error::InjectError;
use crate::kvp::network::plan::{Plan, Step};
use crate::kvp::network::startup::{self, Startup};
use crate::timeouts::IP_ROLLBACK;

/// Returns when a configuration has to be in effect so that there is time for a rollback.
pub(in crate::kvp::network) fn apply_deadline(deadline: Instant) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    deadline
        .checked_sub(IP_ROLLBACK.min(left / 2))
        .unwrap_or(deadline)
}

/// Where a transaction reads and writes files.
pub(in crate::kvp::network) struct Paths<'a> {
    /// What stands for `/`.
    pub(in crate::kvp::network) root: &'a Path,
    /// The directory of the copies of replaced files.
    pub(in crate::kvp::network) backups: PathBuf,
    /// The undo log of the transaction under way.
    pub(in crate::kvp::network) undo_log: PathBuf,
    /// The undo log of the transaction that was applied last.
    pub(in crate::kvp::network) applied: PathBuf,
}

impl<'a> Paths<'a> {
    /// Returns those of the agent.
    pub(in crate::kvp::network) fn of(config: &'a Config) -> Self {
        let directory = &config.environment.state_dir;
        Self {
            root: &config.environment.root,
            backups: directory.join("network"),
            undo_log: directory.join("network-pending"),
            applied: directory.join("network-applied"),
        }
    }
}

/// Applies the plan by `apply_deadline` and returns what `verify` does, or rolls back by
/// `deadline`. For a manager that is not `running` yet it writes the files, and runs only what
/// works without it; `verify` does the rest.
///
/// # Errors
///
/// The cause where nothing reached the network manager; [`InjectError::RolledBack`] or
/// [`InjectError::RollbackFailed`] where something did.
pub(in crate::kvp::network) fn apply<T>(
    plan: &Plan,
    paths: &Paths<'_>,
    running: bool,
    apply_deadline: Instant,
    deadline: Instant,
    verify: impl FnOnce() -> Result<T, InjectError>,
) -> Result<T, InjectError> {
    let mut transaction = Transaction::begin(plan, paths)?;
    let result = transaction.apply(running, apply_deadline);
    match result.and_then(|()| verify()) {
        Ok(verified) => {
            // In case the host does not get the reply.
            fs::rename(&paths.undo_log, &paths.applied)
                .map_err(InjectError::file("rename", &paths.undo_log))?;
            Ok(verified)
        }
        Err(cause) => {
            let error = transaction.rollback(cause, paths, deadline);
            backups::remove(&paths.undo_log)?;
            Err(error)
        }
    }
}

/// Rolls back the transaction of an agent that ended before it could. A network manager that is
/// about to start reads the restored files then; its programs would only wait for it.
pub(in crate::kvp::network) fn rollback(
    undo_log: &UndoLog,
    paths: &Paths<'_>,
    deadline: Instant,
) -> Result<(), InjectError> {
    let backups = Backups::new(paths.root, &paths.backups);
    let units: Vec<&str> = undo_log.units.iter().map(String::as_str).collect();
    let can_run = can_run(paths.root, &units);
    // Whether or not this succeeds, the files have to be restored.
    let stopped = run_some(&undo_log.stop, can_run, half_way_to(deadline));
    let mut result = Ok(());
    for (path, existed) in undo_log.files.iter().rev() {
        result = result.and(backups.restore_from_copy(path, *existed));
    }
    result?;
    run_some(&undo_log.revert, can_run, deadline)?;
    stopped
}

struct Transaction<'a> {
    /// What stands for `/`.
    root: &'a Path,
    plan: &'a Plan,
    backups: Backups<'a>,
    /// The network manager may have seen something of the new configuration.
    touched: bool,
}

impl<'a> Transaction<'a> {
    /// Copies the files that the plan replaces, and writes the undo log.
    fn begin(plan: &'a Plan, paths: &'a Paths<'_>) -> Result<Self, InjectError> {
        let mut backups = Backups::new(paths.root, &paths.backups);
        for file in &plan.files {
            backups.add(&file.path)?;
        }
        undo_log::write(&paths.undo_log, plan, &backups)?;
        Ok(Self {
            root: paths.root,
            plan,
            backups,
            touched: false,
        })
    }

    fn apply(&mut self, running: bool, deadline: Instant) -> Result<(), InjectError> {
        self.touched = running && !self.plan.stop.is_empty();
        run_some(&self.plan.stop, running, deadline)?;
        for file in &self.plan.files {
            self.backups.replace(file)?;
        }
        self.touched = true;
        run_some(&self.plan.apply, running, deadline)
    }

    /// Brings the previous configuration back, and returns what the transaction failed with.
    fn rollback(mut self, cause: InjectError, paths: &Paths<'_>, deadline: Instant) -> InjectError {
        // The deadline may have passed: the rollback gets its time.
        let deadline = match cause {
            InjectError::Late => deadline.max(Instant::now() + 2 * IP_ROLLBACK),
            _ => deadline,
        };
        let manager = self.plan.manager;
        match self.restore(deadline) {
            Ok(()) if !self.touched => cause,
            Ok(()) => InjectError::RolledBack {
                manager,
                source: Box::new(cause),
            },
            Err(rollback) => InjectError::RollbackFailed {
                manager,
                source: Box::new(cause),
                rollback: Box::new(rollback),
                backups: paths.backups.clone(),
            },
        }
    }

    fn restore(&mut self, deadline: Instant) -> Result<(), InjectError> {
        if !self.touched {
            return self.backups.restore();
        }
        let can_run = can_run(self.root, self.plan.units);
        // Whether or not this succeeds, the files have to be restored.
        let stopped = run_some(&self.plan.stop, can_run, half_way_to(deadline));
        self.backups.restore()?;
        run_some(&self.plan.revert, can_run, deadline)?;
        stopped
    }
}

fn half_way_to(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

/// Returns whether programs of the network manager with these units can be run: while it starts
/// they would only wait for it.
fn can_run(root: &Path, units: &[&str]) -> bool {
    startup::systemd(root, units) != Some(Startup::Starting)
}

/// Runs the steps, or those that work without the network manager.
fn run_some(steps: &[Step], can_run: bool, deadline: Instant) -> Result<(), InjectError> {
    let mut steps = steps.iter().filter(|step| can_run || step.offline);
    steps.try_for_each(|step| step.run(deadline).map(drop))
}

/// Runs all steps.
pub(in crate::kvp::network) fn run_all(
    steps: &[Step],
    deadline: Instant,
) -> Result<(), InjectError> {
    run_some(steps, true, deadline)
}
