//! The forms in which `status` is shown, with an agent whose answers are given.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};
use std::thread;

use serde_json::{Value, json};

use super::running::runtime_directory;
use super::{agent, stderr, stdout};

fn document() -> Value {
    let service = |name: &str| {
        json!({
            "name": name, "summary": "what it does", "on": true, "requests": 7, "failures": 2,
            "devices_opened": 3, "device_failures": 1, "last_error": null, "last_backup": null,
            "operation": null,
            "devices": [{
                "node": "/dev/uio0", "instance": null, "transport": "uio", "state": "serving",
                "versions": null, "working": false, "operation": null,
            }],
        })
    };
    json!({
        "version": "1.\"2\\3\n", "pid": 1, "since": "2026-03-04T03:00:12Z",
        "services": [service("fcopy"), service("vss")],
        "suppressed": {"total": 4, "warnings": 0, "events": 0},
        "counters": {"fcopy": {"bytes": 4096}, "vss": {"freezes": 2, "frozen_usec": 1_500_000}},
        "failed_reload": null, "problems": [],
    })
}

/// Runs `status` with an agent that answers with this document.
fn status(document: &Value, option: &str) -> Output {
    let (directory, config) = runtime_directory();
    let listener = UnixListener::bind(directory.path().join("control")).unwrap();
    let text = document.to_string();
    let answers = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.write_all(text.as_bytes()).unwrap();
    });
    let output = agent(&["status", option, "--config", &config]);
    answers.join().unwrap();
    output
}

#[test]
fn openmetrics_has_what_is_counted() {
    let mut document = document();
    document["services"][1]["last_backup"] = json!({
        "kind": "backup", "began": "1970-01-01T00:01:00Z", "frozen_usec": null,
        "file_systems": 0, "mount_points": [], "hooks": [], "more_hooks": 0,
        "outcome": "failed", "reason": "no",
    });
    let output = status(&document, "--openmetrics");
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    for line in [
        r#"hyperv_agent_build_info{version="1.\"2\\3\n"} 1"#,
        r#"hyperv_agent_requests_total{service="fcopy",outcome="succeeded"} 5"#,
        r#"hyperv_agent_requests_total{service="fcopy",outcome="failed"} 2"#,
        r#"hyperv_agent_devices{service="vss",state="serving"} 1"#,
        r#"hyperv_agent_log_suppressed_total{service="agent"} 4"#,
        "# TYPE hyperv_agent_copied_bytes counter",
        "# UNIT hyperv_agent_copied_bytes bytes",
        "hyperv_agent_copied_bytes_total 4096",
        "hyperv_agent_frozen_seconds_total 1.5",
        r#"hyperv_agent_kvp_requests_total{operation="set_ip_info",outcome="failed"} 0"#,
        "hyperv_agent_last_backup_time_seconds 60",
        "hyperv_agent_last_backup_succeeded 0",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}: {text}");
    }
    assert!(text.ends_with("\n# EOF\n"));

    let parse = |parser: &str, text: &str| {
        let script = format!(
            "import sys\nfrom prometheus_client.{parser} import text_string_to_metric_families as p\n\
             print(len(list(p(sys.stdin.read()))))"
        );
        let mut python = Command::new("/usr/bin/python3")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Closed before the output is read.
        let mut stdin = python.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        python.wait_with_output().unwrap()
    };
    let probe = Command::new("/usr/bin/python3")
        .args(["-c", "import prometheus_client.openmetrics.parser"])
        .output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        return hyperv_needs::skip("install python3-prometheus-client");
    }
    // The second is what node_exporter reads.
    for parser in ["openmetrics.parser", "parser"] {
        let parsed = parse(parser, &text);
        assert!(parsed.status.success(), "{}: {text}", stderr(&parsed));
    }
    let wrong = text.replace("_copies_total", "_copies");
    assert!(!parse("openmetrics.parser", &wrong).status.success());
}

