//! Tests that change the machine: each runs itself once more, in a process that
//! has namespaces of its own.

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::Command;

use crate::skip::skip;

/// What the process is told that runs a test once more.
const TOLD: &str = "HYPERV_TEST_APART";

/// What this process was told; `None` where it is not the one apart.
pub fn told() -> Option<OsString> {
    env::var_os(TOLD)
}

/// Runs the test of this name in a process of its own, with namespaces by these
/// options of `unshare`, and tells it something.
#[track_caller]
pub fn run(test: &str, namespaces: &[&str], tell: impl AsRef<OsStr>) {
    if !rustix::process::geteuid().is_root() {
        return skip("namespaces of its own need root");
    }
    let output = Command::new("unshare")
        .args(namespaces)
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(TOLD, tell)
        .output()
        .expect("unshare, of util-linux");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("test result: ok. 1 passed"),
        "{test} in namespaces of its own: {}, {said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
