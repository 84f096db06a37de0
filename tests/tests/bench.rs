//! The benchmarks run, and their results become the README's figures. What they measure is
//! no matter here: the agent is compared with itself, in one round.

#![expect(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use hyperv_needs::{program, skip};
use hyperv_sim::blackbox::{root_unavailable, unavailable};
use hyperv_sim::figures::{DIRECTORY, files};

use common::agent;

/// A copy of the README, without results.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    fs::copy(readme, place.path().join("README.md")).unwrap();
    fs::create_dir_all(place.path().join(DIRECTORY)).unwrap();
    place
}

/// Runs a benchmark; the README's selection finds its figures.
fn bench(name: &str, peer: &str, options: &[&str]) {
    let place = place();
    let agent = format!("'{}' run --log stderr", agent().display());
    let results = place.path().join(DIRECTORY).join(name);
    let picture = place.path().join("all.svg");
    let output = Command::new(env!("CARGO_BIN_EXE_hyperv-sim"))
        .args([
            "bench", name, "--rounds", "1", "--agent", &agent, peer, &agent,
        ])
        .args(options)
        .arg("--json")
        .arg(results.with_extension("json"))
        .arg("--svg")
        .arg(&picture)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(fs::read_to_string(picture).unwrap().ends_with("</svg>\n"));
    let made = files(place.path()).unwrap();
    let (_, readme) = made.last().unwrap();
    let picture = results.with_extension("svg");
    assert!(made.iter().any(|(path, _)| *path == picture), "{picture:?}");
    assert!(
        readme.contains(&format!("]({DIRECTORY}/{name}.svg)\n\n| | |")),
        "{readme}"
    );
}

#[test]
fn what_cannot_be_measured_is_refused_at_once() {
    if let Some(why) = unavailable() {
        return skip(&why);
    }
    let agent = format!("'{}' run --log stderr", agent().display());
    for (options, expected) in [
        (["fcopy", "--ring-size", "15"], "16 KiB"),
        (["slow-disk", "--ring-size", "0"], "16 KiB"),
        (["slow-disk", "--rate", "0"], "--rate"),
        (
            ["kvp", "--json", "/nonexistent/results"],
            "/nonexistent/results",
        ),
        (
            ["start", "--svg", "/nonexistent/picture"],
            "/nonexistent/picture",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_hyperv-sim"))
            .arg("bench")
            .args(options)
            .args(["--agent", &agent])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{options:?}");
        assert!(error.contains(expected), "{options:?}: {error}");
        assert!(output.stdout.is_empty(), "it was measured: {output:?}");
    }
}

#[test]
fn file_copy() {
    if let Some(why) = unavailable() {
        return skip(&why);
    }
    let few = [
        "--messages",
        "10",
        "--slow-messages",
        "2",
        "--ring-size",
        "16",
        "--idle",
        "0",
    ];
    bench("fcopy", "--peer", &few);
}

#[test]
fn key_value_pairs() {
    let why = unavailable().or_else(|| program("ip").err());
    if let Some(why) = why {
        return skip(&why);
    }
    let few = ["--requests", "4", "--records", "30", "--idle", "0"];
    bench("kvp", "--peer", &few);
}

#[test]
fn backups() {
    if let Some(why) = root_unavailable() {
        return skip(&why);
    }
    let few = [
        "--file-systems",
        "1",
        "--bind-mounts",
        "0",
        "--write-delay",
        "0",
        "--idle",
        "0",
    ];
    bench("vss", "--peer", &few);
}

#[test]
fn start() {
    if let Some(why) = root_unavailable() {
        return skip(&why);
    }
    bench("start", "--kvp", &[]);
}
