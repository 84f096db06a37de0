//! Captures that are made here, replayed to the agent within this process.

use std::path::Path;
use std::time::{Duration, SystemTime};

use hyperv_agent::capture::{Event, EventKind, Header, Interface, Kind, Level, Record, Transport};
use hyperv_vmbus::ic::{Negotiated, Status, Version};

use super::link::Terms;
use super::operation::Operation;
use super::*;
use crate::host::{FRAMEWORK, FRAMEWORKS};
use crate::ic::{HEADER_LEN, Request};
use crate::inprocess::InProcess;
use crate::{fcopy, kvp, vss};

const BOTH: [Encoding; 2] = [Encoding::Utf16, Encoding::Utf8];

/// A capture in the making, of one device.
struct Maker {
    terms: Terms,
    encoding: Encoding,
    version: Version,
    /// Of the last request.
    transaction: u64,
    records: Vec<Record>,
}

impl Maker {
    /// One with the device opened.
    fn new(service: &str, encoding: Encoding) -> Self {
        let mut maker = Self::begun_late(service, encoding);
        maker.event(EventKind::Opened);
        match encoding {
            Encoding::Utf16 => maker.negotiation(),
            Encoding::Utf8 => {
                maker.record(Kind::Guest, vec![1; 4]);
                maker.record(Kind::Host, vec![1; 4]);
            }
        }
        maker
    }

    /// One without its beginning.
    fn begun_late(service: &str, encoding: Encoding) -> Self {
        let terms = Terms::of(service).unwrap();
        Self {
            terms,
            encoding,
            version: terms.kernel_version,
            transaction: 0,
            records: Vec::new(),
        }
    }

    fn record(&mut self, kind: Kind, bytes: Vec<u8>) {
        let rings = self.encoding == Encoding::Utf16;
        self.transaction += u64::from(kind == Kind::Host);
        let header = Header {
            kind,
            service: Header::service_number(self.terms.service.name),
            transport: if rings {
                Transport::Ring
            } else {
                Transport::Device
            },
            packet_type: if rings { 6 } else { 0 },
            packet_flags: u16::from(rings),
            transaction: if rings { self.transaction } else { 0 },
            negotiated: rings.then_some(Negotiated {
                framework: FRAMEWORK,
                message: self.version,
            }),
        };
        let time = Duration::from_millis(20 * self.records.len() as u64);
        let time = SystemTime::UNIX_EPOCH + time;
        self.records.push(Record::new(time, 0, header, bytes));
    }

    fn event(&mut self, kind: EventKind) {
        let text = String::new();
        self.record(Kind::Event, Event { kind, text }.encode());
    }

    fn negotiation(&mut self) {
        let request = Request::negotiation(1, &FRAMEWORKS, &[self.version]).unwrap();
        let mut reply = request.encode();
        self.record(Kind::Host, reply.clone());
        let body = Request::negotiation(1, &[FRAMEWORK], &[self.version]).unwrap();
        let body = body.encode();
        reply[HEADER_LEN..body.len()].copy_from_slice(&body[HEADER_LEN..]);
        reply[18] = 16;
        reply[25] = 5;
        self.record(Kind::Guest, reply.padded());
    }

    /// A request and a reply with this body where there are rings.
    fn exchange(&mut self, operation: &Operation, status: Status, answer: Option<Vec<u8>>) {
        let body = operation.encode(self.encoding, self.version);
        match self.encoding {
            Encoding::Utf16 => {
                let mut request = Request::new(self.terms.kind, 1, body).unwrap();
                (request.framework, request.version) = (FRAMEWORK, self.version);
                self.record(Kind::Host, request.encode().padded());
                if let Some(body) = answer {
                    request.body = body;
                }
                let mut reply = request.encode();
                reply[20..24].copy_from_slice(&status.0.to_le_bytes());
                reply[25] = 5;
                self.record(Kind::Guest, reply.padded());
            }
            Encoding::Utf8 => {
                self.record(Kind::Host, body);
                let mut reply = status.0.to_le_bytes().to_vec();
                // The reply has the status before the fields.
                reply.extend(answer.unwrap_or_default().get(4..).unwrap_or_default());
                reply.resize(self.terms.reply_len, 0);
                self.record(Kind::Guest, reply);
            }
        }
    }

