//! The host gives an interface an IP configuration (SET_IP_INFO). Protocol
//! section 7.
//!
//! [`parse`] makes typed values of what the host sent, before anything else is
//! done. `choose` has the manager that is in charge of the interface say in a
//! `plan` which file it needs and which programs make it take that file; `apply`
//! carries the plan out and, where that fails, puts the previous `files` back
//! and has the manager take those; where the agent ends before that, the next one
//! does so by a note of what was `pending`. `settle` waits for the interface to be as it
//! is to be, so that the host, when it asks next, is told what it set.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hyperv_vmbus::Guid;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use slog::{Logger, info, warn};

pub use self::error::InjectError;
use self::parse::Settings;
use self::plan::Context;
use self::target::Target;
use self::transaction::Paths;
use super::config::{Backend, Config};
use super::net::{self, Interface};
use super::request::IpInfo;
use crate::error_chain::display_chain;
use crate::trusted::make_state_directory;

mod choose;
mod error;
mod files;
mod hv_set_ifconfig;
mod ifcfg;
mod ifupdown;
mod netplan;
mod networkd;
mod networkmanager;
pub mod parse;
mod plan;
mod target;
mod transaction;
mod undo_log;
mod verify;

/// Between two looks whether another is done.
const PAUSE: Duration = Duration::from_millis(20);

/// Writes the configuration and applies it, or leaves things as they were.
/// Everything is done, or undone, by `deadline`. What is done stays if `stays`, which
/// is asked then, says so, and is undone otherwise.
///
/// # Errors
///
/// Any [`InjectError`].
pub fn set(
    config: &Config,
    info: &IpInfo,
    deadline: Instant,
    stays: &dyn Fn() -> bool,
    log: &Logger,
) -> Result<(), InjectError> {
    let machine = Machine {
        interface_by_device: &|device| net::interface_by_device(&config.environment.root, device),
        interfaces: &net::interfaces,
    };
    set_on(&machine, config, info, deadline, stays, log)
}

/// What the kernel says of interfaces.
struct Machine<'a> {
    interface_by_device: &'a dyn Fn(Guid) -> Option<String>,
    interfaces: &'a dyn Fn() -> io::Result<Vec<Interface>>,
}

fn set_on(
    machine: &Machine<'_>,
    config: &Config,
    info: &IpInfo,
    deadline: Instant,
    stays: &dyn Fn() -> bool,
    log: &Logger,
) -> Result<(), InjectError> {
    if config.network.backend == Backend::Off {
        return Err(InjectError::Off);
    }
    let device = parse::device(&info.adapter)?;
    let settings = Settings::parse(info)?;
    let _alone = alone(config, transaction::apply_deadline(deadline))?;
    let (target, before) = target(machine, config, device)?;
    let until = transaction::apply_deadline(deadline);
    let context = Context {
        config,
        target: &target,
        settings: &settings,
        until,
    };
    let script = hv_set_ifconfig::script(&context)?;
    let is_script = script.is_some();
    let mut plan = match script {
        Some(plan) => plan,
        None => choose::plan(&context)?,
    };
    plan.files.splice(..0, hv_set_ifconfig::files(&context));
    let seen = || {
        // What the script of a site does is its own affair, and without a carrier
        // managers put things off.
        let required = !is_script && context.has_carrier();
        verify::verify(
            &before,
            &settings,
            required,
            plan.stable_for,
            until,
            machine.interfaces,
        )
        .and_then(|differences| match stays() {
            true => Ok(differences),
            false => Err(InjectError::Late),
        })
    };
    let differences = transaction::apply(&plan, &paths(config), until, deadline, seen)?;
    info!(
        log,
        "{}: IP configuration of the host applied through {}: {}{}",
        target.name,
        plan.manager,
        settings.in_words(),
        differences.in_words()
    );
    Ok(())
}

/// Takes back a configuration in the middle of which an agent ended, by
/// `deadline`. To be called before the first is set.
pub fn recover(config: &Config, deadline: Instant, log: &Logger) {
    let paths = paths(config);
    let why = "the agent had ended before an IP configuration of the host was in force";
    undo(config, &paths, &paths.note, why, deadline, log);
}

/// Takes back the configuration that was set last, by `deadline`: the host was told
/// that it failed.
pub(super) fn rollback(config: &Config, deadline: Instant, log: &Logger) {
    let paths = paths(config);
    let why = "the kernel did not take the answer to an IP configuration of the host";
    undo(config, &paths, &paths.applied, why, deadline, log);
}

