//! Reads a capture, and finds out what the guest must have for its replies to come again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use hyperv_agent::capture::pcapng::Reader;
use hyperv_agent::capture::{EventKind, Interface, Kind, Level, Record};
use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::{Status, Version};

use super::conversation::{Channel, Conversation, Exchange, Message, What, is_negotiation};
use super::link::Terms;
use super::meaning::{self, Answer, Meaning};
use super::operation::Operation;
use super::pools::{Change, Pool, Seen};
use crate::ic::{HEADER_LEN, Reply};
use crate::kvp::{self, FACT_POOL, POOLS};
use crate::scenario::Pattern;

/// Bytes of the longest packet that a ring can carry: its header counts 8 bytes in a word.
const LONGEST: usize = 8 * (u16::MAX as usize);

/// A capture.
pub struct Capture {
    pub(super) interfaces: Vec<Interface>,
    /// As the file has them.
    pub(super) records: Vec<Record>,
    pub(super) conversation: Conversation,
    /// What private content was left out.
    level: Level,
    /// What must change in a pool before a request, by its exchange.
    pub(super) changes: BTreeMap<usize, (u8, Vec<Change>)>,
}

impl Capture {
    /// Reads a capture.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or is no capture, or has nothing to replay.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let mut reader = Reader::new(BufReader::new(file))?;
        let mut records = Vec::new();
        for record in reader.by_ref() {
            records.push(record?);
        }
        let interfaces = reader.interfaces().cloned().collect();
        Self::new(interfaces, records, reader.section().level)
    }

    pub(super) fn new(
        interfaces: Vec<Interface>,
        records: Vec<Record>,
        level: Level,
    ) -> Result<Self> {
        let mut said = Vec::new();
        for (record, number) in records.iter().zip(1..) {
            let what = what(record, number).with_context(|| format!("record {number}"))?;
            if let Some(what) = what {
                said.push((record.time, record.interface, what));
            }
        }
        let mut channels = Vec::new();
        for (place, interface) in interfaces.iter().enumerate() {
            Terms::of(&interface.service)?;
            let first = records.iter().find(|record| record.interface == place);
            channels.push(Channel {
                service: interface.service.clone(),
                encoding: first.map_or(Encoding::Utf16, |first| first.header.transport.encoding()),
            });
        }
        let conversation = Conversation::new(channels, said);
        ensure!(
            !conversation.exchanges.is_empty(),
            "the capture has no message of the host"
        );
        let mut capture = Self {
            interfaces,
            records,
            conversation,
            level,
            changes: BTreeMap::new(),
        };
        capture.changes = capture.pool_changes();
        Ok(capture)
    }

    /// Whether the capture has this service.
    pub fn has(&self, service: &str) -> bool {
        let mut interfaces = self.interfaces.iter();
        interfaces.any(|interface| interface.service == service)
    }

    /// The channel of an exchange.
    pub(super) fn channel(&self, exchange: &Exchange) -> Result<(&Channel, Terms)> {
        let channel = self.conversation.channels.get(exchange.channel);
        let channel = channel.context("a record has no channel")?;
        Ok((channel, Terms::of(&channel.service)?))
    }

    /// What the host asks; an error says why that cannot be told.
    pub(super) fn operation(&self, exchange: &Exchange) -> Result<Operation> {
        let (channel, terms) = self.channel(exchange)?;
        let request = &exchange.request;
        let body = match channel.encoding {
            Encoding::Utf8 => &request.bytes[..],
            Encoding::Utf16 => {
                let kind = request.bytes.get(12..14);
                ensure!(
                    kind == Some(&terms.kind.to_le_bytes()),
                    "the message is none of the service"
                );
                request.bytes.get(HEADER_LEN..).unwrap_or_default()
            }
        };
        let version = version(request, terms);
        Operation::decode(&channel.service, channel.encoding, version, body)
    }

    /// Whether the body of a request was replaced by zeros because nobody could tell what
    /// in it is private.
    pub(super) fn is_blanked(&self, exchange: &Exchange) -> bool {
        let skip = match self.channel(exchange) {
            Ok((channel, _)) if channel.encoding == Encoding::Utf16 => HEADER_LEN,
            _ => 0,
        };
        let body = exchange.request.bytes.get(skip..).unwrap_or_default();
        let blank = !body.is_empty() && body.iter().all(|byte| *byte == 0);
        self.level != Level::Full && blank
    }

    /// What the reply of the capture means.
    pub(super) fn expected(&self, exchange: &Exchange, reply: &Message) -> Result<Meaning> {
        let (channel, terms) = self.channel(exchange)?;
        let request = &exchange.request.bytes;
        let reply = match channel.encoding {
            Encoding::Utf16 => Reply::to(request, &reply.bytes)?,
            Encoding::Utf8 => meaning::on_device(terms.reply_len, &reply.bytes)?,
        };
        if channel.encoding == Encoding::Utf16 && is_negotiation(request) {
            return meaning::of_negotiation(&reply);
        }
        let operation = self.operation(exchange).ok();
        let version = version(&exchange.request, terms);
        meaning::of(operation.as_ref(), channel.encoding, version, &reply)
    }

    fn pool_changes(&self) -> BTreeMap<usize, (u8, Vec<Change>)> {
        let mut pools: BTreeMap<u8, Pool> = BTreeMap::new();
        let mut all: BTreeMap<usize, (u8, Vec<Change>)> = BTreeMap::new();
        for (place, exchange) in self.conversation.exchanges.iter().enumerate() {
            let Some((number, seen)) = self.seen(exchange) else {
                continue;
            };
            let (before, changes) = pools.entry(number).or_default().see(place, &seen);
            if !changes.is_empty() {
                let (_, all) = all.entry(before).or_insert((number, Vec::new()));
                all.extend(changes);
            }
        }
        all
    }

    /// What an exchange shows of a pool that is a file.
    fn seen(&self, exchange: &Exchange) -> Option<(u8, Seen)> {
        let reply = exchange.reply.as_ref()?;
        let Operation::Kvp(operation) = self.operation(exchange).ok()? else {
            return None;
        };
        let Meaning { status, answer } = self.expected(exchange, reply).ok()?;
        let text = |units: &[u16]| String::from_utf16_lossy(units);
        let missing = [Status::NO_MORE_ITEMS, Status::FAIL].contains(&status);
        let (pool, seen) = match (operation, answer) {
            (kvp::Operation::Get { pool, key }, Answer::Value(value)) => {
                (pool, Seen::Value(text(&key), value))
            }
            (kvp::Operation::Get { pool, key }, _) if missing => (pool, Seen::Missing(text(&key))),
            (kvp::Operation::Set { pool, key, value }, _) if status == Status::OK => {
                let kvp::Value::Text(value) = value else {
                    return None;
                };
                (pool, Seen::Set(text(&key), text(&value)))
            }
            (kvp::Operation::Delete { pool, key }, _) if status == Status::OK => {
                (pool, Seen::Deleted(text(&key)))
            }
            (kvp::Operation::Enumerate { pool, index }, Answer::Item(item)) => (
                pool,
                Seen::At(usize::try_from(index).ok()?, item.key, item.value),
            ),
            (kvp::Operation::Enumerate { pool, index }, _) if status == Status::NO_MORE_ITEMS => {
                (pool, Seen::End(usize::try_from(index).ok()?))
            }
            _ => return None,
        };
        (POOLS.contains(&pool) && pool != FACT_POOL).then_some((pool, seen))
    }
}

