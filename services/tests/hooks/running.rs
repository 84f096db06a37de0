//! How hooks are run, and what becomes of those that fail.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use hyperv_services::stop::Stop;
use hyperv_services::vss::hooks::{EndReason, HookStep, OnFailure, PendingHooks, run_pre_freeze};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, test_kill_process};

use crate::directory::{Hooks, LONG, in_words, mode, soon};

/// So long that all hooks are ended at once.
const AT_ONCE: Duration = Duration::from_secs(6);

/// A hook that fails with `freeze` only.
const FAILS: &str = "[ \"$1\" != freeze ] || { echo it is busy >&2; exit 3; }";

/// One that hangs with `freeze` only.
const HANGS: &str = "[ \"$1\" != freeze ] || { echo waiting; sleep 1000; }";

/// The declaration of a hook that it knows `freeze-failed`.
const KNOWS: &str = "# hyperv-agent: freeze-failed";

#[test]
fn hooks_are_run_in_order_and_ended_in_reverse() {
    let hooks = Hooks::new();
    for name in ["3", "1", "2"] {
        hooks.add(name, "");
    }
    let ran = hooks.freeze().unwrap();
    assert_eq!(ran.paths(), ["1", "2", "3"].map(|name| hooks.path(name)));
    assert_eq!(hooks.journal(), ["1 freeze", "2 freeze", "3 freeze"]);
    ran.run_post_thaw(EndReason::Thawed, LONG, &hooks.log.logger());
    assert_eq!(hooks.journal()[3..], ["3 thaw", "2 thaw", "1 thaw"]);
    assert!(hooks.log.of("WARN").is_empty());
}

#[test]
fn each_hook_is_recorded_before_it_is_started() {
    let hooks = Hooks::new();
    hooks.add("1", "");
    hooks.add("2", "");
    let noted = |step: HookStep<'_>| {
        let HookStep::Starts(paths) = step else {
            return;
        };
        let mut journal = File::options()
            .create(true)
            .append(true)
            .open(hooks.beside("journal"))
            .unwrap();
        let last = paths.last().unwrap().file_name().unwrap();
        writeln!(journal, "{} noted {}", paths.len(), last.to_string_lossy()).unwrap();
    };
    drop(run_pre_freeze(&hooks.config, soon(), None, noted, &hooks.log.logger()).unwrap());
    assert_eq!(
        hooks.journal(),
        ["1 noted 1", "1 freeze", "2 noted 2", "2 freeze"]
    );
}

#[test]
fn a_failing_hook_stops_the_freeze() {
    let hooks = Hooks::new();
    hooks.add("1", "");
    hooks.add("2", FAILS);
    hooks.add("3", "");
    let error = in_words(&hooks.freeze().unwrap_err());
    assert_eq!(
        error,
        format!(
            "hook 2 failed at freeze: {} failed (exit status: 3), saying \"it is \
             busy\"",
            fs::canonicalize(hooks.path("2")).unwrap().display()
        )
    );
    let expected = ["1 freeze", "2 freeze", "2 thaw", "1 thaw"];
    assert_eq!(hooks.journal(), expected);
}

#[test]
fn a_hook_that_declares_it_is_told_of_a_failure_by_its_argument() {
    let hooks = Hooks::new();
    hooks.add("1", &format!("echo \"$HYPERV_AGENT_REASON\"\n{KNOWS}"));
    hooks.add("2", "echo \"$HYPERV_AGENT_REASON\"");
    hooks.add("3", &format!("{KNOWS}\n{FAILS}"));
    hooks.freeze().unwrap_err();
    let ended = ["3 freeze-failed", "2 thaw", "1 freeze-failed"];
    assert_eq!(hooks.journal()[3..], ended);
    for hook in ["1", "2"] {
        let line = format!("INFO hook {hook}: freeze-failed");
        assert!(hooks.log.lines().contains(&line), "{:?}", hooks.log.lines());
    }
    // All else is a thaw to both.
    hooks.add("3", "");
    let ran = hooks.freeze().unwrap();
    ran.run_post_thaw(EndReason::TimeLimit, LONG, &hooks.log.logger());
    let journal = hooks.journal();
    assert_eq!(journal[journal.len() - 3..], ["3 thaw", "2 thaw", "1 thaw"]);
}

