//! What the host says to a service: mostly what a host would, and often
//! something that is not quite that.

use std::fmt;
use std::path::Path;

use hyperv_vmbus::ic::Version;

use super::rng::Rng;
use crate::fcopy::{CHUNK, Fcopy, Operation as Copy, Start};
use crate::host::{FRAMEWORKS, Protocol};
use crate::ic::{HEADER_LEN, NEGOTIATE, Request};
use crate::kvp::{IpInfo, Kvp, Operation as Pair, Value};
use crate::vss::{BODY_LEN, LONG_FREEZE, LONG_RECOVER, Operation as Backup, Vss};

/// What every file begins with that the host may have made.
pub(super) const NAME: &str = "hyperv-chaos-";

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServiceKind {
    Fcopy,
    Kvp,
    Vss,
}

/// A message, over either transport.
#[derive(Clone)]
pub(super) struct Message {
    label: String,
    /// Over rings, with its header.
    pub(super) packet: Vec<u8>,
    /// As the kernel hands it to the character device.
    pub(super) device: Vec<u8>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

/// Directories that the host may name.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// The one that copies may go to.
    pub(super) inside: String,
    /// One that they may not go to.
    pub(super) outside: String,
}

impl Places {
    pub(super) fn new(inside: &Path, outside: &Path) -> Self {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Self {
            inside: text(inside),
            outside: text(outside),
        }
    }
}

/// A negotiation, with versions that the service has or others.
pub(super) fn negotiation(rng: &mut Rng, which: ServiceKind) -> Message {
    let known = match which {
        ServiceKind::Fcopy => Fcopy::VERSIONS,
        ServiceKind::Kvp => Kvp::VERSIONS,
        ServiceKind::Vss => Vss::VERSIONS,
    };
    let mut versions = |known: &[Version]| match rng.below(8) {
        0 => Vec::new(),
        1 => vec![Version::new(9, 9)],
        2 => {
            let count = rng.below(120);
            let any = |rng: &mut Rng| u16::from(rng.byte() % 7);
            (0..count)
                .map(|_| Version::new(any(rng), any(rng)))
                .collect()
        }
        _ => known.to_vec(),
    };
    let (frameworks, messages) = (versions(&FRAMEWORKS), versions(known));
    let label = format!("negotiation of {} and {}", frameworks.len(), messages.len());
    let request = Request::negotiation(0, &frameworks, &messages);
    message(rng, label, request.ok(), Vec::new())
}

/// A request to a service, spoiled or not.
pub(super) fn request(rng: &mut Rng, which: ServiceKind, places: &Places) -> Message {
    let (label, rings, device, kind, version) = match which {
        ServiceKind::Fcopy => {
            let (label, operation) = copy(rng, places);
            let bodies = (operation.encode_utf16(), operation.encode_utf8());
            (label, bodies.0, bodies.1, Fcopy::KIND, Fcopy::VERSION)
        }
        ServiceKind::Kvp => {
            let (label, operation) = pair(rng);
            // Of the version that was negotiated or of another.
            let version = rng.pick(Kvp::VERSION, Kvp::VERSIONS);
            let bodies = (operation.encode_utf16(version), operation.encode_utf8());
            (label, bodies.0, bodies.1, Kvp::KIND, version)
        }
        ServiceKind::Vss => {
            let (operation, len) = backup(rng);
            let label = format!("{operation:?} of {len} bytes");
            let bodies = (operation.encode(len), operation.encode(BODY_LEN));
            (label, bodies.0, bodies.1, Vss::KIND, Vss::VERSION)
        }
    };
    let mut request = Request::new(kind, 0, rings).ok();
    if let Some(request) = &mut request {
        request.version = version;
    }
    message(rng, label, request, device)
}

/// A copy's next step: most copies have one after the other, in order.
pub(super) fn copy_step(rng: &mut Rng, step: usize, places: &Places) -> Message {
    let operation = match step {
        0 => {
            let name = format!("{NAME}{}", rng.below(4));
            let directory = &places.inside;
            let start = Start::new(directory, &name, rng.word() & 3, (3 * CHUNK) as u64);
            Copy::Start(start)
        }
        1..=3 => Copy::write(((step - 1) * CHUNK) as u64, &rng.bytes(CHUNK)),
        _ => Copy::Complete,
    };
    let request = Request::new(Fcopy::KIND, 0, operation.encode_utf16()).ok();
    Message {
        label: format!("step {step} of a copy"),
        packet: request.map(|it| it.encode()).unwrap_or_default(),
        device: operation.encode_utf8(),
    }
}

