//! The Wireshark dissector says of each message what `capture show --json` says.

#![expect(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use hyperv_agent::capture::packet::HEADER_LEN as PSEUDO_LEN;
use hyperv_agent::capture::pcapng::{Reader, Writer};
use hyperv_agent::capture::{
    Decoder, Event, EventKind, Header, Interface, Kind, Record, Section, Transport, json,
};
use hyperv_needs::random::Random;
use hyperv_sim::ic::{BACKUP, FILE_COPY, HEADER_LEN, KEY_VALUE, Request};
use hyperv_sim::kvp::{IpInfo, Operation as Kvp, Value};
use hyperv_sim::{fcopy, vss};
use hyperv_vmbus::ic::{Negotiated, Status, Version};
use serde_json::Value as Json;

/// A conversation in the making.
struct Maker {
    records: Vec<Record>,
    transaction: u64,
}

/// A device, by the index of its interface.
#[derive(Clone, Copy)]
struct Device {
    interface: usize,
    service: &'static str,
    kind: u16,
    transport: Transport,
    version: Version,
}

/// How often the conversation is spoiled.
const ROUNDS: u64 = 10;

/// What the dissector has beside the fields of `capture show --json`.
const OF_THE_DISSECTOR: [&str; 8] = [
    "version",
    "kind",
    "service",
    "transport",
    "request_frame",
    "reply_time",
    "status.expert",
    "event.expert",
];

/// The devices of the conversation. IP configurations have three layouts.
const DEVICES: [Device; 7] = [
    device(0, "fcopy", FILE_COPY, Transport::Ring, Version::new(1, 1)),
    device(1, "fcopy", FILE_COPY, Transport::Device, Version::new(0, 0)),
    device(2, "kvp", KEY_VALUE, Transport::Ring, Version::new(5, 0)),
    device(3, "kvp", KEY_VALUE, Transport::Ring, Version::new(4, 0)),
    device(4, "kvp", KEY_VALUE, Transport::Device, Version::new(0, 0)),
    device(5, "vss", BACKUP, Transport::Ring, Version::new(5, 0)),
    device(6, "vss", BACKUP, Transport::Device, Version::new(0, 0)),
];

const fn device(
    interface: usize,
    service: &'static str,
    kind: u16,
    transport: Transport,
    version: Version,
) -> Device {
    Device {
        interface,
        service,
        kind,
        transport,
        version,
    }
}

impl Maker {
    fn add(&mut self, device: Device, kind: Kind, bytes: Vec<u8>) {
        let rings = device.transport == Transport::Ring && kind != Kind::Event;
        let header = Header {
            kind,
            service: Header::service_number(device.service),
            transport: device.transport,
            packet_type: if rings { 6 } else { 0 },
            packet_flags: u16::from(rings),
            transaction: if rings { self.transaction } else { 0 },
            negotiated: rings.then_some(Negotiated {
                framework: Version::new(3, 0),
                message: device.version,
            }),
        };
        let time = Duration::new(1_700_000_000, 0);
        let time = time + Duration::from_micros(1500) * self.records.len().try_into().unwrap();
        let time = SystemTime::UNIX_EPOCH + time;
        let record = Record::new(time, device.interface, header, bytes);
        self.records.push(record);
    }

    fn event(&mut self, device: Device, kind: EventKind, text: &str) {
        let text = text.to_owned();
        self.add(device, Kind::Event, Event { kind, text }.encode());
    }

    /// A request and its reply. Over a ring the reply has the request's body, or this one; on
    /// a character device this one, with the status over its start.
    fn exchange(&mut self, device: Device, body: &[u8], status: Status, answer: Option<&[u8]>) {
        self.transaction += 1;
        let status = status.0.to_le_bytes();
        if device.transport == Transport::Device {
            self.add(device, Kind::Host, body.to_vec());
            let mut reply = answer.unwrap_or(&[0; 4]).to_vec();
            reply[..4].copy_from_slice(&status);
            self.add(device, Kind::Guest, reply);
            return;
        }
        let mut request = Request::new(device.kind, 7, body.to_vec()).unwrap();
        request.version = device.version;
        self.add(device, Kind::Host, request.encode());
        let mut reply = request.encode();
        reply[25] = 5;
        reply[20..24].copy_from_slice(&status);
        if let Some(answer) = answer {
            reply.truncate(HEADER_LEN);
            reply.extend(answer);
        }
        self.add(device, Kind::Guest, reply);
    }