    fn capture(self) -> Capture {
        let interface = Interface {
            service: self.terms.service.name.to_owned(),
            node: "/dev/somewhere".into(),
        };
        Capture::new(vec![interface], self.records, Level::None).unwrap()
    }
}

trait Padded {
    fn padded(self) -> Self;
}

impl Padded for Vec<u8> {
    /// As a packet has it.
    fn padded(mut self) -> Self {
        self.resize(self.len().next_multiple_of(8), 0);
        self
    }
}

fn replay(capture: &Capture, transport: Option<Encoding>) -> Outcome {
    let mut machine = InProcess::new().unwrap();
    let options = Options {
        transport,
        recorded_pace: false,
    };
    let outcome = capture.replay(&mut machine, options);
    outcome.unwrap_or_else(|error| panic!("{error:#}\n{}", machine.log()))
}

fn start(path: &str, flags: u32) -> Operation {
    let start = fcopy::Start::new(path, "file", flags, 5);
    Operation::Fcopy(fcopy::Operation::Start(start))
}

/// A copy, one that a file is in the way of, one without a directory, and one that is
/// cancelled.
fn copies(maker: &mut Maker) {
    let write = Operation::Fcopy(fcopy::Operation::write(0, b"words"));
    let complete = Operation::Fcopy(fcopy::Operation::Complete);
    let cancel = Operation::Fcopy(fcopy::Operation::Cancel);
    for (operation, status) in [
        (start("/srv/a", 0), Status::OK),
        (write.clone(), Status::OK),
        (complete, Status::OK),
        (start("/srv/b", 0), Status::ALREADY_EXISTS),
        (start("/srv/none", 0), Status::FAIL),
        (start("/srv/new/c", fcopy::CREATE_PATH), Status::OK),
        (write, Status::OK),
        (cancel, Status::OK),
    ] {
        maker.exchange(&operation, status, None);
    }
}

/// Keys of a pool: some that were there, one that the host sets.
fn pairs(maker: &mut Maker) {
    let get = |pool, key| Operation::Kvp(kvp::Operation::get(pool, key));
    let text = |value| kvp::Value::text(value);
    let set = |key, value| Operation::Kvp(kvp::Operation::set(0, key, text(value)));
    let at = |index| Operation::Kvp(kvp::Operation::Enumerate { pool: 0, index });
    let delete = |key| Operation::Kvp(kvp::Operation::delete(0, key));
    let (encoding, version) = (maker.encoding, maker.version);
    let value = |key: &str, value: &str| {
        let body = Operation::Kvp(kvp::Operation::set(0, key, kvp::Value::text(value)));
        let mut body = body.encode(encoding, version);
        // A reply to a GET on a character device has it where one to an ENUMERATE has it.
        if encoding == Encoding::Utf8 {
            body.splice(4..4, [0; 4]);
        }
        Some(body)
    };
    let item = |key: &str, value: &str| {
        let set = kvp::Operation::set(0, key, kvp::Value::text(value));
        let mut body = Operation::Kvp(set).encode(encoding, version);
        body.splice(4..4, [0; 4]);
        Some(body)
    };
    maker.exchange(&get(0, "there"), Status::OK, value("there", "before"));
    maker.exchange(&set("new", "1"), Status::OK, None);
    maker.exchange(&at(0), Status::OK, item("there", "before"));
    maker.exchange(&at(1), Status::OK, item("new", "1"));
    maker.exchange(&at(2), Status::NO_MORE_ITEMS, None);
    maker.exchange(&get(0, "there"), Status::OK, value("there", "changed"));
    maker.exchange(&delete("there"), Status::OK, None);
    maker.exchange(&get(0, "there"), Status::NO_MORE_ITEMS, None);
    maker.exchange(&get(2, "OSName"), Status::OK, value("OSName", "another"));
}

