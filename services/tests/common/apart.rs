//! Tests that change the machine: each runs itself once more, in a process that
//! has namespaces of its own.

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::{self, Command};

/// What the process is told that runs a test once more.
const TOLD: &str = "HYPERV_TEST_APART";

/// How that process ends where the machine lacks something: the last line that it
/// says is what.
const SKIPPED: i32 = 77;

/// What this process was told; `None` where it is not the one apart.
pub fn told() -> Option<OsString> {
    env::var_os(TOLD)
}

/// Runs the test of this name in a process of its own, with namespaces by these
/// options of `unshare`, and tells it something.
#[track_caller]
pub fn run(test: &str, namespaces: &[&str], tell: impl AsRef<OsStr>) {
    let mut unshare = match hyperv_needs::namespaces(namespaces) {
        Ok(unshare) => unshare,
        Err(why) => return hyperv_needs::skip(&why),
    };
    let output = unshare
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(TOLD, tell)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(SKIPPED) {
        return hyperv_needs::skip(errors.lines().last().unwrap_or_default());
    }
    assert!(
        said.contains("test result: ok. 1 passed"),
        "{test} in namespaces of its own: {}, {said}\n{errors}",
        output.status,
    );
}

/// Ends the process apart, and has the test skipped.
pub fn skip(why: &str) -> ! {
    assert!(told().is_some(), "this is not the process apart: {why}");
    eprintln!("{why}");
    process::exit(SKIPPED)
}

/// A program of the machine, to be run in the process apart. Where it is missing,
/// the test is skipped.
pub fn program(name: &str) -> Command {
    hyperv_needs::program(name).unwrap_or_else(|why| skip(&why))
}
