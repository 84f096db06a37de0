//! `hyperv-agent kvp`.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::{agent, copy_for_others, stderr, stdout};

/// `hyperv-agent kvp` on the pools of a directory.
fn kvp(directory: &Path, arguments: &[&str]) -> Output {
    let directory = ["--directory", directory.to_str().unwrap()];
    agent(&[&["kvp"], arguments, &directory].concat())
}

/// A record as a pool file has it.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut record = key.to_vec();
    record.resize(512, 0);
    record.extend(value);
    record.resize(2560, 0);
    record
}

#[test]
fn a_key_is_set_found_listed_and_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let pools = directory.path().join("hyperv");
    let output = kvp(&pools, &["set", "Role", "data base"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        fs::read(pools.join(".kvp_pool_1")).unwrap(),
        record(b"Role", b"data base")
    );
    assert!(
        kvp(&pools, &["set", "Name", "x", "--pool", "3"])
            .status
            .success()
    );

    let output = kvp(&pools, &["get", "Role"]);
    assert_eq!(stdout(&output), "data base\n");
    let output = kvp(&pools, &["get", "Role", "--json", "--pool", "guest"]);
    let item: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        item,
        serde_json::json!({"pool": 1, "name": "guest", "key": "Role", "value": "data base"})
    );

    let output = kvp(&pools, &["list"]);
    assert_eq!(
        stdout(&output),
        "pool 1 (guest)\n  Role  data base\n\npool 3 (auto-external)\n  Name  x\n"
    );
    let output = kvp(&pools, &["list", "--pool", "auto-external", "--json"]);
    let items: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        items,
        serde_json::json!([{"pool": 3, "name": "auto-external", "key": "Name", "value": "x"}])
    );

    assert!(kvp(&pools, &["delete", "Role"]).status.success());
    for gone in [&["get", "Role"][..], &["delete", "Role"]] {
        let output = kvp(&pools, gone);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(stdout(&output), "");
        assert!(stderr(&output).contains("no key \"Role\""));
    }
    assert_eq!(stdout(&kvp(&pools, &["list", "--pool", "1"])), "");
}

/// `hyperv-agent kvp` with a configuration whose pools are in `directory`.
fn configured(directory: &Path, text: &str, arguments: &[&str]) -> Output {
    let config = directory.join("config.toml");
    let pools = directory.join("pools");
    fs::write(&config, format!("[kvp]\ndirectory = {pools:?}\n{text}")).unwrap();
    let config = ["--config", config.to_str().unwrap()];
    agent(&[&["kvp"], arguments, &config].concat())
}

#[test]
fn facts_are_shown_as_the_host_gets_them() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let kvp = |arguments: &[&str]| configured(directory, "", arguments);
    // A record of the file, hidden by a fact, and another one.
    for (key, value) in [("OSBuildNumber", "old"), ("Other", "x")] {
        assert!(kvp(&["set", key, value, "--pool", "auto"]).status.success());
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(stdout(&kvp(&["get", "OSBuildNumber"])), release);
    assert_eq!(stdout(&kvp(&["get", "Other"])), "x\n");
    let output = kvp(&["list", "--pool", "auto", "--json"]);
    let items: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let items = items.as_array().unwrap();
    let keys: Vec<_> = items.iter().map(|item| &item["key"]).collect();
    let facts = hyperv_services::kvp::facts::KEYS;
    assert_eq!(keys[..facts.len()], facts);
    assert_eq!(keys[facts.len()..], ["Other"]);
    assert!(items.iter().all(|item| item["pool"] == 2));
    assert!(items.iter().any(|item| item["value"] == release.trim()));
    // Nothing but what the host may read is shown.
    let hidden = "host = { facts = [\"OSName\"] }\n";
    let output = configured(directory, hidden, &["get", "OSBuildNumber"]);
    assert_eq!(stdout(&output), "\n");
}

