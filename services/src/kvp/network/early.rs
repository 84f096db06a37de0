//! An IP configuration that comes before its network manager has started: the failover
//! configuration of Hyper-V Replica does.
//!
//! Its files are written at once, so that the manager reads them when it starts; then [`wait`] gives
//! it a short time to take charge. After that the configuration is *deferred*: the host is told
//! that it succeeded, and [`check`] finds out later what became of it.

use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use slog::{Logger, info, warn};

use super::choose::{Choice, awaits_bus, choose};
use super::error::InjectError;
use super::manager::{Charge, Manager};
use super::managers;
use super::plan::Context;
use super::record::{Record, State, records};
use super::settings::{self, Settings, joined};
use super::startup::{self, Startup};
use super::target::{self, Target};
use super::transaction::apply::run_all;
use super::transaction::lock::lock;
use super::verify::Differences;
use crate::error_chain::display_chain;
use crate::kvp::config::Config;
use crate::kvp::interfaces::Interface;
use crate::timeouts::{IP_MANAGER_START, IP_ROLLBACK};

/// How often the files of the manager are read while it starts.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How often the service manager is asked meanwhile.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a manager in charge may take to configure the interface before its programs are run.
const APPLY_AFTER: Duration = Duration::from_secs(3);

/// How long it may take in all before the configuration is reported as not in force.
const IN_FORCE_AFTER: Duration = Duration::from_secs(30);

/// What became of a manager that was about to start.
pub(super) enum Waited {
    /// It is in charge of the interface.
    InCharge,
    /// Another one is.
    Overtaken,
    /// Nothing yet.
    Starting,
}

