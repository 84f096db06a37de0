//! The status as OpenMetrics text.
//!
//! Only counters and gauges are used, which programs that read the older text format of
//! Prometheus, such as node_exporter, understand as well.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use hyperv_services::counters::{BackupOutcomes, Count, Outcomes};

use super::{Document, Service, State};

const PREFIX: &str = "hyperv_agent";

/// Returns the status as OpenMetrics text.
pub fn render(document: &Document) -> String {
    let mut text = Text::default();
    let counters = &document.counters;
    text.gauge("build_info", "", "The version of the running agent.");
    text.sample(&[("version", &document.version)], 1);
    text.gauge(
        "start_time_seconds",
        "seconds",
        "When the agent was started.",
    );
    text.sample(&[], seconds_since_epoch(document.since));
    text.gauge(
        "config_reload_failed",
        "",
        "Whether the last reload of the configuration failed.",
    );
    text.sample(&[], u8::from(document.failed_reload.is_some()));
    text.gauge("problems", "", "Reasons why devices are not served.");
    text.sample(&[], document.problems.len());

    let services = &document.services;
    text.gauge("service_enabled", "", "Whether the service is switched on.");
    text.each(services, &[], |it| u64::from(it.on));
    text.gauge("devices", "", "Devices by state.");
    for (state, is_in) in STATES {
        text.each(services, &[("state", state)], |service| {
            let devices = service.devices.iter();
            devices.filter(|device| is_in(&device.state)).count() as u64
        });
    }
    text.counter("devices_opened", "", "How often a device was opened.");
    text.each(services, &[], |it| it.devices_opened);
    text.counter(
        "device_failures",
        "",
        "How often a device could not be opened, or was closed after an error.",
    );
    text.each(services, &[], |it| it.device_failures);
    text.counter("requests", "", "Requests of the host by outcome.");
    text.each(services, &[("outcome", "succeeded")], |it| {
        it.requests.saturating_sub(it.failures)
    });
    text.each(services, &[("outcome", "failed")], |it| it.failures);
    text.counter("log_suppressed", "", "Log messages that were suppressed.");
    text.each(services, &[], |it| it.suppressed.total);
    text.sample(&[("service", "agent")], document.suppressed.total);

    let copies = &counters.fcopy;
    text.counter(
        "copied_bytes",
        "bytes",
        "Bytes that file copies have written.",
    );
    text.sample(&[], copies.bytes.get());
    text.counter("copies", "", "File copies by outcome.");
    for (outcome, count) in [
        ("finished", &copies.finished),
        ("failed", &copies.failed),
        ("cancelled", &copies.cancelled),
    ] {
        text.sample(&[("outcome", outcome)], count.get());
    }

    let kvp = &counters.kvp;
    text.counter(
        "kvp_requests",
        "",
        "Key-value requests by operation and outcome.",
    );
    for (operation, outcomes) in [
        ("get", &kvp.get),
        ("set", &kvp.set),
        ("delete", &kvp.delete),
        ("enumerate", &kvp.enumerate),
        ("get_ip_info", &kvp.get_ip_info),
        ("set_ip_info", &kvp.set_ip_info),
        ("malformed", &kvp.malformed),
    ] {
        let Outcomes {
            succeeded,
            missing,
            failed,
        } = outcomes;
        for (outcome, count) in [
            ("succeeded", succeeded),
            ("missing", missing),
            ("failed", failed),
        ] {
            let labels = [("operation", operation), ("outcome", outcome)];
            text.sample(&labels, count.get());
        }
    }

    let vss = &counters.vss;
    text.counter("backups", "", "Backups and rehearsals by outcome.");
    for (kind, outcomes) in [("backup", &vss.backups), ("rehearsal", &vss.rehearsals)] {
        let BackupOutcomes {
            consistent,
            inconsistent,
            failed,
        } = outcomes;
        for (outcome, count) in [
            ("consistent", consistent),
            ("inconsistent", inconsistent),
            ("failed", failed),
        ] {
            text.sample(&[("kind", kind), ("outcome", outcome)], count.get());
        }
    }
    text.counter("freezes", "", "How often file systems were frozen.");
    text.sample(&[], vss.freezes.get());
    let seconds = |usec: &Count| usec.get() as f64 / 1e6;
    text.counter(
        "frozen_seconds",
        "seconds",
        "How long file systems were frozen, in all.",
    );
    text.sample(&[], seconds(&vss.frozen_usec));
    text.gauge("frozen_longest_seconds", "seconds", "The longest freeze.");
    text.sample(&[], seconds(&vss.frozen_usec_longest));
    text.gauge("frozen_last_seconds", "seconds", "The last freeze.");
    text.sample(&[], seconds(&vss.frozen_usec_last));
    text.counter("thaws", "", "Freezes by what ended them.");
    for (by, count) in [
        ("host", &vss.thawed_by.host),
        ("rehearsal", &vss.thawed_by.rehearsal),
        ("time_limit", &vss.thawed_by.time_limit),
        ("interruption", &vss.thawed_by.interruption),
    ] {
        text.sample(&[("by", by)], count.get());
    }
    text.counter("hooks_failed", "", "Runs of hooks that failed.");
    text.sample(&[], vss.hooks_failed.get());
    if let Some(last) = services.iter().find_map(|it| it.last_backup.as_ref()) {
        text.gauge(
            "last_backup_time_seconds",
            "seconds",
            "When the last backup began.",
        );
        text.sample(&[], seconds_since_epoch(last.began));
        text.gauge(
            "last_backup_succeeded",
            "",
            "Whether the last backup was consistent and no hook failed.",
        );
        text.sample(&[], u8::from(last.is_well()));
    }
    text.out + "# EOF\n"
}

/// Whether a device is in a state.
type IsIn = fn(&State) -> bool;

/// The states of a device.
const STATES: [(&str, IsIn); 4] = [
    ("opening", |state| matches!(state, State::Opening)),
    ("serving", |state| matches!(state, State::Serving)),
    ("closing", |state| matches!(state, State::Closing)),
    ("failed", |state| matches!(state, State::Failed { .. })),
];

/// The text so far, and the name of the samples that follow.
#[derive(Default)]
struct Text {
    out: String,
    sample: String,
}

impl Text {
    fn gauge(&mut self, name: &str, unit: &str, help: &str) {
        self.family(name, "gauge", unit, help);
    }

    fn counter(&mut self, name: &str, unit: &str, help: &str) {
        self.family(name, "counter", unit, help);
        self.sample += "_total";
    }

    fn family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        let name = format!("{PREFIX}_{name}");
        self.out += &format!("# TYPE {name} {kind}\n");
        if !unit.is_empty() {
            self.out += &format!("# UNIT {name} {unit}\n");
        }
        self.out += &format!("# HELP {name} {help}\n");
        self.sample = name;
    }

    /// Writes a sample for each service.
    fn each(
        &mut self,
        services: &[Service],
        labels: &[(&str, &str)],
        value: impl Fn(&Service) -> u64,
    ) {
        for service in services {
            let name = ("service", service.name.as_str());
            self.sample(&[&[name], labels].concat(), value(service));
        }
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl ToString) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.out, "{}{labels} {}", self.sample, value.to_string());
    }
}

fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

fn seconds_since_epoch(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
