//! The status as text.

use std::fmt::Write;
use std::time::SystemTime;

use crate::terminal::{bytes, escaped};

use super::backup::{file_systems, mount_points};
use super::ip_configuration::IpConfiguration;
use super::{Device, Document, Operation, Progress, Service, State, Suppressed, Transport};
use hyperv_services::clock::utc;

/// Returns the status as text, with times relative to `now`, and these IP configurations of the
/// host.
pub fn render(document: &Document, configured: &[IpConfiguration], now: SystemTime) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut out, document, configured, now);
    out
}

fn write(
    out: &mut String,
    document: &Document,
    configured: &[IpConfiguration],
    now: SystemTime,
) -> std::fmt::Result {
    let since = utc(document.since);
    writeln!(
        out,
        "hyperv-agent {}, process {}, running since {since} ({})",
        escaped(&document.version),
        document.pid,
        ago(document.since, now)
    )?;
    write_suppressed(out, document.suppressed)?;
    if let Some(failed) = &document.failed_reload {
        let (at, text) = (ago(failed.at, now), escaped(&failed.text));
        let words = format!("failed {at}, the configuration before it is in use: {text}");
        line(out, "reload", &words)?;
    }
    if let Some(capture) = &document.capture {
        let of = match capture.services[..] {
            [] => "all services".to_owned(),
            _ => escaped(&capture.services.join(", ")),
        };
        let words = format!(
            "of {of}, for {}: {} records, {} dropped",
            span(capture.since, now),
            capture.records,
            capture.dropped
        );
        line(out, "capture", &words)?;
    }
    for service in &document.services {
        writeln!(
            out,
            "\n{}: {}",
            escaped(&service.name),
            escaped(&service.summary)
        )?;
        write_service(out, service, now)?;
    }
    if !configured.is_empty() {
        writeln!(out, "\nIP configurations of the host:")?;
    }
    for one in configured {
        let ago = ago(one.at, now);
        let (interface, manager) = (escaped(&one.interface), escaped(&one.manager));
        let at = utc(one.at);
        writeln!(out, "  {interface}, {at} ({ago}), with {manager}:")?;
        for line in one.lines() {
            writeln!(out, "    {line}")?;
        }
    }
    if !document.problems.is_empty() {
        writeln!(out, "\nProblems:")?;
        for problem in &document.problems {
            writeln!(out, "  {}", escaped(problem))?;
        }
    }
    Ok(())
}

fn write_service(out: &mut String, service: &Service, now: SystemTime) -> std::fmt::Result {
    if !service.on {
        line(out, "state", "off")?;
    } else if let Some(what) = &service.waits_for {
        line(out, "state", &format!("waiting for {}", escaped(what)))?;
    } else if service.devices.is_empty() {
        line(out, "state", "waiting for the host to offer its device")?;
    }
    if let Some(operation) = &service.operation {
        line(out, "operation", &describe(operation, now))?;
    }
    for device in &service.devices {
        write_device(out, device, now)?;
    }
    if service.on || service.requests > 0 {
        let requests = format!("{}, {} failed", service.requests, service.failures);
        line(out, "requests", &requests)?;
    }
    if let Some(backup) = &service.last_backup {
        line(out, "last backup", &backup.text())?;
    }
    if let Some(error) = &service.last_error {
        let text = format!("{}: {}", ago(error.at, now), escaped(&error.text));
        line(out, "last error", &text)?;
    }
    write_suppressed(out, service.suppressed)
}

fn write_suppressed(out: &mut String, counts: Suppressed) -> std::fmt::Result {
    if counts.total == 0 {
        return Ok(());
    }
    let text = format!(
        "{} messages suppressed (warnings: {}, events: {})",
        counts.total, counts.warnings, counts.events
    );
    line(out, "log", &text)
}

