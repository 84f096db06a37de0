//! `docs/dependencies.md` has every crate in the agent's binary, and no other.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What the list has to say of a crate.
#[derive(Debug, Default, PartialEq, Eq)]
struct Crate {
    licence: String,
    taken_by: BTreeSet<String>,
}

/// The crates in the binary: what is only in the compiler's process, such as
/// derive macros and what those are made of, is not.
fn in_the_binary(root: &Path) -> BTreeMap<String, Crate> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "-p", "hyperv-agent"])
        .args(["-e", "normal", "--prefix", "depth", "-f", "|{p}|{l}"])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .current_dir(root)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    let mut crates = BTreeMap::<String, Crate>::new();
    let mut path: Vec<String> = Vec::new();
    let mut macro_at = None;
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let mut parts = line.trim_end_matches(" (*)").split('|');
        let mut part = || parts.next().expect(line);
        let (depth, package, licence) = (part(), part(), part());
        let depth: usize = depth.parse().unwrap();
        if macro_at.is_some_and(|at| depth > at) {
            continue;
        }
        macro_at = package.ends_with("(proc-macro)").then_some(depth);
        if macro_at.is_some() {
            continue;
        }
        let name = package.split(' ').next().unwrap().to_owned();
        path.truncate(depth);
        // The project's own are no dependencies.
        if !name.starts_with("hyperv-") {
            let known = crates.entry(name.clone()).or_default();
            known.licence = licence.replace('/', " OR ");
            known.taken_by.extend(path.last().cloned());
        }
        path.push(name);
    }
    crates
}

/// The rows of the list: crate, licence, who takes it, what for.
fn listed(text: &str) -> BTreeMap<String, Crate> {
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let crates = rows.map(|line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, licence, taken_by, what_for] = cells[..] else {
            panic!("not four cells: {line}");
        };
        assert!(!what_for.is_empty(), "says not what for: {line}");
        let known = Crate {
            licence: licence.to_owned(),
            taken_by: taken_by.split(", ").map(str::to_owned).collect(),
        };
        (name.trim_matches('`').to_owned(), known)
    });
    crates.collect()
}

#[test]
fn every_crate_in_the_binary_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("docs/dependencies.md")).unwrap();
    let (expected, listed) = (in_the_binary(root), listed(&text));
    let mut wrong = Vec::new();
    for (name, its) in &expected {
        if listed.get(name) != Some(its) {
            let taken_by: Vec<_> = its.taken_by.iter().map(String::as_str).collect();
            wrong.push(format!(
                "has no row | `{name}` | {} | {} | WHAT FOR |",
                its.licence,
                taken_by.join(", ")
            ));
        }
    }
    for name in listed.keys().filter(|name| !expected.contains_key(*name)) {
        wrong.push(format!("has a row of {name}, which is not in the binary"));
    }
    assert!(
        wrong.is_empty(),
        "docs/dependencies.md\n{}",
        wrong.join("\n")
    );
}

/// `packaging/sbom` finds the same crates another way, and a licence of each.
#[test]
fn the_bill_of_materials_has_every_crate_with_its_licence() {
    if let Err(why) = hyperv_needs::program("python3") {
        return hyperv_needs::skip(&why);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let out = tempfile::tempdir().unwrap();
    let sbom = |options: &[&str]| {
        Command::new("python3")
            .arg(root.join("packaging/sbom"))
            .args(options)
            .arg(out.path())
            .args(["--target", "x86_64-unknown-linux-gnu"])
            .env("CARGO_NET_OFFLINE", "true")
            .output()
            .unwrap()
    };
    let output = sbom(&[]);
    assert!(output.status.success(), "{output:?}");
    let output = sbom(&["--check"]);
    assert!(output.status.success(), "{output:?}");

    let file = out.path().join("THIRD-PARTY-LICENSES");
    let texts = fs::read_to_string(&file).unwrap();
    fs::write(&file, &texts[1..]).unwrap();
    assert!(!sbom(&["--check"]).status.success());
    let list = fs::read(out.path().join("hyperv-agent.spdx.json")).unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    let mut named = BTreeMap::new();
    for entry in list["packages"].as_array().unwrap() {
        let text = |key: &str| entry[key].as_str().unwrap().to_owned();
        if text("name").starts_with("hyperv-") {
            continue;
        }
        let ships = format!("\n{} {}: ", text("name"), text("versionInfo"));
        assert!(texts.contains(&ships), "no licence of {}", text("name"));
        named.insert(text("name"), text("licenseDeclared"));
    }
    let crates = in_the_binary(&root).into_iter();
    let crates: BTreeMap<_, _> = crates.map(|(name, it)| (name, it.licence)).collect();
    assert_eq!(named, crates);
}
