//! The status in one line, for the service manager.

use std::collections::BTreeMap;

use hyperv_services::progress::Operation;
use hyperv_services::service::Entry;

use super::scan::Scanner;
use super::slot::{Slot, State};
use crate::locate::DeviceKey;

/// The state of a service whose device is open.
const SERVING: &str = "serving";

/// Returns what the agent does, in one line.
pub(super) fn summary(
    services: &[&'static Entry],
    slots: &BTreeMap<DeviceKey, Slot>,
    scanner: &Scanner,
    reload_failed: bool,
) -> String {
    let mut words: Vec<_> = frozen(slots).map(str::to_owned).into_iter().collect();
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for entry in services {
        let state = state(entry.name, slots, scanner);
        match groups.iter_mut().find(|(its, _)| *its == state) {
            Some((_, names)) => names.push(entry.name),
            None => groups.push((state, vec![entry.name])),
        }
    }
    groups.sort_by_key(|(state, _)| *state != SERVING);
    words.extend(groups.into_iter().map(|(state, names)| {
        let colon = if state == SERVING { "" } else { ":" };
        format!("{}{colon} {state}", names.join(", "))
    }));
    if services.is_empty() {
        words.push("all services are switched off".to_owned());
    }
    if reload_failed {
        words.push("the last reload of the configuration failed".to_owned());
    }
    words.join("; ")
}

/// Says that file systems are frozen, if they are.
fn frozen(slots: &BTreeMap<DeviceKey, Slot>) -> Option<&'static str> {
    let mut operations = slots.values().filter_map(Slot::operation);
    operations.find_map(|seen| match seen.operation {
        Operation::Frozen { rehearsal, .. } => Some(match rehearsal {
            true => "rehearsal of a backup",
            false => "file systems frozen for a backup",
        }),
        _ => None,
    })
}

/// Returns the state of a service. With several devices, one that is open counts.
fn state(service: &str, slots: &BTreeMap<DeviceKey, Slot>, scanner: &Scanner) -> &'static str {
    let slots = slots.iter().filter(|(key, _)| key.service == service);
    let states = slots.map(|(_, slot)| match &slot.state {
        State::Running {
            control,
            stopping: false,
            ..
        } if control.state.is_open() => (0, SERVING),
        State::Backoff(_) if slot.last_failure().is_some() => (2, "device failed"),
        _ => (1, "opening"),
    });
    let absent = match scanner.holds(service) {
        true => "waiting for local file systems",
        false => "no device",
    };
    states.min().map_or(absent, |(_, state)| state)
}
