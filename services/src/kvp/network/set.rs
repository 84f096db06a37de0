//! Applies the IP configuration that the host sets for an interface (SET_IP_INFO). Protocol
//! section 7.
//!
//! [`settings`] turns the host's texts into typed values before anything else is done. The first
//! of the `managers` that is in charge of the interface makes a `plan`: the files to write and the
//! programs to run. `transaction` applies the plan. If that fails, it restores the previous files
//! and has the network manager load those. If the agent ends in between, the next one rolls back
//! the IP configuration by the undo log. `verify` waits until the interface has its addresses, so
//! that the host reads back what it has set.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use hyperv_vmbus::Guid;
use slog::{Logger, info, warn};

use super::backend::Backend;
use super::choose::{Choice, choose_for};
use super::early::{self, Waited};
use super::error::InjectError;
use super::plan::{Context, Plan};
use super::record::{self, Record, State};
use super::scripts::hv_set_ifconfig;
use super::settings::{self, Settings, joined};
use super::target::{self, Found, Target};
use super::transaction::apply::{self, Paths};
use super::transaction::lock::lock;
use super::transaction::{backups, undo_log};
use super::{undo, verify};
use crate::error_chain::display_chain;
use crate::kvp::config::Config;
use crate::kvp::files;
use crate::kvp::interfaces::{self, Interface};
use crate::kvp::request::IpInfo;
use crate::retry::retry_until;
use crate::timeouts::IP_INTERFACE;

/// How often an interface is looked up that is being set up.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

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
        interfaces: &|| interfaces::list(&config.environment.root),
    };
    set_with(&kernel, config, info, deadline, confirm, log)
}

/// Looks up network interfaces; tests have their own.
pub(super) struct Kernel<'a> {
    pub(super) interface_by_device: &'a dyn Fn(Guid) -> Option<String>,
    pub(super) interfaces: &'a dyn Fn() -> io::Result<Vec<Interface>>,
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
    let apply_deadline = apply::apply_deadline(deadline);
    let found = find_target(kernel, config, device, apply_deadline)?;
    let before = &found.interface;
    let root = &config.environment.root;
    let context = Context {
        root,
        interface: before,
        target: &found.target,
        settings: &settings,
        running: true,
        deadline: apply_deadline,
    };
    let mut change = Change {
        kernel,
        config,
        context,
        info: IpInfo {
            adapter: device.to_string(),
            ..info.clone()
        },
        deadline,
        confirm,
        log,
    };
    if let Some(plan) = hv_set_ifconfig::plan(&change.context, config)? {
        found.refuse_master(plan.manager)?;
        return change.apply(plan, None);
    }
    let mut attempts = 0;
    loop {
        let choice = choose_for(root, config.network.backend, &found)?;
        change.context.running = choice.running;
        let mut plan = choice.manager.plan(&change.context)?;
        plan.units = choice.manager.units(root, before);
        attempts += 1;
        match change.apply(plan, Some(choice)) {
            // One that was waited for is not in charge, and nothing is left of its files.
            Err(error) if error.is_overtaken() && attempts == 1 => {}
            result => return result,
        }
    }
}

/// A change of the IP configuration.
struct Change<'a> {
    kernel: &'a Kernel<'a>,
    config: &'a Config,
    context: Context<'a>,
    /// With the canonical GUID of the device.
    info: IpInfo,
    deadline: Instant,
    confirm: &'a dyn Fn() -> bool,
    log: &'a Logger,
}

