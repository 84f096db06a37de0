//! Applies the IP configuration that the host sets for an interface (SET_IP_INFO). Protocol
//! section 7.
//!
//! [`settings`] turns the host's texts into typed values before anything else is done. The first
//! of the `managers` that is in charge of the interface makes a `plan`: the files to write and the
//! programs to run. `transaction` applies the plan. If that fails, it restores the previous files
//! and has the network manager load those. If the agent ends in between, the next one rolls back
//! the IP configuration by the undo log. `verify` waits until the interface has its addresses, so
//! that the host reads back what it has set.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Instant, SystemTime};

use hyperv_vmbus::Guid;
use slog::{Logger, info, warn};

use super::backend::Backend;
use super::choose::choose;
use super::error::InjectError;
use super::plan::Context;
use super::record::{self, Record, State};
use super::scripts::hv_set_ifconfig;
use super::settings::{self, Settings, joined};
use super::target::{self, Target};
use super::transaction::apply::{self, Paths};
use super::transaction::lock::lock;
use super::transaction::{backups, undo_log};
use super::verify;
use crate::error_chain::display_chain;
use crate::kvp::config::Config;
use crate::kvp::files;
use crate::kvp::interfaces::{self, Interface};
use crate::kvp::request::IpInfo;

/// Applies an IP configuration, or leaves the previous one in effect; both by `deadline`. Where
/// `confirm`, which is called last, returns `false`, the configuration is rolled back.
///
/// # Errors
///
/// Any [`InjectError`].
pub(in crate::kvp) fn set(
    config: &Config,
    info: &IpInfo,
    deadline: Instant,
    confirm: &dyn Fn() -> bool,
    log: &Logger,
) -> Result<(), InjectError> {
    let kernel = Kernel {
        interface_by_device: &|device| {
            interfaces::interface_by_device(&config.environment.root, device)
        },
        interfaces: &interfaces::list,
    };
    set_with(&kernel, config, info, deadline, confirm, log)
}

/// Looks up network interfaces; tests have their own.
struct Kernel<'a> {
    interface_by_device: &'a dyn Fn(Guid) -> Option<String>,
    interfaces: &'a dyn Fn() -> io::Result<Vec<Interface>>,
}

fn set_with(
    kernel: &Kernel<'_>,
    config: &Config,
    info: &IpInfo,
    deadline: Instant,
    confirm: &dyn Fn() -> bool,
    log: &Logger,
) -> Result<(), InjectError> {
    if config.network.backend == Backend::Off {
        return Err(InjectError::Off);
    }
    let device = settings::device(&info.adapter)?;
    let settings = Settings::parse(info)?;
    let _lock = lock(config, apply::apply_deadline(deadline))?;
    let (target, before) = find_target(kernel, config, device)?;
    let apply_deadline = apply::apply_deadline(deadline);
    let root = &config.environment.root;
    let mut context = Context {
        root,
        interface: &before,
        target: &target,
        settings: &settings,
        running: true,
        deadline: apply_deadline,
    };
    let script = hv_set_ifconfig::plan(&context, config)?;
    let is_script = script.is_some();
    let (mut plan, key) = match script {
        Some(plan) => (plan, ""),
        None => {
            let choice = choose(root, config.network.backend, &before)?;
            context.running = choice.running;
            let mut plan = choice.manager.plan(&context)?;
            plan.units = choice.manager.units(root, &before);
            (plan, choice.manager.key())
        }
    };
    let mut record = Record {
        interface: target.name.clone(),
        time: SystemTime::now(),
        manager: plan.manager.to_owned(),
        key: key.to_owned(),
        files: plan.files.iter().map(|file| file.path.clone()).collect(),
        settings: settings.to_string(),
        state: State::Deferred,
        info: IpInfo {
            adapter: device.to_string(),
            ..info.clone()
        },
    };
    let files = plan.paths();
    plan.files
        .splice(..0, hv_set_ifconfig::files(&context, &config.directory));
    let has_carrier = context.has_carrier();
    let verify = || {
        // A script may do anything, and without a carrier network managers postpone addresses.
        let required = !is_script && has_carrier;
        let differences = verify::verify(
            &before,
            &settings,
            required,
            plan.stable_for,
            apply_deadline,
            kernel.interfaces,
        )?;
        match confirm() {
            true => Ok(differences),
            false => Err(InjectError::Late),
        }
    };
    let differences = apply::apply(&plan, &Paths::of(config), apply_deadline, deadline, verify)?;
    let (name, manager) = (target.name, plan.manager);
    record.state = State::InForce {
        differences: differences.to_string(),
    };
    record.write_logged(&config.environment.runtime_dir, log);
    let files = match files.is_empty() {
        true => files,
        false => format!(" ({files})"),
    };
    let later = match has_carrier {
        true => "",
        false => ", in force when the interface has a carrier",
    };
    let result = format!("{settings}{differences}{later}");
    info!(
        log,
        "{name}: applied the host's IP configuration with {manager}{files}: {result}"
    );
    if !plan.lost.is_empty() {
        let lost = joined(&plan.lost, ", ");
        warn!(
            log,
            "{name}: not kept of the previous configuration: {lost}"
        );
    }
    Ok(())
}

