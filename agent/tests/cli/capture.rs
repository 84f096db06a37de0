//! `hyperv-agent capture show`.

#![expect(clippy::indexing_slicing)]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use hyperv_agent::capture::pcapng::Writer;
use hyperv_agent::capture::{
    Event, EventKind, Header, Interface, Kind, Level, Record, Section, Transport,
};
use hyperv_vmbus::ic::{self, HEADER_LEN, MessageType, Negotiated, Status, Version};
use serde_json::Value;

use super::{agent, stderr, stdout};

/// A capture in the making.
struct Draft {
    writer: Writer<Vec<u8>>,
    microseconds: u64,
}

const SETTLED: Negotiated = Negotiated {
    framework: Version::new(3, 0),
    message: Version::new(1, 1),
};

impl Draft {
    fn new() -> Self {
        let section = Section {
            hardware: "x86_64".to_owned(),
            os: "6.12.0 Debian\n13".to_owned(),
            application: "hyperv-agent 1.2".to_owned(),
            level: Level::Hash,
        };
        Self {
            writer: Writer::new(Vec::new(), &section).unwrap(),
            microseconds: 1_700_000_000_000_000,
        }
    }

    fn device(&mut self, service: &str, node: &str) {
        let service = service.to_owned();
        let node = node.into();
        self.writer.interface(&Interface { service, node }).unwrap();
    }

    /// Adds a record a millisecond and a half after the last one.
    fn add(&mut self, interface: usize, kind: Kind, bytes: &[u8]) {
        self.add_cut(interface, kind, bytes, bytes.len(), None);
    }

    fn add_cut(
        &mut self,
        interface: usize,
        kind: Kind,
        bytes: &[u8],
        original_len: usize,
        comment: Option<&str>,
    ) {
        let transport = match interface {
            0 => Transport::Ring,
            _ => Transport::Device,
        };
        let is_packet = transport == Transport::Ring && kind != Kind::Event;
        let header = Header {
            kind,
            service: Header::service_number(if interface == 0 { "fcopy" } else { "kvp" }),
            transport,
            packet_type: if is_packet { 6 } else { 0 },
            packet_flags: u16::from(is_packet && kind == Kind::Host),
            transaction: if is_packet { 77 } else { 0 },
            negotiated: (transport == Transport::Ring).then_some(SETTLED),
        };
        let time = UNIX_EPOCH + Duration::from_micros(self.microseconds);
        self.microseconds += 1_500;
        let record = Record {
            original_len,
            comment: comment.map(str::to_owned),
            ..Record::new(time, interface, header, bytes.to_vec())
        };
        self.writer.record(&record).unwrap();
    }

    fn event(&mut self, interface: usize, kind: EventKind, text: &str) {
        let text = text.to_owned();
        let event = Event { kind, text }.encode();
        self.add(interface, Kind::Event, &event);
    }

    fn save(self, directory: &Path) -> PathBuf {
        let path = directory.join("capture.pcapng");
        fs::write(&path, self.writer.into_inner()).unwrap();
        path
    }
}

/// A message of the host over a ring.
fn message(kind: MessageType, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0; HEADER_LEN];
    let size = u16::try_from(body.len()).unwrap();
    message[0] = 1;
    message[4..8].copy_from_slice(&(20 + u32::from(size)).to_le_bytes());
    message[12..14].copy_from_slice(&kind.0.to_le_bytes());
    message[18..20].copy_from_slice(&size.to_le_bytes());
    message[25] = 3;
    message.extend(body);
    message
}

fn reply(mut message: Vec<u8>, status: Status) -> Vec<u8> {
    ic::encode_reply(&mut message, status);
    message
}

