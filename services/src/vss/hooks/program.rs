//! One hook: what it is told, and what becomes of what it says.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use slog::{Logger, info};

use super::config::Config;
use super::error::HookError;
use super::find;
use crate::PROGRAM_OUTPUT;
use crate::backup::HookRun;
use crate::error_chain::display_chain;
use crate::subprocess::{Output, run};

/// Lines of a hook's standard output, and of its standard error, that are
/// logged.
const MAX_LINES: usize = 10;

/// Letters of such a line.
const MAX_LINE: usize = 300;

/// Bytes at the beginning of a hook in which it may declare what it knows.
const HEAD: u64 = 4096;

/// How a hook declares, in a comment of its own, that it knows the argument
/// `freeze-failed`.
const DECLARATION: &str = "hyperv-agent: freeze-failed";

/// What hooks are run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// File systems are about to be frozen.
    Freeze,
    /// That is over.
    EndReason(EndReason),
}

impl Occasion {
    /// The argument of the hook `program`, where that may be run. One that was written
    /// for another agent knows `freeze` and `thaw` only.
    fn action(self, program: Option<&Path>) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::EndReason(EndReason::FreezeFailed) if program.is_some_and(knows_failures) => {
                "freeze-failed"
            }
            Self::EndReason(_) => "thaw",
        }
    }
}

/// Why applications may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
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

impl EndReason {
    /// What the environment of a hook says of it.
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

/// Whether the hook declares that it knows `freeze-failed`.
fn knows_failures(program: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(program).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    read.is_ok() && declares(&head)
}

/// Whether a line says so and nothing else, whatever makes it a comment.
fn declares(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    text.lines().any(|line| {
        let words = line.trim_start_matches(|sign: char| !sign.is_alphanumeric());
        words.trim_end() == DECLARATION
    })
}

/// A hook about to be run.
pub(super) struct Hook<'a> {
    pub(super) path: &'a Path,
    pub(super) occasion: Occasion,
    pub(super) log: &'a Logger,
}

impl Hook<'_> {
    /// Runs it, for at most the time that `config` has and until `deadline`, or until
    /// `stop` is readable.
    pub(super) fn run(
        &self,
        config: &Config,
        deadline: Instant,
        stop: Option<BorrowedFd<'_>>,
    ) -> (Result<(), HookError>, HookRun) {
        let started = Instant::now();
        let program = find::trusted(self.path);
        let action = self.occasion.action(program.as_deref().ok());
        let deadline = deadline.min(started + config.time_limit);
        let result = program.and_then(|program| {
            self.run_program(&program, action, config, (started, deadline), stop)
        });
        let run = HookRun {
            name: name(self.path).into_owned(),
            action,
            took: started.elapsed(),
            failure: result.as_ref().err().map(|error| display_chain(error)),
        };
        (result, run)
    }

    fn run_program(
        &self,
        program: &Path,
        action: &'static str,
        config: &Config,
        (started, deadline): (Instant, Instant),
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<(), HookError> {
        // Rounded up: no hook is told that it has no time.
        let left = deadline.saturating_duration_since(started) + Duration::from_millis(999);
        let seconds = left.as_secs().to_string();
        let freeze_seconds = config.freeze_limit.as_secs().to_string();
        let mut variables = vec![
            ("HYPERV_AGENT_ACTION", action),
            ("HYPERV_AGENT_TIME_LIMIT", &seconds),
            ("HYPERV_AGENT_FREEZE_TIME_LIMIT", &freeze_seconds),
        ];
        if let Occasion::EndReason(end) = self.occasion {
            variables.push(("HYPERV_AGENT_REASON", end.reason()));
        }
        let result = run(program, &[OsStr::new(action)], &variables, deadline, stop);
        result
            .and_then(|output| {
                self.log_output(&output);
                output.success(program)
            })
            .map_err(|source| HookError::Failed {
                hook: name(self.path).into_owned(),
                action,
                source,
            })?;
        info!(
            self.log,
            "hook {}: done with {} in {:.3} s",
            name(self.path),
            action,
            started.elapsed().as_secs_f64()
        );
        Ok(())
    }

    fn log_output(&self, output: &Output) {
        let name = name(self.path);
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
                info!(self.log, #PROGRAM_OUTPUT, "hook {}: {}", name, line);
            }
            if lines.next().is_some() {
                info!(self.log, #PROGRAM_OUTPUT, "hook {}: more lines, left out", name);
            }
        }
    }
}

/// What a hook is called.
pub(super) fn name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_comment_declares_what_a_hook_knows() {
        for text in [
            "#!/bin/sh\n# hyperv-agent: freeze-failed\n",
            "#!/bin/sh\n#hyperv-agent: freeze-failed \r\n",
            "#!/usr/bin/lua\n-- hyperv-agent: freeze-failed",
            "#!/usr/bin/env node\n// hyperv-agent: freeze-failed\n",
        ] {
            assert!(declares(text.as_bytes()), "{text:?}");
        }
        for text in [
            "",
            "#!/bin/sh\ncase $1 in freeze-failed) ;; esac\n",
            "# no hyperv-agent: freeze-failed\n",
            "# hyperv-agent: freeze-failed, not\n",
        ] {
            assert!(!declares(text.as_bytes()), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_head_panics(head in "(?s)[# /*;-]{0,4}(hyperv-agent: freeze-failed)?.{0,80}") {
            let declared = head.lines().any(|line| line.contains(DECLARATION));
            prop_assert!(declared || !declares(head.as_bytes()));
            declares(&head.bytes().rev().collect::<Vec<_>>());
        }
    }
}