#[test]
fn a_hook_that_cannot_be_started_stops_the_freeze() {
    let hooks = Hooks::new();
    hooks.add("1", "");
    Hooks::text(&hooks.path("2"), "echo\n");
    hooks.add("3", "");
    let noted = RefCell::new(Vec::new());
    let note = |step: HookStep<'_>| {
        if let HookStep::Starts(paths) = step {
            noted.borrow_mut().push(paths.to_vec());
        }
    };
    let log = hooks.log.logger();
    let error = in_words(&run_pre_freeze(&hooks.config, soon(), None, note, &log).unwrap_err());
    assert!(error.starts_with("hook 2 failed at freeze: "), "{error}");
    assert!(error.ends_with("like #!/bin/sh"), "{error}");
    // It has nothing to undo, and the next agent has nothing to tell it.
    assert_eq!(hooks.journal(), ["1 freeze", "1 thaw"]);
    assert_eq!(noted.into_inner().last().unwrap(), &[hooks.path("1")]);
    assert!(hooks.log.of("WARN").is_empty(), "{:?}", hooks.log.lines());
}

#[test]
fn where_the_freeze_goes_on_what_was_not_started_is_not_ended() {
    let mut hooks = Hooks::new();
    hooks.config.on_failure = OnFailure::GoOn;
    hooks.add("1", "");
    Hooks::text(&hooks.path("2"), "echo\n");
    hooks.add("3", "");
    let ran = hooks.freeze().unwrap();
    assert_eq!(ran.paths(), ["1", "3"].map(|name| hooks.path(name)));
    assert_eq!(hooks.log.of("WARN").len(), 1, "{:?}", hooks.log.lines());
    ran.run_post_thaw(EndReason::Thawed, LONG, &hooks.log.logger());
    assert_eq!(
        hooks.journal(),
        ["1 freeze", "3 freeze", "3 thaw", "1 thaw"]
    );
    assert_eq!(hooks.log.of("WARN").len(), 1, "{:?}", hooks.log.lines());
}

#[test]
fn where_the_freeze_goes_on_a_failure_is_a_warning() {
    let mut hooks = Hooks::new();
    hooks.config.on_failure = OnFailure::GoOn;
    hooks.add("1", FAILS);
    hooks.add("2", "");
    let ran = hooks.freeze().unwrap();
    let warnings = hooks.log.of("WARN");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("hook 1 failed"));
    // Whatever it did before it failed is undone.
    assert_eq!(ran.paths(), ["1", "2"].map(|name| hooks.path(name)));
    ran.run_post_thaw(EndReason::Thawed, LONG, &hooks.log.logger());
    assert_eq!(
        hooks.journal(),
        ["1 freeze", "2 freeze", "2 thaw", "1 thaw"]
    );
}

#[test]
fn a_hook_that_hangs_is_killed_with_its_children() {
    let mut hooks = Hooks::new();
    hooks.config.time_limit = Duration::from_secs(5);
    let child = hooks.beside("child");
    hooks.add(
        "1",
        &format!(
            "[ \"$1\" = freeze ] || exit 0
             echo no way >&2
             sleep 1000 & echo $! >'{}'
             wait",
            child.display()
        ),
    );
    let error = in_words(&hooks.freeze().unwrap_err());
    assert!(
        error.ends_with("timed out and was killed, saying \"no way\""),
        "{error}"
    );
    assert_eq!(hooks.journal(), ["1 freeze", "1 thaw"]);
    let child = fs::read_to_string(child).unwrap().trim().parse().unwrap();
    let child = Pid::from_raw(child).unwrap();
    let stat = format!("/proc/{}/stat", child.as_raw_nonzero());
    let end = Instant::now() + LONG;
    while test_kill_process(child).is_ok()
        && fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "))
    {
        assert!(Instant::now() < end, "{child:?} still runs");
        thread::yield_now();
    }
}

