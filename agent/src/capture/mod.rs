//! A capture: the messages between host and guest, as a file.
//!
//! The file is pcapng ([`pcapng`]), so that other tools open it. It has an interface for each
//! open device and a packet for each message or event. The data of a packet is a [`Header`]
//! and what was sent ([`packet`]).

pub mod decode;
pub mod json;
pub mod packet;
pub mod pcapng;
pub(crate) mod recorder;
pub mod recording;
pub mod redact;
pub(crate) mod stream;
pub mod text;

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::SystemTime;

pub use decode::Decoder;
pub use packet::{Event, EventKind, Header, Kind, Transport};
use serde::{Deserialize, Serialize};

/// What was left out of a longer message is not made up: no message is that long.
const MAX_MESSAGE: usize = 1 << 16;

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Section {
    /// The processor architecture.
    pub hardware: String,
    /// The kernel's release, and the name of the distribution.
    pub os: String,
    /// The program that wrote it, with its version.
    pub application: String,
    /// How much of private content it has.
    pub level: Level,
}

/// How much of private content a capture has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// None.
    #[default]
    None,
    /// None, but checksums of the data of files.
    Hash,
    /// All of it.
    Full,
}

impl Level {
    /// All levels.
    pub const ALL: [Self; 3] = [Self::None, Self::Hash, Self::Full];

    /// Returns the name of the level in options and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Hash => "hash",
            Self::Full => "full",
        }
    }
}

/// A device whose messages are in the file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Interface {
    /// Name of the service.
    pub service: String,
    /// The device, such as `/dev/vmbus/hv_kvp`.
    pub node: PathBuf,
}

/// A message or an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When it was received or sent.
    pub time: SystemTime,
    /// The index of its device among the file's interfaces.
    pub interface: usize,
    /// What the bytes are.
    pub header: Header,
    /// Of a message what follows the VMBus packet header, on a character device all of it;
    /// of an event what [`Event::encode`] returns.
    pub bytes: Vec<u8>,
    /// Length of the message in bytes. It is longer than `bytes` if data of a file was left
    /// out.
    pub original_len: usize,
    /// What was left out.
    pub comment: Option<String>,
}

impl Record {
    /// A complete message or event.
    pub fn new(time: SystemTime, interface: usize, header: Header, bytes: Vec<u8>) -> Self {
        Self {
            time,
            interface,
            header,
            original_len: bytes.len(),
            bytes,
            comment: None,
        }
    }

    /// Returns the bytes of the message, with zeros for what was left out.
    pub fn message(&self) -> Cow<'_, [u8]> {
        // A file can state any length.
        let len = self.original_len.min(MAX_MESSAGE);
        if len <= self.bytes.len() {
            return Cow::Borrowed(&self.bytes);
        }
        let mut message = self.bytes.clone();
        message.resize(len, 0);
        Cow::Owned(message)
    }

    /// Returns the event; `None` if the record is a message, or is malformed.
    pub fn event(&self) -> Option<Event> {
        match self.header.kind {
            Kind::Event => Event::decode(&self.bytes),
            Kind::Host | Kind::Guest => None,
        }
    }
}