/// A body with parts at offsets.
fn body(len: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut body = vec![0; len];
    for (at, bytes) in parts {
        body[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    body
}

fn copy(draft: &mut Draft) {
    draft.device("fcopy", "/dev/uio0");
    draft.event(0, EventKind::Opened, "");
    let offer = message(
        MessageType::NEGOTIATE,
        &[1, 0, 2, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0],
    );
    draft.add(0, Kind::Host, &offer);
    let mut answer = offer.clone();
    let versions = (SETTLED.framework, SETTLED.message);
    ic::negotiate(&mut answer, &[versions.0], &[versions.1]).unwrap();
    draft.add(0, Kind::Guest, &reply(answer, Status::OK));
    let name: Vec<_> = "ä.txt".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let start = body(
        1088,
        &[(36, &name), (556, b"/\0"), (1076, &[1]), (1080, &[9])],
    );
    let start = message(MessageType::FILE_COPY, &start);
    draft.add(0, Kind::Host, &start);
    draft.add(0, Kind::Guest, &reply(start, Status::ALREADY_EXISTS));
    let write = body(6196, &[(0, &[1]), (40, &[5]), (48, &6144u32.to_le_bytes())]);
    let write = message(MessageType::FILE_COPY, &write);
    let comment = Some("data: 6144 bytes, crc32 1a2b3c4d");
    draft.add_cut(
        0,
        Kind::Host,
        &write[..HEADER_LEN + 52],
        write.len(),
        comment,
    );
    draft.event(0, EventKind::Full, "");
}

fn pairs(draft: &mut Draft) {
    draft.device("kvp", "/dev/vmbus/hv_kvp");
    draft.add(1, Kind::Guest, &body(7432, &[(0, &[100])]));
    draft.add(1, Kind::Host, &body(7432, &[(0, &[100]), (4, b"3.1")]));
    let key = b"\x1b[2J\" status=\xe2\x80\xae";
    let size = u8::try_from(key.len() + 1).unwrap();
    let get = body(7432, &[(0, &[0, 9]), (8, &[size]), (16, key)]);
    draft.add(1, Kind::Host, &get);
    draft.add(
        1,
        Kind::Guest,
        &body(7432, &[(0, &Status::NOT_SUPPORTED.0.to_le_bytes())]),
    );
    let enumerate = body(7432, &[(0, &[3, 2]), (4, &[5])]);
    draft.add(1, Kind::Host, &enumerate);
    let item = [
        (4, &[5, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 6][..]),
        (20, b"OSName"),
        (532, b"Linux"),
    ];
    draft.add(1, Kind::Guest, &body(7432, &item));
}

#[test]
fn a_capture_is_shown_a_line_a_message() {
    let directory = tempfile::tempdir().unwrap();
    let mut draft = Draft::new();
    copy(&mut draft);
    pairs(&mut draft);
    let path = draft.save(directory.path());
    let output = agent(&["capture", "show", path.to_str().unwrap()]);
    let wanted = r#"
Capture by hyperv-agent 1.2, 6.12.0 Debian\n13, x86_64, private content: hash, begins 2023-11-14T22:13:20.000000Z
    0.000000  fcopy uio0    -- opened framework_version=3.0 message_version=1.1
    0.001500  fcopy uio0    -> NEGOTIATE framework_versions=3.0 message_versions=1.0,1.1
    0.003000  fcopy uio0    <- NEGOTIATE status=ok framework_versions=3.0 message_versions=1.1
    0.004500  fcopy uio0    -> START file_name="ä.txt" path_name="/" flags=overwrite size=9
    0.006000  fcopy uio0    <- START status="already exists"
    0.007500  fcopy uio0    -> WRITE offset=5 size=6144 data=6144 bytes comment="data: 6144 bytes, crc32 1a2b3c4d"
    0.009000  fcopy uio0    -- the ring is full framework_version=3.0 message_version=1.1
    0.010500  kvp hv_kvp    <- REGISTER
    0.012000  kvp hv_kvp    -> REGISTERED driver_version="3.1"
    0.013500  kvp hv_kvp    -> GET pool=9 key="\u{1b}[2J\" status=\u{202e}" malformed="unknown pool 9"
    0.015000  kvp hv_kvp    <- GET status="not supported"
    0.016500  kvp hv_kvp    -> ENUMERATE pool=auto index=5
    0.018000  kvp hv_kvp    <- ENUMERATE status=ok index=5 key="OSName" value_type=string value="Linux"
"#;
    assert_eq!(stdout(&output), wanted.trim_start());
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(0), "")
    );
    let output = agent(&["capture", "show", "--wall-time", path.to_str().unwrap()]);
    assert!(stdout(&output).contains("\n2023-11-14T22:13:20.018000Z  kvp hv_kvp    <- ENUM"));
}

