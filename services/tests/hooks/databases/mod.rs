//! The examples of hooks with the real servers of Debian's packages: what is in
//! the image of a frozen file system.
//!
//! A test runs itself again inside namespaces, which `MACHINE` says. The servers
//! keep their data on file systems that the test made there.

mod client;
mod disk;
mod mariadb;
mod postgresql;
mod redis;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use hyperv_services::vss::hooks::{Config, OnFailure};

use crate::directory::{LONG, Lines};

fn test(name: &str, inside: fn()) {
    if env::var_os("MACHINE").is_some() {
        inside();
    } else if let Err(why) = outside(name) {
        hyperv_needs::skip(&why);
    }
}

/// Says why the namespaces cannot be had.
fn outside(name: &str) -> Result<(), String> {
    hyperv_needs::namespaces(&["--mount", "--net"])?;
    let root = hyperv_needs::fetched("databases")?;
    let in_namespace = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hooks/in-namespace");
    let output = Command::new(in_namespace)
        .arg(root)
        .arg(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("databases::{name}")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn mariadb_is_whole_in_the_frozen_image() {
    test("mariadb_is_whole_in_the_frozen_image", mariadb::test);
}

#[test]
fn postgresql_is_whole_in_the_frozen_images() {
    test("postgresql_is_whole_in_the_frozen_images", postgresql::test);
}

#[test]
fn redis_has_every_write_in_the_frozen_image() {
    test("redis_has_every_write_in_the_frozen_image", redis::test);
}

/// A directory with one hook.
fn hooks(name: &str, text: &str) -> Config {
    let directory = Path::new("/etc/hyperv-agent/vss.d");
    fs::create_dir_all(directory).unwrap();
    hook(directory, name, text);
    Config {
        directory: directory.to_owned(),
        time_limit: Duration::from_secs(30),
        on_failure: OnFailure::Stop,
        freeze_limit: LONG,
    }
}

fn hook(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// The output of a program, which succeeds.
#[track_caller]
fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Waits for something to come true.
#[track_caller]
fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < end, "it did not come true that {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Fails where a hook was not content.
#[track_caller]
fn assert_no_warning(log: &Lines) {
    let lines = log.lines();
    assert!(log.of("WARN").is_empty(), "{lines:#?}");
}
