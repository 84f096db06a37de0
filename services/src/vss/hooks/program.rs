//! Runs one hook and logs its output.

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

/// How many lines of a hook's standard output, and of its standard error, are logged.
const MAX_LINES: usize = 10;

/// How many characters of such a line are logged.
const MAX_LINE: usize = 300;

/// How many bytes at the beginning of a hook may have its declaration.
const HEAD: u64 = 4096;

/// The comment by which a hook declares that it supports the argument `freeze-failed`.
const DECLARATION: &str = "hyperv-agent: freeze-failed";

/// When hooks are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Before a freeze.
    PreFreeze,
    /// After a thaw, or after a freeze that failed.
    PostThaw(EndReason),
}

impl Phase {
    /// Returns the argument for the hook `program`. One that was written for another agent
    /// supports `freeze` and `thaw` only.
    fn action(self, program: Option<&Path>) -> &'static str {
        match self {
            Self::PreFreeze => "freeze",
            Self::PostThaw(EndReason::FreezeFailed)
                if program.is_some_and(supports_freeze_failed) =>
            {
                "freeze-failed"
            }
            Self::PostThaw(_) => "thaw",
        }
    }
}

/// Why a freeze ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The host asked for the thaw.
    Thawed,
    /// A hook or a file system failed: nothing was frozen.
    FreezeFailed,
    /// The time limit was reached.
    TimeLimit,
    /// The device is gone or refused a reply, or the agent or its guard ended.
    Interrupted,
    /// The agent was killed and started again.
    AgentRestarted,
}

impl EndReason {
    /// Returns the reason in the environment of a hook.
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

/// Returns whether the hook declares that it supports `freeze-failed`.
fn supports_freeze_failed(program: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(program).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    read.is_ok() && declares(&head)
}

/// Returns whether a line is the declaration and nothing else, whatever the comment sign.
fn declares(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    text.lines().any(|line| {
        let words = line.trim_start_matches(|sign: char| !sign.is_alphanumeric());
        words.trim_end() == DECLARATION
    })
}

/// A hook that is about to be run.
pub(super) struct Hook<'a> {
    pub(super) path: &'a Path,
    pub(super) phase: Phase,
    pub(super) log: &'a Logger,
}

impl Hook<'_> {
    /// Runs the hook until it ends, for at most the time limit of `config`, until
    /// `deadline`, or until `stop` is readable.
    pub(super) fn run(
        &self,
        config: &Config,
        deadline: Instant,
        stop: Option<BorrowedFd<'_>>,
    ) -> (Result<(), HookError>, HookRun) {
        let started = Instant::now();
        let program = find::trusted(self.path);
        let action = self.phase.action(program.as_deref().ok());
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
        // Rounded up, so that no hook gets a limit of zero.
        let left = deadline.saturating_duration_since(started) + Duration::from_millis(999);
        let seconds = left.as_secs().to_string();
        let freeze_seconds = config.freeze_limit.as_secs().to_string();
        let mut variables = vec![
            ("HYPERV_AGENT_ACTION", action),
            ("HYPERV_AGENT_TIME_LIMIT", &seconds),
            ("HYPERV_AGENT_FREEZE_TIME_LIMIT", &freeze_seconds),
        ];
        if let Phase::PostThaw(end) = self.phase {
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
            let lines = text.lines().map(str::trim_end);
            let mut lines = lines.filter(|line| !line.is_empty());
            for line in lines.by_ref().take(MAX_LINES) {
                // Output of the hook must not look like a record of the agent.
                let line = line.replace(char::is_control, " ");
                let line: String = line.chars().take(MAX_LINE).collect();
                info!(self.log, #PROGRAM_OUTPUT, "hook {}: {}", name, line);
            }
            if lines.next().is_some() {
                info!(self.log, #PROGRAM_OUTPUT, "hook {}: further lines are omitted", name);
            }
        }
    }
}

/// Returns the name of a hook.
pub(super) fn name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_comment_declares_what_a_hook_supports() {
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
