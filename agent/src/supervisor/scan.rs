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

/// A service, seen before all local file systems are mounted.
#[derive(Debug)]
struct Held {
    since: Instant,
    /// How long its devices stay closed at most.
    wait: Duration,
    has_device: bool,
    /// That it waits was logged.
    waiting_logged: bool,
    /// That it waits no longer was logged.
    end_logged: bool,
}

impl Held {
    /// Returns when its devices are opened at the latest, if ever.
    fn until(&self) -> Option<Instant> {
        self.since.checked_add(self.wait)
    }

    fn is_held(&self, now: Instant) -> bool {
        self.until().is_none_or(|until| now < until)
    }
}

/// Scans for devices. It remembers what it has seen and reported.
#[derive(Debug)]
pub(crate) struct Scanner {
    log: Logger,
    settle_scans: u32,
    next_scan: Option<Instant>,
    mounts: Mounts,
    /// The services that were seen before all local file systems are mounted.
    held: BTreeMap<&'static str, Held>,
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
            held: BTreeMap::new(),
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

    /// Keeps the devices closed of services that need all local file systems until those
    /// are mounted.
    pub(crate) fn set_mounts(&mut self, mounts: Mounts) {
        self.mounts = mounts;
        if mounts == Mounts::Done {
            self.held.clear();
        }
    }

    /// Returns whether a service waits for local file systems, with or without a device.
    pub(crate) fn holds(&self, service: &str) -> bool {
        let held = self.held.get(service);
        held.is_some_and(|held| held.is_held(Instant::now()))
    }

    /// Returns the services whose devices are closed until local file systems are mounted.
    pub(crate) fn held(&self) -> impl Iterator<Item = &'static str> {
        let held = self.held.iter().filter(|(_, held)| held.has_device);
        held.map(|(service, _)| *service)
            .filter(|service| self.holds(service))
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
            if self.hold(entry, settings, !located.is_empty(), now) {
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

    /// Returns whether the devices of a service stay closed until local file systems are
    /// mounted.
    fn hold(
        &mut self,
        entry: &'static Entry,
        settings: &Settings,
        has_device: bool,
        now: Instant,
    ) -> bool {
        if self.mounts == Mounts::Done {
            return false;
        }
        let held = self.held.entry(entry.name).or_insert_with(|| Held {
            since: now,
            wait: (entry.mounts_wait)(&settings.config),
            has_device,
            waiting_logged: false,
            end_logged: false,
        });
        held.has_device = has_device;
        if !held.is_held(now) {
            if held.waiting_logged && !held.end_logged {
                held.end_logged = true;
                warn!(
                    self.log,
                    "{}: systemd has not mounted all local file systems within {} min: the device \
                     is opened nevertheless; see `systemctl list-jobs`",
                    entry.name,
                    held.wait.as_secs() / 60
                );
            }
            return false;
        }
        if self.mounts == Mounts::Pending && has_device && !held.waiting_logged {
            held.waiting_logged = true;
            info!(
                self.log,
                "{}: waiting until systemd has mounted all local file systems", entry.name
            );
        }
        if let Some(until) = held.until() {
            self.scan_again_at(until);
        }
        true
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

    /// A machine with a device of each service.
    fn complete(home: &Path) -> Settings {
        let mut settings = settings(home);
        fs::create_dir_all(settings.roots.dev.join("vmbus")).unwrap();
        for entry in SERVICES {
            fs::write(settings.roots.dev.join(entry.hvutil.node), "").unwrap();
        }
        let mut config = hyperv_services::Config::default();
        config.vss.environment.runtime_dir = settings.run.clone();
        settings.config = Arc::new(config);
        settings
    }

    fn served(scanner: &mut Scanner, settings: &Settings) -> Vec<&'static str> {
        let served = scanner.scan(settings).into_keys();
        served.map(|key| key.service).collect()
    }

    #[test]
    fn file_copy_and_backups_wait_for_local_file_systems_and_pairs_do_not() {
        let home = tempfile::tempdir().unwrap();
        let settings = complete(home.path());
        let mut scanner = scanner();
        for mounts in [Mounts::Unknown, Mounts::Pending] {
            scanner.set_mounts(mounts);
            assert_eq!(served(&mut scanner, &settings), ["kvp"]);
            assert_eq!(scanner.held().collect::<Vec<_>>(), ["fcopy", "vss"]);
        }
        fs::remove_file(settings.roots.dev.join(SERVICES[0].hvutil.node)).unwrap();
        scanner.scan(&settings);
        assert_eq!(scanner.held().collect::<Vec<_>>(), ["vss"]);
        assert!(scanner.holds("fcopy") && !scanner.holds("kvp"));
        scanner.set_mounts(Mounts::Done);
        assert_eq!(served(&mut scanner, &settings), ["kvp", "vss"]);
        assert_eq!(scanner.held().count(), 0);
        assert_eq!(scanner.next_scan(), None);
    }

    #[test]
    fn backups_do_not_wait_for_local_file_systems_for_ever() {
        let home = tempfile::tempdir().unwrap();
        let settings = complete(home.path());
        let mut scanner = scanner();
        scanner.set_mounts(Mounts::Pending);
        scanner.scan(&settings);
        let due = scanner.next_scan().unwrap();
        assert_eq!(scanner.held["vss"].until(), Some(due));
        assert_eq!(scanner.held["fcopy"].until(), None);
        for held in scanner.held.values_mut() {
            held.since -= held.wait.min(Duration::from_secs(3600));
        }
        assert_eq!(served(&mut scanner, &settings), ["kvp", "vss"]);
        assert_eq!(scanner.held().collect::<Vec<_>>(), ["fcopy"]);
        assert_eq!(scanner.next_scan(), None);
    }

    #[test]
    fn what_an_earlier_agent_left_frozen_is_thawed_before_file_systems_are_mounted() {
        let home = tempfile::tempdir().unwrap();
        let settings = complete(home.path());
        fs::create_dir_all(&settings.run).unwrap();
        let record = settings.run.join("vss-frozen");
        fs::write(&record, "").unwrap();
        let mut scanner = scanner();
        scanner.set_mounts(Mounts::Unknown);
        assert_eq!(served(&mut scanner, &settings), ["kvp", "vss"]);
        // The device stays open when that is done.
        fs::remove_file(&record).unwrap();
        scanner.set_mounts(Mounts::Pending);
        assert_eq!(served(&mut scanner, &settings), ["kvp", "vss"]);
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
