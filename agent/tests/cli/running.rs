//! Commands that ask the running agent.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::{agent, copy_for_others, stderr, stdout};

/// A runtime directory, and a configuration that has it.
pub(crate) fn runtime_directory() -> (tempfile::TempDir, String) {
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
            let errors = stderr(&output);
            assert!(errors.contains("no agent is running"), "{errors}");
            assert!(errors.contains("systemctl start hyperv-agent"), "{errors}");
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
    let result: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(result["kind"], "hooks-only");

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
    let errors = stderr(&output);
    assert!(errors.contains("run this as root"), "{errors}");
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
    let document: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let expected = serde_json::json!({"version": 99, "ip_configurations": []});
    assert_eq!(document, expected);
    let output = agent(&["status", "--config", &config]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("of another version"), "{output:?}");
    answers.join().unwrap();
}

/// Commands that help in trouble use what is valid, and the defaults are no guess for those
/// that write.
#[test]
fn a_wrong_configuration_keeps_nobody_from_the_status() {
    let (directory, config) = runtime_directory();
    let pools = directory.path().join("pools");
    let valid = fs::read_to_string(&config).unwrap();
    let pools_line = format!("[kvp]\ndirectory = {pools:?}\n");
    let wrong = "[fcopy]\nmode = \"0844\"\n";
    fs::write(&config, format!("{valid}{pools_line}{wrong}")).unwrap();
    let run = |arguments: &[&str]| agent(&[arguments, &["--config", &config]].concat());
    assert_eq!(run(&["status"]).status.code(), Some(3));
    for arguments in [
        &["kvp", "set", "key", "value"][..],
        &["kvp", "get", "key"],
        &["thaw"],
        &["generalize"],
    ] {
        let output = run(arguments);
        let errors = stderr(&output);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        assert!(errors.contains("mode = \"0844\""), "{errors}");
        assert!(errors.contains("the command continues"), "{errors}");
    }
    let before = fs::read(pools.join(".kvp_pool_1")).unwrap();

    // Which pools are meant is unknown.
    fs::write(&config, format!("{valid}oops\n{pools_line}")).unwrap();
    let errors = stderr(&run(&["status"]));
    assert!(errors.contains("no agent is running"), "{errors}");
    assert!(
        errors.contains(directory.path().to_str().unwrap()),
        "{errors}"
    );
    for arguments in [
        &["kvp", "set", "key", "other"][..],
        &["kvp", "delete", "key"],
        &["generalize", "--yes"],
    ] {
        let output = run(arguments);
        let errors = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        let words = "cannot be read, and its default may be wrong";
        assert!(errors.contains(words), "{errors}");
    }
    assert_eq!(fs::read(pools.join(".kvp_pool_1")).unwrap(), before);
    let missing = agent(&["status", "--config", "/nonexistent"]);
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn a_template_is_made_only_on_request_and_without_an_agent() {
    use hyperv_agent::runtime::RuntimeDirectory;

    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (config, pools) = (path("config.toml"), path("pools"));
    let [state, runtime] = ["state", "run"].map(path);
    let text = format!(
        "state-directory = {state:?}\nruntime-directory = {runtime:?}\n[kvp]\ndirectory = {pools:?}\n"
    );
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let set = ["kvp", "set", "Key", "value", "--config", config];
    assert!(agent(&set).status.success());
    let pool = pools.join(".kvp_pool_1");
    let before = fs::read(&pool).unwrap();
    let output = agent(&["generalize", "--config", config]);
    let shown = stdout(&output);
    for words in [
        "empty pool 1 (guest), records: 1\n",
        "Nothing was done: that takes --yes.",
        "/etc/machine-id",
    ] {
        assert!(output.status.success() && shown.contains(words), "{shown}");
    }

    let lock = RuntimeDirectory::open(&runtime).unwrap();
    lock.claim().unwrap();
    let output = agent(&["generalize", "--yes", "--config", config]);
    let errors = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("another hyperv-agent runs"), "{errors}");
    assert_eq!(fs::read(&pool).unwrap(), before);
}