    fn fcopy(&mut self, device: Device) {
        let encode = |operation: fcopy::Operation| match device.transport {
            Transport::Ring => operation.encode_utf16(),
            Transport::Device => operation.encode_utf8(),
        };
        let start = fcopy::Start::new("/srv/in/ä", "𝄞 b.txt", 3, 6147);
        for (operation, status) in [
            (fcopy::Operation::Start(start), Status::OK),
            (fcopy::Operation::write(0, &[7; 6144]), Status::OK),
            (fcopy::Operation::write(1 << 40, &[]), Status::DISK_FULL),
            (fcopy::Operation::Complete, Status::ALREADY_EXISTS),
            (fcopy::Operation::Cancel, Status(0x1234_5678)),
        ] {
            self.exchange(device, &encode(operation), status, None);
        }
        // One whose data is left out, as most captures have it.
        let cut = fcopy::Operation::write(6144, &[9; 6144]);
        self.exchange(device, &encode(cut), Status::OK, None);
        let last = self.records.len() - 2;
        let record = &mut self.records[last];
        record.bytes.truncate(record.bytes.len() - 6144);
        record.comment = Some("data: 6144 bytes".to_owned());
    }

    fn kvp(&mut self, device: Device) {
        let encode = |operation: &Kvp| match device.transport {
            Transport::Ring => operation.encode_utf16(device.version),
            Transport::Device => operation.encode_utf8(),
        };
        let ip = |addresses: &str, subnets: &str| IpInfo {
            adapter: "{F8615163-DF3E-46C5-913F-F2D2F965ED0E}".to_owned(),
            family: 3,
            dhcp: true,
            addresses: addresses.to_owned(),
            subnets: subnets.to_owned(),
            gateways: "192.0.2.254;fe80::1".to_owned(),
            dns: "192.0.2.53;2001:db8::53".to_owned(),
            origins: vec![2, 1],
        };
        let whole = Kvp::SetIpInfo(ip("192.0.2.1;2001:db8::1", "255.255.255.0;/64"));
        for (operation, status) in [
            (Kvp::get(3, "HostName"), Status::NO_MORE_ITEMS),
            (Kvp::set(0, "schlüssel", Value::text("wert 𝄞")), Status::OK),
            (Kvp::set(0, "a", Value::U32(u32::MAX)), Status::OK),
            (Kvp::set(1, "b", Value::Qword(u64::MAX)), Status::OK),
            (Kvp::delete(4, ""), Status::FAIL),
            (
                Kvp::Enumerate { pool: 2, index: 9 },
                Status::INVALID_ARGUMENT,
            ),
            (Kvp::get_ip_info("00:15:5D:01:02:03", 3), Status::FAIL),
            (whole.clone(), Status::OK),
        ] {
            self.exchange(device, &encode(&operation), status, None);
        }
        // Replies with data have the fields of requests, on a character device other ones.
        let mut item = encode(&Kvp::Enumerate { pool: 2, index: 1 });
        let at = if device.transport == Transport::Ring {
            let sizes = [1u32, 4, 8].map(u32::to_le_bytes).concat();
            item[8..20].copy_from_slice(&sizes);
            item[20..24].copy_from_slice(b"k\0\0\0");
            b"v\0\xe4\0w\0\0\0".as_slice()
        } else {
            let sizes = [1u32, 2, 4].map(u32::to_le_bytes).concat();
            item[8..20].copy_from_slice(&sizes);
            item[20..22].copy_from_slice(b"k\0");
            b"v\xc3\xa4\0"
        };
        item[532..532 + at.len()].copy_from_slice(at);
        let asked = encode(&Kvp::Enumerate { pool: 2, index: 1 });
        self.exchange(device, &asked, Status::OK, Some(&item));
        let answer = match device.transport {
            Transport::Ring => encode(&Kvp::set(2, "k", Value::text("v"))),
            Transport::Device => item,
        };
        let asked = encode(&Kvp::get(2, "k"));
        self.exchange(device, &asked, Status::OK, Some(&answer));
        let asked = encode(&Kvp::get_ip_info("00:15:5D:01:02:03", 1));
        let answer = encode(&whole);
        let mut answer = answer.clone();
        answer[0] = 4;
        self.exchange(device, &asked, Status::OK, Some(&answer));
    }

