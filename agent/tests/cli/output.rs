//! What holds for the output and the exit status of every command.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::running::runtime_directory;
use super::{agent, stderr, stdout};

/// Commands that print something and succeed, with a configuration that makes them.
fn commands(config: &str) -> Vec<Vec<&str>> {
    let with_config: [&[&str]; 6] = [
        &["check-config"],
        &["kvp", "list"],
        &["kvp", "list", "--json"],
        &["kvp", "get", "key"],
        &["vss", "plan", "--json"],
        &["thaw"],
    ];
    let mut commands: Vec<_> = with_config
        .iter()
        .map(|arguments| [*arguments, &["--config", config]].concat())
        .collect();
    commands.extend([vec!["--help"], vec!["--version"], vec!["kvp", "--help"]]);
    commands
}

fn start(arguments: &[&str], stdout: Stdio) -> Child {
    Command::new(env!("CARGO_BIN_EXE_hyperv-agent"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A configuration whose pools have a key, and whose agent is not running.
fn configuration() -> (tempfile::TempDir, String) {
    let (directory, config) = runtime_directory();
    let pools = directory.path().join("pools");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}[kvp]\ndirectory = {pools:?}\n")).unwrap();
    let set = agent(&["kvp", "set", "key", "value", "--config", &config]);
    assert!(set.status.success(), "{}", stderr(&set));
    (directory, config)
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let (_directory, config) = configuration();
    for arguments in commands(&config) {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let output = start(&arguments, OwnedFd::from(writer).into())
            .wait_with_output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(stderr(&output), "", "{arguments:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let (_directory, config) = configuration();
    for arguments in commands(&config) {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = start(&arguments, full.into()).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let message = stderr(&output);
        assert!(
            message.starts_with("hyperv-agent: cannot write to standard output: "),
            "{arguments:?}: {message}"
        );
    }
}

#[test]
fn a_status_that_nobody_reads_is_no_failure() {
    let (directory, config) = runtime_directory();
    let listener = UnixListener::bind(directory.path().join("control")).unwrap();
    let (reader, writer) = UnixStream::pair().unwrap();
    drop(reader);
    let arguments = ["status", "--json", "--config", &config];
    let child = start(&arguments, OwnedFd::from(writer).into());
    let (mut client, _) = listener.accept().unwrap();
    client.write_all(b"{}").unwrap();
    drop(client);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
}

#[test]
fn messages_have_no_control_characters() {
    let (directory, config) = configuration();
    let bad = directory.path().join("bad.toml");
    fs::write(&bad, "[fcopy]\nmode = \"\\u001b[2J\"\n").unwrap();
    let bad = bad.to_str().unwrap();
    let missing = "/nonexistent/\u{1b}[2J";
    for arguments in [
        &["check-config", "--config", bad][..],
        &["check-config", "--config", missing],
        &["status", "--config", missing],
        &["thaw", "--config", missing],
        &["vss", "plan", "--config", missing],
        &["vss", "rehearse", "--config", missing],
        &["kvp", "list", "--config", missing],
        &["kvp", "get", missing, "--config", &config],
    ] {
        let message = stderr(&agent(arguments));
        assert!(message.contains("\\u{1b}[2J"), "{arguments:?}: {message}");
        assert!(!message.contains('\u{1b}'), "{arguments:?}: {message}");
    }
}

/// Each command with each of its exit statuses that needs no host.
#[test]
fn exit_statuses_are_those_of_the_manual() {
    let (directory, config) = configuration();
    let not_a_directory = directory.path().join("config.toml");
    let not_a_directory = not_a_directory.to_str().unwrap();
    let missing = "/nonexistent/config.toml";
    let status = |arguments: &[&str], expected: i32| {
        let output = agent(arguments);
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}");
        expected
    };
    let mut seen = vec![
        status(&["kvp", "get", "key", "--config", &config], 0),
        status(&["kvp", "get", "other", "--config", &config], 1),
        status(&["kvp", "delete", "other", "--config", &config], 1),
        status(&["kvp", "list", "--directory", not_a_directory], 3),
        status(&["kvp", "set", "", "value", "--config", &config], 2),
        status(&["status", "--config", &config], 3),
        status(&["vss", "rehearse", "--config", &config], 3),
        status(&["reload", "--config", &config], 3),
        status(&["thaw", "--config", &config], 0),
    ];
    for arguments in [
        &["run"][..],
        &["check-config"],
        &["status"],
        &["thaw"],
        &["vss", "plan"],
        &["vss", "rehearse"],
        &["kvp", "list"],
    ] {
        seen.push(status(&[arguments, &["--config", missing]].concat(), 2));
        seen.push(status(&[arguments, &["--nonsense"]].concat(), 2));
    }
    seen.push(status(&["devices", "--nonsense"], 2));
    seen.push(status(&["doctor", "--nonsense"], 2));
    if !Path::new("/sys/bus/vmbus").exists() && !Path::new("/dev/vmbus").exists() {
        seen.push(status(&["devices"], 77));
    }

    let manual = packaged("man/hyperv-agent.8");
    let section = manual.split(".Sh EXIT STATUS").nth(1).unwrap();
    let section = section.split(".Sh ").next().unwrap();
    let documented: Vec<i32> = section
        .lines()
        .filter_map(|line| line.strip_prefix(".It ")?.parse().ok())
        .collect();
    assert_eq!(documented, [0, 1, 2, 3, 77]);
    assert!(seen.iter().all(|status| documented.contains(status)));
}

#[test]
fn the_manual_has_every_command_and_option() {
    let manual = packaged("man/hyperv-agent.8");
    for command in [
        &[][..],
        &["run"],
        &["check-config"],
        &["devices"],
        &["status"],
        &["doctor"],
        &["kvp", "list"],
        &["kvp", "get"],
        &["kvp", "set"],
        &["kvp", "delete"],
        &["vss", "plan"],
        &["vss", "rehearse"],
        &["thaw"],
    ] {
        let help = stdout(&agent(&[command, &["--help"]].concat()));
        if let Some(name) = command.last() {
            let tag = format!(".It Cm {}", command.join(" "));
            assert!(manual.contains(&tag), "no `{tag}` for {name}");
        }
        for option in help
            .split_whitespace()
            .filter_map(|it| it.strip_prefix("--"))
        {
            let name = option.trim_end_matches(|it: char| !it.is_ascii_alphanumeric());
            assert!(
                manual.contains(&format!("Fl Fl {name}")),
                "the manual lacks --{name}"
            );
        }
    }
}

#[test]
fn the_manual_has_every_check() {
    let manual = packaged("man/hyperv-agent.8");
    let section = manual.split(".Sh CHECKS").nth(1).unwrap();
    let section = section.split(".Sh ").next().unwrap();
    let documented = section.lines().filter_map(|it| it.strip_prefix(".It Cm "));
    assert!(documented.eq(hyperv_agent::doctor::names()));
}

#[test]
fn the_manual_has_every_table_and_key_of_the_configuration() {
    let manual = packaged("man/hyperv-agent.toml.5");
    let tables: String = manual
        .lines()
        .filter(|line| line.starts_with(".Ss "))
        .collect();
    for line in packaged("config.toml").lines() {
        let line = line.trim_start_matches('#');
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            assert!(tables.contains(table), "the manual lacks [{table}]");
        } else if let Some((key, _)) = line.split_once(" = ") {
            // Comments begin with a blank, and keys of [kvp.publish] with a quote.
            let is_key = key.starts_with(|it: char| it.is_ascii_alphabetic());
            let entry = format!(".It Ic {key} = ");
            assert!(!is_key || manual.contains(&entry), "the manual lacks {key}");
        }
    }
}

/// The text of a file of the package.
fn packaged(name: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    fs::read_to_string(directory.join(name)).unwrap()
}
