//! The agent: its configuration, its process, and what it leaves below `/run`.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;

use hyperv_services::registry::SERVICES;
use hyperv_services::trusted::open_directory;
use hyperv_services::vss::state_file;

use super::finding::Finding;
use super::machine::{Machine, UNIT, read};
use crate::config::ConfigError;
use crate::control_socket;
use crate::status::client::{StatusError, fetch};
use crate::status::{Document, State};

/// Capabilities that the agent needs, by number, and what fails without.
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (
        1,
        "CAP_DAC_OVERRIDE",
        "copies fail where root has no permission of its own",
    ),
    (12, "CAP_NET_ADMIN", "IP configurations may fail"),
    (21, "CAP_SYS_ADMIN", "no file system can be frozen"),
];

/// CAP_IPC_LOCK: the limit of locked memory does not apply.
const IPC_LOCK: u32 = 14;

/// How much memory the agent's guard must be able to lock, in bytes, at least.
const MIN_LOCKED: u64 = 64 << 20;

/// How many files the agent must be able to open at least: one for each file system and
/// some more.
const MIN_FILES: u64 = 1024;

/// Whether the configuration is valid and safe.
pub(super) fn configuration(machine: &Machine) -> Vec<Finding> {
    let path = machine.config_path.display();
    let mut findings = Vec::new();
    match &machine.config_error {
        Some(ConfigError::Unreadable { source, .. })
            if source.kind() == ErrorKind::PermissionDenied && !machine.is_root =>
        {
            findings.push(Finding::unchecked(
                format!("{path} cannot be read, so all checks use the defaults"),
                "run this as root",
            ));
        }
        Some(error) => findings.push(Finding::error(
            format!(
                "{error}\nThe agent does not start with it; the checks use its valid part, and \
                 the defaults for the rest."
            ),
            "correct the file; `hyperv-agent check-config` checks it",
        )),
        None if machine.services.is_empty() => findings.push(Finding::warning(
            "the configuration switches all services off",
            format!("switch those on that you need, in [services] of {path}"),
        )),
        None => {}
    }
    if let Ok(metadata) = machine.config_path.metadata() {
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o022 != 0 {
            findings.push(Finding::warning(
                format!("users other than the owner can write to {path} (mode {mode:04o})"),
                format!("`chmod go-w {path}`"),
            ));
        }
    }
    findings
}

/// Whether the agent runs, answers, and serves what it should.
pub(super) fn agent(machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    for process in machine.agents() {
        let link = machine.root.join(format!("proc/{}/exe", process.pid));
        let program = link.read_link().unwrap_or_default();
        if program.to_string_lossy().ends_with(" (deleted)") {
            findings.push(Finding::warning(
                format!(
                    "the agent (process {}) runs a program that was replaced since",
                    process.pid
                ),
                format!("`systemctl restart {UNIT}`, when no backup is in progress"),
            ));
        }
    }
    let socket = machine
        .config
        .environment
        .runtime_dir
        .join(control_socket::NAME);
    let document = match fetch(&socket) {
        Ok(text) => serde_json::from_str::<Document>(&text),
        // Elsewhere it need not run.
        Err(StatusError::NotRunning(_)) if !machine.is_hyperv_guest() => return findings,
        Err(StatusError::NotRunning(_)) => {
            findings.push(Finding::error(
                "the agent does not run",
                format!("`systemctl start {UNIT}`; `journalctl -b -u {UNIT}` says why it ended"),
            ));
            return findings;
        }
        Err(StatusError::Io { source, .. })
            if source.kind() == ErrorKind::PermissionDenied && !machine.is_root =>
        {
            findings.push(Finding::unchecked(
                "only root may ask the agent for its status",
                "run this as root",
            ));
            return findings;
        }
        Err(error) => {
            findings.push(Finding::error(
                format!("{:#}", anyhow::Error::from(error)),
                format!("`systemctl status {UNIT}`, and `systemctl restart {UNIT}`"),
            ));
            return findings;
        }
    };
    let version = env!("CARGO_PKG_VERSION");
    match document {
        Ok(document) => findings.extend(told(machine, &document, version)),
        Err(_) => findings.push(Finding::warning(
            format!("the running agent is of another version than this program ({version})"),
            format!("`systemctl restart {UNIT}`, when no backup is in progress"),
        )),
    }
    findings
}

