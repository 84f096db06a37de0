//! The administrator's programs that let applications come to rest before a
//! freeze, and go on after it.
//!
//! Each executable of a directory is run with `freeze`, in the order of their
//! names, before file systems are frozen, and in reverse order with `thaw` when
//! they are thawed, or with `freeze-failed` where it did not come to a freeze.
//! None of them runs while a file system is frozen.

use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use slog::{Logger, info, warn};

use crate::backup::HookRun;
use crate::in_words;
use crate::run::{Output, RunError, run};

mod error;
mod find;

pub use error::{HookError, Refusal};
pub use find::{Found, find};

/// Lines of a hook's standard output, and of its standard error, that are
/// logged.
const MAX_LINES: usize = 10;

/// Letters of such a line.
const MAX_LINE: usize = 300;

/// How long hooks have one after another when file systems are thawed: the kernel
/// gives a thaw 30 seconds.
pub const AFTER: Duration = Duration::from_secs(20);

/// How long they have where the service itself ends, which has to be done within
/// the supervisor's limit of eight seconds.
pub(super) const AT_THE_END: Duration = Duration::from_secs(2);

/// How long all that are left then have, which are run side by side: an application
/// must not stay at rest because another one's hook hangs.
const LEAST: Duration = Duration::from_secs(5);

/// How hooks are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The directory that they are in.
    pub directory: PathBuf,
    /// How long each may take.
    pub time_limit: Duration,
    /// What is done when one fails before a freeze.
    pub on_failure: OnFailure,
    /// How long file systems may stay frozen; told to the hooks.
    pub freeze_limit: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/etc/hyperv-agent/vss.d"),
            time_limit: Duration::from_secs(60),
            on_failure: OnFailure::Stop,
            freeze_limit: Duration::from_secs(10 * 60),
        }
    }
}

/// What is done when a hook fails before a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Nothing is frozen, and the host is told so.
    #[default]
    Stop,
    /// The freeze goes on without what the hook was for.
    GoOn,
}

/// Why applications may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The host asked for the thaw.
    Thawed,
    /// A hook or a file system failed: nothing is frozen.
    FreezeFailed,
    /// File systems were frozen for as long as they may.
    TimeLimit,
    /// The device went away or took no reply, or the agent or its guard ends.
    Interrupted,
    /// The agent ended before, and was started again.
    AgentRestarted,
}

impl End {
    /// The hook's argument.
    fn action(self) -> &'static str {
        match self {
            Self::FreezeFailed => "freeze-failed",
            _ => "thaw",
        }
    }

    /// The same, more closely, in a hook's environment.
    fn reason(self) -> &'static str {
        match self {
            Self::Thawed => "thawed",
            Self::FreezeFailed => "freeze-failed",
            Self::TimeLimit => "time-limit",
            Self::Interrupted => "interrupted",
            Self::AgentRestarted => "agent-restarted",
        }
    }
}

