//! The machine that is examined. Tests have one below a directory of theirs.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use hyperv_services::service::Entry;
use hyperv_services::{boot, processes};
use hyperv_vmbus::discovery::{self, Device, Roots, firmware_has_vmbus};

use crate::config::{Config, ConfigError};
use crate::devices::is_hyperv_guest;

/// The agent's unit.
pub(super) const UNIT: &str = "hyperv-agent.service";

/// Bytes that are read of any file.
const MAX_LEN: u64 = 4 << 20;

/// The machine that is examined.
#[derive(Debug)]
pub struct Machine {
    /// The directory that stands for `/`.
    pub(super) root: PathBuf,
    /// Where sysfs and the device nodes are.
    pub(super) roots: Roots,
    /// The configuration: its valid part, and the defaults for the rest.
    pub(super) config: Config,
    /// Its file.
    pub(super) config_path: PathBuf,
    /// Why the configuration cannot be used.
    pub(super) config_error: Option<ConfigError>,
    /// The services that it enables.
    pub(super) services: Vec<&'static Entry>,
    /// `systemctl`, if systemd manages the services.
    pub(super) systemctl: Option<PathBuf>,
    /// Whether this process is root.
    pub(super) is_root: bool,
}

/// A running process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// The name of its program.
    pub(super) name: String,
    /// Its arguments, without the program.
    pub(super) arguments: Vec<String>,
}

impl Machine {
    /// This machine, with the services that `is_on` selects.
    pub fn this(
        config_path: PathBuf,
        config: Config,
        config_error: Option<ConfigError>,
        services: Vec<&'static Entry>,
    ) -> Self {
        let root = config.environment.root.clone();
        let systemctl = boot::has_systemd(&root.join("run")).then(boot::systemctl);
        Self {
            root,
            roots: Roots::default(),
            config,
            config_path,
            config_error,
            services,
            systemctl: systemctl.flatten(),
            is_root: rustix::process::geteuid().is_root(),
        }
    }

    /// Returns whether there is a VMBus, or nodes of its devices as in a container.
    pub(super) fn has_vmbus(&self) -> bool {
        self.roots.sys.join("bus/vmbus").exists() || self.roots.dev.join("vmbus").exists()
    }

    /// Returns whether this is a virtual machine of Hyper-V, as far as kernel and firmware say.
    pub fn is_hyperv_guest(&self) -> bool {
        self.has_vmbus() || is_hyperv_guest(&self.roots) || firmware_has_vmbus(&self.roots)
    }

    /// Returns whether a service is on.
    pub(super) fn is_on(&self, service: &str) -> bool {
        self.services.iter().any(|entry| entry.name == service)
    }

    /// Returns the VMBus devices; none if they cannot be listed.
    pub(super) fn devices(&self) -> Vec<Device> {
        discovery::devices(&self.roots).unwrap_or_default()
    }

    /// Returns the content of a file below the root, or the first part of it; `None` if it
    /// cannot be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        read(&self.root.join(path))
    }

    /// Returns the processes.
    pub(super) fn processes(&self) -> Vec<Process> {
        let proc = self.root.join("proc");
        let numbers = processes::numbers(&proc).into_iter().flatten();
        numbers
            .filter_map(|pid| {
                let command = read(&proc.join(pid.to_string()).join("cmdline"))?;
                let mut words = command.split_terminator('\0').map(str::to_owned);
                let program = words.next()?;
                Some(Process {
                    pid,
                    name: program.rsplit('/').next().unwrap_or_default().to_owned(),
                    arguments: words.collect(),
                })
            })
            .collect()
    }

    /// Returns the processes that run the agent, without the guard.
    pub(super) fn agents(&self) -> Vec<Process> {
        let mut found = self.processes();
        found.retain(|it| it.name == "hyperv-agent" && it.arguments.iter().any(|it| it == "run"));
        found
    }

    /// Returns the properties of units by their names, those of each as a map; `None` without
    /// systemd.
    pub(super) fn units(
        &self,
        units: &[&str],
        properties: &str,
    ) -> Option<Result<Vec<HashMap<String, String>>, String>> {
        let systemctl = self.systemctl.as_deref()?;
        Some(boot::show(systemctl, units, properties).map(|text| {
            let blocks = text.split("\n\n").map(|block| {
                let lines = block.lines().filter_map(|line| line.split_once('='));
                lines
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect()
            });
            blocks.collect()
        }))
    }
}

/// Returns the content of a file, or the first part of it.
pub(super) fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let is_file = fs::metadata(path).is_ok_and(|it| it.is_file());
    let file = is_file.then(|| File::open(path))?.ok()?;
    file.take(MAX_LEN).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
