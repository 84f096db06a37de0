//! `hyperv-agent capture FILE`: records until something ends it.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use hyperv_services::description::Content;
use hyperv_services::kvp::facts;
use hyperv_services::values::parse_size;
use hyperv_vmbus::ic::HEADER_LEN;

use super::super::args::{ConfigFile, service_names};
use super::super::output::{Exit, complain};
use super::file::{Added, Output, Place};
use super::progress::Progress;
use super::source::{End, Signals, Source};
use crate::capture::pcapng::{ReadError, Reader};
use crate::capture::{self, Decoder, EventKind, Kind, Level, Section, Transport};
use crate::request::{self, RequestError};
use crate::status::client::StatusError;
use crate::terminal::bytes;

pub(super) const HELP: &str = "\
Records what the host sends to the running agent and what the agent answers, as pcapng, for
bug reports and tests. Without --content full the file has operations, results and lengths,
and zeros in place of names, keys, values and addresses.

Ctrl-C or SIGTERM ends the capture, as do its limits and the end of the agent. The file is
complete up to the last message, also if this program is killed.

Exit status: 0 the capture was ended by a signal or a limit, 1 the agent has ended it, or
FILE cannot be written, 2 invalid usage, 3 no agent is running.";

const FULL: &str = "\
the capture will contain all that host and guest exchange, which may be secret: contents and \
paths of copied files, key-value pairs, host names and IP configurations";

#[derive(Debug, Args)]
pub(super) struct Record {
    /// Capture this service only (repeatable)
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    service: Vec<String>,

    /// End the capture after this time, such as 90s or 12h
    #[arg(
        long = "for",
        value_name = "DURATION",
        default_value = "1h",
        value_parser = humantime::parse_duration
    )]
    limit: Duration,

    /// End the capture before the file is larger, with B, KiB, MiB, GiB or TiB
    #[arg(long, value_name = "BYTES", default_value = "100MiB", value_parser = size)]
    max_size: u64,

    /// What the file has of private content: nothing, checksums of copied data, or all
    #[arg(long, value_name = "CONTENT", default_value = "none", value_parser = levels())]
    content: Level,

    /// Replace FILE if it exists
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    config: ConfigFile,

    /// The file to create, for its owner only; `-` for standard output
    // A subcommand needs none.
    #[arg(required = true)]
    file: Option<PathBuf>,
}

fn levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(Level::ALL.map(Level::name)).map(|name| {
        let known = Level::ALL.into_iter().find(|level| level.name() == name);
        known.unwrap_or_default()
    })
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text)
        .ok_or_else(|| "expected a whole number with B, KiB, MiB, GiB or TiB".to_owned())
}

impl Record {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let Some(file) = &self.file else {
            return Ok(Exit::Usage);
        };
        let config = self.config.load_with_defaults(&["runtime-directory"])?;
        let place = Place::new(file, self.overwrite)?;
        if self.content == Level::Full {
            complain(FULL);
        }
        let signals = Signals::catch().context("cannot handle signals")?;
        let socket = config.environment.runtime_dir.join(request::NAME);
        let stream = match request::capture(&socket, self.service.clone()) {
            Ok(stream) => stream,
            Err(RequestError::Io(error)) => return Err(StatusError::from_io(socket, error).into()),
            Err(error) => return Err(error.into()),
        };
        let progress = Rc::new(Progress::new());
        let source = Source::new(stream, signals, self.limit, Rc::clone(&progress));
        let end = source.end();
        let mut reader = Reader::new(source).context("cannot read what the agent sends")?;
        let section = Section {
            os: format!(
                "{}, {}",
                reader.section().os,
                facts::system_name(&config.environment.root)
            ),
            level: self.content,
            ..reader.section().clone()
        };
        let mut output = Output::new(place.create()?, &section, self.max_size)?;
        complain(&format!(
            "capturing to {} for at most {} or {}; Ctrl-C ends it",
            file.display(),
            humantime::format_duration(self.limit),
            bytes(self.max_size)
        ));
        let mut decoder = Decoder::default();
        let mut full = None;
        while let Some(record) = reader.next() {
            let record = match record {
                Ok(record) => record,
                // The agent, or the wait for the rest, has ended in the middle of it.
                Err(ReadError::CutOff { .. } | ReadError::Io { .. }) => break,
                Err(error) => return Err(error).context("cannot read what the agent sends"),
            };
            let Some(interface) = reader.interface(record.interface) else {
                continue;
            };
            let event = record.event();
            let added = output.add(interface, redacted(record, &mut decoder, self.content))?;
            if added != Added::Written {
                full = Some(added);
                break;
            }
            let (count, by) = match event {
                None => (&progress.messages, 1),
                Some(event) if event.kind == EventKind::Dropped => {
                    (&progress.dropped, event.text.parse().unwrap_or(0))
                }
                Some(_) => (&progress.events, 1),
            };
            count.set(count.get() + by);
            progress.written.set(output.written());
            progress.changed();
            progress.show_if_due(Instant::now());
        }
        progress.written.set(output.finish()?);
        progress.clear();
        let (why, exit) = match (full, end.get()) {
            (Some(Added::Unread), _) => ("nobody reads it", Exit::Success),
            (Some(_), _) => ("it has its size", Exit::Success),
            (None, Some(End::Signal)) => ("a signal", Exit::Success),
            (None, Some(End::Time)) => ("its time is over", Exit::Success),
            (None, None) => ("the agent has ended", Exit::Failure),
        };
        complain(&format!(
            "{}: {} (ended: {why})",
            file.display(),
            progress.text()
        ));
        Ok(exit)
    }
}