/// Runs all hooks with `freeze`, in the order of their names.
///
/// Where one fails and that stops the freeze, those that were started, the
/// failing one included, are run with `freeze-failed` in reverse order before
/// this is back, as by [`Ran::end`]. When `deadline` is over or `stop` is readable
/// the freeze is stopped, whatever the configuration says of failures.
///
/// Before each hook is started, `note` is told which have been by then: what
/// another agent ends ([`Ran::from_paths`]) should this one be killed meanwhile.
/// It is told of each run that ended, too.
///
/// # Errors
///
/// Where a hook must not be run, fails, or is not done in time.
pub fn freeze(
    config: &Config,
    deadline: Instant,
    stop: Option<BorrowedFd<'_>>,
    note: impl Fn(Step<'_>),
    log: &Logger,
) -> Result<Ran, HookError> {
    let stops = config.on_failure == OnFailure::Stop;
    let paths = match find(&config.directory) {
        Ok(found) => {
            for refused in found.refused {
                if stops {
                    return Err(refused);
                }
                warn!(log, "a hook is left out: {}", in_words(&refused));
            }
            found.hooks
        }
        Err(error) if stops => return Err(error),
        Err(error) => {
            warn!(log, "no hook is run: {}", in_words(&error));
            Vec::new()
        }
    };
    let mut ran = Ran::from_paths(config, Vec::new());
    for path in paths {
        ran.paths.push(path.clone());
        note(Step::Starts(&ran.paths));
        let hook = Hook {
            path: &path,
            action: "freeze",
            reason: None,
            log,
        };
        let (result, run) = hook.run(config, deadline, stop);
        note(Step::Ended(run));
        let stopped = matches!(
            result,
            Err(HookError::Failed {
                source: RunError::Stopped { .. },
                ..
            })
        );
        match result {
            Ok(()) => {}
            Err(error) if stops || stopped || Instant::now() >= deadline => {
                let time = if stopped { AT_THE_END } else { AFTER };
                for run in ran.end(End::FreezeFailed, time, log) {
                    note(Step::Ended(run));
                }
                return Err(error);
            }
            Err(error) => warn!(log, "the freeze goes on: {}", in_words(&error)),
        }
    }
    Ok(ran)
}

/// What becomes of the hooks while they are run with `freeze`.
#[derive(Debug)]
pub enum Step<'a> {
    /// One is about to be started: the last of those, which are all until now.
    Starts(&'a [PathBuf]),
    /// One has ended.
    Ended(HookRun),
}

/// The hooks that were run with `freeze`, and have to be run again.
#[derive(Debug)]
#[must_use = "applications stay at rest until it is ended"]
pub struct Ran {
    config: Config,
    paths: Vec<PathBuf>,
}

impl Ran {
    /// What an agent before this one ran, in the order in which it did.
    pub fn from_paths(config: &Config, paths: Vec<PathBuf>) -> Self {
        Self {
            config: config.clone(),
            paths,
        }
    }

    /// The hooks in the order in which they were run, by their paths in the
    /// directory.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Runs them in reverse order, one after another for as long as `time`; those
    /// that are left then are started at once. In 5 s more all are done, or killed.
    /// One that fails is logged, and the others still run. Gives what came of each.
    pub fn end(self, end: End, time: Duration, log: &Logger) -> Vec<HookRun> {
        let deadline = Instant::now() + time;
        let runs = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for path in self.paths.iter().rev() {
                let hook = Hook {
                    path,
                    action: end.action(),
                    reason: Some(end.reason()),
                    log,
                };
                let (ended, wait) = channel::<()>();
                let (config, runs) = (&self.config, &runs);
                let run = move || {
                    let _ended = ended;
                    let (result, run) = hook.run(config, deadline + LEAST, None);
                    runs.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(run);
                    if let Err(error) = result {
                        warn!(
                            log,
                            "the application may need attention: {}",
                            in_words(&error)
                        );
                    }
                };
                if let Err(error) = thread::Builder::new().spawn_scoped(scope, run) {
                    let hook = path.display();
                    warn!(log, "cannot run the hook {}: {}", hook, error);
                }
                let _ = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            }
        });
        runs.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hook about to be run.
struct Hook<'a> {
    path: &'a Path,
    action: &'static str,
    reason: Option<&'static str>,
    log: &'a Logger,
}

impl Hook<'_> {
    fn run(
        &self,
        config: &Config,
        deadline: Instant,
        stop: Option<BorrowedFd<'_>>,
    ) -> (Result<(), HookError>, HookRun) {
        let started = Instant::now();
        let result = self.try_run(config, deadline, stop);
        let run = HookRun {
            name: self.name().display().to_string(),
            action: self.action,
            took: started.elapsed(),
            failure: result.as_ref().err().map(|error| in_words(error)),
        };
        (result, run)
    }

    fn try_run(
        &self,
        config: &Config,
        deadline: Instant,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<(), HookError> {
        let started = Instant::now();
        let program = find::trusted(self.path)?;
        let deadline = deadline.min(started + config.time_limit);
        // Rounded up: no hook is told that it has no time.
        let left = deadline.saturating_duration_since(started) + Duration::from_millis(999);
        let seconds = left.as_secs().to_string();
        let freeze_seconds = config.freeze_limit.as_secs().to_string();
        let mut variables = vec![
            ("HYPERV_AGENT_ACTION", self.action),
            ("HYPERV_AGENT_TIME_LIMIT", &seconds),
            ("HYPERV_AGENT_FREEZE_TIME_LIMIT", &freeze_seconds),
        ];
        variables.extend(self.reason.map(|reason| ("HYPERV_AGENT_REASON", reason)));
        let result = run(
            &program,
            &[OsStr::new(self.action)],
            &variables,
            deadline,
            stop,
        );
        result
            .and_then(|output| {
                self.log_output(&output);
                output.success(&program)
            })
            .map_err(|source| HookError::Failed {
                hook: self.name(),
                action: self.action,
                source,
            })?;
        info!(
            self.log,
            "hook {}: done with {} in {:.3} s",
            self.name().display(),
            self.action,
            started.elapsed().as_secs_f64()
        );
        Ok(())
    }

    fn name(&self) -> OsString {
        self.path.file_name().unwrap_or_default().to_owned()
    }

    fn log_output(&self, output: &Output) {
        let name = self.name();
        for stream in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(stream);
            let mut lines = text
                .lines()
                .map(str::trim_end)
                .filter(|line| !line.is_empty());
            for line in lines.by_ref().take(MAX_LINES) {
                // Whatever the hook passes on must not look like a record of ours.
                let line = line.replace(char::is_control, " ");
                let line: String = line.chars().take(MAX_LINE).collect();
                info!(self.log, "hook {}: {}", name.display(), line);
            }
            if lines.next().is_some() {
                info!(self.log, "hook {}: more lines, left out", name.display());
            }
        }
    }
}
