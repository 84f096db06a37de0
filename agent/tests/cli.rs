//! The command line of the binary, as a person types it. What needs a host is
//! tested in `tests/`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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
    assert!(said.contains("is valid"), "{said}");
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
        return hyperv_needs::skip("this machine is a Hyper-V guest");
    }
    for arguments in [&["run"][..], &["run", "--daemon"], &["devices"]] {
        let output = agent(arguments);
        assert_eq!(output.status.code(), Some(77), "{arguments:?}");
        let said = stderr(&output);
        assert!(said.contains("is not a Hyper-V guest"), "{said}");
    }
}

/// `hyperv-agent kvp` on the pools of a directory.
fn kvp(directory: &Path, arguments: &[&str]) -> Output {
    let directory = ["--directory", directory.to_str().unwrap()];
    agent(&[&["kvp"], arguments, &directory].concat())
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
        (&["set", &key, "v"][..], "key of 255 UTF-16 units"),
        (&["set", "k", &value], "value of 1023 UTF-16 units"),
        (&["set", &wide_key, "v"], "key of 513 bytes"),
        (&["set", "k", &wide_value], "value of 2049 bytes"),
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
        let said = stderr(&output);
        assert!(said.contains(".kvp_pool_1"), "{said}");
        assert!(said.contains("run this as root"), "{said}");
    }
    // Reading needs no more than permission to read.
    fs::set_permissions(&pool, Permissions::from_mode(0o444)).unwrap();
    if nix::unistd::geteuid().is_root() {
        assert_eq!(stdout(&nobody(&["get", "key"])), "value\n");
    }
}

/// A runtime directory, and a configuration that has it.
fn runtime_directory() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    let line = format!("runtime-directory = {:?}\n", directory.path());
    fs::write(&config, line).unwrap();
    (directory, config.into_os_string().into_string().unwrap())
}

#[test]
fn where_no_agent_runs_the_status_says_how_to_start_one() {
    let (directory, config) = runtime_directory();
    let asked = || {
        for arguments in [
            &["status", "--config", &config][..],
            &["status", "--json", "--config", &config],
            &["vss", "rehearse", "--config", &config],
        ] {
            let output = agent(arguments);
            assert_eq!(output.status.code(), Some(3), "{arguments:?}");
            let said = stderr(&output);
            assert!(said.contains("no agent is running"), "{said}");
            assert!(said.contains("systemctl start hyperv-agent"), "{said}");
            assert!(output.stdout.is_empty());
        }
    };
    asked();
    // What a killed agent leaves.
    for name in ["control", "request"] {
        drop(UnixListener::bind(directory.path().join(name)).unwrap());
    }
    asked();
}

/// An agent that answers a rehearsal with these lines.
fn rehearsal_answered(lines: &'static str, options: &[&str]) -> std::process::Output {
    use std::io::{BufRead, BufReader, Write};

    let (directory, config) = runtime_directory();
    let listener = UnixListener::bind(directory.path().join("request")).unwrap();
    let answers = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut request = String::new();
        BufReader::new(&client).read_line(&mut request).unwrap();
        client.write_all(lines.as_bytes()).unwrap();
        request
    });
    let output = agent(&[&["vss", "rehearse", "--config", &config], options].concat());
    let request: serde_json::Value = serde_json::from_str(&answers.join().unwrap()).unwrap();
    let expected = serde_json::json!({
        "version": 1, "request": "vss-rehearse", "hold": 3, "hooks_only": true,
    });
    assert_eq!(request, expected);
    output
}

const RESULT: &str = r#"{"progress":"at it"}
{"result":{"kind":"hooks-only","began":"2026-03-04T03:00:12Z","frozen_usec":null,"file_systems":0,"mount_points":[],"hooks":[],"more_hooks":0,"outcome":"consistent","reason":null}}
"#;

#[test]
fn a_rehearsal_is_told_as_it_goes() {
    let options = ["--hold", "3", "--hooks-only"];
    let output = rehearsal_answered(RESULT, &options);
    assert_eq!(stdout(&output), "at it\nsuccess\n");
    assert!(output.status.success());
    let output = rehearsal_answered(RESULT, &[&options[..], &["--json"]].concat());
    let told: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(told["kind"], "hooks-only");

    let output = rehearsal_answered("{\"error\":\"not now\"}\n", &options);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "hyperv-agent: not now\n");
    let output = rehearsal_answered("{\"progress\":\"at it\"}\n", &options);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("incomplete answer"), "{output:?}");

    let output = agent(&["vss", "rehearse", "--hold", "61"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn who_may_not_ask_is_told_to_be_root() {
    const NOBODY: u32 = 65534;
    if !nix::unistd::geteuid().is_root() {
        return hyperv_needs::skip("only root can run a program as somebody else");
    }
    let (directory, config) = runtime_directory();
    let open = |mode| Permissions::from_mode(mode);
    fs::set_permissions(directory.path(), open(0o755)).unwrap();
    let control = directory.path().join("control");
    let _listener = UnixListener::bind(&control).unwrap();
    fs::set_permissions(&control, open(0o600)).unwrap();
    let program = copy_for_others(directory.path());
    let output = Command::new(program)
        .args(["status", "--config", &config])
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("run this as root"), "{said}");
}

#[test]
fn an_agent_of_another_version_can_still_be_asked_for_json() {
    use std::io::Write;

    let (directory, config) = runtime_directory();
    let listener = UnixListener::bind(directory.path().join("control")).unwrap();
    let answers = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut client, _) = listener.accept().unwrap();
            client.write_all(b"{\"version\": 99}").unwrap();
        }
    });
    let output = agent(&["status", "--json", "--config", &config]);
    assert_eq!(stdout(&output), "{\"version\": 99}\n");
    let output = agent(&["status", "--config", &config]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("of another version"), "{output:?}");
    answers.join().unwrap();
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
    let said = stdout(&output);
    assert!(
        said.starts_with("No file system would be frozen.\n"),
        "{said}"
    );

    fs::write(config, "[vss.exclude]\ntype = []\n").unwrap();
    let output = agent(&["vss", "plan", "--config", config]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("line 2"));
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
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("belongs to user 65534"), "{said}");
    assert!(!said.contains("run this as root"), "{said}");
    assert!(!directory.exists());
}
