//! The status of a running agent, through its real poll loop and control socket.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Guest, LONG, ONE, RELEASE, RING, TWO};
use hyperv_agent::control_socket::ControlSocket;
use hyperv_agent::status::backup::{Kind, Outcome};
use hyperv_agent::status::client::{StatusError, fetch};
use hyperv_agent::status::{Device, Document, Operation, Service, State, Transport};

fn service(status: &Document, name: &str) -> Service {
    let mut services = status.services.iter();
    let service = services.find(|service| service.name == name);
    service.unwrap_or_else(|| panic!("no {name}")).clone()
}

fn device(status: &Document, name: &str) -> Device {
    let devices = service(status, name).devices;
    assert_eq!(devices.len(), 1, "{devices:?}");
    devices[0].clone()
}

/// Waits for a status that meets a condition.
fn wait_for(guest: &Guest, wanted: impl Fn(&Document) -> bool) -> Document {
    let deadline = std::time::Instant::now() + LONG;
    loop {
        let status = guest.status();
        if wanted(&status) {
            return status;
        }
        assert!(std::time::Instant::now() < deadline, "{status:#?}");
        thread::yield_now();
    }
}

#[test]
fn the_status_has_every_service_with_and_without_a_device() {
    // The status has whole seconds.
    let before = SystemTime::now() - Duration::from_secs(1);
    let guest = Guest::start(&[&ONE, &TWO]);
    guest.offer(&ONE);
    guest.opened(&ONE).call(b"request");
    let status = guest.status();
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(status.pid, std::process::id());
    assert!(status.since >= before && status.since <= SystemTime::now());
    let names: Vec<_> = status
        .services
        .iter()
        .map(|service| (service.name.as_str(), service.on))
        .collect();
    let expected = [
        ("one", true),
        ("two", true),
        ("fcopy", false),
        ("kvp", false),
        ("vss", false),
    ];
    assert_eq!(names, expected);
    assert_eq!(service(&status, "two").devices, []);
    assert_eq!(status.problems, [""; 0]);
    guest.stop();
}

#[test]
fn requests_and_failures_are_counted_and_the_last_error_is_kept() {
    let guest = Guest::start(&[&ONE]);
    guest.offer(&ONE);
    let mut one = guest.opened(&ONE);
    one.call(b"request");
    let status = guest.status();
    let found = service(&status, "one");
    assert_eq!((found.requests, found.failures), (1, 0));
    assert_eq!(found.last_error, None);
    let found = device(&status, "one");
    assert!(found.node.ends_with("dev/vmbus/one"), "{}", found.node);
    assert_eq!(found.transport, Transport::HvUtil);
    assert_eq!((found.state, found.versions), (State::Serving, None));
    assert!(!found.working);

    for request in [&b"fail"[..], b"end", b"request"] {
        one.call(request);
    }
    let found = service(&guest.status(), "one");
    assert_eq!((found.requests, found.failures), (4, 1));
    assert_eq!(found.last_error.unwrap().text, "failed, because: asked to");

    // The counts outlive the device.
    drop(one);
    let mut one = guest.opened(&ONE);
    one.call(b"request");
    let found = service(&guest.status(), "one");
    assert_eq!((found.requests, found.failures), (5, 1));
    assert_eq!((found.devices_opened, found.device_failures), (2, 1));
    assert_eq!(found.last_error.unwrap().text, "the device went away");
    guest.stop();
}

#[test]
fn a_rate_limit_outlives_devices_and_counts_suppressed_records() {
    const EACH: usize = 200;
    let guest = Guest::start(&[&ONE, &TWO]);
    for _ in 0..2 {
        guest.offer(&ONE);
        let mut one = guest.opened(&ONE);
        for _ in 0..EACH {
            one.call(b"fail");
        }
        guest.withdraw(&ONE);
        one.wait_closed();
    }
    let logged = || guest.log.with("failed");
    let suppressed = service(&guest.status(), "one").suppressed;
    assert_eq!(logged() as u64 + suppressed.warnings, 2 * EACH as u64);
    assert!(logged() < EACH, "{}", logged());
    assert_eq!(suppressed.events, 0);
    // Another service has its own limit.
    guest.offer(&TWO);
    guest.opened(&TWO).call(b"fail");
    assert_eq!(service(&guest.status(), "two").suppressed.total, 0);
    assert_eq!(guest.status().suppressed.total, 0);
    let log = guest.log.clone();
    guest.stop();
    // A summary that is not due yet is logged at the end.
    assert_eq!(log.with("messages suppressed in the last"), 1);
}