/// Removes from a message what may be private: everything but the header of a message and the
/// fields that belong to the protocol.
fn redacted(mut record: capture::Record, decoder: &mut Decoder, level: Level) -> capture::Record {
    let fields = decoder.describe(&record).fields;
    if level == Level::Full || record.header.kind == Kind::Event {
        return record;
    }
    let header = match record.header.transport {
        Transport::Ring => 0..HEADER_LEN,
        Transport::Device => 0..0,
    };
    let mut kept = vec![0; record.bytes.len()];
    let public = fields
        .iter()
        .filter(|field| field.content == Content::Protocol);
    let places = public.map(|field| field.place.clone());
    for place in places.chain([header]) {
        let end = place.end.min(kept.len());
        let place = place.start.min(end)..end;
        if let (Some(to), Some(from)) = (kept.get_mut(place.clone()), record.bytes.get(place)) {
            to.copy_from_slice(from);
        }
    }
    // The data of a file is the end of its message, or padding follows.
    if let Some(data) = fields.iter().find(|field| field.content == Content::Data) {
        let place = data.place.clone();
        kept.truncate(place.start);
        if level == Level::Hash {
            let data = record.bytes.get(place).unwrap_or_default();
            let checksum = crc32fast::hash(data);
            record.comment = Some(format!("data: {} bytes, crc32 {checksum:08x}", data.len()));
        }
    }
    record.bytes = kept;
    record
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use hyperv_services::description::Value;
    use hyperv_vmbus::ic::MessageType;

    use super::*;
    use crate::capture::Header;

    fn from_host(service: u8, transport: Transport, bytes: Vec<u8>) -> capture::Record {
        let header = Header {
            kind: Kind::Host,
            service,
            transport,
            packet_type: 6,
            packet_flags: 0,
            transaction: 9,
            negotiated: None,
        };
        capture::Record::new(UNIX_EPOCH, 0, header, bytes)
    }

    /// The host sets a key-value pair, over a ring.
    fn set() -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LEN];
        let kind = MessageType::KVP.0.to_le_bytes();
        bytes[12..14].copy_from_slice(&kind);
        // SET in pool 1: type 1, lengths in bytes, then key and value in fields of their own.
        bytes.extend([1, 1, 0, 0]);
        for word in [1_u32, 14, 14] {
            bytes.extend(word.to_le_bytes());
        }
        for (text, len) in [("secret", 512), ("hidden", 2048)] {
            let end = bytes.len() + len;
            bytes.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
            // What was in the memory before.
            bytes.extend([0, 0]);
            bytes.resize(end, b'p');
        }
        bytes
    }

    #[test]
    fn a_message_keeps_what_belongs_to_the_protocol_and_nothing_else() {
        let record = from_host(2, Transport::Ring, set());
        let redact = |level| redacted(record.clone(), &mut Decoder::default(), level);
        assert_eq!(redact(Level::Full), record);
        for level in [Level::None, Level::Hash] {
            let kept = redact(level);
            let fixed = HEADER_LEN + 16;
            assert_eq!(kept.bytes[..fixed], record.bytes[..fixed]);
            assert!(kept.bytes[fixed..].iter().all(|byte| *byte == 0));
            assert_eq!(kept.bytes.len(), record.bytes.len());
            let said = Decoder::default().describe(&kept);
            assert_eq!(said.operation, "SET");
            assert_eq!(said.field("key").unwrap().value, Value::Text(String::new()));
        }
    }

    #[test]
    fn the_data_of_a_file_is_cut_off() {
        // WRITE with 36 bytes of header, the offset and the length.
        let data = b"some data of a file";
        let mut bytes = vec![1, 0, 0, 0];
        bytes.resize(48, 0);
        bytes.extend([19, 0, 0, 0]);
        bytes.extend(data);
        let record = from_host(1, Transport::Device, bytes);
        let redact = |level| redacted(record.clone(), &mut Decoder::default(), level);
        let kept = redact(Level::Hash);
        let checksum = format!("data: 19 bytes, crc32 {:08x}", crc32fast::hash(data));
        assert_eq!(kept.comment, Some(checksum));
        assert_eq!(
            (&kept.bytes[..], kept.original_len),
            (&record.bytes[..52], 71)
        );
        assert_eq!(redact(Level::None).comment, None);
    }
}
