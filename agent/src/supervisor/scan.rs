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

/// How much longer it may have none while udev handles events: during the boot, loading a
/// driver takes a while.
const UDEV_GRACE: Duration = Duration::from_secs(60);

/// How long the kernel module of a VMBus that the firmware describes may be missing before
/// that is reported.
const VMBUS_GRACE: Duration = Duration::from_secs(30);

/// Whether all local file systems are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mounts {
    /// Yes, or nobody can tell.
    Done,
    /// systemd is being asked.
    Unknown,
    /// No, systemd is mounting them.
    Pending,
}

/// When a device that no driver makes accessible was seen first, and when udev last
/// handled events after that.
#[derive(Debug, Clone, Copy)]
struct Unreachable {
    first: Instant,
    idle_since: Instant,
}

impl Unreachable {
    fn since(now: Instant) -> Self {
        Self {
            first: now,
            idle_since: now,
        }
    }

    /// Returns when the agent binds or reports the device.
    fn due(&mut self, udev_is_busy: bool, now: Instant) -> Instant {
        if udev_is_busy && now.duration_since(self.first) < UDEV_GRACE {
            self.idle_since = now;
        }
        self.idle_since + DRIVER_GRACE
    }
}

/// Scans for devices. It remembers what it has seen and reported.
#[derive(Debug)]
pub(crate) struct Scanner {
    log: Logger,
    settle_scans: u32,
    next_scan: Option<Instant>,
    mounts: Mounts,
    /// Waiting for local file systems was logged.
    waiting_logged: bool,
    /// When the first scan found no VMBus although the firmware describes one.
    no_vmbus: Option<Instant>,
    /// Devices that no driver makes accessible.
    unreachable: BTreeMap<Guid, Unreachable>,
    /// The problems that the last scan found. Each is logged once.
    problems: Vec<String>,
}

