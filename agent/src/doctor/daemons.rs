//! Daemons that the agent replaces.

use std::collections::HashSet;

use hyperv_services::registry::SERVICES;

use super::finding::Finding;
use super::machine::Machine;
use crate::holder;
use crate::locate::{has_node, locate};
use crate::stock_daemons;

/// Their units in all distributions.
const UNITS: [&str; 17] = [
    "hv-fcopy-daemon.service",
    "hv-fcopy-uio-daemon.service",
    "hv-kvp-daemon.service",
    "hv-vss-daemon.service",
    "hv_fcopy_daemon.service",
    "hv_fcopy_uio_daemon.service",
    "hv_kvp_daemon.service",
    "hv_vss_daemon.service",
    "hypervfcopyd.service",
    "hypervkvpd.service",
    "hypervvssd.service",
    "hyperv-daemons.hv-fcopy-daemon.service",
    "hyperv-daemons.hv-kvp-daemon.service",
    "hyperv-daemons.hv-vss-daemon.service",
    "hv-fcopy.service",
    "hv-kvp.service",
    "hv-vss.service",
];

/// Whether an old daemon runs, is enabled, or holds a device.
pub(super) fn old_daemons(machine: &Machine) -> Vec<Finding> {
    let mut findings = Vec::new();
    for process in machine.processes() {
        let service = stock_daemons::service(process.name.as_ref());
        if !service.is_some_and(|entry| machine.is_on(entry.name)) {
            continue;
        }
        // The agent under the old daemon's name.
        let program = machine.root.join(format!("proc/{}/exe", process.pid));
        let program = program.read_link().unwrap_or_default();
        if program
            .file_name()
            .is_some_and(|name| name == "hyperv-agent")
        {
            continue;
        }
        findings.push(Finding::error(
            format!("{} runs (process {})", process.name, process.pid),
            format!(
                "stop it, and keep it from starting again: {}",
                disable(&process.name)
            ),
        ));
    }
    let properties = "Id,LoadState,UnitFileState,ActiveState,DropInPaths";
    match machine.units(&UNITS, properties) {
        Some(Ok(units)) => {
            let mut seen = HashSet::new();
            for unit in units {
                let get = |key: &str| unit.get(key).map_or("", String::as_str);
                let id = get("Id");
                // Several names may be one unit.
                if !seen.insert(id.to_owned())
                    || get("LoadState") != "loaded"
                    || !serves_for_agent(machine, id)
                {
                    continue;
                }
                // The package's drop-in skips it while the agent is enabled.
                let starts = get("UnitFileState").starts_with("enabled")
                    && !get("DropInPaths").contains("hyperv-agent");
                if get("ActiveState") == "active" || starts {
                    let state = if starts { "enabled" } else { "active" };
                    findings.push(Finding::warning(
                        format!("the old daemon's unit {id} is {state}"),
                        format!("`systemctl disable --now {id}`"),
                    ));
                }
            }
        }
        Some(Err(error)) => findings.push(Finding::unchecked(
            format!("units of old daemons: {error}"),
            "",
        )),
        None => {}
    }
    findings.extend(holders(machine));
    findings
}

/// Returns whether the agent is to serve what a daemon serves.
fn serves_for_agent(machine: &Machine, daemon: &str) -> bool {
    let service = SERVICES.iter().find(|entry| daemon.contains(entry.name));
    service.is_none_or(|entry| machine.is_on(entry.name))
}

fn disable(program: &str) -> String {
    let unit = program.replace('_', "-");
    format!("`systemctl disable --now {unit}.service`, or remove its package (hyperv-daemons)")
}

/// Other programs that have a device open.
fn holders(machine: &Machine) -> Vec<Finding> {
    let devices = machine.devices();
    let agent = machine.agents().into_iter().next();
    let own = agent.map_or(std::process::id(), |agent| agent.pid);
    let mut findings = Vec::new();
    for entry in &machine.services {
        let has_node = has_node(entry, &machine.roots);
        let found = locate(entry, &devices, &machine.roots, has_node);
        for device in found.located {
            let node = device.node();
            match holder::find_other(node, own) {
                Ok(Some(holder)) => {
                    findings.push(Finding::error(
                        format!("{}: {holder} has {} open", entry.name, node.display()),
                        "stop that program, and keep it from starting again",
                    ));
                }
                Ok(None) if !machine.is_root => findings.push(Finding::unchecked(
                    format!("whether another program has {} open", node.display()),
                    "run this as root",
                )),
                Ok(None) => {}
                Err(error) => findings.push(Finding::unchecked(
                    format!("{}: {error}", node.display()),
                    "",
                )),
            }
        }
    }
    findings
}