#[test]
fn the_deadline_stops_a_freeze_that_goes_on_after_failures() {
    let mut hooks = Hooks::new();
    hooks.config.on_failure = OnFailure::GoOn;
    hooks.add("1", HANGS);
    hooks.add("2", "");
    let deadline = Instant::now() + Duration::from_secs(5);
    let error = in_words(&hooks.freeze_by(deadline).unwrap_err());
    assert!(error.contains("hook 1 failed"), "{error}");
    assert!(error.ends_with("saying \"waiting\""), "{error}");
    assert_eq!(hooks.journal(), ["1 freeze", "1 thaw"]);
}

#[test]
fn the_others_are_ended_when_one_fails_or_hangs_then() {
    let mut hooks = Hooks::new();
    hooks.config.time_limit = Duration::from_secs(5);
    hooks.add("1", "");
    hooks.add("2", "[ \"$1\" = freeze ] || { echo no way; exit 1; }");
    hooks.add("3", "[ \"$1\" = freeze ] || sleep 1000");
    let ran = hooks.freeze().unwrap();
    ran.run_post_thaw(EndReason::Thawed, LONG, &hooks.log.logger());
    assert_eq!(hooks.journal()[3..], ["3 thaw", "2 thaw", "1 thaw"]);
    let warnings = hooks.log.of("WARN");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("hook 3 failed at thaw"));
    assert!(warnings[1].contains("hook 2 failed at thaw"));
    assert!(warnings[1].contains("no way"));
}

#[test]
fn when_time_is_short_the_rest_is_ended_side_by_side() {
    let hooks = Hooks::new();
    let there = hooks.beside("there");
    hooks.add(
        "1",
        &format!("[ \"$1\" = freeze ] || touch '{}'", there.display()),
    );
    hooks.add("2", "");
    let waits = "[ \"$1\" = freeze ] || until [ -e 'THERE' ]; do sleep 0.01; done";
    hooks.add("3", &waits.replace("THERE", there.to_str().unwrap()));
    let ran = hooks.freeze().unwrap();
    ran.run_post_thaw(EndReason::Thawed, AT_ONCE, &hooks.log.logger());
    let mut ended = hooks.journal()[3..].to_vec();
    ended.sort();
    assert_eq!(ended, ["1 thaw", "2 thaw", "3 thaw"]);
    assert_eq!(hooks.log.of("WARN"), Vec::<String>::new());
}

#[test]
fn one_that_cannot_be_killed_is_abandoned() {
    let hooks = Hooks::new();
    hooks.add("1", "");
    // Whoever looks into it waits for a writer.
    let (pipe, mode) = (hooks.path("2"), Mode::from_raw_mode(0o755));
    mknodat(CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
    let ran = PendingHooks::from_paths(&hooks.config, vec![hooks.path("1"), pipe]);
    ran.run_post_thaw(EndReason::FreezeFailed, AT_ONCE, &hooks.log.logger());
    assert_eq!(hooks.journal(), ["1 thaw"]);
    let warnings = hooks.log.of("WARN");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("/2 cannot be killed"), "{warnings:?}");
}

#[test]
fn a_service_that_is_to_end_waits_for_no_hook() {
    let mut hooks = Hooks::new();
    hooks.config.on_failure = OnFailure::GoOn;
    hooks.add("1", HANGS);
    hooks.add("2", "");
    let stop = Stop::new().unwrap();
    stop.signal();
    let (config, stop, log) = (&hooks.config, Some(stop.as_fd()), hooks.log.logger());
    let error = in_words(&run_pre_freeze(config, soon(), stop, |_| (), &log).unwrap_err());
    assert!(
        error.ends_with("was killed because the agent is stopping"),
        "{error}"
    );
    assert_eq!(hooks.journal().last().unwrap(), "1 thaw");
}