impl Scanner {
    pub(crate) fn new(log: Logger) -> Self {
        Self {
            log,
            settle_scans: 0,
            next_scan: None,
            mounts: Mounts::Done,
            waiting_logged: false,
            no_vmbus: None,
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

    /// Leaves out services that need all local file systems until those are mounted.
    pub(crate) fn set_mounts(&mut self, mounts: Mounts) {
        self.mounts = mounts;
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
        // udev's own directory; without udev it does not exist.
        let udev_is_busy = settings.run.join("udev/queue").exists();
        let devices = match discovery::devices(roots) {
            Ok(devices) => devices,
            // In a container the bus may be missing although the nodes exist.
            Err(DiscoveryError::NoVmbus(path)) => {
                if discovery::firmware_has_vmbus(roots) {
                    let first = *self.no_vmbus.get_or_insert(now);
                    if now.duration_since(first) < VMBUS_GRACE {
                        self.scan_again_at(first + VMBUS_GRACE);
                    } else {
                        problems.push(format!(
                            "this is a Hyper-V guest, but {} does not exist: load the module with \
                             `modprobe hv_vmbus`",
                            path.display()
                        ));
                    }
                }
                Vec::new()
            }
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
                let seen = self.unreachable.entry(device.instance);
                let seen = seen.or_insert_with(|| Unreachable::since(now));
                let due = seen.due(udev_is_busy, now);
                if now < due {
                    self.scan_again_at(due);
                    continue;
                }
                match self.make_reachable(settings, entry, &device) {
                    Ok(()) => self.scan_again_at(now + SETTLE_INTERVAL),
                    Err(problem) => problems.push(problem),
                }
            }
            if entry.after_mounts && self.mounts != Mounts::Done {
                if self.mounts == Mounts::Pending && !located.is_empty() && !self.waiting_logged {
                    self.waiting_logged = true;
                    info!(
                        self.log,
                        "{}: waiting until all local file systems are mounted", entry.name
                    );
                }
                continue;
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use hyperv_services::registry::SERVICES;
    use hyperv_vmbus::discovery::Roots;
    use slog::o;

    use super::*;

    fn scanner() -> Scanner {
        Scanner::new(Logger::root(slog::Discard, o!()))
    }

    /// The settings of a machine whose directories are below `home`.
    fn settings(home: &Path) -> Settings {
        Settings {
            services: SERVICES.to_vec(),
            config: Arc::default(),
            bind_uio: false,
            roots: Roots {
                sys: home.join("sys"),
                dev: home.join("dev"),
            },
            run: home.join("run"),
        }
    }

    #[test]
    fn file_copy_waits_for_local_file_systems_and_the_other_services_do_not() {
        let home = tempfile::tempdir().unwrap();
        let settings = settings(home.path());
        fs::create_dir_all(home.path().join("dev/vmbus")).unwrap();
        for entry in SERVICES {
            fs::write(settings.roots.dev.join(entry.hvutil.node), "").unwrap();
        }
        let mut scanner = scanner();
        let mut served = |mounts| {
            scanner.set_mounts(mounts);
            let served = scanner.scan(&settings).into_keys();
            served.map(|key| key.service).collect::<Vec<_>>()
        };
        assert_eq!(served(Mounts::Unknown), ["kvp", "vss"]);
        assert_eq!(served(Mounts::Pending), ["kvp", "vss"]);
        assert_eq!(served(Mounts::Done), ["fcopy", "kvp", "vss"]);
    }

    #[test]
    fn a_device_without_a_driver_has_longer_while_udev_is_busy() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut device = Unreachable::since(start);
        assert_eq!(device.due(false, start), start + DRIVER_GRACE);
        for at in 0..50 {
            let now = start + second * at;
            assert_eq!(device.due(true, now), now + DRIVER_GRACE);
        }
        // The usual time counts from then on.
        let idle = start + second * 50;
        assert_eq!(device.due(false, idle), idle - second + DRIVER_GRACE);
        // udev may be busy for ever.
        let late = start + UDEV_GRACE * 2;
        assert!(device.due(true, late) < late);
    }

    #[test]
    fn udevs_queue_keeps_a_device_from_being_reported() {
        let home = tempfile::tempdir().unwrap();
        let settings = settings(home.path());
        let instance = "00000000-0000-0000-0000-0000000000aa";
        let device = home.path().join("sys/bus/vmbus/devices").join(instance);
        fs::create_dir_all(&device).unwrap();
        let class = SERVICES[0].class;
        fs::write(device.join("class_id"), format!("{{{class}}}\n")).unwrap();
        let queue = settings.run.join("udev/queue");
        fs::create_dir_all(queue.parent().unwrap()).unwrap();
        fs::write(&queue, "").unwrap();
        let mut scanner = scanner();
        scanner.scan(&settings);
        let mut problems = || {
            // As if the usual time had passed.
            for seen in scanner.unreachable.values_mut() {
                seen.idle_since -= DRIVER_GRACE;
            }
            scanner.scan(&settings);
            scanner.problems().len()
        };
        assert_eq!(problems(), 0);
        fs::remove_file(&queue).unwrap();
        assert_eq!(problems(), 1);
    }

    #[test]
    fn a_vmbus_that_only_the_firmware_knows_is_waited_for_and_reported() {
        let home = tempfile::tempdir().unwrap();
        let settings = settings(home.path());
        let mut scanner = scanner();
        scanner.scan(&settings);
        assert_eq!((scanner.next_scan(), scanner.problems().len()), (None, 0));
        fs::create_dir_all(home.path().join("sys/bus/acpi/devices/VMBUS:00")).unwrap();
        scanner.scan(&settings);
        assert!(scanner.next_scan().is_some());
        assert!(scanner.problems().is_empty());
        scanner.no_vmbus = scanner.no_vmbus.map(|first| first - VMBUS_GRACE);
        scanner.scan(&settings);
        assert_eq!(scanner.next_scan(), None);
        assert!(scanner.problems()[0].contains("modprobe hv_vmbus"));
        fs::create_dir_all(home.path().join("sys/bus/vmbus/devices")).unwrap();
        scanner.scan(&settings);
        assert!(scanner.problems().is_empty());
    }
}