#[test]
fn a_wrong_directory_is_named() {
    let place = tempfile::tempdir().unwrap();
    let missing = place.path().join("missing");
    for arguments in [&["list"][..], &["get", "k"], &["delete", "k"]] {
        let output = kvp(&missing, arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        let errors = stderr(&output);
        assert!(errors.contains("missing is not a directory"), "{errors}");
    }
    for arguments in [&["list"][..], &["get", "k"]] {
        let output = kvp(place.path(), arguments);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        let errors = stderr(&output);
        assert!(errors.contains("has no pools"), "{errors}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn what_the_host_says_is_found_before_what_the_guest_says() {
    let directory = tempfile::tempdir().unwrap();
    let pools = directory.path();
    for (number, pool) in [
        "external",
        "guest",
        "auto",
        "auto-external",
        "auto-internal",
    ]
    .into_iter()
    .enumerate()
    {
        let number = number.to_string();
        assert!(
            kvp(pools, &["set", "key", &number, "--pool", pool])
                .status
                .success()
        );
    }
    for pool in ["0", "3", "1", "2", "4"] {
        assert_eq!(stdout(&kvp(pools, &["get", "key"])), format!("{pool}\n"));
        assert_eq!(
            stdout(&kvp(pools, &["get", "key", "--pool", pool])),
            format!("{pool}\n")
        );
        assert!(
            kvp(pools, &["delete", "key", "--pool", pool])
                .status
                .success()
        );
    }
    assert_eq!(kvp(pools, &["get", "key"]).status.code(), Some(1));
}

#[test]
fn a_list_for_people_is_escaped_and_everything_else_is_exact() {
    let directory = tempfile::tempdir().unwrap();
    let pool = directory.path().join(".kvp_pool_0");
    fs::write(&pool, record(b"k\x1b[2J", b"a\nb\x1b]0;x\x07\xff")).unwrap();
    let output = kvp(directory.path(), &["list"]);
    assert_eq!(
        stdout(&output),
        "pool 0 (external)\n  k\\u{1b}[2J  a\\nb\\u{1b}]0;x\\u{7}\u{fffd}\n"
    );
    let value = "a\nb\u{1b}]0;x\u{7}\u{fffd}";
    let output = kvp(directory.path(), &["get", "k\u{1b}[2J"]);
    assert_eq!(stdout(&output), format!("{value}\n"));
    let output = kvp(directory.path(), &["list", "--json"]);
    let items: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(items[0]["value"], value);
    let output = kvp(directory.path(), &["get", "no\u{1b}[2J"]);
    assert!(!stderr(&output).contains('\u{1b}'));
}

#[test]
fn a_value_is_read_from_standard_input() {
    let directory = tempfile::tempdir().unwrap();
    for (given, value) in [("two\nlines\n", "two\nlines"), ("-", "-"), ("", "")] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hyperv-agent"))
            .args(["kvp", "set", "key", "-", "--directory"])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(given.as_bytes()).unwrap();
        drop(stdin);
        assert!(child.wait().unwrap().success());
        let pool = fs::read(directory.path().join(".kvp_pool_1")).unwrap();
        assert_eq!(pool, record(b"key", value.as_bytes()));
    }
}

#[test]
fn what_a_pool_cannot_have_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (key, value) = ("k".repeat(255), "v".repeat(1023));
    let (wide_key, wide_value) = ("語".repeat(171), "語".repeat(683));
    for (arguments, words) in [
        (&["set", &key, "v"][..], "key is too long: 255 UTF-16 units"),
        (
            &["set", "k", &value],
            "value is too long: 1023 UTF-16 units",
        ),
        (&["set", &wide_key, "v"], "key is too long: 513 bytes"),
        (&["set", "k", &wide_value], "value is too long: 2049 bytes"),
        (&["set", "", "v"], "empty"),
        (&["delete", ""], "empty"),
        (&["set", "k", "v", "--pool", "5"], "auto-external"),
        (&["get", "k", "--pool", "host"], "0 to 4"),
    ] {
        let output = kvp(directory.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let output = agent(&["kvp", "list", "--config", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn who_may_not_read_a_pool_is_told_what_to_do() {
    // Root may read everything, so another user asks, from a place that it can
    // reach.
    let directory = tempfile::tempdir().unwrap();
    let program = copy_for_others(directory.path());
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let pool = directory.path().join(".kvp_pool_1");
    fs::write(&pool, record(b"key", b"value")).unwrap();
    fs::set_permissions(&pool, Permissions::from_mode(0o600)).unwrap();
    let nobody = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command
            .arg("kvp")
            .args(arguments)
            .arg("--directory")
            .arg(directory.path());
        if nix::unistd::geteuid().is_root() {
            command.uid(65534).gid(65534);
        } else {
            fs::set_permissions(&pool, Permissions::from_mode(0o000)).unwrap();
        }
        command.output().unwrap()
    };
    for arguments in [&["list"][..], &["set", "key", "new"]] {
        let output = nobody(arguments);
        assert_eq!(output.status.code(), Some(3));
        let errors = stderr(&output);
        assert!(errors.contains(".kvp_pool_1"), "{errors}");
        assert!(errors.contains("run this as root"), "{errors}");
    }
    // Reading needs no more than permission to read.
    fs::set_permissions(&pool, Permissions::from_mode(0o444)).unwrap();
    if nix::unistd::geteuid().is_root() {
        assert_eq!(stdout(&nobody(&["get", "key"])), "value\n");
    }
}

#[test]
fn root_is_not_told_to_be_root() {
    if !rustix::process::geteuid().is_root() {
        return hyperv_needs::skip("only root can give a directory to another user");
    }
    let place = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(place.path(), Some(65534), None).unwrap();
    let directory = place.path().join("pools");
    let output = Command::new(env!("CARGO_BIN_EXE_hyperv-agent"))
        .args(["kvp", "set", "a", "1", "--directory"])
        .arg(&directory)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("belongs to user 65534"), "{errors}");
    assert!(!errors.contains("run this as root"), "{errors}");
    assert!(!directory.exists());
}

/// `hyperv-agent kvp ip` with an empty state.
fn ip(directory: &Path, arguments: &[&str]) -> Output {
    let config = directory.join("config.toml");
    let (state, run) = (directory.join("state"), directory.join("run"));
    let text = format!("state-directory = {state:?}\nruntime-directory = {run:?}\n");
    fs::write(&config, text).unwrap();
    let config = ["--config", config.to_str().unwrap()];
    agent(&[&["kvp", "ip"], arguments, &config].concat())
}

#[test]
fn an_interface_is_shown_with_what_the_host_would_get_and_set() {
    let directory = tempfile::tempdir().unwrap();
    let ip = |arguments: &[&str]| ip(directory.path(), arguments);
    let shown = stdout(&ip(&["lo"]));
    for words in [
        "  the host is told nothing: it has no MAC address\n",
        "  a configuration of the host is refused: it is not an adapter of the host\n",
    ] {
        assert!(
            shown.starts_with("lo\n") && shown.contains(words),
            "{shown}"
        );
    }
    let json: serde_json::Value = serde_json::from_str(&stdout(&ip(&["lo", "--json"]))).unwrap();
    assert_eq!(json[0]["interface"], "lo");
    assert_eq!(json[0]["target"]["manager"], serde_json::Value::Null);
    assert_eq!(json[0]["configured"], serde_json::Value::Null);
    assert_eq!(json[0]["undo"], serde_json::json!([]));
}

#[test]
fn what_cannot_be_shown_tried_or_undone_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, status, words) in [
        (&["none0"][..], 1, "no interface has the name"),
        (&["lo", "--dry-run"], 1, "lo is not an adapter of the host"),
        (&["lo", "--dhcp"], 2, "--dry-run"),
        (
            &["lo", "--dry-run", "--family", "ipx"],
            2,
            "ipv4, ipv6, both",
        ),
        (
            &["lo", "--dry-run", "--address", "10.0.0.5"],
            2,
            "such as 10.0.0.5/24",
        ),
        (
            &["lo", "--dry-run", "--address", "10.0.0.5/255.255.255.0"],
            2,
            "such as 10.0.0.5/24",
        ),
        (
            &["lo", "--dry-run", "--address", "10.0.0.5/33"],
            2,
            "such as 10.0.0.5/24",
        ),
        (&["lo", "--dry-run", "--gateway", "x"], 2, "IP address"),
        (&["lo", "--dry-run", "--dns", "::1;::2"], 2, "IP address"),
        (&["undo"], 1, "the host has configured no interface"),
        (&["undo", "lo"], 1, "nothing on lo or any other interface"),
        (&["undo", "../x"], 1, "nothing on ../x"),
    ] {
        let output = ip(directory.path(), arguments);
        let errors = stderr(&output);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}: {errors}"
        );
        assert!(errors.contains(words), "{arguments:?}: {errors}");
    }
    // Whether or not this machine has adapters: no list of them is empty.
    let errors = stderr(&ip(directory.path(), &["--dry-run"]));
    assert!(
        !errors.is_empty() && !errors.trim_end().ends_with(':'),
        "{errors}"
    );
    assert!(!directory.path().join("state").exists());
}

#[test]
fn who_may_not_read_what_the_host_has_configured_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let program = copy_for_others(directory.path());
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let state = directory.path().join("state");
    fs::create_dir_all(state.join("network-undo/eth0")).unwrap();
    let config = directory.path().join("config.toml");
    fs::write(&config, format!("state-directory = {state:?}\n")).unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o000)).unwrap();
    for (arguments, status, words) in [
        (&["kvp", "ip", "undo"][..], 1, "run this as root"),
        (&["kvp", "ip", "undo", "eth0"], 1, "run this as root"),
        (&["generalize"], 1, "run this as root"),
        (&["kvp", "ip", "lo"], 0, "is not shown"),
    ] {
        let mut command = Command::new(&program);
        command.args(arguments).arg("--config").arg(&config);
        if nix::unistd::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        let output = command.output().unwrap();
        let errors = stderr(&output);
        assert_eq!(
            output.status.code(),
            Some(status),
            "{arguments:?}: {errors}"
        );
        let denied = "network-undo: Permission denied";
        assert!(
            errors.contains(words) && errors.contains(denied),
            "{arguments:?}: {errors}"
        );
    }
    fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
}