#[test]
fn an_operation_shows_from_its_beginning_to_its_end() {
    let guest = Guest::start(&[&ONE]);
    guest.offer(&ONE);
    let mut one = guest.opened(&ONE);
    one.call(b"work");
    let operation = device(&guest.status(), "one").operation.unwrap();
    let copying = Operation::Copying {
        path: "/a/file".into(),
        done: 3,
        size: 10,
    };
    assert_eq!(operation.operation, copying);
    one.call(b"finish");
    assert_eq!(device(&guest.status(), "one").operation, None);

    // A service that is created again has its own progress.
    guest.change(|settings| {
        let mut config = (*settings.config).clone();
        config.fcopy.mode = 0o600;
        settings.config = config.into();
    });
    guest.log.wait_for("new configuration in use");
    one.call(b"work");
    let operation = device(&guest.status(), "one").operation.unwrap();
    assert_eq!(operation.operation, copying);
    guest.stop();
}

/// The document fits the socket's buffer, however long the texts of a backup are.
#[test]
fn the_last_backup_is_truncated_and_outlives_its_device() {
    let guest = Guest::start(&[&ONE]);
    guest.offer(&ONE);
    let mut one = guest.opened(&ONE);
    assert_eq!(service(&guest.status(), "one").last_backup, None);
    for request in [&b"backup"[..], b"frozen"] {
        one.call(request);
    }
    let status = guest.status();
    // Counted by the service of this name only.
    assert_eq!(status.counters, Default::default());
    let found = service(&status, "one").last_backup.unwrap();
    assert_eq!(
        (found.kind, found.outcome),
        (Kind::Backup, Outcome::Inconsistent)
    );
    assert_eq!(found.began, UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    assert_eq!(found.frozen_usec, Some(1_250_000));
    assert_eq!((found.file_systems, found.mount_points.len()), (1000, 8));
    assert_eq!((found.hooks.len(), found.more_hooks), (32, 168));
    assert_eq!(
        (&*found.hooks[1].action, found.hooks[1].usec),
        ("freeze", 3000)
    );
    let operation = device(&status, "one").operation.unwrap();
    let Operation::Frozen { mount_points, .. } = operation.operation else {
        panic!("{operation:?}");
    };
    assert_eq!(mount_points.len(), 8);
    assert!(mount_points[0].ends_with('…'), "{mount_points:?}");
    let len = serde_json::to_vec_pretty(&status).unwrap().len();
    assert!(len < 64 << 10, "{len}");

    drop(one);
    guest.opened(&ONE).call(b"request");
    let after = service(&guest.status(), "one").last_backup;
    assert_eq!(after, Some(found));
    guest.stop();
}

#[test]
fn a_service_that_hangs_shows_its_request_and_does_not_delay_the_status() {
    let guest = Guest::start(&[&ONE]);
    guest.offer(&ONE);
    let mut one = guest.opened(&ONE);
    one.send(b"hang");
    let status = wait_for(&guest, |status| {
        service(status, "one")
            .devices
            .iter()
            .any(|device| device.working)
    });
    assert_eq!(service(&status, "one").requests, 1);
    guest.withdraw(&ONE);
    let closing = |status: &Document| device(status, "one").state == State::Closing;
    wait_for(&guest, closing);
    RELEASE.store(true, Ordering::Relaxed);
    wait_for(&guest, |status| service(status, "one").devices.is_empty());
    guest.stop();
}

/// Returns a message as over a ring.
fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 28];
    message[12..14].copy_from_slice(&kind.to_le_bytes());
    message[18..20].copy_from_slice(&u16::try_from(body.len()).unwrap().to_le_bytes());
    message.extend(body);
    message
}