fn message(rng: &mut Rng, label: String, request: Option<Request>, device: Vec<u8>) -> Message {
    let request = request.unwrap_or(Request {
        framework: Version::new(0, 0),
        kind: NEGOTIATE,
        version: Version::new(0, 0),
        id: 0,
        stated: 0,
        piped: 0,
        body: Vec::new(),
    });
    let message = Message {
        label,
        packet: request.encode(),
        device,
    };
    match rng.one_in(4) {
        true => spoiled(rng, message, request),
        false => message,
    }
}

/// Not quite what a host says.
fn spoiled(rng: &mut Rng, mut message: Message, mut request: Request) -> Message {
    let how = match rng.below(9) {
        0 => {
            request.stated = u16::from_le_bytes([rng.byte(), rng.byte()]);
            message.packet = request.encode();
            format!("that states {} bytes", request.stated)
        }
        1 => {
            request.piped = rng.word();
            message.packet = request.encode();
            format!("in a pipe of {} bytes", request.piped)
        }
        2 => {
            request.kind = u16::from(rng.byte() % 9);
            message.packet = request.encode();
            format!("of type {}", request.kind)
        }
        3 => {
            request.version = Version::new(u16::from(rng.byte()), u16::from(rng.byte()));
            message.packet = request.encode();
            format!("in version {}", request.version)
        }
        4 => {
            let (packet, device) = (
                rng.below(message.packet.len()),
                rng.below(message.device.len()),
            );
            message.packet.truncate(packet);
            message.device.truncate(device);
            format!("cut to {packet} or {device} bytes")
        }
        5 | 6 => {
            let count = 1 + rng.below(6);
            for _ in 0..count {
                for bytes in [&mut message.packet, &mut message.device] {
                    let (at, byte) = (rng.below(bytes.len()), rng.byte());
                    if let Some(place) = bytes.get_mut(at) {
                        *place = byte;
                    }
                }
            }
            format!("with {count} other bytes")
        }
        7 => {
            let len = 8 * rng.below(40);
            message.packet.extend(rng.bytes(len));
            format!("with {len} bytes behind it")
        }
        _ => {
            let (packet, device) = (message.packet.len(), message.device.len());
            message.packet.truncate(HEADER_LEN);
            message
                .packet
                .extend(rng.bytes(packet - message.packet.len()));
            message.device = rng.bytes(device);
            "with a random body".to_owned()
        }
    };
    message.label = format!("{} {how}", message.label);
    message
}

fn copy(rng: &mut Rng, places: &Places) -> (String, Copy) {
    match rng.below(8) {
        0..=3 => start(rng, places),
        4 | 5 => {
            let offset = rng.pick(0, &[1, CHUNK as u64, 5000, 1 << 20, 1 << 40, u64::MAX]);
            let len = rng.pick(CHUNK, &[0, 1, 100, CHUNK - 1]);
            let data = rng.bytes(len);
            let label = format!("WRITE of {len} bytes at {offset}");
            let write = match rng.one_in(6) {
                true => Copy::Write {
                    offset,
                    size: rng.word(),
                    data,
                },
                false => Copy::write(offset, &data),
            };
            (label, write)
        }
        6 => ("COMPLETE".to_owned(), Copy::Complete),
        _ => ("CANCEL".to_owned(), Copy::Cancel),
    }
}