/// Rolls back the IP configuration that an agent was applying when it ended, by `deadline`. To be
/// called before the first [`set`].
pub(in crate::kvp) fn recover(config: &Config, deadline: Instant, log: &Logger) {
    let paths = Paths::of(config);
    let why = "the agent ended while it applied an IP configuration of the host";
    rollback_logged(config, &paths, &paths.undo_log, why, deadline, log);
}

/// Rolls back the IP configuration that was applied last, by `deadline`: the host was told that
/// it failed.
pub(in crate::kvp) fn rollback(config: &Config, deadline: Instant, log: &Logger) {
    let paths = Paths::of(config);
    let why = "the kernel did not take the reply to an IP configuration of the host";
    rollback_logged(config, &paths, &paths.applied, why, deadline, log);
}

fn rollback_logged(
    config: &Config,
    paths: &Paths<'_>,
    undo_log: &Path,
    why: &str,
    deadline: Instant,
    log: &Logger,
) {
    if !undo_log.exists() {
        return;
    }
    // A service that was dropped may still be applying or rolling back.
    let rolled_back = lock(config, deadline).and_then(|_lock| {
        let Some(bytes) = files::bytes(undo_log) else {
            return Ok(false);
        };
        let steps = undo_log::parse(&bytes);
        let result = match &steps {
            Some(steps) => apply::rollback(steps, paths, deadline),
            None => Ok(()),
        };
        backups::remove(undo_log)?;
        if let Some(steps) = &steps {
            record::forget(&config.environment.runtime_dir, steps.paths());
        }
        result.map(|()| steps.is_some())
    });
    match rolled_back {
        Ok(true) => warn!(log, "{}; rolled back to the previous one", why),
        Ok(false) => {}
        Err(error) => warn!(
            log,
            "{}; cannot roll back to the previous one: {}; copies of its files are in {}",
            why,
            display_chain(&error),
            paths.backups.display()
        ),
    }
}

/// Finds the interface of a device.
fn find_target(
    kernel: &Kernel<'_>,
    config: &Config,
    device: Guid,
) -> Result<(Target, Interface), InjectError> {
    let none = || InjectError::NoInterface(device);
    let name = (kernel.interface_by_device)(device).ok_or_else(none)?;
    if !target::is_plain(&name) {
        return Err(InjectError::InterfaceName(name));
    }
    let interfaces = (kernel.interfaces)().map_err(InjectError::Interfaces)?;
    let interface = interfaces
        .iter()
        .find(|interface| interface.name == name)
        .cloned()
        .ok_or_else(none)?;
    let master = interfaces::top(&interface, &interfaces);
    if master.index != interface.index {
        return Err(InjectError::Enslaved {
            interface: name,
            master: master.name.clone(),
        });
    }
    let root = &config.environment.root;
    let assigned = root.join(format!("sys/class/net/{name}/addr_assign_type"));
    let permanent = fs::read_to_string(assigned).is_ok_and(|kind| kind.trim() == "0");
    let target = Target {
        name,
        permanent,
        mac: interface.mac,
        device,
    };
    Ok((target, interface))
}

#[cfg(test)]
#[path = "manager_tests/mod.rs"]
mod manager_tests;
#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