fn undo(
    config: &Config,
    paths: &Paths<'_>,
    note: &Path,
    why: &str,
    deadline: Instant,
    log: &Logger,
) {
    if !note.exists() {
        return;
    }
    // Its author may still be at work: a service that was dropped ends what it
    // does.
    let undone = alone(config, deadline).and_then(|_alone| {
        let Some(bytes) = super::files::bytes(note) else {
            return Ok(false);
        };
        let pending = undo_log::parse(&bytes);
        let undone = match &pending {
            Some(pending) => transaction::rollback(pending, paths, deadline),
            None => Ok(()),
        };
        undo_log::remove(note)?;
        undone.map(|()| pending.is_some())
    });
    match undone {
        Ok(true) => warn!(log, "{}: the previous one is back", why),
        Ok(false) => {}
        Err(error) => warn!(
            log,
            "{}, and the previous one could not be brought back ({}); what its files held is below {}",
            why,
            display_chain(&error),
            paths.kept.display()
        ),
    }
}

fn paths(config: &Config) -> Paths<'_> {
    Paths {
        root: &config.environment.root,
        kept: config.environment.state_dir.join("network"),
        note: config.environment.state_dir.join("network-pending"),
        applied: config.environment.state_dir.join("network-applied"),
    }
}

/// Waits until nobody else sets or recovers, and keeps others out meanwhile.
fn alone(config: &Config, until: Instant) -> Result<File, InjectError> {
    let directory = &config.environment.state_dir;
    let path = directory.join("network-lock");
    let error = |doing| files::error(doing, &path);
    make_state_directory(directory).map_err(files::error("use the directory", directory))?;
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(&path)
        .map_err(error("open"))?;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::AGAIN | Errno::INTR) if Instant::now() < until => thread::sleep(PAUSE),
            Err(Errno::AGAIN | Errno::INTR) => return Err(InjectError::Busy),
            Err(cause) => return Err(error("lock")(cause.into())),
        }
    }
}

/// The interface that is meant, and what the kernel says of it.
fn target(
    machine: &Machine<'_>,
    config: &Config,
    device: Guid,
) -> Result<(Target, Interface), InjectError> {
    let none = || InjectError::NoInterface(device.to_string());
    let name = (machine.interface_by_device)(device).ok_or_else(none)?;
    if !target::is_plain(&name) {
        return Err(InjectError::InterfaceName(name));
    }
    let interfaces = (machine.interfaces)().map_err(InjectError::Interfaces)?;
    let interface = interfaces
        .iter()
        .find(|interface| interface.name == name)
        .cloned()
        .ok_or_else(none)?;
    if let Some(index) = interface.master {
        let master = interfaces.iter().find(|other| other.index == index);
        return Err(InjectError::Enslaved {
            interface: name,
            master: master.map_or_else(|| format!("number {index}"), |other| other.name.clone()),
        });
    }
    let assigned = config
        .environment
        .root
        .join(format!("sys/class/net/{name}/addr_assign_type"));
    let permanent = fs::read_to_string(assigned).is_ok_and(|kind| kind.trim() == "0");
    let target = Target {
        name,
        permanent,
        mac: interface.mac,
        index: interface.index,
        device,
    };
    Ok((target, interface))
}

/// What is written for an interface of that name, by every manager's back-end.
/// The name has letters, digits, `.`, `_` and `-` only.
pub fn renderings(
    name: &str,
    mac: Option<[u8; 6]>,
    device: Guid,
    settings: &Settings,
) -> Vec<String> {
    let target = Target {
        name: name.to_owned(),
        mac,
        permanent: true,
        index: 0,
        device,
    };
    vec![
        hv_set_ifconfig::render_ifcfg(&target, settings),
        hv_set_ifconfig::render_keyfile(&target, settings),
        netplan::render(&target, settings, netplan::Renderer::Networkd),
        netplan::render(&target, settings, netplan::Renderer::NetworkManager),
        networkd::render(&target, settings),
        networkmanager::render(&target, settings),
        ifupdown::render(&target, settings, "/bin/grep"),
        ifcfg::render_red_hat(&target, settings),
        ifcfg::render_suse(settings),
        ifcfg::render_suse_routes(&target, settings, ""),
    ]
}

#[cfg(test)]
mod manager_tests;
#[cfg(test)]
mod tests;