fn start(rng: &mut Rng, places: &Places) -> (String, Copy) {
    let Places { inside, outside } = places;
    let (where_to, directory) = match rng.below(16) {
        0 => ("outside", outside.clone()),
        1 => ("inside and out by ..", format!("{inside}/../../{NAME}up")),
        2 => ("a link to outside", format!("{inside}/{NAME}link")),
        3 => ("below a file", format!("{inside}/{NAME}0")),
        4 => ("/", "/".to_owned()),
        5 => ("nowhere", String::new()),
        6 => ("a relative path", format!("{NAME}here")),
        7 => ("a drive", format!("C:\\{NAME}drive")),
        8 => ("slashes", format!("//{inside}//{NAME}a/./")),
        9 => ("a long path", format!("{inside}/{}", "x".repeat(255))),
        10 | 11 => ("new directories", format!("{inside}/{NAME}a/{NAME}b")),
        _ => ("inside", inside.clone()),
    };
    let mut name: Vec<u16> = match rng.below(12) {
        0 => "..".to_owned(),
        1 => format!("../{NAME}out"),
        2 => String::new(),
        3 => format!("{NAME}{}", "x".repeat(255 - NAME.len())),
        4 => format!("{NAME}ü😀"),
        5 => format!("{NAME}link"),
        6 => format!("{NAME}fifo"),
        7 => format!("{NAME}a"),
        other => format!("{NAME}{other}"),
    }
    .encode_utf16()
    .collect();
    if rng.one_in(20) {
        name.push(0xd800);
    }
    let size = rng.pick(3 * CHUNK as u64, &[0, 1, 1 << 20, 1 << 50, u64::MAX]);
    let start = Start {
        path: directory.encode_utf16().collect(),
        name,
        flags: rng.word() & rng.pick(3, &[u32::MAX]),
        size,
    };
    let label = format!(
        "START of {:?}, {size} bytes, to {where_to}, flags {:#x}",
        String::from_utf16_lossy(&start.name),
        start.flags
    );
    (label, Copy::Start(start))
}

fn pair(rng: &mut Rng) -> (String, Pair) {
    let pool = rng.pick(0, &[0, 1, 1, 2, 3, 4, 5, 255]);
    let key = match rng.below(12) {
        0 => Vec::new(),
        1 => vec![u16::from(b'k'); 254],
        2 => vec![u16::from(b'k'); 300],
        3 => vec![0xd800, 0x20],
        4 => "ü😀".encode_utf16().collect(),
        other => format!("key {other}").encode_utf16().collect(),
    };
    let operation = match rng.below(8) {
        0 => Pair::Get { pool, key },
        1 | 2 => {
            let value = match rng.below(6) {
                0 => Value::U32(rng.word()),
                1 => Value::U64(rng.next()),
                2 => Value::Qword(rng.next()),
                3 => Value::Text(vec![0xfc; 1022]),
                4 => Value::Text(vec![0xfc; 1100]),
                _ => Value::text("a value"),
            };
            Pair::Set { pool, key, value }
        }
        3 => Pair::Delete { pool, key },
        4 | 5 => Pair::Enumerate {
            pool,
            index: rng.pick(0, &[1, 2, 3, 9, 10, 1 << 31, u32::MAX]),
        },
        6 => Pair::GetIpInfo {
            adapter: "00:15:5D:01:02:03".encode_utf16().collect(),
            family: rng.byte() % 5,
        },
        _ => Pair::SetIpInfo(IpInfo {
            adapter: "{f8615163-0000-1000-2000-00155d010200}".to_owned(),
            family: rng.byte() % 5,
            dhcp: rng.one_in(2),
            addresses: rng
                .pick("192.0.2.1", &["", ";;", "fe80::1;192.0.2.300", "x"])
                .to_owned(),
            subnets: rng.pick("255.255.255.0", &["", "/64", "/999"]).to_owned(),
            gateways: rng.pick("192.0.2.254", &["", "::"]).to_owned(),
            dns: rng.pick("192.0.2.53", &["", "1;2;3;4;5;6;7;8"]).to_owned(),
            origins: Vec::new(),
        }),
    };
    let mut label = format!("{operation:?}");
    // Enough to see what it is.
    let end = (0..=label.len().min(60)).rev();
    let end = end.into_iter().find(|end| label.is_char_boundary(*end));
    label.truncate(end.unwrap_or_default());
    (label, operation)
}

fn backup(rng: &mut Rng) -> (Backup, usize) {
    let operation = match rng.below(9) {
        0 | 1 => Backup::HotBackup,
        2 => Backup::GetDmInfo,
        3 | 4 => Backup::Freeze,
        5 | 6 => Backup::Thaw,
        7 => Backup::AutoRecover,
        _ => Backup::Other(rng.byte()),
    };
    let len = match rng.below(8) {
        0 => LONG_FREEZE,
        1 => LONG_RECOVER,
        2 => rng.below(64),
        _ => BODY_LEN,
    };
    (operation, len)
}
