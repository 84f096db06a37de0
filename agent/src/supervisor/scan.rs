//! Scans for the devices of the enabled services, and for what makes others unreachable.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyperv_services::service::Entry;
use hyperv_vmbus::Guid;
use hyperv_vmbus::discovery::{self, Device, DiscoveryError};
use slog::{Logger, info, warn};

use crate::locate::{DeviceKey, ServiceDevices, has_node, locate};
use crate::settings::Settings;

/// How often, and how many times, to scan again for a device that the kernel is still
/// setting up.
const SETTLE_INTERVAL: Duration = Duration::from_millis(100);
const MAX_SETTLE_SCANS: u32 = 50;

/// How long a new device may have no driver before the agent binds it, or reports that.
const DRIVER_GRACE: Duration = Duration::from_secs(1);

/// Scans for devices. It remembers what it has seen and reported.
#[derive(Debug)]
pub(crate) struct Scanner {
    log: Logger,
    settle_scans: u32,
    next_scan: Option<Instant>,
    /// Devices that no driver makes accessible, and when they were seen first.
    unreachable: BTreeMap<Guid, Instant>,
    /// The problems that the last scan found. Each is logged once.
    problems: Vec<String>,
}

impl Scanner {
    pub(crate) fn new(log: Logger) -> Self {
        Self {
            log,
            settle_scans: 0,
            next_scan: None,
            unreachable: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// Returns when to scan again without a uevent.
    pub(crate) fn next_scan(&self) -> Option<Instant> {
        self.next_scan
    }

    /// Returns what keeps devices from being served.
    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }

    /// A uevent arrived: the kernel may be setting up a device.
    pub(crate) fn expect_news(&mut self) {
        self.settle_scans = 0;
    }

    /// Returns the devices of all enabled services.
    pub(crate) fn scan(&mut self, settings: &Settings) -> BTreeMap<DeviceKey, &'static Entry> {
        let now = Instant::now();
        self.next_scan = None;
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
            // In a container the bus may be missing although the nodes exist.
            Err(DiscoveryError::NoVmbus(_)) => Vec::new(),
            Err(error) => {
                problems.push(format!("cannot scan for devices: {error}"));
                Vec::new()
            }
        };
        for (entry, has_node) in services {
            let ServiceDevices {
                located,
                unreachable,
                settling,
            } = locate(entry, &devices, roots, has_node);
            if settling && self.settle_scans < MAX_SETTLE_SCANS {
                self.settle_scans += 1;
                self.scan_again_at(now + SETTLE_INTERVAL);
            }
            for device in unreachable {
                unreachable_now.push(device.instance);
                // A driver may follow: the module is being loaded, or udev runs.
                let since = *self.unreachable.entry(device.instance).or_insert(now);
                if now.duration_since(since) < DRIVER_GRACE {
                    self.scan_again_at(since + DRIVER_GRACE);
                    continue;
                }
                match self.make_reachable(settings, entry, &device) {
                    Ok(()) => self.scan_again_at(now + SETTLE_INTERVAL),
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

    fn scan_again_at(&mut self, when: Instant) {
        let earliest = self.next_scan.map_or(when, |other| other.min(when));
        self.next_scan = Some(earliest);
    }

    /// Binds a device to `uio_hv_generic`, if the configuration allows that. An error says
    /// why the device is unreachable.
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
