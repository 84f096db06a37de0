//! Reads a capture, one block at a time.

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{
    BYTE_ORDER, COMMENT, END, ENHANCED_PACKET, INTERFACE_DESCRIPTION, INTERFACE_DESCRIPTION_TEXT,
    INTERFACE_NAME, INTERFACE_RESOLUTION, INTERFACE_STATISTICS, LINK_TYPE, SECTION_APPLICATION,
    SECTION_HARDWARE, SECTION_HEADER, SECTION_OS, STATISTICS_DROPPED, SectionComment, VERSION,
};
use crate::capture::packet::{HEADER_LEN, HeaderError};
use crate::capture::{Header, Interface, Level, Record, Section};

/// The longest block. The longest message has some 16 KiB.
const MAX_BLOCK: usize = 1 << 20;

/// The most devices of a file.
const MAX_INTERFACES: usize = 4096;

/// The longest text of a section or a device that is kept, in bytes.
const MAX_TEXT: usize = 1024;

/// The start of a block: its type and its length.
const START_LEN: usize = 8;

/// Why a capture cannot be read. Offsets are those of the block in the file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A call failed.
    #[error("cannot read it at offset {offset}")]
    Io {
        /// Where.
        offset: u64,
        /// The error of the call.
        source: io::Error,
    },
    /// It has no byte.
    #[error("it is empty")]
    Empty,
    /// It does not begin as a pcapng file does.
    #[error("it is no pcapng file, as `hyperv-agent capture` writes it")]
    NotPcapng,
    /// It was written with the other byte order.
    #[error("it is a big-endian pcapng file, which is not supported")]
    BigEndian,
    /// A later version wrote it.
    #[error("it has version {0} of the captures, expected {VERSION}: use a newer hyperv-agent")]
    Version(u32),
    /// It ends within a block.
    #[error("it is cut off: it ends within the block at offset {offset}")]
    CutOff {
        /// Where the block begins.
        offset: u64,
    },
    /// A length is wrong.
    #[error(
        "the block at offset {offset} states {len} bytes, expected 12 to {MAX_BLOCK} and a multiple of 4"
    )]
    BlockLength {
        /// Where the block begins.
        offset: u64,
        /// The length that it states.
        len: u32,
    },
    /// A block is malformed.
    #[error("the block at offset {offset} is malformed: {what}")]
    Malformed {
        /// Where the block begins.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It has packets of something else.
    #[error(
        "the block at offset {offset} has link type {link_type}, expected {LINK_TYPE}: it is no capture of hyperv-agent"
    )]
    LinkType {
        /// Where the block begins.
        offset: u64,
        /// The link type.
        link_type: u16,
    },
    /// A packet is none of a capture.
    #[error("the packet at offset {offset} is none of hyperv-agent")]
    Header {
        /// Where the block begins.
        offset: u64,
        /// What is wrong.
        source: HeaderError,
    },
}

/// Reads a capture from beginning to end, as an iterator over its records. After an error
/// there are no more.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    offset: u64,
    section: Section,
    interfaces: Vec<Described>,
    dropped: u64,
    ended: bool,
}

#[derive(Debug)]
struct Described {
    interface: Interface,
    resolution: Resolution,
}

/// The unit of time stamps.
#[derive(Debug, Clone, Copy)]
struct Resolution {
    per_second: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the start of a capture. `input` is read in small pieces: use a buffer.
    ///
    /// # Errors
    ///
    /// Any [`ReadError`].
    pub fn new(input: R) -> Result<Self, ReadError> {
        let mut reader = Self {
            input,
            offset: 0,
            section: Section::default(),
            interfaces: Vec::new(),
            dropped: 0,
            ended: false,
        };
        // The byte order says how to read the length before it.
        let mut start = [0; START_LEN + 4];
        let read = reader.fill(&mut start)?;
        if read == 0 {
            return Err(ReadError::Empty);
        }
        let [kind, len, order] = words(&start);
        if read < start.len() || kind != SECTION_HEADER {
            return Err(ReadError::NotPcapng);
        }
        if order == BYTE_ORDER.swap_bytes() {
            return Err(ReadError::BigEndian);
        }
        if order != BYTE_ORDER {
            return Err(ReadError::NotPcapng);
        }
        let rest = reader.rest(0, len, start.len())?;
        reader.read_section(&rest)?;
        Ok(reader)
    }

