//! Writes a capture.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    BYTE_ORDER, COMMENT, END, ENHANCED_PACKET, INTERFACE_DESCRIPTION, INTERFACE_DESCRIPTION_TEXT,
    INTERFACE_NAME, INTERFACE_RESOLUTION, INTERFACE_STATISTICS, LINK_TYPE, PACKET_FLAGS,
    SECTION_APPLICATION, SECTION_HARDWARE, SECTION_HEADER, SECTION_OS, STATISTICS_DROPPED,
    SectionComment, VERSION,
};
use crate::capture::packet::HEADER_LEN;
use crate::capture::{Interface, Kind, Record, Section};

/// Time stamps are in units of 10 to the power of -9 s.
const NANOSECONDS: u8 = 9;

// Directions of a packet.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Writes a capture. Each block is one write.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    interfaces: usize,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a capture.
    ///
    /// # Errors
    ///
    /// Any error of the write.
    pub fn new(out: W, section: &Section) -> io::Result<Self> {
        let mut writer = Self {
            out,
            interfaces: 0,
            written: 0,
        };
        let comment = serde_json::to_vec(&SectionComment {
            content: section.level.name(),
            version: VERSION,
        })?;
        let mut block = Block::new(SECTION_HEADER);
        block.put(&BYTE_ORDER.to_le_bytes());
        // Version 1.0 of the format.
        block.put(&[1, 0, 0, 0]);
        // The length of the section is not known yet.
        block.put(&[0xff; 8]);
        block.option(SECTION_HARDWARE, section.hardware.as_bytes());
        block.option(SECTION_OS, section.os.as_bytes());
        block.option(SECTION_APPLICATION, section.application.as_bytes());
        block.option(COMMENT, &comment);
        writer.write(block)?;
        Ok(writer)
    }

    /// Adds a device, and returns its index.
    ///
    /// # Errors
    ///
    /// Any error of the write.
    pub fn interface(&mut self, interface: &Interface) -> io::Result<usize> {
        let Interface { service, node } = interface;
        let device = node.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{service} {device}");
        let description = format!("{service} over {}", node.display());
        let mut block = Block::new(INTERFACE_DESCRIPTION);
        block.put(&LINK_TYPE.to_le_bytes());
        // Reserved, and no limit of a packet's length.
        block.put(&[0; 6]);
        block.option(INTERFACE_NAME, name.as_bytes());
        block.option(INTERFACE_DESCRIPTION_TEXT, description.as_bytes());
        block.option(INTERFACE_RESOLUTION, &[NANOSECONDS]);
        self.write(block)?;
        self.interfaces += 1;
        Ok(self.interfaces - 1)
    }

    /// Adds a message or an event.
    ///
    /// # Errors
    ///
    /// Any error of the write; `InvalidInput` if its device was not added, or it has more
    /// than 4 GiB.
    pub fn record(&mut self, record: &Record) -> io::Result<()> {
        let unknown = || io::Error::from(io::ErrorKind::InvalidInput);
        if record.interface >= self.interfaces {
            return Err(unknown());
        }
        let length = |bytes: usize| u32::try_from(HEADER_LEN + bytes).map_err(|_| unknown());
        let mut block = Block::new(ENHANCED_PACKET);
        block.put(&u32::try_from(record.interface).unwrap_or(0).to_le_bytes());
        block.time(record.time);
        block.put(&length(record.bytes.len())?.to_le_bytes());
        block.put(&length(record.original_len.max(record.bytes.len()))?.to_le_bytes());
        block.put(&record.header.encode());
        block.put(&record.bytes);
        block.pad();
        let direction = match record.header.kind {
            Kind::Host => Some(INBOUND),
            Kind::Guest => Some(OUTBOUND),
            Kind::Event => None,
        };
        if let Some(direction) = direction {
            block.option(PACKET_FLAGS, &direction.to_le_bytes());
        }
        if let Some(comment) = &record.comment {
            block.option(COMMENT, comment.as_bytes());
        }
        self.write(block)
    }

    /// Says how many records of a device were dropped.
    ///
    /// # Errors
    ///
    /// Any error of the write.
    pub fn dropped(&mut self, interface: usize, time: SystemTime, count: u64) -> io::Result<()> {
        let mut block = Block::new(INTERFACE_STATISTICS);
        block.put(&u32::try_from(interface).unwrap_or(0).to_le_bytes());
        block.time(time);
        block.option(STATISTICS_DROPPED, &count.to_le_bytes());
        self.write(block)
    }

    /// Returns how many bytes were written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Returns what was written to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Returns what was written to.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn write(&mut self, block: Block) -> io::Result<()> {
        let bytes = block.finish()?;
        self.out.write_all(&bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// A block in the making.
struct Block {
    bytes: Vec<u8>,
    has_options: bool,
}

impl Block {
    fn new(kind: u32) -> Self {
        let mut bytes = kind.to_le_bytes().to_vec();
        // The length, which `finish` sets.
        bytes.extend([0; 4]);
        Self {
            bytes,
            has_options: false,
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A time stamp: the upper half first.
    fn time(&mut self, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanoseconds = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let [a, b, c, d, halves @ ..] = nanoseconds.to_le_bytes();
        self.put(&halves);
        self.put(&[a, b, c, d]);
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds an option. A longer value than an option can have is truncated.
    fn option(&mut self, code: u16, value: &[u8]) {
        let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
        self.has_options = true;
        self.put(&code.to_le_bytes());
        self.put(&len.to_le_bytes());
        self.put(value.get(..len.into()).unwrap_or(value));
        self.pad();
    }

    fn finish(mut self) -> io::Result<Vec<u8>> {
        if self.has_options {
            self.put(&END.to_le_bytes());
            self.put(&[0; 2]);
        }
        let len = u32::try_from(self.bytes.len() + 4)
            .map_err(|_| io::ErrorKind::InvalidInput)?
            .to_le_bytes();
        self.put(&len);
        if let Some(place) = self.bytes.get_mut(4..8) {
            place.copy_from_slice(&len);
        }
        Ok(self.bytes)
    }
}
