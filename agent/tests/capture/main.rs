//! Captures by clients of a running agent, through its real poll loop and request socket.

#![expect(clippy::unwrap_used)]

mod command;
#[path = "../common/mod.rs"]
mod common;

use std::io::{BufReader, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use common::{Guest, LONG, ONE, Opened, REGISTRATION, RING, TWO};
use hyperv_agent::capture::pcapng::Reader;
use hyperv_agent::capture::{EventKind, Kind, Level, Record, Transport};
use hyperv_agent::request::{self, RequestError};
use hyperv_agent::status;

/// Begins a capture of all services.
fn capture(guest: &Guest) -> BufReader<UnixStream> {
    let client = request::capture(&guest.requests(), Vec::new(), Level::Full).unwrap();
    client.get_ref().set_read_timeout(Some(LONG)).unwrap();
    client
}

/// Ends a capture in order, and returns its records.
fn end(client: BufReader<UnixStream>) -> Vec<Record> {
    client.get_ref().shutdown(Shutdown::Write).unwrap();
    rest(client)
}

/// Reads a capture to its end.
fn rest(client: BufReader<UnixStream>) -> Vec<Record> {
    let records = Reader::new(client).unwrap().collect::<Result<_, _>>();
    records.unwrap()
}

/// Returns what each record is: an event, or the start of a message.
fn lines(records: &[Record]) -> Vec<String> {
    let line = |record: &Record| match record.event() {
        Some(event) => format!("{:?} {}", event.kind, event.text),
        None => {
            let text = record.bytes.iter().take_while(|byte| **byte != 0);
            let text: Vec<_> = text.copied().collect();
            let who = record.header.kind;
            format!("{who:?} {}", String::from_utf8_lossy(&text))
        }
    };
    records.iter().map(line).collect()
}

/// Waits for a state of the capture in the status.
fn wait_for(guest: &Guest, wanted: impl Fn(Option<&status::Capture>) -> bool) {
    let deadline = Instant::now() + LONG;
    while !wanted(guest.status().capture.as_ref()) {
        assert!(Instant::now() < deadline, "{:?}", guest.status().capture);
        thread::yield_now();
    }
}

/// Lets the worker handle messages until the capture has dropped some, and returns how many
/// messages that were.
fn overflow(guest: &Guest, device: &mut Opened) -> usize {
    for messages in 1.. {
        for _ in 0..100 {
            device.call(b"request");
        }
        let capture = guest.status().capture.unwrap();
        if capture.dropped > 0 {
            return messages * 100;
        }
    }
    unreachable!()
}

#[test]
fn a_capture_has_what_the_host_and_the_guest_have_sent() {
    let guest = Guest::start(&[&ONE]);
    guest.offer(&ONE);
    let mut device = guest.opened(&ONE);
    device.call(b"before");
    let client = capture(&guest);
    // The reply has the status and the mode in place of the request's first bytes.
    let reply = device.exchange(b"one request");
    device.send(b"panic");
    device.wait_closed();
    let mut device = guest.opened(&ONE);
    device.call(b"again");
    drop(device);
    let mut device = guest.opened(&ONE);
    device.call(b"last");
    let running = guest.status().capture.unwrap();
    assert_eq!((running.services.len(), running.dropped), (0, 0));
    let records = end(client);
    let lines = lines(&records);
    assert_eq!(
        lines[..5],
        [
            "Begin ",
            "Host one request",
            "Guest ",
            "Host panic",
            "Closed "
        ]
    );
    assert_eq!(records[2].bytes, reply);
    assert_eq!(
        lines[5..10],
        [
            "Opened ",
            "Guest register",
            "Host registered",
            "Host again",
            "Guest "
        ]
    );
    assert_eq!(records[6].bytes, REGISTRATION);
    assert_eq!(lines[10..12], ["Gone ", "Closed "]);
    assert_eq!(lines.last().unwrap(), "Guest ");
    for record in &records {
        assert_eq!(record.interface, 0);
        assert_eq!(record.header.transport, Transport::Device);
        assert_eq!(record.header.negotiated, None);
        assert_eq!(record.header.packet_type, 0);
    }
    assert!(records.is_sorted_by_key(|record| record.time));
    wait_for(&guest, |capture| capture.is_none());
    guest.log.wait_for("the capture has ended: 1");
    guest.stop();
}

#[test]
fn over_a_ring_a_capture_has_the_negotiated_versions() {
    let guest = Guest::start(&[&RING]);
    guest.offer(&RING);
    let mut ring = guest.opened(&RING);
    let negotiation = {
        let mut message = [0; 44];
        // One framework version and one message version follow the counts.
        message[18] = 16;
        message[28] = 1;
        message[30] = 1;
        message[36] = 1;
        message[40] = 1;
        message
    };
    ring.exchange(&negotiation);
    let client = capture(&guest);
    // It has no room for a reply.
    ring.send(&[0; 8]);
    // Malformed, but answered.
    let malformed = {
        let mut message = negotiation;
        message[18] = 99;
        message
    };
    let refusal = ring.exchange(&malformed);
    let records = end(client);
    assert_eq!(lines(&records)[0], "Begin ");
    for record in &records {
        let versions = record.header.negotiated.unwrap();
        assert_eq!(versions.message.major, 1);
    }
    assert_eq!(records[1].bytes, [0; 8]);
    let [.., request, reply] = &records[..] else {
        panic!("{records:?}");
    };
    assert_eq!(request.bytes, malformed);
    assert_eq!((reply.header.kind, &reply.bytes), (Kind::Guest, &refusal));
    assert_eq!(request.header.packet_type, 6);
    guest.stop();
}

#[test]
fn a_client_that_does_not_read_loses_records_and_delays_nobody() {
    let guest = Guest::start(&[&ONE]);
    guest.offer(&ONE);
    let mut device = guest.opened(&ONE);
    device.call(b"before");
    let client = capture(&guest);
    let messages = overflow(&guest, &mut device);
    let mut reader = Reader::new(client).unwrap();
    let mut records: Vec<_> = (0..100).map(|_| reader.next().unwrap().unwrap()).collect();
    // There is room again, and what comes is recorded.
    let mut more = 0;
    while reader.dropped() == 0 {
        device.call(b"more");
        more += 1;
        let record = reader.next().unwrap().unwrap();
        let event = record.event();
        records.push(record);
        if event.is_some_and(|event| event.kind == EventKind::Dropped) {
            break;
        }
    }
    let dropped: u64 = {
        let event = records.last().unwrap().event().unwrap();
        event.text.parse().unwrap()
    };
    drop(reader);
    assert!(dropped > 0);
    assert!(records.len() > 16384);
    let sent = 1 + 2 * (messages + more);
    assert!(records.len() + usize::try_from(dropped).unwrap() <= sent + 1);
    guest.stop();
}

#[test]
fn the_head_of_a_capture_comes_before_there_is_a_device() {
    let guest = Guest::start(&[&ONE]);
    let mut client = capture(&guest);
    let reader = Reader::new(&mut client).unwrap();
    assert!(reader.section().application.starts_with("hyperv-agent "));
    client.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
    guest.stop();
}

#[test]
fn the_capture_ends_with_a_client_that_goes_without_a_word() {
    let guest = Guest::start(&[&ONE]);
    for _ in 0..3 {
        // Nothing is recorded meanwhile.
        drop(capture(&guest));
        wait_for(&guest, |capture| capture.is_none());
    }
    guest.offer(&ONE);
    let mut device = guest.opened(&ONE);
    let client = capture(&guest);
    overflow(&guest, &mut device);
    drop(client);
    wait_for(&guest, |capture| capture.is_none());
    assert_eq!(guest.log.with("a capture of all services begins"), 4);
    guest.log.wait_for_count("the capture has ended", 4);
    guest.stop();
}

#[test]
fn one_capture_runs_at_a_time() {
    let guest = Guest::start(&[&ONE, &TWO]);
    let refusal = |services: &[&str]| {
        let services = services.iter().map(|&name| name.to_owned()).collect();
        match request::capture(&guest.requests(), services, Level::Full) {
            Err(RequestError::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let first = capture(&guest);
    assert_eq!(
        refusal(&[]),
        "another capture is running: end that one first"
    );
    end(first);
    assert_eq!(
        refusal(&["one", "three"]),
        "unknown service `three`: expected one, two"
    );
    assert!(refusal(&["vss"]).starts_with("the service vss is switched off: "));
    let services = vec!["two".to_owned(), "two".to_owned()];
    let client = request::capture(&guest.requests(), services, Level::Full).unwrap();
    let services = guest.status().capture.unwrap().services;
    assert_eq!(services, ["two"]);
    end(client);
    guest.stop();
}

#[test]
fn a_capture_ends_with_the_agent() {
    for reads in [true, false] {
        let guest = Guest::start(&[&ONE]);
        guest.offer(&ONE);
        let mut device = guest.opened(&ONE);
        let mut client = capture(&guest);
        match reads {
            true => drop(device.call(b"request")),
            false => drop(overflow(&guest, &mut device)),
        }
        let log = guest.log.clone();
        guest.stop();
        // One that does not read delays the end of the agent by a moment only.
        log.wait_for("the capture ends with the agent");
        if reads {
            let records = rest(client);
            assert_eq!(lines(&records).last().unwrap(), "Closed ");
        } else {
            client.read_to_end(&mut Vec::new()).unwrap();
        }
    }
}