fn write_device(out: &mut String, device: &Device, now: SystemTime) -> std::fmt::Result {
    let transport = match device.transport {
        Transport::Uio => "UIO",
        Transport::HvUtil => "hv_utils",
    };
    let instance = device.instance.as_deref().map(escaped);
    line(
        out,
        "device",
        &format!(
            "{} ({transport}{}{})",
            escaped(&device.node),
            if instance.is_some() { ", " } else { "" },
            instance.unwrap_or_default()
        ),
    )?;
    let state = match &device.state {
        State::Opening => "opening".to_owned(),
        State::Serving => "serving".to_owned(),
        State::Closing => "closing".to_owned(),
        State::Failed { failure, retry_in } => format!(
            "{}; next attempt in {retry_in} s",
            escaped(failure.as_deref().unwrap_or("not open"))
        ),
    };
    line(out, "state", &state)?;
    if let State::Serving = device.state {
        let versions = match (&device.versions, device.transport) {
            (Some(versions), _) => format!(
                "{} (framework {})",
                escaped(&versions.message),
                escaped(&versions.framework)
            ),
            (None, Transport::Uio) => "not negotiated yet".to_owned(),
            (None, Transport::HvUtil) => "negotiated by the kernel".to_owned(),
        };
        line(out, "versions", &versions)?;
    }
    match &device.operation {
        Some(operation) => line(out, "operation", &describe(operation, now)),
        None if device.working => line(out, "operation", "handling a request"),
        None => Ok(()),
    }
}

fn describe(progress: &Progress, now: SystemTime) -> String {
    let span = span(progress.since, now);
    let words = match &progress.operation {
        Operation::Copying { path, done, size } => {
            let percent = match size {
                0 => 100,
                size => u128::from(*done) * 100 / u128::from(*size),
            };
            format!(
                "copying to {}, {} of {} ({percent} %), for {span}",
                escaped(path),
                bytes(*done),
                bytes(*size)
            )
        }
        Operation::Freezing => format!("freezing file systems, for {span}"),
        Operation::Frozen {
            file_systems: count,
            mount_points: shown,
            rehearsal,
        } => {
            let rehearsal = if *rehearsal { "rehearsal: " } else { "" };
            match count {
                0 => format!("{rehearsal}applications quiesced for {span}"),
                &count => format!(
                    "{rehearsal}{} frozen for {span}: {}",
                    file_systems(count),
                    mount_points(shown, count)
                ),
            }
        }
        Operation::Configuring { adapter } => {
            format!(
                "applying an IP configuration to {}, for {span}",
                escaped(adapter)
            )
        }
    };
    match &progress.waits_for {
        Some(path) => format!("{words}, waiting for {}", escaped(path)),
        None => words,
    }
}

fn line(out: &mut String, what: &str, text: &str) -> std::fmt::Result {
    writeln!(out, "  {what:11}  {text}")
}

pub(crate) fn ago(then: SystemTime, now: SystemTime) -> String {
    format!("{} ago", span(then, now))
}