fn backups(maker: &mut Maker) {
    let mut flags = vss::Operation::HotBackup.encode(vss::BODY_LEN);
    flags[8] = 5;
    let backup = |operation| Operation::Vss(operation);
    maker.exchange(&backup(vss::Operation::HotBackup), Status::OK, Some(flags));
    // A FREEZE starts a guard, which the tests of a library cannot become.
    maker.exchange(&backup(vss::Operation::Thaw), Status::OK, None);
}

type Make = fn(&mut Maker);

const SERVICES: [(&str, Make, usize); 3] =
    [("fcopy", copies, 8), ("kvp", pairs, 9), ("vss", backups, 2)];

#[test]
fn each_service_replays_over_each_transport() {
    for (service, make, count) in SERVICES {
        for captured in BOTH {
            for transport in BOTH {
                let mut maker = Maker::new(service, captured);
                make(&mut maker);
                let capture = maker.capture();
                let outcome = replay(&capture, Some(transport));
                let what = format!("{service} from {captured:?} over {transport:?}");
                let difference = outcome.difference.as_ref();
                let difference = difference.map(|difference| capture.describe(difference));
                assert_eq!(difference, None, "{what}");
                let negotiation = usize::from(captured == transport && captured == BOTH[0]);
                let compared = (outcome.sent, outcome.compared);
                assert_eq!(
                    compared,
                    (count + negotiation, count + negotiation),
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn each_reply_that_differs_is_found() {
    for (service, make, _) in SERVICES {
        for captured in BOTH {
            let mut maker = Maker::new(service, captured);
            make(&mut maker);
            let mut records = maker.records.iter().zip(0..);
            let places: Vec<usize> = records
                .by_ref()
                .filter(|(record, place)| record.header.kind == Kind::Guest && *place > 2)
                .map(|(_, place)| place)
                .collect();
            let at = if captured == Encoding::Utf16 { 20 } else { 0 };
            for place in places {
                let mut maker = Maker::new(service, captured);
                make(&mut maker);
                maker.records[place].bytes[at] ^= 0x10;
                let capture = maker.capture();
                let outcome = replay(&capture, None);
                let what = format!("{service} over {captured:?}, record {}", place + 1);
                let difference = outcome.difference;
                let difference = difference.unwrap_or_else(|| panic!("{what}: no difference"));
                assert_eq!(difference.request, place, "{what}");
                assert_eq!(difference.reply, Some(place + 1), "{what}");
                assert!(
                    difference.what.contains("status"),
                    "{what}: {}",
                    difference.what
                );
            }
        }
    }
}

#[test]
fn a_capture_that_begins_late_is_negotiated_first() {
    for begin in [None, Some(EventKind::Begin)] {
        let mut maker = Maker::begun_late("kvp", Encoding::Utf16);
        maker.version = Version::new(5, 0);
        if let Some(begin) = begin {
            maker.event(begin);
        }
        pairs(&mut maker);
        let outcome = replay(&maker.capture(), None);
        assert!(outcome.difference.is_none());
        assert_eq!(outcome.compared, 9);
    }
}

#[test]
fn data_that_was_cut_is_filled_and_a_copy_without_its_start_left_out() {
    for encoding in BOTH {
        let mut maker = Maker::begun_late("fcopy", encoding);
        let write = Operation::Fcopy(fcopy::Operation::write(0, b"words"));
        maker.exchange(&write, Status::OK, None);
        copies(&mut maker);
        for record in &mut maker.records {
            if record.original_len > fcopy::CHUNK {
                // Up to the data.
                record
                    .bytes
                    .truncate(if encoding == Encoding::Utf16 { 80 } else { 52 });
            }
        }
        let outcome = replay(&maker.capture(), None);
        assert!(outcome.difference.is_none());
        assert_eq!(outcome.compared, 8);
        let left_out: Vec<_> = outcome.left_out.into_values().collect();
        assert_eq!(left_out, [[1]]);
    }
}

#[test]
fn a_reply_where_the_capture_has_none_is_a_difference() {
    for lost in [false, true] {
        let mut maker = Maker::new("vss", Encoding::Utf16);
        backups(&mut maker);
        maker.records.pop();
        if lost {
            maker.event(EventKind::Dropped);
        }
        backups(&mut maker);
        let outcome = replay(&maker.capture(), None);
        let difference = outcome.difference.map(|difference| difference.request);
        assert_eq!(difference, (!lost).then_some(6));
    }
}

#[test]
fn what_has_no_equivalent_is_left_out() {
    let mut maker = Maker::new("vss", Encoding::Utf16);
    let dm_info = Operation::Vss(vss::Operation::GetDmInfo);
    let unknown = Operation::Vss(vss::Operation::Other(99));
    let mut flags = vss::Operation::GetDmInfo.encode(vss::BODY_LEN);
    flags[8] = 0;
    maker.exchange(&dm_info, Status::OK, Some(flags));
    maker.exchange(&unknown, Status::NOT_SUPPORTED, None);
    let thaw = Operation::Vss(vss::Operation::Thaw);
    maker.exchange(&thaw, Status::INVALID_ARGUMENT, None);
    // The request states a body that is longer than its packet.
    maker.records[7].bytes[19] = 0xff;
    let capture = maker.capture();
    let same = replay(&capture, None);
    assert_eq!((same.compared, same.left_out.len()), (4, 0));
    let other = replay(&capture, Some(Encoding::Utf8));
    assert_eq!(other.compared, 0);
    let left_out: Vec<_> = other.left_out.into_values().flatten().collect();
    assert_eq!(left_out, [6, 8, 2, 4]);
}

#[test]
fn nothing_is_configured_or_written_elsewhere() {
    let mut maker = Maker::new("kvp", Encoding::Utf16);
    let info = kvp::Operation::SetIpInfo(kvp::IpInfo::default());
    maker.exchange(&Operation::Kvp(info), Status::OK, None);
    let outcome = replay(&maker.capture(), None);
    assert_eq!((outcome.sent, outcome.left_out.len()), (1, 1));

    let name = format!("/tmp/hyperv-sim-replay-{}", std::process::id());
    let mut maker = Maker::new("fcopy", Encoding::Utf16);
    maker.exchange(&start(&name, fcopy::CREATE_PATH), Status::OK, None);
    assert!(replay(&maker.capture(), None).difference.is_none());
    assert!(!Path::new(&name).exists());
}

#[test]
fn a_capture_without_requests_is_none_to_replay() {
    let mut maker = Maker::begun_late("kvp", Encoding::Utf16);
    maker.event(EventKind::Opened);
    let interface = Interface {
        service: "kvp".to_owned(),
        node: "/dev/somewhere".into(),
    };
    let mut unknown = interface.clone();
    unknown.service = "other".to_owned();
    for interface in [interface, unknown] {
        assert!(Capture::new(vec![interface], maker.records.clone(), Level::None).is_err());
    }
    maker.records[0].header.kind = Kind::Host;
    maker.records[0].original_len = 1 << 30;
    let interface = Interface {
        service: "kvp".to_owned(),
        node: "/dev/somewhere".into(),
    };
    assert!(Capture::new(vec![interface], maker.records, Level::None).is_err());
}

#[test]
fn what_is_no_capture_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture");
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let whole = std::fs::read(captures.join("exists-6.1-hvutil.pcapng")).unwrap();
    std::fs::write(&path, &whole).unwrap();
    assert!(Capture::read(&path).is_ok());
    for other in [
        &b"a text that is no capture"[..],
        &whole[..whole.len() - 5],
        &[],
    ] {
        std::fs::write(&path, other).unwrap();
        assert!(Capture::read(&path).is_err());
    }
}
