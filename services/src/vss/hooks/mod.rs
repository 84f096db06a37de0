//! Hooks: the administrator's programs that quiesce applications before a freeze and
//! resume them after the thaw.
//!
//! Each executable in a directory is run with `freeze`, in the order of their names, before
//! file systems are frozen, and with `thaw`, in reverse order, when they are thawed or the
//! freeze failed. In the second case a hook may ask for `freeze-failed`. No hook runs while
//! a file system is frozen.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use slog::{Logger, info, warn};

use self::program::{Hook, Phase};
use crate::backup::HookRun;
use crate::error_chain::display_chain;
use crate::timeouts::{HOOKS_KILL, HOOKS_SIDE_BY_SIDE, THAW_AND_HOOKS, THAW_AND_HOOKS_AT_EXIT};

pub mod config;
mod error;
mod find;
mod program;
mod stale;

pub use crate::trusted::Refusal;
pub use config::{Config, OnFailure};
pub use error::HookError;
pub use find::{Found, find};
pub use program::EndReason;

/// Runs all hooks with `freeze`, in the order of their names.
///
/// If one fails and that stops the freeze, those that were started, the failing one
/// included, are run as after a failed freeze by [`PendingHooks::run_post_thaw`]. At
/// `deadline`, or once `stop` is readable, the freeze stops whatever the configuration says
/// about failures.
///
/// Calls `on_step` before each hook is started, with those that were started so far, for
/// the record ([`PendingHooks::from_paths`]), and after each run.
///
/// # Errors
///
/// If a hook must not be run, fails, or takes too long.
pub fn run_pre_freeze(
    config: &Config,
    deadline: Instant,
    stop: Option<BorrowedFd<'_>>,
    mut on_step: impl FnMut(HookStep<'_>),
    log: &Logger,
) -> Result<PendingHooks, HookError> {
    let stops = config.on_failure == OnFailure::Stop;
    let paths = match find(&config.directory) {
        Ok(found) => {
            if !found.not_executable.is_empty() {
                info!(
                    log,
                    "not run as hooks, since they are not executable (chmod +x): {:?}",
                    found.not_executable
                );
            }
            for refused in found.refused {
                if stops {
                    return Err(refused);
                }
                warn!(log, "a hook is left out: {}", display_chain(&refused));
            }
            found.hooks
        }
        Err(error) if stops => return Err(error),
        Err(error) => {
            warn!(log, "no hook is run: {}", display_chain(&error));
            Vec::new()
        }
    };
    let mut pending = PendingHooks::from_paths(config, Vec::new());
    for path in paths {
        pending.paths.push(path.clone());
        on_step(HookStep::Starts(&pending.paths));
        let hook = Hook {
            path: &path,
            phase: Phase::PreFreeze,
            log,
        };
        let (result, run) = hook.run(config, deadline, stop);
        on_step(HookStep::Ended(run));
        let Err(error) = result else {
            continue;
        };
        if !error.started() {
            pending.paths.pop();
            on_step(HookStep::Starts(&pending.paths));
        }
        if stops || error.stopped() || Instant::now() >= deadline {
            let time = match error.stopped() {
                true => THAW_AND_HOOKS_AT_EXIT,
                false => THAW_AND_HOOKS,
            };
            for run in pending.run_post_thaw(EndReason::FreezeFailed, time, log) {
                on_step(HookStep::Ended(run));
            }
            return Err(error);
        }
        warn!(log, "the freeze continues: {}", display_chain(&error));
    }
    Ok(pending)
}

/// A step of running the hooks with `freeze`.
#[derive(Debug)]
pub enum HookStep<'a> {
    /// The last of these hooks is about to be started; the others were started before.
    Starts(&'a [PathBuf]),
    /// A hook has ended.
    Ended(HookRun),
}

/// The hooks that were run with `freeze` and have to be run with `thaw`.
#[derive(Debug)]
#[must_use = "applications stay quiesced until the hooks run again"]
pub struct PendingHooks {
    config: Config,
    paths: Vec<PathBuf>,
}

impl PendingHooks {
    /// Returns the hooks that an earlier agent ran, in the order in which it did.
    pub fn from_paths(config: &Config, paths: Vec<PathBuf>) -> Self {
        Self {
            config: config.clone(),
            paths,
        }
    }

    /// Kills those that an earlier agent left running with `freeze`.
    pub fn kill_stale(&self, log: &Logger) {
        if !self.paths.is_empty() {
            stale::kill(&self.paths, log);
        }
    }

    /// Returns the paths of the hooks, in the order in which they were run.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Runs the hooks in reverse order with `thaw`, or what they ask for, and returns the
    /// runs.
    ///
    /// Returns after `time` at the latest. The hooks run one after another until
    /// `HOOKS_SIDE_BY_SIDE` and `HOOKS_KILL` before that; the remaining ones are then
    /// started at once. They are killed `HOOKS_KILL` before the end, and one that cannot
    /// be killed is abandoned. A hook that fails is logged, and the others still run.
    pub fn run_post_thaw(self, end: EndReason, time: Duration, log: &Logger) -> Vec<HookRun> {
        let began = Instant::now();
        let killed = began + time.saturating_sub(HOOKS_KILL);
        let deadline = began + time.saturating_sub(HOOKS_KILL + HOOKS_SIDE_BY_SIDE);
        let mut runs = Vec::new();
        let mut begun = Vec::new();
        for path in self.paths.into_iter().rev() {
            let started = Instant::now();
            let (ended, wait) = channel();
            let (config, to, its) = (self.config.clone(), log.clone(), path.clone());
            let run = move || {
                let hook = Hook {
                    path: &its,
                    phase: Phase::PostThaw(end),
                    log: &to,
                };
                let (result, run) = hook.run(&config, killed, None);
                if let Err(error) = result {
                    warn!(
                        to,
                        "the application may need attention: {}",
                        display_chain(&error)
                    );
                }
                // An abandoned hook has no receiver.
                let _ = ended.send(run);
            };
            if let Err(error) = thread::Builder::new().spawn(run) {
                warn!(log, "cannot run the hook {}: {}", path.display(), error);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match wait.recv_timeout(left) {
                Ok(run) => runs.push(run),
                Err(RecvTimeoutError::Timeout) => begun.push((path, started, wait)),
                // There is no thread for it.
                Err(RecvTimeoutError::Disconnected) => {}
            }
        }
        let last = began + time;
        for (path, started, wait) in begun {
            let left = last.saturating_duration_since(Instant::now());
            match wait.recv_timeout(left) {
                Ok(run) => runs.push(run),
                Err(_) => {
                    warn!(
                        log,
                        "the hook {} cannot be killed, and is abandoned: the application may need \
                         attention",
                        path.display()
                    );
                    runs.push(HookRun {
                        name: program::name(&path).into_owned(),
                        action: "thaw",
                        took: started.elapsed(),
                        failure: Some("cannot be killed, and is abandoned".to_owned()),
                    });
                }
            }
        }
        runs
    }
}
