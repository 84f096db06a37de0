//! Looking for devices: which there are for the services that are switched on,
//! and what keeps others from being reached.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyperv_services::service::Entry;
use hyperv_vmbus::Guid;
use hyperv_vmbus::discovery::{self, Device, DiscoveryError};
use slog::{Logger, info, warn};

use crate::locate::DeviceKey;
use crate::locate::{ServiceDevices, has_node, locate};
use crate::settings::Settings;

/// How often, and how many times in a row, to look again for a device that the
/// kernel is still setting up.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
const SETTLE_LOOKS: u32 = 50;

/// How long a new device may be without a driver before that is a problem, or
/// the agent binds it.
const DRIVER_GRACE: Duration = Duration::from_secs(1);

/// Looks for devices, again and again.
#[derive(Debug)]
pub(crate) struct Scanner {
    log: Logger,
    settle_looks: u32,
    look_again: Option<Instant>,
    /// Devices that no driver makes accessible, and since when.
    unreachable: BTreeMap<Guid, Instant>,
    /// The last problems, so that each is logged once.
    problems: Vec<String>,
}

impl Scanner {
    pub(crate) fn new(log: Logger) -> Self {
        Self {
            log,
            settle_looks: 0,
            look_again: None,
            unreachable: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// When to look again although nothing was announced.
    pub(crate) fn look_again(&self) -> Option<Instant> {
        self.look_again
    }

    /// What keeps devices from being served.
    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Something was announced: a device may be set up from now on.
    pub(crate) fn expect_news(&mut self) {
        self.settle_looks = 0;
    }

    /// The devices of all services that are switched on.
    pub(crate) fn scan(&mut self, settings: &Settings) -> BTreeMap<DeviceKey, &'static Entry> {
        let now = Instant::now();
        self.look_again = None;
        let mut problems = Vec::new();
        let mut wanted = BTreeMap::new();
        let mut unreachable_now = Vec::new();
        let roots = &settings.roots;
        let services: Vec<_> = settings
            .services
            .iter()
            .map(|entry| (*entry, has_node(entry, roots)))
            .collect();
        let devices = match discovery::devices(roots) {
            Ok(devices) => devices,
            // The bus can be missing where the nodes are not, as in containers.
            Err(DiscoveryError::NoVmbus(_)) => Vec::new(),
            Err(error) => {
                problems.push(format!("cannot look for devices: {error}"));
                Vec::new()
            }
        };
        for (entry, has_node) in services {
            let ServiceDevices {
                located,
                unreachable,
                settling,
            } = locate(entry, &devices, roots, has_node);
            if settling && self.settle_looks < SETTLE_LOOKS {
                self.settle_looks += 1;
                self.look_again_at(now + SETTLE_PAUSE);
            }
            for device in unreachable {
                unreachable_now.push(device.instance);
                // A driver may be on its way: the module is being loaded, or
                // udev is at work.
                let since = *self.unreachable.entry(device.instance).or_insert(now);
                if now.duration_since(since) < DRIVER_GRACE {
                    self.look_again_at(since + DRIVER_GRACE);
                    continue;
                }
                match self.make_reachable(settings, entry, &device) {
                    Ok(()) => self.look_again_at(now + SETTLE_PAUSE),
                    Err(problem) => problems.push(problem),
                }
            }
            for device in located {
                let service = entry.name;
                wanted.insert(DeviceKey { service, device }, entry);
            }
        }
        self.unreachable
            .retain(|instance, _| unreachable_now.contains(instance));
        for problem in &problems {
            if !self.problems.contains(problem) {
                warn!(self.log, "{}", problem);
            }
        }
        self.problems = problems;
        wanted
    }

    fn look_again_at(&mut self, when: Instant) {
        let earliest = self.look_again.map_or(when, |other| other.min(when));
        self.look_again = Some(earliest);
    }

    /// Binds a device to `uio_hv_generic`, where it may; or says why nobody can
    /// reach it.
    fn make_reachable(
        &self,
        settings: &Settings,
        entry: &Entry,
        device: &Device,
    ) -> Result<(), String> {
        let (service, instance) = (entry.name, device.instance);
        if let Some(driver) = &device.driver {
            return Err(format!(
                "{service}: the driver {driver} has device {instance}, but there is no {}: is \
                 /dev complete?",
                settings.roots.dev.join(entry.hvutil.node).display()
            ));
        }
        if !settings.bind_uio {
            return Err(format!(
                "{service}: the host offers device {instance}, but no driver has it: install the \
                 udev rule 60-hyperv-agent.rules, or load the module uio_hv_generic (kernels \
                 before 6.10: hv_utils) and set bind-uio in the configuration"
            ));
        }
        discovery::bind_to_uio(&settings.roots, device).map_err(|error| {
            format!("{service}: device {instance} has no driver and cannot be bound: {error}")
        })?;
        info!(self.log, "bound to uio_hv_generic"; "service" => service, "device" => %instance);
        Ok(())
    }
}