    /// Returns what the file says of itself.
    pub fn section(&self) -> &Section {
        &self.section
    }

    /// Returns the device with this index, which a [`Record`] has.
    pub fn interface(&self, index: usize) -> Option<&Interface> {
        Some(&self.interfaces.get(index)?.interface)
    }

    /// Returns the devices so far.
    pub fn interfaces(&self) -> impl ExactSizeIterator<Item = &Interface> {
        self.interfaces.iter().map(|described| &described.interface)
    }

    /// Returns what is read from.
    pub fn get_ref(&self) -> &R {
        &self.input
    }

    /// Returns how many records were dropped, as far as the file has said it.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Reads up to the next record; `None` at the end of the file.
    fn read(&mut self) -> Result<Option<Record>, ReadError> {
        loop {
            let offset = self.offset;
            let mut start = [0; START_LEN];
            match self.fill(&mut start)? {
                0 => return Ok(None),
                START_LEN => {}
                _ => return Err(ReadError::CutOff { offset }),
            }
            let [kind, len] = words(&start);
            let body = self.rest(offset, len, START_LEN)?;
            let malformed = |what| ReadError::Malformed { offset, what };
            match kind {
                SECTION_HEADER => {
                    return Err(malformed("a second section, which is not supported"));
                }
                INTERFACE_DESCRIPTION => self.read_interface(offset, &body)?,
                INTERFACE_STATISTICS => {
                    let options = body.get(12..).ok_or(malformed("it is too short"))?;
                    let dropped = option(options, STATISTICS_DROPPED).and_then(<[u8]>::first_chunk);
                    let dropped = dropped.map_or(0, |bytes| u64::from_le_bytes(*bytes));
                    self.dropped = self.dropped.saturating_add(dropped);
                }
                ENHANCED_PACKET => return self.read_packet(offset, &body).map(Some),
                _ => {}
            }
        }
    }