    fn vss(&mut self, device: Device) {
        let len = |operation: vss::Operation| match (device.transport, operation) {
            (Transport::Ring, vss::Operation::Freeze) => vss::LONG_FREEZE,
            (Transport::Ring, vss::Operation::AutoRecover) => vss::LONG_RECOVER,
            _ => vss::BODY_LEN,
        };
        for operation in [
            vss::Operation::HotBackup,
            vss::Operation::GetDmInfo,
            vss::Operation::Freeze,
            vss::Operation::Thaw,
            vss::Operation::AutoRecover,
            vss::Operation::Other(0),
            vss::Operation::Other(8),
            vss::Operation::Other(99),
        ] {
            let mut body = operation.encode(len(operation));
            for (at, byte) in (8..20).zip(1..) {
                if let Some(place) = body.get_mut(at) {
                    *place = byte;
                }
            }
            let answer = body.clone();
            self.exchange(device, &body, Status::OK, Some(&answer));
        }
    }
}

/// Every message that there is, and events.
fn conversation() -> Vec<Record> {
    let mut maker = Maker {
        records: Vec::new(),
        transaction: 0,
    };
    for device in DEVICES {
        maker.event(device, EventKind::Opened, "");
        if device.transport == Transport::Ring {
            maker.transaction += 1;
            let versions = [Version::new(1, 0), Version::new(3, 0)];
            let offer = Request::negotiation(1, &versions, &[device.version]).unwrap();
            maker.add(device, Kind::Host, offer.encode());
            let mut reply = offer.encode();
            reply[25] = 5;
            maker.add(device, Kind::Guest, reply);
        } else {
            let (registration, answer) = match device.service {
                "fcopy" => (vec![1, 0, 0, 0], vec![1, 0, 0, 0]),
                "kvp" => {
                    let mut answer = vec![100, 0, 0, 0];
                    answer.extend(b"3.1");
                    answer.resize(7432, 0);
                    (Kvp::Enumerate { pool: 0, index: 0 }.encode_utf8(), answer)
                }
                _ => (vec![129; 12], vec![129, 0, 0, 0]),
            };
            let mut registration = registration;
            registration[0] = answer[0];
            maker.add(device, Kind::Guest, registration);
            maker.add(device, Kind::Host, answer);
        }
        match device.service {
            "fcopy" => maker.fcopy(device),
            "kvp" => maker.kvp(device),
            _ => maker.vss(device),
        }
    }
    maker.event(DEVICES[0], EventKind::Dropped, "17");
    maker.event(DEVICES[0], EventKind::Other(77), "später");
    maker.event(DEVICES[2], EventKind::Refused, "");
    maker.event(DEVICES[2], EventKind::Closed, "");
    maker.records
}

/// The conversation with random bytes changed and messages cut, as no decoder may mind.
fn spoiled(seed: u64) -> Vec<Record> {
    let mut random = Random::new(seed);
    let mut records = conversation();
    for record in &mut records {
        for _ in 0..random.index(4) {
            let len = record.bytes.len();
            let near = random.index(len.min(64));
            let at = *random.one(&[near, random.clone().index(len)]);
            if let Some(byte) = record.bytes.get_mut(at) {
                *byte = *random.one(&[0, 1, 2, 3, 5, 0x41, 0xd8, 0xff]);
            }
        }
        if random.one_in(4) {
            record.bytes.truncate(random.index(record.bytes.len() + 1));
            record.original_len = record.bytes.len();
        }
    }
    records
}

fn write(path: &Path, records: &[Record]) {
    let section = Section {
        hardware: "x86_64".to_owned(),
        os: "6.12.0, Debian".to_owned(),
        application: "hyperv-agent 0".to_owned(),
        ..Section::default()
    };
    let mut writer = Writer::new(File::create(path).unwrap(), &section).unwrap();
    for device in DEVICES {
        let node = match device.transport {
            Transport::Ring => format!("/dev/uio{}", device.interface),
            Transport::Device => format!("/dev/vmbus/hv_{}", device.service),
        };
        let service = device.service.to_owned();
        let node = PathBuf::from(node);
        writer.interface(&Interface { service, node }).unwrap();
    }
    for record in records {
        writer.record(record).unwrap();
    }
}

