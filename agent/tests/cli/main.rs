//! The command line of the binary, as a person types it. What needs a host is
//! tested in `tests/`.

#![expect(clippy::unwrap_used)]

mod capture;
mod kvp;
mod output;
mod running;
mod status;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hyperv_services::registry::SERVICES;

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hyperv-agent"))
        .args(arguments)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The program in a directory that others may reach, as the build's own may not
/// be. Another process makes the copy: were it open for writing here, a child
/// that another test starts could keep it so, and nobody could run it.
fn copy_for_others(directory: &Path) -> PathBuf {
    let program = directory.join("hyperv-agent");
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_hyperv-agent"))
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    program
}

/// `path`'s text, given to `hyperv-agent check-config`.
fn check(text: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, text).unwrap();
    agent(&["check-config", "--config", path.to_str().unwrap()])
}

#[test]
fn help_names_every_service_and_shows_examples() {
    let help = stdout(&agent(&["--help"]));
    assert!(help.contains("Examples:"), "{help}");
    let help = stdout(&agent(&["run", "--help"]));
    for entry in SERVICES {
        assert!(help.contains(entry.name), "{help}");
        assert!(help.contains(entry.summary), "{help}");
    }
    let version = stdout(&agent(&["--version"]));
    let number = format!("hyperv-agent {} (", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(&number), "{version}");
    let syslog = if cfg!(feature = "syslog") {
        "+syslog)\n"
    } else {
        "-syslog)\n"
    };
    assert!(version.ends_with(syslog), "{version}");
}

#[test]
fn a_flag_that_is_wrong_is_a_usage_error_that_says_so() {
    for (arguments, words) in [
        (&["run", "--enable", "fcpy"][..], "fcopy"),
        (&["run", "--log-level", "loud"], "warning"),
        (&["run", "--daemon", "--no-daemon"], "cannot be used with"),
        (
            &["run", "--enable", "fcopy", "--disable", "fcopy"],
            "both enabled and disabled",
        ),
        (&["run", "--config", "/nonexistent"], "/nonexistent"),
        (
            &["check-config", "--config", "/nonexistent"],
            "/nonexistent",
        ),
    ] {
        let output = agent(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[test]
fn a_configuration_is_checked_with_the_line_that_is_wrong() {
    let output = check("[services]\nkvp = true\n");
    assert!(output.status.success());
    let text = stdout(&output);
    assert!(text.contains("is valid"), "{text}");
    assert!(text.contains("kvp      on"), "{text}");

    let output = check("[fcopy]\nmode = \"0844\"\n");
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("line 2"), "{text}");
    assert!(text.contains("mode = \"0844\""), "{text}");
}

#[test]
fn what_is_no_hyperv_guest_is_told_so() {
    if Path::new("/sys/bus/vmbus").exists() || Path::new("/dev/vmbus").exists() {
        return hyperv_needs::skip("this machine is a Hyper-V guest");
    }
    for arguments in [&["run"][..], &["run", "--daemon"], &["devices"]] {
        let output = agent(arguments);
        assert_eq!(output.status.code(), Some(77), "{arguments:?}");
        let text = stderr(&output);
        assert!(text.contains("is not a Hyper-V guest"), "{text}");
    }
}

/// The machine that runs the tests may have any finding.
#[test]
fn the_doctor_works_without_an_agent_and_with_a_wrong_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, "[kvp]\nmode = \"0844\"\n").unwrap();
    let config = ["--config", path.to_str().unwrap()];
    let run = |options: &[&str]| agent(&[&["doctor"][..], options, &config].concat());
    let output = run(&[]);
    let text = stdout(&output);
    assert!(text.contains("error: configuration: invalid"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(matches!(output.status.code(), Some(1 | 77)), "{output:?}");
    let verbose = stdout(&run(&["-v"]));
    let json: serde_json::Value = serde_json::from_str(&stdout(&run(&["--json"]))).unwrap();
    let checks = json["checks"].as_array().unwrap();
    let names: Vec<_> = hyperv_agent::doctor::names().collect();
    assert_eq!(checks.len(), names.len());
    for (check, name) in checks.iter().zip(names) {
        assert_eq!(check["name"], name);
        assert!(
            verbose.contains(check["question"].as_str().unwrap()),
            "{name}"
        );
    }
    assert_eq!(json["result"], "error");
}

/// Nothing is frozen by it: it may look at the machine that runs the tests.
#[test]
fn every_file_system_is_in_the_plan_once() {
    let output = agent(&["vss", "plan", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let plan: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let list = |name: &str| plan[name].as_array().unwrap().clone();
    let planned = [list("freeze"), list("left_out")].concat();
    let number = |it: &serde_json::Value| it["number"].as_str().unwrap().to_owned();
    let mut planned: Vec<_> = planned.iter().map(number).collect();
    planned.sort();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().map(|line| line.split(' ').nth(2).unwrap());
    let mounted: std::collections::BTreeSet<_> = mounts.collect();
    assert_eq!(planned, Vec::from_iter(mounted));

    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    fs::write(&config, "[vss.exclude]\ntypes = [\"*\"]\n").unwrap();
    let config = config.to_str().unwrap();
    let output = agent(&["vss", "plan", "--config", config]);
    let text = stdout(&output);
    assert!(
        text.starts_with("No file system would be frozen.\n"),
        "{text}"
    );

    fs::write(config, "[vss.exclude]\ntype = []\n").unwrap();
    let output = agent(&["vss", "plan", "--config", config]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("line 2"));
}
