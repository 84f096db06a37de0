//! What is written about the command line and the configuration is true: completions,
//! manual pages, the commands in `docs`, and the messages that they quote.
//!
//! With `HYPERV_WRITE_COMPLETIONS=1` the completions are written, not compared.

#![expect(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::Command;
use clap_complete::Shell;

/// The files that the shells look for.
const COMPLETIONS: [(Shell, &str, &str); 3] = [
    (Shell::Bash, "bash", "hyperv-agent"),
    (Shell::Zsh, "zsh", "_hyperv-agent"),
    (Shell::Fish, "fish", "hyperv-agent.fish"),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

/// The command line, with the options that clap adds.
fn grammar() -> Command {
    let mut grammar = hyperv_agent::cli::grammar();
    grammar.build();
    grammar
}

/// Calls `look` for each command that is not hidden, with the words that lead to it.
fn each_command(command: &Command, words: &str, look: &mut impl FnMut(&str, &Command)) {
    look(words, command);
    for below in command.get_subcommands() {
        if !below.is_hide_set() && below.get_name() != "help" {
            let words = format!("{words} {}", below.get_name());
            each_command(below, words.trim_start(), look);
        }
    }
}

#[test]
fn the_completions_are_those_of_the_command_line() {
    for (shell, shell_name, name) in COMPLETIONS {
        let mut text = Vec::new();
        let mut grammar = hyperv_agent::cli::grammar();
        clap_complete::generate(shell, &mut grammar, "hyperv-agent", &mut text);
        let path = repository().join("packaging/completions").join(name);
        if std::env::var_os("HYPERV_WRITE_COMPLETIONS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
        }
        assert!(
            fs::read(&path).is_ok_and(|written| written == text),
            "{} is not up to date: run HYPERV_WRITE_COMPLETIONS=1 cargo test -p hyperv-sim \
             --test command_line",
            path.display()
        );
        if hyperv_needs::program(shell_name).is_ok() {
            let checked = Process::new(shell_name)
                .arg("-n")
                .arg(&path)
                .output()
                .unwrap();
            let errors = String::from_utf8_lossy(&checked.stderr);
            assert!(checked.status.success(), "{}: {errors}", path.display());
        }
    }
}

/// A manual page as words: without macros, escapes and punctuation of mdoc.
fn words_of(page: &str) -> String {
    let words = page.replace("\\&", "").replace("Fl Fl ", "--");
    let words = words.lines().flat_map(str::split_whitespace);
    let words = words.filter(|word| !["Ar", "Ns", "Op", "Pq", "Cm", "Fl", "|", ","].contains(word));
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn the_manual_page_has_every_command_and_option() {
    let page = read("packaging/man/hyperv-agent.8");
    let page = words_of(&page);
    let mut missing = BTreeSet::new();
    each_command(&grammar(), "", &mut |words, command| {
        // `kvp list | get` in the synopsis, and a heading of its own for each.
        let heads = page.contains(&format!(".It {words}")) || command.has_subcommands();
        if !words.is_empty() && !heads {
            missing.insert(words.to_owned());
        }
        for option in command
            .get_arguments()
            .filter(|option| !option.is_hide_set())
        {
            if let Some(long) = option.get_long() {
                let long = format!("--{long}");
                if !page.split(' ').any(|word| word == long) {
                    missing.insert(long);
                }
            }
        }
    });
    assert!(missing.is_empty(), "not in hyperv-agent.8: {missing:#?}");
}

/// Tables and keys of `config.toml`, also those that are commented out, each with its value.
fn keys() -> Vec<(String, String, String)> {
    let mut table = String::new();
    let mut keys = Vec::new();
    for line in read("packaging/config.toml").lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_end_matches(']').to_owned();
        }
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some((key, value)) = line.split_once(" = ") {
            if !key.is_empty() && !key.contains([' ', '"']) {
                keys.push((table.clone(), key.to_owned(), value.to_owned()));
            }
        }
    }
    keys
}

/// The sections of the manual page of the configuration, by table.
fn section_of(page: &str, table: &str) -> String {
    let sections = page.split("\n.Ss ").skip(1);
    let mut sections = sections.filter(|section| {
        let heading = section.lines().next().unwrap_or_default();
        match table {
            "" => heading == "Before the first table",
            table => heading.split(' ').any(|word| word == table),
        }
    });
    let section = sections.next();
    section
        .unwrap_or_else(|| panic!("hyperv-agent.toml.5 has no section for [{table}]"))
        .split("\n.Sh ")
        .next()
        .unwrap()
        .to_owned()
}