/// Runs a program of Wireshark, which must have no complaint, and returns its output.
fn run(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C.UTF-8").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let said: Vec<&str> = said
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("Running as user"))
        .collect();
    assert!(output.status.success() && said.is_empty(), "{said:#?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What tshark says of each packet of the file; `home` is a directory without settings.
fn dissected(home: &Path, path: &Path) -> Option<Vec<Json>> {
    let mut tshark = match hyperv_needs::program("tshark") {
        Ok(tshark) => tshark,
        Err(missing) => {
            hyperv_needs::skip(&missing);
            return None;
        }
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/wireshark/hyperv-ic.lua");
    // Not with the plugins and settings of who runs the test.
    let json = run(tshark
        .env("HOME", home)
        .env_remove("XDG_CONFIG_HOME")
        .arg("-n")
        .arg("-X")
        .arg(format!("lua_script:{}", script.display()))
        .arg("-r")
        .arg(path)
        .args(["-T", "json", "-x", "--no-duplicate-keys"]));
    let errors: Vec<&str> = json
        .lines()
        .filter(|line| line.contains("Lua Error"))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    Some(serde_json::from_str(&json).unwrap())
}

/// What the dissector says of a field: its values, and where they are in the packet.
#[derive(Debug, Default)]
struct Dissected {
    values: Vec<String>,
    places: Vec<Range<usize>>,
}

/// Returns the dissector's fields by the names after `hyperv_ic.`.
fn fields(packet: &Json) -> BTreeMap<String, Dissected> {
    let mut found = BTreeMap::new();
    collect(packet, &mut found);
    found
}

fn collect(json: &Json, fields: &mut BTreeMap<String, Dissected>) {
    let Json::Object(object) = json else { return };
    for (name, value) in object {
        let Some(name) = name.strip_prefix("hyperv_ic.") else {
            collect(value, fields);
            continue;
        };
        match (name.strip_suffix("_raw"), value) {
            // The bytes, where they begin, and how many they are; several if the field is
            // there several times.
            (Some(name), Json::Array(raw)) => {
                let raw = if raw.first().is_some_and(Json::is_array) {
                    raw
                } else {
                    &vec![value.clone()]
                };
                let place = |raw: &Json| {
                    let number =
                        |index: usize| usize::try_from(raw[index].as_u64().unwrap()).unwrap();
                    number(1)..number(1) + number(2)
                };
                let places = raw.iter().map(place);
                fields
                    .entry(name.to_owned())
                    .or_default()
                    .places
                    .extend(places);
            }
            (None, Json::String(text)) => {
                fields
                    .entry(name.to_owned())
                    .or_default()
                    .values
                    .push(text.clone());
            }
            (None, Json::Array(values)) => {
                let values = values.iter().filter_map(Json::as_str).map(str::to_owned);
                fields
                    .entry(name.to_owned())
                    .or_default()
                    .values
                    .extend(values);
            }
            _ => collect(value, fields),
        }
    }
}

/// Returns the values of a field of `capture show --json` as the dissector has them.
fn values(json: &Json) -> Vec<String> {
    match json {
        Json::Null => Vec::new(),
        Json::String(text) => vec![text.clone()],
        Json::Array(elements) => elements.iter().flat_map(values).collect(),
        other => vec![other.to_string()],
    }
}

/// Returns a value of the dissector in the form of [`values`].
fn normal(name: &str, text: &str) -> String {
    if name == "data" {
        let bytes = text.split(':').filter(|byte| !byte.is_empty());
        return bytes.count().to_string();
    }
    let number = text.strip_prefix("0x");
    let number = number.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    number.map_or_else(|| text.to_owned(), |number| number.to_string())
}

/// Returns what `capture show --json` says, by the dissector's names.
fn shown(line: &Json) -> BTreeMap<String, Vec<String>> {
    let mut shown = BTreeMap::new();
    let of = |object: &Json, prefix: &str| {
        let Json::Object(object) = object else {
            return Vec::new();
        };
        let fields = object.iter().filter(|(name, _)| {
            // In words what is a number beside it.
            !name
                .strip_suffix("_name")
                .is_some_and(|name| object.contains_key(name))
        });
        fields
            .map(|(name, value)| (format!("{prefix}{name}"), values(value)))
            .collect()
    };
    shown.extend(of(&line["fields"], ""));
    shown.extend(of(&line["packet"], "packet."));
    for name in ["framework", "message"] {
        shown.insert(name.to_owned(), values(&line[name]));
    }
    if line["type"] == "event" {
        shown.insert("event".to_owned(), values(&line["code"]));
    } else {
        shown.insert("operation".to_owned(), values(&line["code"]));
    }
    shown
}

/// Fails where the dissector says of a record something else than `capture show`.
fn compare(records: &[Record], packets: &[Json]) {
    assert_eq!(records.len(), packets.len());
    let mut decoder = Decoder::default();
    for (number, (record, packet)) in (1..).zip(records.iter().zip(packets)) {
        let description = decoder.describe(record);
        let line = json::line(number, None, record, &description).unwrap();
        let shown = shown(&serde_json::from_str(&line).unwrap());
        let found = fields(packet);
        let context = || format!("packet {number}: {line}\n{found:#?}");
        let is_cut = record.original_len > record.bytes.len();
        if is_cut && description.operation != "WRITE" {
            continue;
        }
        let malformed = found.contains_key("malformed");
        assert_eq!(malformed, shown.contains_key("malformed"), "{}", context());
        if malformed {
            continue;
        }
        let is_compared =
            |name: &str| !(OF_THE_DISSECTOR.contains(&name) || is_cut && name == "data");
        let came: BTreeMap<String, Vec<String>> = found
            .iter()
            .filter(|(name, _)| is_compared(name))
            .map(|(name, found)| {
                let values = found.values.iter().map(|text| normal(name, text));
                (name.clone(), values.collect())
            })
            .collect();
        let wanted: BTreeMap<_, _> = shown
            .into_iter()
            .filter(|(name, values)| is_compared(name) && !values.is_empty())
            .collect();
        assert_eq!(came, wanted, "{}", context());
        for field in &description.fields {
            let Some(places) = found.get(field.name).map(|found| &found.places) else {
                continue;
            };
            if let (false, Some(first), Some(last)) = (
                field.place.is_empty() || is_cut,
                places.first(),
                places.last(),
            ) {
                let place = field.place.start + PSEUDO_LEN..field.place.end + PSEUDO_LEN;
                assert_eq!(
                    first.start..last.end,
                    place,
                    "{}: {}",
                    field.name,
                    context()
                );
            }
        }
    }
}

#[test]
fn the_dissector_agrees_with_the_decoders() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture.pcapng");
    let records = conversation();
    write(&path, &records);
    let Some(packets) = dissected(directory.path(), &path) else {
        return;
    };
    compare(&records, &packets);
    // Each reply was found: the device's and the transaction's.
    for (number, (record, packet)) in (1..).zip(records.iter().zip(&packets)) {
        let found = fields(packet);
        let first = found
            .get("request_frame")
            .map(|found| found.values[0].as_str());
        let is_reply = record.header.kind == Kind::Guest && !is_registration(record);
        let wanted = is_reply.then(|| (number - 1).to_string());
        assert_eq!(first, wanted.as_deref(), "packet {number}");
    }
    let mut capinfos = hyperv_needs::program("capinfos").unwrap();
    let told = run(capinfos.arg("-cM").arg(&path));
    assert!(told.contains(&records.len().to_string()), "{told}");
}

/// Whether this is a registration on a character device, which nobody has asked for.
fn is_registration(record: &Record) -> bool {
    let first = record.bytes[0];
    record.header.transport == Transport::Device && [1, 100, 129].contains(&first)
}

#[test]
fn the_dissector_takes_malformed_messages() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("capture.pcapng");
    let records: Vec<Record> = (0..ROUNDS).flat_map(spoiled).collect();
    write(&path, &records);
    if let Some(packets) = dissected(directory.path(), &path) {
        compare(&records, &packets);
    }
}

#[test]
fn the_dissector_agrees_about_captures() {
    let home = tempfile::tempdir().unwrap();
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    for entry in fs::read_dir(captures).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|it| it != "pcapng") {
            continue;
        }
        let mut reader = Reader::new(File::open(&path).unwrap()).unwrap();
        let records: Vec<Record> = reader.by_ref().map(Result::unwrap).collect();
        let Some(packets) = dissected(home.path(), &path) else {
            return;
        };
        println!("{}", path.display());
        compare(&records, &packets);
    }
}