#[test]
fn a_check_exits_as_monitoring_plug_ins_do() {
    let well = document();
    let change = |change: fn(&mut Value)| {
        let mut document = well.clone();
        change(&mut document);
        document
    };
    let cases: [(Value, i32, &str); 6] = [
        (well.clone(), 0, "OK: services: 2, devices: 2"),
        (
            change(|it| {
                let failed = json!({"at": "2026-03-04T03:00:12Z", "text": "line 2:\nwrong"});
                it["failed_reload"] = failed;
            }),
            1,
            r"WARNING: the configuration was not reloaded: line 2:\nwrong",
        ),
        (
            change(|it| {
                it["services"][1]["last_backup"] = json!({
                    "kind": "backup", "began": "1970-01-01T00:01:00Z", "frozen_usec": null,
                    "file_systems": 0, "mount_points": [], "hooks": [], "more_hooks": 0,
                    "outcome": "inconsistent", "reason": "too late",
                });
            }),
            1,
            "WARNING: vss: the last backup is not consistent: too late",
        ),
        (
            change(|it| {
                it["failed_reload"] = json!({"at": "2026-03-04T03:00:12Z", "text": "wrong"});
                it["problems"] = json!(["fcopy: no driver"]);
            }),
            2,
            "CRITICAL: fcopy: no driver; the configuration was not reloaded: wrong",
        ),
        (
            change(|it| {
                let device = &mut it["services"][0]["devices"][0];
                device["state"] = json!("failed");
                device["failure"] = json!("busy");
                device["retry_in"] = json!(3);
            }),
            2,
            "CRITICAL: fcopy: /dev/uio0: busy",
        ),
        (
            change(|it| {
                it["services"][1]["devices"][0]["operation"] = json!({
                    "since": "2026-03-04T03:00:12Z", "kind": "freezing", "waits_for": "/srv",
                });
            }),
            2,
            "CRITICAL: vss: waiting for /srv, which does not answer",
        ),
    ];
    for (document, code, line) in cases {
        let output = status(&document, "--check");
        assert_eq!(stdout(&output), format!("hyperv-agent {line}\n"));
        assert_eq!(output.status.code(), Some(code), "{line}");
    }
    let (_directory, config) = runtime_directory();
    let output = agent(&["status", "--check", "--config", &config]);
    assert_eq!(output.status.code(), Some(2));
    let line = stdout(&output);
    assert!(
        line.starts_with("hyperv-agent CRITICAL: no agent is running"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1);
}

/// A pipe gets no control characters, and ends the command when nobody reads.
#[test]
fn the_status_is_shown_again_until_nobody_reads() {
    let (directory, config) = runtime_directory();
    let listener = UnixListener::bind(directory.path().join("control")).unwrap();
    let mut watch = Command::new(env!("CARGO_BIN_EXE_hyperv-agent"))
        .args(["status", "--config", &config, "--watch", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let answer = || {
        let (mut client, _) = listener.accept().unwrap();
        let text = document().to_string();
        client.write_all(text.as_bytes()).unwrap();
    };
    let mut shown = String::new();
    let mut reader = BufReader::new(watch.stdout.take().unwrap());
    for times in 1..=2 {
        answer();
        while shown.matches("\nvss: what it does").count() < times {
            assert_ne!(reader.read_line(&mut shown).unwrap(), 0, "{shown}");
        }
    }
    assert!(shown.starts_with("hyperv-agent 1."), "{shown}");
    assert!(!shown.contains('\x1b'), "{shown}");
    drop(reader);
    answer();
    assert!(watch.wait().unwrap().success());
    let output = agent(&["status", "--watch", "0"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_running_agent_says_whether_it_serves_a_service() {
    let mut document = document();
    document["services"][1]["on"] = json!(false);
    for (answer, service, expected) in [
        (document.to_string(), "fcopy", 0),
        (document.to_string(), "vss", 1),
        // Of another version: it may serve anything.
        ("{}".to_owned(), "vss", 0),
    ] {
        let (directory, config) = runtime_directory();
        let listener = UnixListener::bind(directory.path().join("control")).unwrap();
        let answers = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client.write_all(answer.as_bytes()).unwrap();
        });
        let output = agent(&["serves", service, "--config", &config]);
        answers.join().unwrap();
        assert_eq!(
            output.status.code(),
            Some(expected),
            "{service}: {output:?}"
        );
    }
}

#[test]
fn without_an_agent_the_configuration_says_whether_a_service_is_served() {
    let (directory, config) = runtime_directory();
    let serves = |lines: &str| {
        let text = format!("runtime-directory = {:?}\n{lines}", directory.path());
        std::fs::write(&config, text).unwrap();
        let output = agent(&["serves", "kvp", "--config", &config]);
        output.status.code()
    };
    assert_eq!(serves(""), Some(0));
    assert_eq!(serves("[services]\nkvp = false\n"), Some(1));
    assert_eq!(serves("[services]\nkvp = false\nwrong = 1\n"), Some(1));
    assert_eq!(serves("[services]\nkvp = \"no\"\n"), Some(0));
    // Only a clear no leaves the service to a stock daemon.
    std::fs::remove_file(&config).unwrap();
    let output = agent(&["serves", "kvp", "--config", &config]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(agent(&["serves", "none"]).status.code(), Some(2));
}