/// Returns the time from `then` to `now`, in the largest unit that fits.
fn span(then: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use humantime::parse_rfc3339;
    use hyperv_services::counters::Counters;
    use hyperv_services::kvp::network::record::{self, Record};
    use hyperv_services::kvp::request::IpInfo;

    use super::super::backup::{Hook, Kind, LastBackup, Outcome};
    use super::super::{Capture, LastError, Versions};
    use super::*;

    fn at(time: &str) -> SystemTime {
        parse_rfc3339(time).unwrap()
    }

    fn now() -> SystemTime {
        at("2026-03-04T12:00:00Z")
    }

    fn device(state: State) -> Device {
        Device {
            node: "/dev/uio0".into(),
            instance: Some("00000000-0000-0000-0000-000000000001".into()),
            transport: Transport::Uio,
            state,
            versions: None,
            working: false,
            operation: None,
        }
    }

    fn document() -> Document {
        let service = |name: &str, on, devices| Service {
            name: name.into(),
            summary: format!("what {name} does"),
            on,
            requests: 0,
            failures: 0,
            devices_opened: 0,
            device_failures: 0,
            last_error: None,
            suppressed: Suppressed::default(),
            last_backup: None,
            operation: None,
            waits_for: None,
            devices,
        };
        let copying = Device {
            versions: Some(Versions {
                framework: "3.0".into(),
                message: "1.1".into(),
            }),
            working: true,
            operation: Some(Progress {
                since: at("2026-03-04T11:59:18Z"),
                waits_for: None,
                operation: Operation::Copying {
                    path: "/srv/\u{1b}[2J\u{202e}é".into(),
                    done: 3 << 19,
                    size: 3 << 20,
                },
            }),
            ..device(State::Serving)
        };
        let failed = Device {
            transport: Transport::HvUtil,
            instance: None,
            node: "/dev/vmbus/hv_kvp".into(),
            ..device(State::Failed {
                failure: Some("cannot be opened: busy".into()),
                retry_in: 3,
            })
        };
        Document {
            version: "1.2.3".into(),
            pid: 42,
            since: at("2026-03-02T10:00:00Z"),
            services: vec![
                Service {
                    requests: 7,
                    failures: 1,
                    last_error: Some(LastError {
                        at: at("2026-03-04T11:56:59Z"),
                        text: "copy failed: \"/a\nb\"".into(),
                    }),
                    suppressed: Suppressed {
                        total: 12_000,
                        warnings: 7,
                        events: 1,
                    },
                    ..service("fcopy", true, vec![copying])
                },
                service("kvp", true, vec![failed]),
                service("one", true, vec![]),
                Service {
                    waits_for: Some("all\n".into()),
                    ..service("two", true, vec![])
                },
                Service {
                    last_backup: Some(backup()),
                    ..service("vss", false, vec![])
                },
            ],
            suppressed: Suppressed {
                total: 3,
                ..Suppressed::default()
            },
            failed_reload: Some(LastError {
                at: at("2026-03-04T11:59:00Z"),
                text: "invalid configuration /c:\nline 2".into(),
            }),
            capture: Some(Capture {
                since: at("2026-03-04T11:59:30Z"),
                services: vec!["fcopy".into(), "kvp".into()],
                records: 1200,
                dropped: 3,
            }),
            counters: Counters::default(),
            problems: vec!["vss: no driver has it".into()],
        }
    }

    fn backup() -> LastBackup {
        let hook = |action: &str, failure: Option<&str>| Hook {
            name: "10-\u{1b}db".into(),
            action: action.into(),
            usec: 300_000,
            failure: failure.map(str::to_owned),
        };
        LastBackup {
            kind: Kind::Backup,
            began: at("2026-03-04T03:00:12Z"),
            frozen_usec: Some(1_250_999),
            file_systems: 2,
            mount_points: vec!["/".into(), "/srv".into()],
            hooks: vec![hook("freeze", None), hook("thaw", Some("busy"))],
            more_hooks: 0,
            outcome: Outcome::Inconsistent,
            reason: Some("too late".into()),
        }
    }

    #[test]
    fn every_service_is_shown() {
        let expected = r#"hyperv-agent 1.2.3, process 42, running since 2026-03-02 10:00:00 UTC (2 days ago)
  log          3 messages suppressed (warnings: 0, events: 0)
  reload       failed 1 min ago, the configuration before it is in use: invalid configuration /c:\nline 2
  capture      of fcopy, kvp, for 30 s: 1200 records, 3 dropped

fcopy: what fcopy does
  device       /dev/uio0 (UIO, 00000000-0000-0000-0000-000000000001)
  state        serving
  versions     1.1 (framework 3.0)
  operation    copying to /srv/\u{1b}[2J\u{202e}é, 1.5 MiB of 3.0 MiB (50 %), for 42 s
  requests     7, 1 failed
  last error   3 min ago: copy failed: "/a\nb"
  log          12000 messages suppressed (warnings: 7, events: 1)

kvp: what kvp does
  device       /dev/vmbus/hv_kvp (hv_utils)
  state        cannot be opened: busy; next attempt in 3 s
  requests     0, 0 failed

one: what one does
  state        waiting for the host to offer its device
  requests     0, 0 failed

two: what two does
  state        waiting for all\n
  requests     0, 0 failed

vss: what vss does
  state        off
  last backup  2026-03-04 03:00:12 UTC, 2 file systems frozen for 1.250 s, 1 hook, hook 10-\u{1b}db failed at thaw, not consistent: too late

Problems:
  vss: no driver has it
"#;
        assert_eq!(render(&document(), &[], now()), expected);
    }

    #[test]
    fn ip_configurations_as_text() {
        let mut set = Record {
            interface: "eth0".into(),
            time: at("2026-03-04T11:57:00Z"),
            manager: "netplan".into(),
            key: "netplan".into(),
            files: vec!["/etc/netplan/90-hyperv-agent-eth0.yaml".into()],
            settings: "10.0.0.5/24".into(),
            state: record::State::InForce {
                differences: " (not on the interface yet: 10.0.0.5)".into(),
            },
            info: IpInfo::default(),
        };
        let text = |record: &Record| {
            let text = render(&document(), &[IpConfiguration::from(record)], now());
            let at = text.find("\nIP conf").unwrap();
            let end = text.find("\nProblems").unwrap();
            text[at..end].to_owned()
        };
        let expected = "\nIP configurations of the host:\n  \
                        eth0, 2026-03-04 11:57:00 UTC (3 min ago), with netplan:\n    \
                        10.0.0.5/24\n    \
                        in force (not on the interface yet: 10.0.0.5)\n    \
                        /etc/netplan/90-hyperv-agent-eth0.yaml\n";
        assert_eq!(text(&set), expected);
        set.state = record::State::Deferred;
        let deferred = text(&set);
        assert!(
            deferred.contains("    written, in force when netplan starts\n"),
            "{deferred}"
        );
        let json = serde_json::to_value(IpConfiguration::from(&set)).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "interface": "eth0",
                "at": "2026-03-04T11:57:00Z",
                "manager": "netplan",
                "files": ["/etc/netplan/90-hyperv-agent-eth0.yaml"],
                "settings": "10.0.0.5/24",
                "state": "deferred",
                "details": "",
            })
        );
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let json = serde_json::to_string(&document()).unwrap();
        assert_eq!(
            serde_json::from_str::<Document>(&json).unwrap(),
            document(),
            "{json}"
        );
    }

    #[test]
    fn other_operations_as_text() {
        let since = at("2026-03-04T10:00:00Z");
        let frozen = |file_systems, shown: &[&str], rehearsal| Operation::Frozen {
            file_systems,
            mount_points: shown.iter().map(|&path| path.to_owned()).collect(),
            rehearsal,
        };
        let configuring = Operation::Configuring {
            adapter: "{1}".into(),
        };
        let progress = |operation, waits_for: Option<&str>| Progress {
            since,
            operation,
            waits_for: waits_for.map(str::to_owned),
        };
        let text = |operation| describe(&progress(operation, None), now());
        assert_eq!(
            describe(&progress(Operation::Freezing, Some("/srv/\u{1b}")), now()),
            "freezing file systems, for 2 h, waiting for /srv/\\u{1b}"
        );
        assert_eq!(
            text(frozen(1, &["/a\n"], false)),
            r"1 file system frozen for 2 h: /a\n"
        );
        assert_eq!(
            text(frozen(3, &["/", "/b"], true)),
            "rehearsal: 3 file systems frozen for 2 h: /, /b and 1 more"
        );
        assert_eq!(
            text(frozen(0, &[], true)),
            "rehearsal: applications quiesced for 2 h"
        );
        assert_eq!(
            text(configuring),
            "applying an IP configuration to {1}, for 2 h"
        );
    }

    #[test]
    fn a_backup_as_text() {
        let well = LastBackup {
            outcome: Outcome::Consistent,
            reason: None,
            hooks: Vec::new(),
            file_systems: 1,
            ..backup()
        };
        let began = "2026-03-04 03:00:12 UTC";
        assert_eq!(
            well.text(),
            format!("{began}, 1 file system frozen for 1.250 s, consistent")
        );
        let failed = LastBackup {
            kind: Kind::HooksOnly,
            frozen_usec: None,
            file_systems: 0,
            outcome: Outcome::Failed,
            reason: Some("hook 1\nfailed".into()),
            ..well.clone()
        };
        assert_eq!(
            failed.text(),
            format!(r"{began} (rehearsal of the hooks), failed: hook 1\nfailed")
        );
        assert!(well.is_well() && !failed.is_well() && !backup().is_well());
        let hook_failed = LastBackup {
            hooks: backup().hooks,
            ..well
        };
        assert!(!hook_failed.is_well());
    }

    #[test]
    fn sizes_are_never_rounded_up() {
        for (count, words) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(bytes(count), words);
        }
    }
}