#[test]
fn the_status_has_the_negotiated_versions() {
    let guest = Guest::start(&[&RING]);
    guest.offer(&RING);
    let mut ring = guest.opened(&RING);
    // The service fails requests over a ring.
    let declined = message(RING.message_type.0, &[0; 8]);
    ring.exchange(&declined);
    let status = guest.status();
    assert_eq!(device(&status, "ring").versions, None);
    let counts = |status: &Document| {
        let found = service(status, "ring");
        (found.requests, found.failures)
    };
    assert_eq!(counts(&status), (1, 1));

    let offer = [1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
    ring.exchange(&message(0, &offer));
    let status = guest.status();
    let versions = device(&status, "ring").versions.unwrap();
    assert_eq!((&*versions.framework, &*versions.message), ("1.0", "1.0"));
    assert_eq!(counts(&status), (1, 1), "a negotiation is no request");

    // A message for another service, or a malformed one, counts as a failed request.
    ring.exchange(&message(77, &[]));
    let mut cut = message(RING.message_type.0, &[]);
    cut[18] = 200;
    ring.exchange(&cut);
    let status = guest.status();
    assert_eq!(counts(&status), (3, 3));
    let error = service(&status, "ring").last_error.unwrap().text;
    assert!(error.starts_with("malformed message"), "{error}");

    // The versions are negotiated again after the device was closed.
    drop(ring);
    let mut ring = guest.opened(&RING);
    ring.exchange(&declined);
    assert_eq!(device(&guest.status(), "ring").versions, None);
    guest.stop();
}

#[test]
fn the_status_says_why_a_device_is_not_served() {
    let guest = Guest::start(&[&ONE, &TWO]);
    guest.refuse.store(true, Ordering::Relaxed);
    guest.offer(&ONE);
    let failed = |status: &Document| {
        let failure = service(status, "one").devices.pop()?.state;
        match failure {
            State::Failed { failure, .. } => failure,
            _ => None,
        }
    };
    let status = wait_for(&guest, |status| failed(status).is_some());
    let words = "cannot be opened: open failed";
    assert!(failed(&status).unwrap().starts_with(words), "{status:?}");
    let error = service(&status, "one").last_error.unwrap().text;
    assert!(error.starts_with(words), "{error}");

    guest.offer_without_driver(&TWO);
    let status = wait_for(&guest, |status| !status.problems.is_empty());
    let words = "two: the host offers device 00000000-0000-0000-0000-0000000000aa";
    assert!(status.problems[0].starts_with(words), "{status:?}");
    guest.stop();
}

#[test]
fn a_failed_reload_shows_until_one_succeeds() {
    let guest = Guest::start(&[&ONE]);
    assert_eq!(guest.status().failed_reload, None);
    let before = SystemTime::now() - Duration::from_secs(1);
    let mut run = "".into();
    guest.change(|settings| std::mem::swap(&mut settings.run, &mut run));
    let status = wait_for(&guest, |status| status.failed_reload.is_some());
    let failed = status.failed_reload.unwrap();
    assert_eq!(failed.text, "invalid\nsettings");
    assert!(failed.at >= before && failed.at <= SystemTime::now());
    guest.change(|settings| std::mem::swap(&mut settings.run, &mut run));
    wait_for(&guest, |status| status.failed_reload.is_none());
    guest.stop();
}

#[test]
fn a_device_on_the_bus_has_its_guid() {
    // The name of a kernel service, as its class has a driver.
    let entry = &hyperv_services::fcopy::ENTRY;
    let guest = Guest::start(&[entry]);
    let directory = guest.sys("bus/vmbus/devices/00000000-0000-0000-0000-0000000000aa");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("class_id"), format!("{{{}}}\n", entry.class)).unwrap();
    guest.refuse.store(true, Ordering::Relaxed);
    guest.offer(entry);
    let status = wait_for(&guest, |status| {
        !service(status, "fcopy").devices.is_empty()
    });
    let instance = device(&status, "fcopy").instance.unwrap();
    assert_eq!(instance, "00000000-0000-0000-0000-0000000000aa");
    guest.stop();
}

#[test]
fn clients_that_never_read_block_nobody() {
    let guest = Guest::start(&[&ONE]);
    guest.offer(&ONE);
    let mut one = guest.opened(&ONE);
    let idle: Vec<_> = (0..200)
        .map(|_| UnixStream::connect(guest.control()).unwrap())
        .collect();
    one.call(b"request");
    assert_eq!(service(&guest.status(), "one").requests, 1);
    // Their status was sent all the same, and the connection closed.
    for mut client in idle {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        serde_json::from_str::<Document>(&text).unwrap();
    }
    guest.stop();
}

#[test]
fn many_clients_at_once_are_all_answered() {
    let mut clients = Vec::new();
    let guest = Guest::start_after(&[&ONE], |_, control| {
        let connect = |_| UnixStream::connect(control).unwrap();
        clients.extend((0..100).map(connect));
    });
    for mut client in clients {
        let mut text = String::new();
        client.set_read_timeout(Some(LONG)).unwrap();
        client.read_to_string(&mut text).unwrap();
        serde_json::from_str::<Document>(&text).unwrap();
    }
    guest.stop();
}

#[test]
fn only_this_user_may_connect_and_the_socket_is_removed_with_the_agent() {
    let guest = Guest::start(&[&ONE]);
    let control = guest.control();
    let mode = fs::metadata(&control).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    guest.stop();
    assert!(!control.exists());
    assert!(matches!(fetch(&control), Err(StatusError::NotRunning(_))));
}

#[test]
fn the_socket_of_a_dead_agent_is_replaced() {
    let home = tempfile::tempdir().unwrap();
    let control = home.path().join("control");
    drop(UnixListener::bind(&control).unwrap());
    assert!(matches!(fetch(&control), Err(StatusError::NotRunning(_))));
    let socket = ControlSocket::bind(&control).unwrap();
    UnixStream::connect(&control).unwrap();
    drop(socket);
    assert!(!control.exists());
}

#[test]
fn an_incomplete_answer_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let control = home.path().join("control");
    let listener = UnixListener::bind(&control).unwrap();
    let agent = thread::spawn(move || {
        use std::io::Write;
        let (mut client, _) = listener.accept().unwrap();
        client.write_all(b"{\"version\": ").unwrap();
    });
    assert!(matches!(fetch(&control), Err(StatusError::Incomplete)));
    agent.join().unwrap();
    let missing = fetch(Path::new("/nonexistent/control"));
    assert!(matches!(missing, Err(StatusError::NotRunning(_))));
}
