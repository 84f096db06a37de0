//! What the service manager is told, with a fake one.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::Ordering;

use common::{Guest, LONG, ONE, TWO, VSS};
use hyperv_agent::service_manager::ServiceManager;
use hyperv_services::service::Entry;

/// A guest, and its service manager's socket.
fn start(services: &[&'static Entry]) -> (Guest, UnixDatagram) {
    let mut bound = None;
    let guest = Guest::start_after(services, |supervisor, control| {
        let path = control.with_file_name("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        supervisor.report_to(ServiceManager::at(path.as_ref()).unwrap());
        bound = Some(socket);
    });
    (guest, bound.unwrap())
}

/// Waits for a message with this line, and returns the lines before it.
fn wait_for(socket: &UnixDatagram, line: &str) -> Vec<String> {
    let mut before = Vec::new();
    loop {
        let mut message = [0; 4096];
        let len = socket.recv(&mut message).expect("no such message");
        let message = String::from_utf8(message[..len].to_vec()).unwrap();
        let mut lines = message.lines().map(str::to_owned);
        if lines.clone().any(|its| its == line) {
            before.extend(lines.take_while(|its| its != line));
            return before;
        }
        before.extend(&mut lines);
    }
}

#[test]
fn the_status_follows_devices_backups_and_reloads() {
    let (guest, socket) = start(&[&ONE, &TWO, &VSS]);
    assert_eq!(wait_for(&socket, "READY=1"), [""; 0]);
    wait_for(&socket, "STATUS=one, two, vss: no device");
    guest.offer(&ONE);
    let _one = guest.opened(&ONE);
    wait_for(&socket, "STATUS=one serving; two, vss: no device");
    guest.offer(&VSS);
    let mut vss = guest.opened(&VSS);
    let serving = "one, vss serving; two: no device";
    wait_for(&socket, &format!("STATUS={serving}"));
    // The probe begins an operation that makes it busy.
    vss.call(b"frozen");
    let frozen = format!("STATUS=file systems frozen for a backup; {serving}");
    wait_for(&socket, &frozen);
    vss.call(b"finish");
    wait_for(&socket, &format!("STATUS={serving}"));

    let run = guest.sys("run");
    guest.change(|settings| settings.run = Path::new("").to_owned());
    let before = wait_for(
        &socket,
        &format!("STATUS={serving}; the last reload of the configuration failed"),
    );
    assert_eq!(before, ["RELOADING=1", "READY=1"]);
    guest.change(|settings| settings.run = run);
    wait_for(&socket, &format!("STATUS={serving}"));
    guest.change(|settings| settings.services.clear());
    wait_for(&socket, "STATUS=all services are switched off");
    guest.stop();
    wait_for(&socket, "STOPPING=1");
}

#[test]
fn a_device_that_cannot_be_opened_shows() {
    let (guest, socket) = start(&[&ONE]);
    guest.refuse.store(true, Ordering::Relaxed);
    guest.offer(&ONE);
    wait_for(&socket, "STATUS=one: device failed");
    guest.refuse.store(false, Ordering::Relaxed);
    guest.handle.reload();
    let _one = guest.opened(&ONE);
    wait_for(&socket, "STATUS=one serving");
    guest.stop();
}

#[test]
fn a_service_manager_that_reads_nothing_delays_nobody() {
    let (guest, socket) = start(&[&ONE]);
    // More than its socket holds.
    for _ in 0..300 {
        guest.handle.reload();
    }
    guest.offer(&ONE);
    let mut one = guest.opened(&ONE);
    assert_eq!(one.call(b"request"), 0o744);
    assert_eq!(guest.status().services[0].devices.len(), 1);
    wait_for(&socket, "STATUS=one serving");
    guest.stop();
}