impl Change<'_> {
    /// Applies the plan of the chosen manager, or of the site's script.
    fn apply(&self, mut plan: Plan, choice: Option<Choice>) -> Result<(), InjectError> {
        let Self {
            config,
            context,
            log,
            ..
        } = self;
        let (name, settings) = (&context.target.name, context.settings);
        let mut record = Record {
            interface: name.clone(),
            time: SystemTime::now(),
            manager: plan.manager.to_owned(),
            key: choice.map_or("", |choice| choice.manager.key()).to_owned(),
            files: plan.files.iter().map(|file| file.path.clone()).collect(),
            settings: settings.to_string(),
            state: State::Deferred,
            info: self.info.clone(),
        };
        let files = match plan.paths() {
            paths if paths.is_empty() => paths,
            paths => format!(" ({paths})"),
        };
        plan.files
            .splice(..0, hv_set_ifconfig::files(context, &config.directory));
        let paths = Paths::of(config);
        let finish = || {
            let state = match choice {
                Some(choice) if !choice.running => self.wait(&plan, choice)?,
                _ => self.verify(&plan, choice.is_some())?,
            };
            match (self.confirm)() {
                true => Ok(state),
                false => Err(InjectError::Late),
            }
        };
        let running = context.running;
        let apply_deadline = context.deadline;
        let later = match context.has_carrier() {
            true => "",
            false => ", in force when the interface has a carrier",
        };
        record.state = apply::apply(
            &plan,
            &paths,
            running,
            apply_deadline,
            self.deadline,
            finish,
        )?;
        record.write_logged(&config.environment.runtime_dir, log);
        if let Err(error) = undo::keep(config, name) {
            let cause = display_chain(&error);
            warn!(log, "{name}: cannot keep how to undo this: {cause}");
        }
        let manager = plan.manager;
        match &record.state {
            State::InForce { differences } => info!(
                log,
                "{name}: applied the host's IP configuration with {manager}{files}: \
                 {settings}{differences}{later}"
            ),
            _ => info!(
                log,
                "{name}: wrote the host's IP configuration for {manager}{files}, in force when \
                 {manager} starts: {settings}"
            ),
        }
        if !plan.lost.is_empty() {
            let lost = joined(&plan.lost, ", ");
            warn!(
                log,
                "{name}: not kept of the previous configuration: {lost}"
            );
        }
        Ok(())
    }

    /// Waits until the interface has its settings.
    fn verify(&self, plan: &Plan, is_manager: bool) -> Result<State, InjectError> {
        let context = &self.context;
        if let Some(settle) = plan.settle {
            settle(context)?;
        }
        // A script may do anything, and without a carrier network managers postpone addresses.
        let required = is_manager && context.has_carrier();
        let differences = verify::verify(
            context.interface,
            context.settings,
            required,
            plan.stable_for,
            context.deadline,
            self.kernel.interfaces,
        );
        let differences = differences.map_err(|error| {
            error.because_of(plan.obstacle.and_then(|obstacle| obstacle(context)))
        })?;
        Ok(State::InForce {
            differences: differences.to_string(),
        })
    }

    /// Waits for a manager that starts, and has it apply the files that are written.
    fn wait(&self, plan: &Plan, choice: Choice) -> Result<State, InjectError> {
        let (context, manager) = (&self.context, choice.manager);
        let (name, label) = (&context.target.name, plan.manager);
        info!(self.log, "{name}: waiting for {label}, which is starting");
        match early::wait(self.config, manager, context.interface, context.deadline)? {
            Waited::Starting => return Ok(State::Deferred),
            Waited::Overtaken => return Err(InjectError::Overtaken),
            Waited::InCharge => {}
        }
        let interfaces = (self.kernel.interfaces)().unwrap_or_default();
        let now = interfaces.iter().find(|now| now.name == *name);
        // It may have read its files before these were written.
        let in_force = now.is_some_and(|now| early::is_in_force(context.settings, now));
        if !in_force {
            let plan = manager.plan(&Context {
                running: true,
                ..*context
            })?;
            apply::run_all(&plan.stop, context.deadline)?;
            apply::run_all(&plan.apply, context.deadline)?;
        }
        self.verify(plan, true)
    }
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
            if undo_log == paths.applied {
                undo::drop_last(config, steps)?;
            }
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

/// Finds the interface of a device, or its topmost master. The device may have none for a moment,
/// or lose its name to a rule of udev: early in the boot, or just after the host has added it.
pub(super) fn find_target(
    kernel: &Kernel<'_>,
    config: &Config,
    device: Guid,
    deadline: Instant,
) -> Result<Found, InjectError> {
    let none = || InjectError::NoInterface(device);
    let root = &config.environment.root;
    let is_offered = root
        .join(format!("sys/bus/vmbus/devices/{device}"))
        .exists();
    let find = || {
        let name = (kernel.interface_by_device)(device);
        let later = match &name {
            None => is_offered,
            Some(name) => !target::is_set_up(root, name),
        };
        Ok::<_, InjectError>((!later).then_some(name))
    };
    let deadline = deadline.min(Instant::now() + IP_INTERFACE);
    let name = match retry_until(deadline, POLL_INTERVAL..=POLL_INTERVAL, find)? {
        Some(name) => name,
        None => (kernel.interface_by_device)(device),
    };
    let name = name.ok_or_else(none)?;
    if !target::is_plain(&name) {
        return Err(InjectError::InterfaceName(name));
    }
    let interfaces = (kernel.interfaces)().map_err(InjectError::Interfaces)?;
    let interface = interfaces
        .iter()
        .find(|interface| interface.name == name)
        .ok_or_else(none)?;
    let top = interfaces::stack::top(interface, &interfaces);
    if top.index == interface.index {
        return Ok(Found {
            target: Target::new(root, interface, device),
            interface: interface.clone(),
            port: None,
        });
    }
    if !target::is_plain(&top.name) {
        return Err(InjectError::InterfaceName(top.name.clone()));
    }
    // The MAC address of a bridge or a bond may be that of another port at the next boot.
    let target = Target {
        mac: None,
        ..Target::new(root, top, device)
    };
    Ok(Found {
        target,
        interface: top.clone(),
        port: Some(name),
    })
}

#[cfg(test)]
#[path = "boot_tests.rs"]
mod boot_tests;
#[cfg(test)]
#[path = "manager_tests/mod.rs"]
mod manager_tests;
#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