#[test]
fn hooks_are_told_what_is_happening() {
    let mut hooks = Hooks::new();
    let seen = hooks.beside("seen");
    hooks.add(
        "1",
        &format!("env | grep HYPERV_AGENT | sort >'{}'", seen.display()),
    );
    let limits = "HYPERV_AGENT_FREEZE_TIME_LIMIT=77";
    hooks.config.time_limit = LONG / 2;
    let each = &format!("HYPERV_AGENT_TIME_LIMIT={}", LONG.as_secs() / 2);
    let lines = || {
        let text = fs::read_to_string(&seen).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let ran = hooks.freeze().unwrap();
    assert_eq!(lines(), ["HYPERV_AGENT_ACTION=freeze", limits, each]);
    drop(ran);

    for (end, action, reason) in [
        (EndReason::Thawed, "thaw", "thawed"),
        (EndReason::FreezeFailed, "thaw", "freeze-failed"),
        (EndReason::TimeLimit, "thaw", "time-limit"),
        (EndReason::Interrupted, "thaw", "interrupted"),
        (EndReason::AgentRestarted, "thaw", "agent-restarted"),
    ] {
        let ran = PendingHooks::from_paths(&hooks.config, vec![hooks.path("1")]);
        ran.run_post_thaw(end, LONG, &hooks.log.logger());
        let action_line = format!("HYPERV_AGENT_ACTION={action}");
        let reason_line = format!("HYPERV_AGENT_REASON={reason}");
        assert_eq!(lines(), [&action_line, limits, &reason_line, each]);
        assert_eq!(hooks.journal().last().unwrap(), &format!("1 {action}"));
    }
}

#[test]
fn what_hooks_say_is_logged_line_by_line() {
    let hooks = Hooks::new();
    hooks.add(
        "10-db",
        "printf 'one\\n\\n  two\\033[1m\\t \\n'; echo three >&2; printf four",
    );
    drop(hooks.freeze().unwrap());
    let lines = hooks.log.lines();
    assert_eq!(
        lines[..4],
        [
            "INFO hook 10-db: one",
            "INFO hook 10-db:   two [1m",
            "INFO hook 10-db: four",
            "INFO hook 10-db: three"
        ]
    );
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(lines[4].starts_with("INFO hook 10-db: done with freeze in "));
}

#[test]
fn a_hook_that_talks_without_end_is_cut_short() {
    let hooks = Hooks::new();
    hooks.add("1", "seq 100000; head -c 1000 /dev/zero | tr '\\0' x >&2");
    drop(hooks.freeze().unwrap());
    let lines = hooks.log.lines();
    assert_eq!(lines.len(), 10 + 1 + 1 + 1, "{lines:?}");
    assert_eq!(lines[9], "INFO hook 1: 10");
    assert_eq!(lines[10], "INFO hook 1: further lines are omitted");
    assert_eq!(lines[11], format!("INFO hook 1: {}", "x".repeat(300)));
}

#[test]
fn a_link_is_run_as_what_it_leads_to_and_called_by_its_own_name() {
    let hooks = Hooks::new();
    let target = hooks.beside("target");
    hooks.script(&target, "target", "echo \"$0\"; echo no >&2; exit 1");
    hooks.link("hook", &target);
    let error = in_words(&hooks.freeze().unwrap_err());
    assert!(error.starts_with("hook hook failed"), "{error}");
    let target = fs::canonicalize(target).unwrap();
    assert_eq!(
        hooks.log.lines()[0],
        format!("INFO hook hook: {}", target.display())
    );
}

#[test]
fn hooks_of_an_agent_before_this_one_are_ended() {
    let hooks = Hooks::new();
    hooks.add("1", "");
    hooks.add("2", "");
    hooks.add("3", "");
    // One was deinstalled, one is no longer to be trusted.
    fs::remove_file(hooks.path("2")).unwrap();
    mode(&hooks.path("3"), 0o777);
    let paths = ["1", "2", "3"].map(|name| hooks.path(name)).to_vec();
    let ran = PendingHooks::from_paths(&hooks.config, paths);
    ran.run_post_thaw(EndReason::AgentRestarted, LONG, &hooks.log.logger());
    assert_eq!(hooks.journal(), ["1 thaw"]);
    let warnings = hooks.log.of("WARN");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("/3 will not be run"));
    assert!(warnings[1].contains("/2 will not be run"));
}

#[test]
fn what_a_hook_leaves_running_lives_on() {
    let hooks = Hooks::new();
    let left = hooks.beside("left");
    hooks.add("1", &format!("sleep 1000 & echo $! >'{}'", left.display()));
    drop(hooks.freeze().unwrap());
    let left = fs::read_to_string(left).unwrap().trim().parse().unwrap();
    let left = Pid::from_raw(left).unwrap();
    test_kill_process(left).unwrap();
    rustix::process::kill_process(left, rustix::process::Signal::KILL).unwrap();
}
