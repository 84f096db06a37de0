//! The command line of the binary, as a person types it. What needs a host is
//! tested in `tests/`.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
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
    assert_eq!(
        version,
        format!("hyperv-agent {}\n", env!("CARGO_PKG_VERSION"))
    );
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
    let said = stdout(&output);
    assert!(said.contains("is in order"), "{said}");
    assert!(said.contains("kvp      on"), "{said}");

    let output = check("[fcopy]\nmode = \"0844\"\n");
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("line 2"), "{said}");
    assert!(said.contains("mode = \"0844\""), "{said}");
}

#[test]
fn what_is_no_hyperv_guest_is_told_so() {
    if Path::new("/sys/bus/vmbus").exists() || Path::new("/dev/vmbus").exists() {
        println!("skipped: this machine is a Hyper-V guest");
        return;
    }
    for arguments in [&["run"][..], &["run", "--daemon"], &["devices"]] {
        let output = agent(arguments);
        assert_eq!(output.status.code(), Some(77), "{arguments:?}");
        let said = stderr(&output);
        assert!(said.contains("is not a Hyper-V guest"), "{said}");
    }
}
