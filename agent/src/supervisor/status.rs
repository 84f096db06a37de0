//! Collects the status document.

use std::collections::BTreeMap;
use std::process;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use hyperv_services::clock::clock;
use hyperv_services::counters::Counters;
use hyperv_services::registry::SERVICES;
use hyperv_services::service::Entry;

use super::scan::Scanner;
use super::slot::{self, Slot};
use super::standalone::Standalone;
use crate::devices::{self, DeviceInfo};
use crate::locate::{DeviceKey, DeviceNode};
use crate::rate_limit::RateLimit;
use crate::settings::Settings;
use crate::stats::ServiceStats;
use crate::status::backup::{LastBackup, MAX_MOUNT_POINTS, MAX_NAME, cut};
use crate::status::{
    Capture, Device, Document, LastError, Operation, Progress, Service, State, Transport, Versions,
};

/// Maximum number of devices of a service, and of problems, in the document. The host may
/// offer more devices, and the document must fit the buffer of a socket.
const MAX_LISTED: usize = 8;

/// Maximum length in characters of a problem or a failure.
const MAX_TEXT: usize = 500;

/// What a service waits for whose devices stay closed early in the boot.
const LOCAL_FILE_SYSTEMS: &str = "systemd to mount all local file systems (local-fs.target)";

/// What the status is collected from.
pub(crate) struct StatusSources<'a> {
    pub(crate) started: SystemTime,
    pub(crate) settings: &'a Settings,
    pub(crate) slots: &'a BTreeMap<DeviceKey, Slot>,
    pub(crate) standalone: Option<&'a Standalone>,
    pub(crate) stats: &'a BTreeMap<&'static str, Arc<ServiceStats>>,
    pub(crate) limit: &'a RateLimit,
    /// The last reload, if it failed: its time and its error.
    pub(crate) failed_reload: Option<&'a (SystemTime, String)>,
    pub(crate) capture: Option<Capture>,
    pub(crate) scanner: &'a Scanner,
}

impl StatusSources<'_> {
    /// Collects the status. It reads sysfs for the GUIDs of the devices.
    pub(crate) fn document(&self) -> Document {
        // Without the bus there are no GUIDs.
        let listed = devices::list(&self.settings.roots).unwrap_or_default();
        let on = &self.settings.services;
        let is_off = |entry: &&Entry| !on.iter().any(|other| other.name == entry.name);
        let off = SERVICES.into_iter().filter(is_off);
        Document {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            since: clock(self.started),
            services: on
                .iter()
                .map(|entry| self.service(entry, true, &listed))
                .chain(off.map(|entry| self.service(entry, false, &listed)))
                .collect(),
            suppressed: self.limit.suppressed(),
            failed_reload: self.failed_reload.map(|(at, text)| LastError {
                at: clock(*at),
                text: cut(text, MAX_TEXT),
            }),
            capture: self.capture.clone(),
            counters: self.counters(),
            problems: self
                .scanner
                .problems()
                .iter()
                .take(MAX_LISTED)
                .map(|text| cut(text, MAX_TEXT))
                .collect(),
        }
    }

    fn counters(&self) -> Counters {
        let of = |name| self.stats.get(name).map(|stats| &stats.record.counters);
        Counters {
            fcopy: of("fcopy").map(|it| it.fcopy.clone()).unwrap_or_default(),
            kvp: of("kvp").map(|it| it.kvp.clone()).unwrap_or_default(),
            vss: of("vss").map(|it| it.vss.clone()).unwrap_or_default(),
        }
    }

    fn service(&self, entry: &Entry, on: bool, listed: &[DeviceInfo]) -> Service {
        // Collected before the counts, which then include each request in progress.
        let devices = self
            .slots
            .iter()
            .filter(|(key, _)| key.service == entry.name)
            .take(MAX_LISTED)
            .map(|(key, slot)| device(&key.device, slot, listed))
            .collect();
        let stats = self.stats.get(entry.name);
        let (requests, failures) = stats.map(|stats| stats.counts()).unwrap_or_default();
        Service {
            name: entry.name.to_owned(),
            summary: entry.summary.to_owned(),
            on,
            requests,
            failures,
            devices_opened: stats.map(|stats| stats.opened.get()).unwrap_or_default(),
            device_failures: stats
                .map(|stats| stats.device_failures.get())
                .unwrap_or_default(),
            last_error: stats
                .and_then(|stats| stats.last_error())
                .map(|(at, text)| LastError {
                    at: clock(at),
                    text,
                }),
            suppressed: stats
                .map(|stats| stats.limit.suppressed())
                .unwrap_or_default(),
            last_backup: stats
                .and_then(|stats| stats.record.last_backup())
                .map(LastBackup::from),
            operation: self
                .standalone
                .filter(|standalone| standalone.entry.name == entry.name)
                .and_then(|standalone| standalone.state.snapshot().operation)
                .map(truncate),
            waits_for: self
                .scanner
                .held()
                .any(|held| held == entry.name)
                .then(|| LOCAL_FILE_SYSTEMS.to_owned()),
            devices,
        }
    }
}

fn device(located: &DeviceNode, slot: &Slot, listed: &[DeviceInfo]) -> Device {
    let node = located.node().display().to_string();
    let (state, snapshot) = match &slot.state {
        slot::State::Running {
            control, stopping, ..
        } => {
            let snapshot = control.state.snapshot();
            let state = match (stopping, snapshot.open) {
                (true, _) => State::Closing,
                (false, true) => State::Serving,
                (false, false) => State::Opening,
            };
            (state, snapshot)
        }
        slot::State::Backoff(until) => {
            let state = State::Failed {
                failure: slot.last_failure().map(|text| cut(text, MAX_TEXT)),
                retry_in: until.saturating_duration_since(Instant::now()).as_secs(),
            };
            (state, Default::default())
        }
    };
    Device {
        instance: listed
            .iter()
            .find(|listed| listed.node.as_ref() == Some(&node))
            .map(|listed| listed.instance.clone()),
        node,
        transport: match located {
            DeviceNode::Uio { .. } => Transport::Uio,
            DeviceNode::HvUtil { .. } => Transport::HvUtil,
        },
        state,
        versions: snapshot.negotiated.map(|negotiated| Versions {
            framework: negotiated.framework.to_string(),
            message: negotiated.message.to_string(),
        }),
        working: snapshot.working,
        operation: snapshot.operation.map(truncate),
    }
}

/// Truncates the texts of an operation, so that the document fits the buffer of a socket.
fn truncate(mut snapshot: Progress) -> Progress {
    match &mut snapshot.operation {
        Operation::Copying { path: text, .. } | Operation::Configuring { adapter: text } => {
            *text = cut(text, MAX_NAME);
        }
        Operation::Frozen { mount_points, .. } => {
            mount_points.truncate(MAX_MOUNT_POINTS);
            for path in mount_points {
                *path = cut(path, MAX_NAME);
            }
        }
        Operation::Freezing => {}
    }
    snapshot.waits_for = snapshot.waits_for.map(|path| cut(&path, MAX_NAME));
    snapshot
}
