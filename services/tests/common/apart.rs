//! Tests that change the machine: each runs itself once more, in a separate
//! process with private namespaces.

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::{self, Command};

/// The environment variable with the argument of the separate process.
const TOLD: &str = "HYPERV_TEST_APART";

/// How that process ends where the machine lacks something: the last line that it
/// prints says what.
const SKIPPED: i32 = 77;

/// Returns the argument of this process; `None` if it is not the separate one.
pub fn told() -> Option<OsString> {
    env::var_os(TOLD)
}

/// Runs the test of this name in a separate process, with namespaces by these options of
/// `unshare` and with this argument.
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
    let output_text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(SKIPPED) {
        return hyperv_needs::skip(errors.lines().last().unwrap_or_default());
    }
    assert!(
        output_text.contains("test result: ok. 1 passed"),
        "{test} in private namespaces: {}, {output_text}\n{errors}",
        output.status,
    );
}

/// Ends the separate process, and skips the test.
pub fn skip(why: &str) -> ! {
    assert!(told().is_some(), "this is not the separate process: {why}");
    eprintln!("{why}");
    process::exit(SKIPPED)
}

/// Returns a command for a program of the machine, to be run in the separate process. If it
/// is missing, the test is skipped.
pub fn program(name: &str) -> Command {
    hyperv_needs::program(name).unwrap_or_else(|why| skip(&why))
}