#[test]
fn the_manual_page_has_every_key_and_its_default() {
    let page = read("packaging/man/hyperv-agent.toml.5");
    let keys = keys();
    assert!(keys.len() > 25, "{keys:?}");
    let mut faults = Vec::new();
    for (table, key, value) in &keys {
        let section = section_of(&page, table);
        let item = section.split("\n.It Ic ").skip(1).find(|item| {
            let heading = item.lines().next().unwrap_or_default();
            heading.split([' ', ',']).any(|word| word == key)
        });
        let Some(item) = item else {
            faults.push(format!("[{table}] {key} is missing"));
            continue;
        };
        if key.ends_with("-limit") && !item.contains("econds") {
            faults.push(format!("[{table}] {key}: the unit is missing"));
        }
        // A number or a text; lists are described in words.
        let value = value.trim_matches('"');
        let plain = value.parse::<u32>().is_ok() || ["true", "false"].contains(&value);
        if plain && !item.contains(value) {
            faults.push(format!("[{table}] {key}: the default {value} is missing"));
        }
    }
    // And the other way round.
    for table in [
        "",
        "fcopy",
        "kvp",
        "kvp.host",
        "kvp.network",
        "vss",
        "vss.hooks",
    ] {
        for item in section_of(&page, table).split("\n.It Ic ").skip(1) {
            let key = item.split([' ', '\n']).next().unwrap_or_default();
            if !keys.iter().any(|(of, it, _)| of == table && it == key) {
                faults.push(format!("[{table}] {key} is not in config.toml"));
            }
        }
    }
    assert!(faults.is_empty(), "hyperv-agent.toml.5: {faults:#?}");
}

/// The documents with commands for users.
fn documents() -> Vec<(String, String)> {
    let mut documents = vec![("README.md".to_owned(), read("README.md"))];
    for entry in fs::read_dir(repository().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".md") {
            let path = format!("docs/{name}");
            documents.push((path.clone(), read(&path)));
        }
    }
    documents
}

/// Calls of the agent in indented blocks and in spans of code, without comments and without
/// what follows a pipe.
fn calls(document: &str) -> Vec<Vec<String>> {
    let indented = document
        .lines()
        .filter(|line| line.starts_with("    ") && !line.trim_start().starts_with('|'));
    let spans = document.split('`').skip(1).step_by(2);
    let mut calls = Vec::new();
    for text in indented.chain(spans) {
        for part in text
            .split(" #")
            .next()
            .unwrap_or_default()
            .split(['|', '&', ';', '>'])
        {
            let part = part.trim();
            let part = part
                .strip_prefix("hyperv-agent ")
                .filter(|rest| !rest.is_empty());
            let words = part.and_then(|rest| shell_words::split(rest).ok());
            if let Some(words) = words {
                // `hyperv-agent in Debian`: not a call but words.
                calls.push(words);
            }
        }
    }
    calls
}

#[test]
fn the_commands_in_the_documents_exist() {
    let mut checked = 0;
    let mut faults = Vec::new();
    for (path, document) in documents() {
        for call in calls(&document) {
            checked += 1;
            let words = std::iter::once("hyperv-agent").chain(call.iter().map(String::as_str));
            // The group alone is named in texts.
            let group = call.len() == 1
                && grammar()
                    .find_subcommand(&call[0])
                    .is_some_and(Command::has_subcommands);
            match grammar().try_get_matches_from(words) {
                Err(error) if error.use_stderr() && !group => {
                    faults.push(format!("{path}: {}: {error}", call.join(" ")));
                }
                _ => {}
            }
        }
    }
    assert!(checked > 10, "only {checked} commands were found");
    assert!(faults.is_empty(), "no such commands: {faults:#?}");
}

/// The source of the agent, with strings that go on in the next line in one piece.
fn sources() -> String {
    fn collect(directory: &Path, source: &mut String) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, source);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                *source += &fs::read_to_string(path).unwrap();
            }
        }
    }
    let mut source = String::new();
    for part in ["agent/src", "services/src", "vmbus/src"] {
        collect(&repository().join(part), &mut source);
    }
    let mut lines = source.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |joined, line| joined + line.trim_start())
}

#[test]
fn the_messages_in_the_documents_are_those_of_the_agent() {
    let source = sources();
    let document = read("docs/troubleshooting.md");
    let messages: Vec<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
        .collect();
    assert!(messages.len() > 20, "{messages:?}");
    let unknown: Vec<&str> = messages
        .into_iter()
        .filter(|message| {
            let mut parts = message.split('…').map(str::trim);
            parts.any(|part| part.len() > 2 && !source.contains(part))
        })
        .collect();
    assert!(
        unknown.is_empty(),
        "not messages of the agent: {unknown:#?}"
    );
}