/// What the agent itself says.
fn told(machine: &Machine, document: &Document, version: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if document.version != version {
        findings.push(Finding::warning(
            format!(
                "the running agent is version {}, and this program {version}",
                document.version
            ),
            format!("`systemctl restart {UNIT}`, when no backup is in progress"),
        ));
    }
    let problems = document.problems.iter();
    findings.extend(problems.map(|problem| {
        Finding::warning(
            format!("the agent says: {problem}"),
            "see `hyperv-agent status`",
        )
    }));
    for service in &document.services {
        for device in &service.devices {
            if let State::Failed {
                failure: Some(failure),
                ..
            } = &device.state
            {
                let finding = Finding::error(
                    format!("{}: {} failed: {failure}", service.name, device.node),
                    "see `hyperv-agent status`; the agent opens the device again by itself",
                );
                findings.push(finding.said());
            }
        }
        if service.failures > 0 {
            let last = service.last_error.as_ref();
            let last = last.map_or_else(String::new, |last| {
                let at = humantime::format_rfc3339_seconds(last.at);
                format!("; the last error, {at}: {}", last.text)
            });
            let finding = Finding::note(
                format!(
                    "{}: {} of {} requests of the host have failed since the agent was started{last}",
                    service.name, service.failures, service.requests
                ),
                "",
            );
            findings.push(finding.said());
        }
        let is_known = SERVICES.iter().any(|entry| entry.name == service.name);
        let configured = machine.is_on(&service.name);
        if is_known && machine.config_error.is_none() && service.on != configured {
            let word = |on| if on { "on" } else { "off" };
            findings.push(Finding::note(
                format!(
                    "{} is {} in the running agent, and {} in the configuration",
                    service.name,
                    word(service.on),
                    word(configured)
                ),
                format!(
                    "`systemctl reload {UNIT}`, unless an option of `run` (--enable, --disable) \
                     is meant"
                ),
            ));
        }
    }
    findings
}

/// Whether the running agent has the limits and capabilities that it needs.
pub(super) fn limits(machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    for process in machine.agents() {
        let pid = process.pid;
        let directory = machine.root.join(format!("proc/{pid}"));
        let (Some(limits), Some(status)) = (
            read(&directory.join("limits")),
            read(&directory.join("status")),
        ) else {
            findings.push(Finding::unchecked(
                format!("the limits of the agent (process {pid})"),
                "run this as root",
            ));
            continue;
        };
        let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let capabilities = capabilities.and_then(|it| u64::from_str_radix(it.trim(), 16).ok());
        let capabilities = capabilities.unwrap_or(u64::MAX);
        let has = |number: u32| capabilities & (1 << number) != 0;
        let low = |name: &str, least: u64| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
            // The hard limit; "unlimited" is no number.
            let limit: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
            (limit < least).then_some(limit)
        };
        if let Some(limit) = low("Max open files", MIN_FILES) {
            findings.push(Finding::warning(
                format!("the agent (process {pid}) can open {limit} files only"),
                format!("`systemctl edit {UNIT}`, and add [Service] and LimitNOFILE=524288"),
            ));
        }
        if !has(IPC_LOCK) && machine.is_on("vss") {
            if let Some(limit) = low("Max locked memory", MIN_LOCKED) {
                findings.push(Finding::warning(
                    format!(
                        "the agent (process {pid}) can lock {limit} bytes of memory only: its \
                         guard may wait for a frozen disk"
                    ),
                    format!("`systemctl edit {UNIT}`, and add [Service] and LimitMEMLOCK=infinity"),
                ));
            }
        }
        for (_, name, effect) in CAPABILITIES.iter().filter(|(number, ..)| !has(*number)) {
            findings.push(Finding::warning(
                format!("the agent (process {pid}) lacks {name}: {effect}"),
                format!(
                    "run it as root; in a container, add the capability; see CapabilityBoundingSet= \
                     in `systemctl cat {UNIT}`"
                ),
            ));
        }
    }
    findings
}

/// Whether an agent that was killed has left something frozen, and whether only root can
/// write where the agent keeps its records.
pub(super) fn runtime_state(machine: &Machine) -> Vec<Finding> {
    let environment = &machine.config.environment;
    let mut findings = Vec::new();
    let directories = [&environment.runtime_dir, &environment.state_dir];
    for directory in directories {
        match open_directory(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error)
                if error.kind() == ErrorKind::PermissionDenied && error.get_ref().is_none() =>
            {
                findings.push(Finding::unchecked(
                    directory.display().to_string(),
                    "run this as root",
                ));
            }
            Err(error) => findings.push(Finding::error(
                format!("the agent does not use {}: {error}", directory.display()),
                format!("`chown root {0} && chmod go-w {0}`", directory.display()),
            )),
            Ok(_) => {}
        }
    }
    let record = match state_file::read(&environment.runtime_dir) {
        Ok(Some(record)) => record,
        Ok(None) => return findings,
        Err(error) => {
            let refused = error.kind() == ErrorKind::PermissionDenied;
            if !refused {
                findings.push(Finding::unchecked(
                    format!("the record of a freeze: {error}"),
                    "",
                ));
            }
            return findings;
        }
    };
    let points: Vec<_> = record
        .frozen
        .iter()
        .map(|it| it.mount_point.to_string_lossy())
        .collect();
    let hooks: Vec<_> = record.hooks.iter().map(|it| it.to_string_lossy()).collect();
    let mut what = Vec::new();
    if !points.is_empty() {
        what.push(format!("frozen file systems: {}", points.join(", ")));
    }
    if !hooks.is_empty() {
        what.push(format!(
            "hooks that ran with `freeze` only: {}",
            hooks.join(", ")
        ));
    }
    if what.is_empty() {
        return findings;
    }
    let what = what.join("; ");
    findings.push(if machine.agents().is_empty() {
        Finding::error(
            format!("an agent that was killed has left {what}"),
            "`hyperv-agent thaw`, or start the agent, which thaws",
        )
    } else {
        Finding::note(format!("a backup is in progress; {what}"), "")
    });
    findings
}