#[test]
fn a_capture_as_json() {
    let directory = tempfile::tempdir().unwrap();
    let mut draft = Draft::new();
    copy(&mut draft);
    let path = draft.save(directory.path());
    let output = agent(&["capture", "show", "--json", path.to_str().unwrap()]);
    let shown = stdout(&output);
    let lines: Vec<Value> = shown.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(lines.len(), 8);
    assert_eq!(
        lines[0],
        serde_json::json!({
            "type": "capture", "application": "hyperv-agent 1.2", "os": "6.12.0 Debian\n13",
            "hardware": "x86_64", "content": "hash",
        })
    );
    assert_eq!(
        (&lines[1]["type"], &lines[1]["code"]),
        (&"event".into(), &1.into())
    );
    assert_eq!(
        lines[3]["fields"]["message_versions"],
        serde_json::json!(["1.1"])
    );
    assert_eq!(
        lines[5],
        serde_json::json!({
            "type": "message", "record": 5, "time": "2023-11-14T22:13:20.006000000Z",
            "time_ns": 1_700_000_000_006_000_000u64, "service": "fcopy", "device": "/dev/uio0",
            "transport": "ring", "from": "guest", "operation": "START", "code": 0,
            "framework": "3.0", "message": "1.1",
            "packet": {"type": 6, "flags": 0, "transaction": 77},
            "length": 1116, "captured": 1116,
            "fields": {
                "pipe_kind": 1, "pipe_size": 1108, "framework_version": "0.0",
                "message_type": 7, "message_version": "0.0", "message_size": 1088,
                "status": 0x8007_0050u32, "status_name": "already exists",
                "transaction_id": 0, "message_flags": 5, "operation": 0,
                "operation_name": "START",
            },
        })
    );
    assert_eq!(lines[6]["comment"], "data: 6144 bytes, crc32 1a2b3c4d");
    assert_eq!(lines[6]["fields"]["data"], 6144);
    assert_eq!(
        (&lines[6]["length"], &lines[6]["captured"]),
        (&6224.into(), &80.into())
    );
}

#[test]
fn what_is_not_whole_is_shown_up_to_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut draft = Draft::new();
    copy(&mut draft);
    draft.writer.dropped(0, UNIX_EPOCH, 3).unwrap();
    let path = draft.save(directory.path());
    let whole = fs::read(&path).unwrap();
    let run = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let output = agent(&["capture", "show", path.to_str().unwrap()]);
        (output.status.code(), stdout(&output), stderr(&output))
    };
    let (code, all, error) = run(&whole);
    assert_eq!((code, all.lines().count()), (Some(0), 8));
    assert!(
        error.contains("lacks 3 records, which were dropped"),
        "{error}"
    );
    let (code, cut, error) = run(&whole[..whole.len() - 80]);
    assert_eq!((code, cut.lines().count()), (Some(1), 7));
    assert!(
        error.contains("it is cut off: it ends within the block at offset"),
        "{error}"
    );
    assert!(error.contains("capture.pcapng"), "{error}");
    assert!(all.starts_with(&cut));
    let (code, nothing, error) = run(b"a text\n");
    assert_eq!((code, nothing.as_str()), (Some(1), ""));
    assert!(error.contains("no pcapng file"), "{error}");
    let (code, _, error) = run(b"");
    assert_eq!(code, Some(1));
    assert!(error.contains("capture.pcapng: it is empty"), "{error}");
    let (code, title, error) = run(&Draft::new().writer.into_inner());
    assert_eq!((code, title.lines().count()), (Some(0), 1));
    assert!(error.contains("capture.pcapng has no messages"), "{error}");
}

#[test]
fn a_capture_comes_from_standard_input() {
    let directory = tempfile::tempdir().unwrap();
    let mut draft = Draft::new();
    copy(&mut draft);
    let path = draft.save(directory.path());
    let read = agent(&["capture", "show", path.to_str().unwrap()]);
    let shown = directory.path().join("shown");
    let mut child = Command::new(env!("CARGO_BIN_EXE_hyperv-agent"))
        .args(["capture", "show", "-"])
        .stdin(Stdio::piped())
        .stdout(File::create(&shown).unwrap())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&fs::read(&path).unwrap()).unwrap();
    // It is shown as it comes: there may be more.
    let deadline = Instant::now() + Duration::from_secs(20);
    while fs::read_to_string(&shown).unwrap() != stdout(&read) {
        assert!(Instant::now() < deadline, "not everything is shown");
        thread::yield_now();
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read_to_string(&shown).unwrap(), stdout(&read));
    let missing = agent(&["capture", "show", "/no/such/capture"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("cannot open /no/such/capture"));
}
