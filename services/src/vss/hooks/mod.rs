//! The administrator's programs that let applications come to rest before a
//! freeze, and go on after it.
//!
//! Each executable of a directory is run with `freeze`, in the order of their
//! names, before file systems are frozen, and in reverse order with `thaw` when
//! they are thawed, or where it did not come to a freeze; a hook may ask for
//! `freeze-failed` then. None of them runs while a file system is frozen.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use slog::{Logger, info, warn};

use self::program::{Hook, Occasion};
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
/// Where one fails and that stops the freeze, those that were started, the
/// failing one included, are run in reverse order as after a failed freeze before
/// this is back, as by [`PendingHooks::run_post_thaw`]. When `deadline` is over or `stop` is readable
/// the freeze is stopped, whatever the configuration says of failures.
///
/// Before each hook is started, `note` is told which have been by then: what
/// another agent ends ([`PendingHooks::from_paths`]) should this one be killed meanwhile.
/// It is told of each run that ended, too.
///
/// # Errors
///
/// Where a hook must not be run, fails, or is not done in time.
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
                    "not run as hooks, because they are not executable (chmod +x): {:?}",
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
    let mut ran = PendingHooks::from_paths(config, Vec::new());
    for path in paths {
        ran.paths.push(path.clone());
        on_step(HookStep::Starts(&ran.paths));
        let hook = Hook {
            path: &path,
            occasion: Occasion::Freeze,
            log,
        };
        let (result, run) = hook.run(config, deadline, stop);
        on_step(HookStep::Ended(run));
        let Err(error) = result else {
            continue;
        };
        if !error.started() {
            ran.paths.pop();
            on_step(HookStep::Starts(&ran.paths));
        }
        if stops || error.stopped() || Instant::now() >= deadline {
            let time = if error.stopped() {
                THAW_AND_HOOKS_AT_EXIT
            } else {
                THAW_AND_HOOKS
            };
            for run in ran.run_post_thaw(EndReason::FreezeFailed, time, log) {
                on_step(HookStep::Ended(run));
            }
            return Err(error);
        }
        warn!(log, "the freeze goes on: {}", display_chain(&error));
    }
    Ok(ran)
}

/// What becomes of the hooks while they are run with `freeze`.
#[derive(Debug)]
pub enum HookStep<'a> {
    /// One is about to be started: the last of those, which are all until now.
    Starts(&'a [PathBuf]),
    /// One has ended.
    Ended(HookRun),
}

/// The hooks that were run with `freeze`, and have to be run again.
#[derive(Debug)]
#[must_use = "applications stay at rest until it is ended"]
pub struct PendingHooks {
    config: Config,
    paths: Vec<PathBuf>,
}

impl PendingHooks {
    /// What an agent before this one ran, in the order in which it did.
    pub fn from_paths(config: &Config, paths: Vec<PathBuf>) -> Self {
        Self {
            config: config.clone(),
            paths,
        }
    }

    /// Kills those that an agent before this one has left running with `freeze`, before
    /// they are ended.
    pub fn kill_stale(&self, log: &Logger) {
        if !self.paths.is_empty() {
            stale::kill(&self.paths, log);
        }
    }

    /// The hooks in the order in which they were run, by their paths in the
    /// directory.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Runs them in reverse order. It is back after `time`: until 6 s before that they
    /// are run one after another; those that are left then are started at once, and
    /// have until 1 s before the end. One that fails is logged, and the others still
    /// run. One that even then is
    /// neither done nor killed, as its disk does not answer, is left behind. Gives what
    /// came of each.
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
                    occasion: Occasion::EndReason(end),
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
                // Nobody waits for one that was left behind.
                let _ = ended.send(run);
            };
            if let Err(error) = thread::Builder::new().spawn(run) {
                warn!(log, "cannot run the hook {}: {}", path.display(), error);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match wait.recv_timeout(left) {
                Ok(run) => runs.push(run),
                Err(RecvTimeoutError::Timeout) => begun.push((path, started, wait)),
                // There was no thread for it.
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
                        "the hook {} neither ends nor can be killed, and is left behind: the application \
                         may need attention",
                        path.display()
                    );
                    runs.push(HookRun {
                        name: program::name(&path).into_owned(),
                        action: "thaw",
                        took: started.elapsed(),
                        failure: Some(
                            "neither ends nor can be killed, and is left behind".to_owned(),
                        ),
                    });
                }
            }
        }
        runs
    }
}
