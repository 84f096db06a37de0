//! The agent's unit, and its order in the boot.

use super::finding::Finding;
use super::machine::{Machine, UNIT};

/// What reads or writes the pools in the first boot: the agent starts before it.
pub(super) const FIRST_BOOT: [&str; 6] = [
    "cloud-init-main.service",
    "cloud-init-local.service",
    "walinuxagent.service",
    "waagent.service",
    "azure-init.service",
    "azure-provisioning-agent.service",
];

/// What starts late: nothing that the agent waits for.
const LATE: [&str; 4] = [
    "network-online.target",
    "multi-user.target",
    "cloud-init.target",
    "cloud-config.target",
];

fn no_systemd() -> Vec<Finding> {
    vec![Finding::unchecked(
        "systemd does not run, or systemctl is missing",
        "see whether your service manager starts the agent",
    )]
}

/// Whether the agent's unit exists, starts at boot, and has not failed.
pub(super) fn unit(machine: &Machine) -> Vec<Finding> {
    let properties =
        "LoadState,UnitFileState,ActiveState,Result,NeedDaemonReload,ConditionResult,DropInPaths";
    let units = match machine.units(&[UNIT], properties) {
        None => return no_systemd(),
        Some(Err(error)) => return vec![Finding::unchecked(error, "")],
        Some(Ok(units)) => units,
    };
    let unit = units.into_iter().next().unwrap_or_default();
    let get = |key: &str| unit.get(key).map_or("", String::as_str);
    let mut findings = Vec::new();
    match (get("LoadState"), get("UnitFileState")) {
        ("masked", _) => findings.push(Finding::error(
            format!("{UNIT} is masked: nothing can start it"),
            format!("`systemctl unmask {UNIT}`, then `systemctl enable --now {UNIT}`"),
        )),
        ("not-found", _) => findings.push(Finding::warning(
            format!("there is no {UNIT}: nothing starts the agent at boot"),
            "install packaging/systemd/hyperv-agent.service, or the package",
        )),
        ("loaded", "disabled") => findings.push(Finding::warning(
            format!("{UNIT} is disabled: nothing starts the agent at boot"),
            format!("`systemctl enable --now {UNIT}`"),
        )),
        ("loaded", _) => {}
        (state, _) => findings.push(Finding::error(
            format!("{UNIT} is not loaded ({state})"),
            format!("`systemd-analyze verify {UNIT}` says what is wrong with it"),
        )),
    }
    match get("ActiveState") {
        "failed" => findings.push(Finding::error(
            format!("{UNIT} has failed ({})", get("Result")),
            format!("`journalctl -b -u {UNIT}` says why; then `systemctl restart {UNIT}`"),
        )),
        "inactive" if get("ConditionResult") == "no" && machine.has_vmbus() => {
            findings.push(Finding::warning(
                format!("systemd skipped {UNIT}: a condition was not met"),
                format!("`systemctl status {UNIT}` names it; then `systemctl start {UNIT}`"),
            ));
        }
        _ => {}
    }
    if get("NeedDaemonReload") == "yes" {
        findings.push(Finding::warning(
            format!("{UNIT} or a drop-in of it has changed, and systemd uses the old one"),
            format!("`systemctl daemon-reload`, then `systemctl restart {UNIT}`"),
        ));
    }
    if !get("DropInPaths").is_empty() {
        findings.push(Finding::note(
            format!("drop-ins change {UNIT}: {}", get("DropInPaths")),
            "",
        ));
    }
    findings
}

/// Whether the agent starts before what reads the pools in the first boot, and after nothing
/// that starts late.
pub(super) fn boot_order(machine: &Machine) -> Vec<Finding> {
    let units: Vec<_> = [UNIT].into_iter().chain(FIRST_BOOT).collect();
    let mut units = match machine.units(&units, "Id,LoadState,Before,After") {
        None => return no_systemd(),
        Some(Err(error)) => return vec![Finding::unchecked(error, "")],
        Some(Ok(units)) => units.into_iter(),
    };
    let own = units.next().unwrap_or_default();
    if own.get("LoadState").map(String::as_str) != Some("loaded") {
        return Vec::new();
    }
    let has = |key: &str, name: &str| {
        let list = own.get(key).map_or("", String::as_str);
        list.split_whitespace().any(|it| it == name)
    };
    let loaded = units.filter(|it| it.get("LoadState").map(String::as_str) == Some("loaded"));
    let mut loaded: Vec<_> = loaded.filter_map(|mut it| it.remove("Id")).collect();
    loaded.sort();
    loaded.dedup();
    let mut findings = Vec::new();
    for name in loaded.iter().filter(|name| !has("Before", name)) {
        findings.push(Finding::warning(
            format!("{UNIT} is not ordered before {name}, which uses the key-value pools"),
            format!("`systemctl edit {UNIT}`, and add [Unit] and Before={name}"),
        ));
    }
    let late = LATE.into_iter().chain(loaded.iter().map(String::as_str));
    for name in late.filter(|name| has("After", name)) {
        findings.push(Finding::warning(
            format!(
                "{UNIT} is ordered after {name}: the host's IP configuration and the first boot's \
                 key-value pairs come before that"
            ),
            format!("remove After={name} from the drop-ins that `systemctl cat {UNIT}` shows"),
        ));
    }
    findings
}
