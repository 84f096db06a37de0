//! Tells the agent what it was built from, for `--version`.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Names the commit where there is no repository, as in a distribution's build.
const COMMIT: &str = "HYPERV_AGENT_COMMIT";

/// Letters of a commit that are shown.
const LEN: usize = 12;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={COMMIT}");
    let mut details = Vec::new();
    if let Some(mut commit) = commit() {
        commit.truncate(LEN);
        details.push(format!("commit {commit}"));
    }
    let syslog = if cfg!(feature = "syslog") { '+' } else { '-' };
    details.push(format!("{syslog}syslog"));
    println!(
        "cargo::rustc-env=HYPERV_AGENT_VERSION={} ({})",
        env!("CARGO_PKG_VERSION"),
        details.join(", ")
    );
}

fn commit() -> Option<String> {
    let named = env::var(COMMIT).ok();
    named
        .or_else(of_package)
        .or_else(of_repository)
        .map(|commit| commit.trim().to_owned())
        .filter(|commit| !commit.is_empty() && commit.bytes().all(|it| it.is_ascii_hexdigit()))
}

/// The commit that a package of crates.io was made from.
fn of_package() -> Option<String> {
    let text = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    rest.split('"').nth(1).map(str::to_owned)
}

/// The commit that is checked out. A debug build names none: each commit would compile the
/// agent, and all that is made of it, again.
fn of_repository() -> Option<String> {
    // Not of a repository that holds this one's sources among others.
    if !Path::new("../.git").exists() || env::var("PROFILE").as_deref() != Ok("release") {
        return None;
    }
    // It changes with what is checked out. A file that is missing would count as changed.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
