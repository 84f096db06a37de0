//! `hyperv-agent doctor`: goes through what goes wrong in practice.
//!
//! `CHECKS` has all checks. Each is a function that looks at the [`Machine`], with the code
//! that the agent uses itself, and returns [findings](finding::Finding) with a remedy. No
//! check changes anything. All run at the same time, each on a thread of its own, and one
//! that hangs is given up: a [report](report::Report) says so.
//!
//! To add a check, write the function, list it here and in hyperv-agent(8), and add a test
//! that provokes each of its findings.

mod agent;
mod backups;
mod daemons;
pub mod finding;
mod host;
mod kvp;
pub mod machine;
pub mod report;
mod security;
#[cfg(test)]
mod tests;
mod unit;

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use self::finding::Finding;
use self::machine::Machine;
use self::report::{Checked, Report};

/// How long all checks may take together. Planning a freeze takes the longest, as it waits
/// for file systems that do not answer.
const LIMIT: Duration = Duration::from_secs(30);

/// A check.
struct Check {
    name: &'static str,
    question: &'static str,
    run: fn(&Machine) -> Vec<Finding>,
    /// Whether there is nothing to look at where neither Hyper-V is nor an agent runs.
    guests_only: bool,
}

const fn check(
    name: &'static str,
    question: &'static str,
    run: fn(&Machine) -> Vec<Finding>,
) -> Check {
    Check {
        name,
        question,
        run,
        guests_only: false,
    }
}

/// A check of what other machines than guests of Hyper-V do not have.
const fn in_guests(check: Check) -> Check {
    Check {
        guests_only: true,
        ..check
    }
}

/// The checks.
static CHECKS: [Check; 18] = [
    check(
        "hypervisor",
        "is this a Hyper-V guest with a VMBus?",
        host::hypervisor,
    ),
    in_guests(check(
        "offered",
        "does the host offer each service?",
        host::offered,
    )),
    in_guests(check(
        "modules",
        "are the modules loaded that devices need?",
        host::modules,
    )),
    in_guests(check(
        "devices",
        "can the devices be opened?",
        host::devices,
    )),
    check(
        "old-daemons",
        "does an old daemon run, or will it?",
        daemons::old_daemons,
    ),
    check(
        "configuration",
        "is the configuration valid and safe?",
        agent::configuration,
    ),
    check(
        "unit",
        "does the service manager start the agent?",
        unit::unit,
    ),
    in_guests(check(
        "agent",
        "does the agent run, answer and serve?",
        agent::agent,
    )),
    check(
        "boot-order",
        "does the agent start before cloud-init?",
        unit::boot_order,
    ),
    check(
        "pools",
        "can the pools of key-value pairs be used?",
        kvp::pools,
    ),
    check(
        "ip-injection",
        "who would take the host's IP configurations?",
        kvp::ip_injection,
    ),
    check(
        "file-systems",
        "what can a backup not freeze?",
        backups::file_systems,
    ),
    check(
        "hidden-mounts",
        "does a mount hide a file system?",
        backups::hidden_mounts,
    ),
    check("hooks", "will all backup hooks run?", backups::hooks),
    check(
        "time-limits",
        "do the time limits fit the kernel's?",
        backups::time_limits,
    ),
    in_guests(check(
        "limits",
        "may the agent open, lock and freeze enough?",
        agent::limits,
    )),
    check(
        "runtime-state",
        "has a killed agent left something frozen?",
        agent::runtime_state,
    ),
    check(
        "security-modules",
        "do SELinux or AppArmor deny something?",
        security::security_modules,
    ),
];

/// Returns the names of all checks.
pub fn names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|check| check.name)
}

/// Makes all checks.
pub fn examine(machine: Machine) -> Report {
    examine_within(&CHECKS, machine, LIMIT)
}

fn examine_within(checks: &'static [Check], machine: Machine, limit: Duration) -> Report {
    let deadline = Instant::now() + limit;
    let elsewhere = !machine.is_hyperv_guest() && machine.agents().is_empty();
    let machine = Arc::new(machine);
    let running: Vec<_> = checks
        .iter()
        .map(|check| {
            if elsewhere && check.guests_only {
                return (check, None);
            }
            let (found, result) = channel();
            let machine = Arc::clone(&machine);
            // Without a thread, nothing is received.
            let _ = thread::Builder::new()
                .name("doctor".to_owned())
                // It fails if the check was given up.
                .spawn(move || drop(found.send((check.run)(&machine))));
            (check, Some(result))
        })
        .collect();
    let checked = running.into_iter().map(|(check, result)| {
        let Some(result) = result else {
            return Checked::skipped(check.name, check.question);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let findings = result.recv_timeout(left).unwrap_or_else(|error| {
            let what = match error {
                RecvTimeoutError::Timeout => {
                    format!("this took more than {} s", limit.as_secs())
                }
                RecvTimeoutError::Disconnected => "this failed; please report it".to_owned(),
            };
            vec![Finding::unchecked(what, "")]
        });
        Checked::new(check.name, check.question, findings)
    });
    Report::new(checked.collect())
}
