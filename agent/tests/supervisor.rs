//! The supervisor through its real poll loop, with fake devices.

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;

use common::{Guest, HANGS, LONG, ONE, RELEASE, RING, TWO};
use hyperv_services::service::Entry;

const MODE: u32 = 0o744;

#[test]
fn a_device_is_served_when_it_comes_and_closed_when_it_goes() {
    let guest = Guest::start(&[&ONE]);
    guest.log.wait_for("waiting for the host to offer one");
    guest.offer(&ONE);
    let mut device = guest.opened(&ONE);
    assert_eq!(device.call(b"request"), MODE);
    guest.withdraw(&ONE);
    device.wait_closed();
    guest.offer(&ONE);
    assert_eq!(guest.opened(&ONE).call(b"request"), MODE);
    guest.stop();
}

#[test]
fn a_worker_hands_its_device_back_after_a_burst() {
    let guest = Guest::start(&[&RING]);
    guest.offer(&RING);
    let mut ring = guest.opened(&RING);
    for _ in 0..2 {
        for _ in 0..3 {
            // Malformed, but answered.
            ring.exchange(&[0; 28]);
        }
        let deadline = Instant::now() + LONG;
        while !ring.woken_without_message.load(Ordering::SeqCst) {
            assert!(Instant::now() < deadline, "the worker still waits for more");
            thread::yield_now();
        }
    }
    guest.stop();
}

#[test]
fn a_device_that_hangs_up_is_opened_again() {
    let guest = Guest::start(&[&ONE]);
    guest.offer(&ONE);
    drop(guest.opened(&ONE));
    let mut device = guest.opened(&ONE);
    assert_eq!(device.call(b"request"), MODE);
    assert_eq!(guest.log.with("the device went away"), 1);
    guest.stop();
}

#[test]
fn a_panic_in_one_service_restarts_it_and_leaves_the_others_alone() {
    let guest = Guest::start(&[&ONE, &TWO]);
    guest.offer(&ONE);
    let mut one = guest.opened(&ONE);
    guest.offer(&TWO);
    let mut two = guest.opened(&TWO);
    one.send(b"panic");
    one.wait_closed();
    assert_eq!(two.call(b"request"), MODE);
    assert_eq!(guest.opened(&ONE).call(b"request"), MODE);
    assert_eq!(two.call(b"request"), MODE);
    assert_eq!(
        guest.log.with("panicked and will be restarted: asked to"),
        1
    );
    guest.stop();
}

#[test]
fn services_are_switched_while_others_serve() {
    let guest = Guest::start(&[&ONE]);
    guest.offer(&ONE);
    let mut one = guest.opened(&ONE);
    guest.offer(&TWO);
    guest.change(|settings| settings.services.push(&TWO));
    let mut two = guest.opened(&TWO);
    assert_eq!(two.call(b"request"), MODE);
    assert_eq!(one.call(b"request"), MODE);
    guest.change(|settings| settings.services.retain(|entry| entry.name == "one"));
    two.wait_closed();
    assert_eq!(one.call(b"request"), MODE);
    guest.stop();
}

#[test]
fn a_new_configuration_is_used_without_opening_the_device_again() {
    let guest = Guest::start(&[&ONE]);
    guest.offer(&ONE);
    let mut device = guest.opened(&ONE);
    assert_eq!(device.call(b"request"), MODE);
    guest.change(|settings| {
        let mut config = (*settings.config).clone();
        config.fcopy.mode = 0o600;
        settings.config = Arc::new(config);
    });
    guest.log.wait_for("new configuration in use");
    assert_eq!(device.call(b"request"), 0o600);
    guest.stop();
}

#[test]
fn a_busy_device_is_reported_once_and_served_when_it_is_free() {
    let guest = Guest::start(&[&ONE]);
    guest.refuse.store(true, Ordering::Relaxed);
    guest.offer(&ONE);
    guest
        .log
        .wait_for("another program serves the device; stop it");
    // Each of these tries again.
    for _ in 0..3 {
        guest.handle.reload();
    }
    guest.refuse.store(false, Ordering::Relaxed);
    guest.handle.reload();
    assert_eq!(guest.opened(&ONE).call(b"request"), MODE);
    guest.stop();
}

#[test]
fn the_agent_ends_although_a_service_hangs() {
    let guest = Guest::start(&[&ONE, &TWO]);
    guest.offer(&ONE);
    let mut one = guest.opened(&ONE);
    guest.offer(&TWO);
    let mut two = guest.opened(&TWO);
    one.send(b"hang");
    let deadline = Instant::now() + LONG;
    while !HANGS.load(Ordering::Relaxed) {
        assert!(Instant::now() < deadline, "the request does not arrive");
        thread::yield_now();
    }
    assert_eq!(two.call(b"request"), MODE, "the other one still serves");
    let log = guest.log.clone();
    guest.stop();
    two.wait_closed();
    assert_eq!(log.with("a request is still being worked on"), 1);
    RELEASE.store(true, Ordering::Relaxed);
}

#[test]
fn a_device_without_a_driver_is_bound_where_that_is_allowed() {
    let guest = Guest::start(&[&ONE]);
    guest.offer_without_driver(&ONE);
    guest
        .log
        .wait_for("no driver has it: install the udev rule");
    guest.change(|settings| settings.bind_uio = true);
    guest
        .log
        .wait_for("load the module with `modprobe uio_hv_generic`");
    let driver = guest.sys("bus/vmbus/drivers/uio_hv_generic");
    fs::create_dir_all(&driver).unwrap();
    guest.handle.rescan();
    guest.log.wait_for("bound to uio_hv_generic");
    let bound = fs::read_to_string(driver.join("new_id")).unwrap();
    assert_eq!(bound, ONE.class.to_string());
    guest.stop();
}

#[test]
fn the_agent_is_ready_although_a_disk_hangs() {
    static HANGS_AT_START: Entry = Entry {
        prepare: Some(|_| {
            loop {
                thread::park();
            }
        }),
        ..ONE
    };
    let guest = Guest::start(&[&HANGS_AT_START]);
    // This is logged when the agent is ready.
    guest.log.wait_for("waiting for the host to offer one");
    guest.offer(&ONE);
    assert_eq!(guest.opened(&ONE).call(b"request"), MODE);
    guest.stop();
}

#[test]
fn what_cannot_be_created_is_one_warning() {
    static FAILS: Entry = Entry {
        prepare: Some(|_| Err("cannot create it".to_owned())),
        ..ONE
    };
    let guest = Guest::start(&[&FAILS]);
    guest.log.wait_for("cannot create it");
    guest.offer(&ONE);
    assert_eq!(guest.opened(&ONE).call(b"request"), MODE);
    assert_eq!(guest.log.with("cannot create it"), 1);
    guest.stop();
}

#[test]
fn what_other_programs_expect_is_created_without_a_device() {
    let guest = Guest::start(&[]);
    let home = tempfile::tempdir().unwrap();
    let pools = home.path().join("pools");
    let files = || fs::read_dir(&pools).map_or(0, Iterator::count);
    guest.change(|settings| {
        let config = Arc::make_mut(&mut settings.config);
        config.kvp.directory.clone_from(&pools);
    });
    guest.log.wait_for("configuration reloaded");
    assert_eq!(files(), 0);
    guest.change(|settings| settings.services.push(&hyperv_services::kvp::ENTRY));
    let deadline = Instant::now() + LONG;
    while files() < 5 {
        assert!(Instant::now() < deadline, "{} files", files());
        thread::yield_now();
    }
    guest.stop();
}