/// The version of a request.
fn version(request: &Message, terms: Terms) -> Version {
    let versions = request.versions;
    versions.map_or(terms.kernel_version, |(_, version)| version)
}

/// What a record says; `None` if it makes no difference to a host.
fn what(record: &Record, number: usize) -> Result<Option<What>> {
    let header = &record.header;
    if header.kind == Kind::Event {
        let event = record.event().context("an event without a code")?;
        return Ok(match event.kind {
            EventKind::Opened => Some(What::Opened { now: true }),
            EventKind::Begin => Some(What::Opened { now: false }),
            EventKind::Closed | EventKind::Gone => Some(What::Closed),
            EventKind::Dropped => Some(What::Dropped),
            EventKind::Full | EventKind::Room | EventKind::Refused | EventKind::Other(_) => None,
        });
    }
    if record.original_len > LONGEST {
        bail!(
            "the message has {} bytes, expected {LONGEST} at most",
            record.original_len
        );
    }
    let mut bytes = record.bytes.clone();
    let missing = record.original_len.saturating_sub(bytes.len());
    bytes.extend(Pattern::bytes(0, missing));
    let message = Message {
        number,
        time: record.time,
        packet: (header.packet_type, header.packet_flags, header.transaction),
        versions: header
            .negotiated
            .map(|settled| (settled.framework, settled.message)),
        bytes,
    };
    Ok(Some(match header.kind {
        Kind::Host => What::Host(message),
        _ => What::Guest(message),
    }))
}