    /// Reads until `place` is full or the file ends, and returns how many bytes it got.
    fn fill(&mut self, place: &mut [u8]) -> Result<usize, ReadError> {
        let mut filled = 0;
        while let Some(rest) = place.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let offset = self.offset;
                    return Err(ReadError::Io { offset, source });
                }
            }
        }
        self.offset += filled as u64;
        Ok(filled)
    }

    /// Reads the rest of a block that states `len` bytes, of which `read` were read. Returns
    /// it without the length at its end.
    fn rest(&mut self, offset: u64, len: u32, read: usize) -> Result<Vec<u8>, ReadError> {
        let wrong = ReadError::BlockLength { offset, len };
        let Some(rest) = usize::try_from(len)
            .ok()
            .filter(|len| *len <= MAX_BLOCK && len % 4 == 0)
            .and_then(|len| len.checked_sub(read))
            .filter(|rest| *rest >= 4)
        else {
            return Err(wrong);
        };
        let mut body = vec![0; rest];
        if self.fill(&mut body)? < rest {
            return Err(ReadError::CutOff { offset });
        }
        let end = body.split_off(rest - 4);
        if end != len.to_le_bytes() {
            let what = "the lengths at its start and its end differ";
            return Err(ReadError::Malformed { offset, what });
        }
        Ok(body)
    }

    /// Reads the section's header after the byte order.
    fn read_section(&mut self, body: &[u8]) -> Result<(), ReadError> {
        let malformed = |what| ReadError::Malformed { offset: 0, what };
        let options = body.get(12..).ok_or(malformed("it is too short"))?;
        let comment = option(options, COMMENT).unwrap_or_default();
        // Other programs that change a file write comments of their own.
        let comment: Option<SectionComment<'_>> = serde_json::from_slice(comment).ok();
        let level = comment.as_ref().map_or("none", |comment| comment.content);
        if let Some(version) = comment.as_ref().map(|comment| comment.version) {
            if version != VERSION {
                return Err(ReadError::Version(version));
            }
        }
        let text = |code| option(options, code).map(text).unwrap_or_default();
        self.section = Section {
            hardware: text(SECTION_HARDWARE),
            os: text(SECTION_OS),
            application: text(SECTION_APPLICATION),
            level: Level::ALL
                .into_iter()
                .find(|known| known.name() == level)
                .ok_or(malformed("unknown kind of content"))?,
        };
        Ok(())
    }

    fn read_interface(&mut self, offset: u64, body: &[u8]) -> Result<(), ReadError> {
        let malformed = |what| ReadError::Malformed { offset, what };
        let (link_type, rest) = body
            .split_first_chunk()
            .ok_or(malformed("it is too short"))?;
        let link_type = u16::from_le_bytes(*link_type);
        if link_type != LINK_TYPE {
            return Err(ReadError::LinkType { offset, link_type });
        }
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err(malformed("too many devices"));
        }
        let options = rest.get(6..).ok_or(malformed("it is too short"))?;
        let name = option(options, INTERFACE_NAME).map(text);
        let name = name.unwrap_or_default();
        let (service, device) = name.split_once(' ').unwrap_or((&name, ""));
        let description = option(options, INTERFACE_DESCRIPTION_TEXT).map(text);
        let node = description
            .as_deref()
            .and_then(|description| description.split_once(" over "))
            .map_or(device, |(_, node)| node);
        let interface = Interface {
            service: service.to_owned(),
            node: PathBuf::from(node),
        };
        let resolution = match option(options, INTERFACE_RESOLUTION) {
            None => 6,
            Some(bytes) => bytes.first().copied().unwrap_or(6),
        };
        // The uppermost bit says that it is a power of 2.
        let exponent = u32::from(resolution & 0x7f);
        let base: u64 = if resolution & 0x80 == 0 { 10 } else { 2 };
        let per_second = base.checked_pow(exponent);
        let per_second = per_second.ok_or(malformed("unsupported resolution of time"))?;
        self.interfaces.push(Described {
            interface,
            resolution: Resolution { per_second },
        });
        Ok(())
    }

    fn read_packet(&self, offset: u64, body: &[u8]) -> Result<Record, ReadError> {
        let malformed = |what| ReadError::Malformed { offset, what };
        let (start, rest) = body
            .split_first_chunk::<20>()
            .ok_or(malformed("it is too short"))?;
        let [interface, high, low, captured, original] = words(start);
        let interface = usize::try_from(interface).unwrap_or(usize::MAX);
        let described = self.interfaces.get(interface);
        let described = described.ok_or(malformed("its device is not described"))?;
        let captured = usize::try_from(captured).unwrap_or(usize::MAX);
        let data = rest.get(..captured);
        let data = data.ok_or(malformed("it states more data than it has"))?;
        let options = rest.get(captured.next_multiple_of(4)..).unwrap_or_default();
        let (header, bytes) =
            Header::decode(data).map_err(|source| ReadError::Header { offset, source })?;
        let original = usize::try_from(original).unwrap_or(usize::MAX);
        let time = u64::from(high) << 32 | u64::from(low);
        Ok(Record {
            time: described
                .resolution
                .time(time)
                .ok_or(malformed("its time is out of range"))?,
            interface,
            header,
            bytes: bytes.to_vec(),
            original_len: original.saturating_sub(HEADER_LEN).max(bytes.len()),
            comment: option(options, COMMENT).map(text),
        })
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let record = self.read().transpose();
        self.ended = !matches!(record, Some(Ok(_)));
        record
    }
}

impl Resolution {
    fn time(self, stamp: u64) -> Option<SystemTime> {
        let fraction = u128::from(stamp % self.per_second) * 1_000_000_000;
        let nanoseconds = u64::try_from(fraction / u128::from(self.per_second)).ok()?;
        let whole = Duration::from_secs(stamp / self.per_second);
        let since = whole.checked_add(Duration::from_nanos(nanoseconds))?;
        // Up to the year 2554, as the writer and JSON have nanoseconds.
        u64::try_from(since.as_nanos()).ok()?;
        UNIX_EPOCH.checked_add(since)
    }
}

/// Returns the words at the start of `bytes`.
fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = bytes.try_into().map_or(0, u32::from_le_bytes);
    }
    words
}

/// Returns the first option with this code. What is after a malformed one is not found.
fn option(mut options: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (code, rest) = options.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let len = usize::from(u16::from_le_bytes(*len));
        let value = rest.get(..len)?;
        match u16::from_le_bytes(*code) {
            END => return None,
            code if code == wanted => return Some(value),
            _ => options = rest.get(len.next_multiple_of(4)..)?,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let bytes = bytes.get(..MAX_TEXT).unwrap_or(bytes);
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    // What is no UTF-8 has become longer.
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