/// Waits until the manager is in charge of the interface, at most for [`IP_MANAGER_START`].
///
/// # Errors
///
/// [`InjectError::Startup`] if it fails to start.
pub(super) fn wait(
    config: &Config,
    manager: &dyn Manager,
    interface: &Interface,
    deadline: Instant,
) -> Result<Waited, InjectError> {
    let root = &config.environment.root;
    let deadline = deadline.min(Instant::now() + IP_MANAGER_START);
    let mut next_question = Instant::now();
    loop {
        let now = Instant::now();
        let ask = now >= next_question || now >= deadline;
        if ask || manager.in_charge(root, interface) == Charge::Now {
            next_question = now + ASK_INTERVAL;
            if is_in_charge(config, manager, interface) {
                return Ok(Waited::InCharge);
            }
            if let Ok(Choice {
                manager: other,
                running: true,
                ..
            }) = choose(root, config.network.backend, interface)
            {
                if other.key() != manager.key() && other.in_charge(root, interface) == Charge::Now {
                    return Ok(Waited::Overtaken);
                }
            }
            let units = manager.units(root, interface);
            if let (Startup::Failed, Some(unit)) = (startup::of(root, units), units.first()) {
                return Err(InjectError::Startup(unit));
            }
        }
        if now >= deadline {
            return Ok(Waited::Starting);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Returns whether the manager is in charge of the interface and its programs can be run. One that
/// publishes nothing is in charge once it runs.
fn is_in_charge(config: &Config, manager: &dyn Manager, interface: &Interface) -> bool {
    let root = &config.environment.root;
    match manager.in_charge(root, interface) {
        Charge::Now => !awaits_bus(manager, root, interface),
        Charge::Perhaps => {
            let units = manager.units(root, interface);
            startup::of(root, units) == Startup::Running
        }
        Charge::No => false,
    }
}

/// Returns whether the interface has the settings and nothing else.
pub(super) fn is_in_force(settings: &Settings, interface: &Interface) -> bool {
    Differences::new(settings, interface, interface) == Differences::default()
}

/// Since when managers have been in charge of the interfaces with deferred configurations, and
/// whether their programs were run since.
#[derive(Default)]
pub(in crate::kvp) struct Checks(BTreeMap<String, Check>);

struct Check {
    since: Instant,
    applied: bool,
}

#[cfg(test)]
impl Checks {
    /// Lets time pass.
    pub(super) fn age(&mut self, by: Duration) {
        for check in self.0.values_mut() {
            check.since = check.since.checked_sub(by).unwrap();
        }
    }
}

/// Returns whether a configuration is deferred, and has to be [checked](check).
pub(in crate::kvp) fn is_deferred(config: &Config) -> bool {
    let all = records(&config.environment.runtime_dir);
    all.iter().any(|record| record.state == State::Deferred)
}

/// Checks what became of deferred configurations, and logs what has changed. Nothing is rolled
/// back: the host was told that they succeeded. Returns whether one is still deferred.
pub(in crate::kvp) fn check(
    config: &Config,
    interfaces: &dyn Fn() -> io::Result<Vec<Interface>>,
    checks: &mut Checks,
    log: &Logger,
) -> bool {
    let all = records(&config.environment.runtime_dir);
    let deferred = all
        .into_iter()
        .filter(|record| record.state == State::Deferred);
    let deferred: Vec<Record> = deferred.collect();
    checks
        .0
        .retain(|name, _| deferred.iter().any(|record| record.interface == *name));
    if deferred.is_empty() {
        return false;
    }
    let interfaces = interfaces().unwrap_or_default();
    let mut remaining = false;
    for mut record in deferred {
        let interface = interfaces.iter().find(|now| now.name == record.interface);
        let state = interface.and_then(|interface| check_one(config, &record, interface, checks));
        let Some(state) = state else {
            remaining = true;
            continue;
        };
        record.state = state;
        let (name, manager) = (&record.interface, &record.manager);
        let (settings, files) = (
            &record.settings,
            joined(record.files.iter().map(|path| path.display()), ", "),
        );
        match &record.state {
            State::NotInForce { why } => warn!(
                log,
                "{name}: the host's IP configuration for {manager} is not in force: {why}; it is \
                 in {files}"
            ),
            _ => info!(
                log,
                "{name}: the host's IP configuration is in force with {manager}: {settings}"
            ),
        }
        record.write_logged(&config.environment.runtime_dir, log);
    }
    remaining
}

/// Returns the new state of a deferred configuration; `None` if that is not decided yet.
fn check_one(
    config: &Config,
    record: &Record,
    interface: &Interface,
    checks: &mut Checks,
) -> Option<State> {
    let not_in_force = |why: String| Some(State::NotInForce { why });
    let root = &config.environment.root;
    let (Some(manager), Ok(settings)) =
        (managers::find(&record.key), Settings::parse(&record.info))
    else {
        return not_in_force("this version of the agent cannot check it".to_owned());
    };
    let units = manager.units(root, interface);
    let in_charge = is_in_charge(config, manager, interface);
    if !in_charge {
        match (startup::of(root, units), units.first()) {
            (Startup::Starting, _) => return None,
            (Startup::Failed, Some(unit)) => {
                return not_in_force(format!("{unit} failed to start"));
            }
            (Startup::Absent, Some(unit)) => {
                return not_in_force(format!("{unit} was not started"));
            }
            _ => {}
        }
    }
    let name = &record.interface;
    let check = checks.0.entry(name.clone()).or_insert_with(|| Check {
        since: Instant::now(),
        applied: false,
    });
    let time = check.since.elapsed();
    if in_charge && is_in_force(&settings, interface) {
        return Some(State::InForce {
            differences: String::new(),
        });
    }
    if !in_charge {
        let why = || format!("{} runs and is not in charge of {name}", record.manager);
        return (time >= IN_FORCE_AFTER).then(|| State::NotInForce { why: why() });
    }
    if time >= APPLY_AFTER && !check.applied {
        match apply(config, record, manager, &settings, interface) {
            Ok(()) => check.applied = true,
            // A configuration that the host sets takes precedence.
            Err(InjectError::Busy) => {}
            Err(error) => return not_in_force(display_chain(&error).to_string()),
        }
        return None;
    }
    // Without a carrier, managers postpone addresses.
    if time < IN_FORCE_AFTER || !target::has_carrier(root, name) {
        return None;
    }
    let differences = Differences::new(&settings, interface, interface);
    match differences.is_absent() {
        true => not_in_force(format!(
            "{} has started{differences}; does another file take precedence?",
            record.manager
        )),
        false => Some(State::InForce {
            differences: differences.to_string(),
        }),
    }
}

/// Has a manager that has started read its files again.
fn apply(
    config: &Config,
    record: &Record,
    manager: &dyn Manager,
    settings: &Settings,
    interface: &Interface,
) -> Result<(), InjectError> {
    let _lock = lock(config, Instant::now())?;
    let deadline = Instant::now() + IP_ROLLBACK;
    let root = &config.environment.root;
    let device = settings::device(&record.info.adapter)?;
    let context = Context {
        root,
        interface,
        target: &Target::new(root, interface, device),
        settings,
        running: true,
        deadline,
    };
    let plan = manager.plan(&context)?;
    run_all(&plan.stop, deadline)?;
    run_all(&plan.apply, deadline)
}
