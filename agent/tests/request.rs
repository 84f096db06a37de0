//! Requests of local users to a running agent, through its real poll loop and request
//! socket.

#![expect(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use common::{Guest, LONG, ONE, VSS};
use hyperv_agent::request::{Request, RequestError, call};
use hyperv_agent::status::backup::Outcome;

const NOW: Request = Request::VssRehearse {
    hold: 0,
    hooks_only: false,
};

fn connect(guest: &Guest) -> UnixStream {
    let stream = UnixStream::connect(guest.requests()).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// Sends a line and returns the lines of the answer.
fn send(guest: &Guest, line: &[u8]) -> Vec<String> {
    let mut stream = connect(guest);
    stream.write_all(line).unwrap();
    let lines = BufReader::new(stream).lines();
    lines.map_while(Result::ok).collect()
}

/// Sends a request that the agent refuses, and returns the reason.
fn refusal(socket: &Path, request: Request) -> String {
    match call(socket, request, |_| {}) {
        Err(RequestError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_worker_executes_a_request_and_the_client_gets_the_result() {
    let guest = Guest::start(&[&VSS]);
    guest.offer(&VSS);
    let mut vss = guest.opened(&VSS);
    vss.call(b"request");
    let mut progress = Vec::new();
    let result = call(&guest.requests(), NOW, |words| {
        progress.push(words.to_owned())
    })
    .unwrap();
    assert_eq!(progress, ["device"]);
    assert_eq!(
        (result.outcome, result.file_systems),
        (Outcome::Inconsistent, 1000)
    );
    assert_eq!(result.hooks.len(), 32);
    // The worker still serves the host.
    vss.call(b"request");

    vss.call(b"work");
    let why = refusal(&guest.requests(), NOW);
    assert!(
        why.starts_with("a backup of the host is in progress"),
        "{why}"
    );
    vss.call(b"finish");
    call(&guest.requests(), NOW, |_| {}).unwrap();
    guest.stop();
}

#[test]
fn a_client_whose_request_is_interrupted_gets_an_error() {
    let guest = Guest::start(&[&VSS]);
    guest.offer(&VSS);
    let mut vss = guest.opened(&VSS);
    // The device is served from then on.
    vss.call(b"request");
    let mut stream = connect(&guest);
    let line = b"{\"version\":1,\"request\":\"vss-rehearse\",\"hold\":7}\n";
    stream.write_all(line).unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "{\"progress\":\"device\"}");
    drop(vss);
    let last = lines.next().unwrap().unwrap();
    assert!(
        last.starts_with("{\"error\":\"cancelled: the agent ended, or"),
        "{last}"
    );
    assert!(lines.next().is_none());
    guest.stop();
}

#[test]
fn without_a_device_a_standalone_service_executes_a_request() {
    let guest = Guest::start(&[&VSS]);
    let mut progress = Vec::new();
    for _ in 0..10 {
        call(&guest.requests(), NOW, |words| {
            progress.push(words.to_owned())
        })
        .unwrap();
    }
    assert_eq!(progress, ["no device"; 10]);
    // The last backup stays in the status.
    let services = guest.status().services;
    assert!(services[0].last_backup.is_some());
    guest.offer(&VSS);
    guest.opened(&VSS).call(b"request");
    guest.stop();
}

#[test]
fn a_refusal_says_why() {
    let guest = Guest::start(&[&ONE]);
    let why = refusal(&guest.requests(), NOW);
    assert_eq!(why, "the service vss is switched off");
    let long = Request::VssRehearse {
        hold: 61,
        hooks_only: true,
    };
    let why = refusal(&guest.requests(), long);
    assert_eq!(why, "invalid hold time 61: expected at most 60 s");
    for (line, words) in [
        (&b"\n"[..], "malformed request"),
        (b"{}\n", "malformed request"),
        (
            b"{\"version\":1,\"request\":\"what\"}\n",
            "malformed request",
        ),
        (
            b"{\"version\":2,\"request\":[]}\n",
            "unsupported request version 2, the agent expects 1",
        ),
        (&[b' '; 5000], "malformed request"),
    ] {
        let lines = send(&guest, line);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("{\"error\":"), "{lines:?}");
        assert!(lines[0].contains(words), "{lines:?}");
    }
    guest.stop();
    let gone = call(Path::new("/nonexistent/request"), NOW, |_| {});
    assert!(matches!(gone, Err(RequestError::Io(_))));
}

#[test]
fn clients_that_send_nothing_block_nobody() {
    let guest = Guest::start(&[&VSS]);
    let silent: Vec<_> = (0..20).map(|_| connect(&guest)).collect();
    // Further clients are refused at once.
    let mut refused = 0;
    for stream in &silent[4..] {
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        refused += usize::from(line.contains("too many"));
    }
    assert_eq!(refused, 16);
    // Also if the connection is closed before they have sent a request.
    for _ in 0..100 {
        let why = refusal(&guest.requests(), NOW);
        assert_eq!(why, "too many requests at the same time: try again");
    }
    guest.status();
    drop(silent);
    // Others are accepted when those have gone.
    let deadline = std::time::Instant::now() + LONG;
    while call(&guest.requests(), NOW, |_| {}).is_err() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    guest.stop();
}
