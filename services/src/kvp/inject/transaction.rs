//! Carries a plan out, or leaves things as they were.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::InjectError;
use super::files::Backups;
use super::plan::{Plan, Step};
use super::undo_log::{self, UndoLog};

/// What is kept of the time for bringing the previous configuration back; half
/// of the time where there is less than twice that.
const RESERVE: Duration = Duration::from_secs(8);

/// When a configuration has to be in use for there to be time to take it back.
pub(super) fn apply_deadline(deadline: Instant) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    deadline
        .checked_sub(RESERVE.min(left / 2))
        .unwrap_or(deadline)
}

/// Where things are that outlive the agent.
pub(super) struct Paths<'a> {
    /// What stands for `/`.
    pub(super) root: &'a Path,
    /// Copies of what is replaced.
    pub(super) kept: PathBuf,
    /// The note of what is being done.
    pub(super) note: PathBuf,
    /// The same note when it is done.
    pub(super) applied: PathBuf,
}

/// Carries the plan out by `until`, or brings back what was there by `deadline`.
/// What comes of it is for `seen` to tell.
pub(super) fn apply<T>(
    plan: &Plan,
    paths: &Paths<'_>,
    until: Instant,
    deadline: Instant,
    seen: impl FnOnce() -> Result<T, InjectError>,
) -> Result<T, InjectError> {
    let mut files = Backups::new(paths.root, &paths.kept);
    for file in &plan.files {
        files.keep(&file.path)?;
    }
    undo_log::write(&paths.note, plan, &files)?;
    let done = forward_or_back(plan, files, &paths.kept, until, deadline, seen);
    match done {
        Ok(_) => undo_log::keep_applied(&paths.note, &paths.applied)?,
        // There is nothing left to take back.
        Err(_) => undo_log::remove(&paths.note)?,
    }
    done
}

/// Takes back what an agent that ended left half done.
pub(super) fn rollback(
    pending: &UndoLog,
    paths: &Paths<'_>,
    deadline: Instant,
) -> Result<(), InjectError> {
    let files = Backups::new(paths.root, &paths.kept);
    let left = deadline.saturating_duration_since(Instant::now());
    run_all(&pending.before, Instant::now() + left / 2)?;
    let mut result = Ok(());
    for (path, existed) in pending.files.iter().rev() {
        result = result.and(files.restore_from_copy(path, *existed));
    }
    result?;
    run_all(&pending.revert, deadline)
}

fn forward_or_back<T>(
    plan: &Plan,
    mut files: Backups<'_>,
    kept: &Path,
    until: Instant,
    deadline: Instant,
    seen: impl FnOnce() -> Result<T, InjectError>,
) -> Result<T, InjectError> {
    let mut touched = false;
    let cause = match forward(plan, &mut files, &mut touched, until).and_then(|()| seen()) {
        Ok(seen) => return Ok(seen),
        Err(cause) => cause,
    };
    // What is noticed too late is taken back all the same.
    let deadline = match cause {
        InjectError::Late => deadline.max(Instant::now() + 2 * RESERVE),
        _ => deadline,
    };
    let undone = match touched {
        true => back(plan, &mut files, deadline),
        false => files.restore(),
    };
    match undone {
        Ok(()) if !touched => Err(cause),
        Ok(()) => Err(InjectError::RolledBack {
            manager: plan.manager,
            source: Box::new(cause),
        }),
        Err(undoing) => Err(InjectError::RollbackFailed {
            manager: plan.manager,
            source: Box::new(cause),
            undoing: Box::new(undoing),
            kept: PathBuf::from(kept),
        }),
    }
}

/// `touched` once the manager was told of anything.
fn forward(
    plan: &Plan,
    files: &mut Backups<'_>,
    touched: &mut bool,
    until: Instant,
) -> Result<(), InjectError> {
    *touched = !plan.before.is_empty();
    run_all(&plan.before, until)?;
    plan.files.iter().try_for_each(|file| files.write(file))?;
    *touched = true;
    run_all(&plan.apply, until)
}

fn back(plan: &Plan, files: &mut Backups<'_>, deadline: Instant) -> Result<(), InjectError> {
    // Whatever became of these: the files have to be put back.
    let left = deadline.saturating_duration_since(Instant::now());
    let stopped = run_all(&plan.before, Instant::now() + left / 2);
    files.restore()?;
    run_all(&plan.revert, deadline)?;
    stopped
}

fn run_all(steps: &[Step], deadline: Instant) -> Result<(), InjectError> {
    steps
        .iter()
        .try_for_each(|step| step.run(deadline).map(drop))
}
