//! Captures as pcapng files: one section, little-endian, time in nanoseconds.
//!
//! | block | has |
//! | --- | --- |
//! | section header | processor, kernel and distribution, the agent's version; a comment in JSON, `{"content":"none","version":1}` |
//! | interface description | a device: link type 147 (`USER0`), name `kvp hv_kvp`, description `kvp over /dev/vmbus/hv_kvp` |
//! | enhanced packet | a message or an event, with its direction; a comment where data of a file was left out |
//! | interface statistics | how many records were dropped |
//!
//! The format: <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>.

mod reader;
mod writer;

pub use reader::{ReadError, Reader};
pub use writer::Writer;

use serde::{Deserialize, Serialize};

/// The link type of the packets: one that the file's users agree on (`USER0`).
const LINK_TYPE: u16 = 147;

/// The version of the files.
const VERSION: u32 = 1;

// Types of blocks.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

/// Says the byte order at the start of a section.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

// Options. All blocks share the first two.
const END: u16 = 0;
const COMMENT: u16 = 1;
const SECTION_HARDWARE: u16 = 2;
const SECTION_OS: u16 = 3;
const SECTION_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_DESCRIPTION_TEXT: u16 = 3;
const INTERFACE_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const STATISTICS_DROPPED: u16 = 5;

/// The comment of the section.
#[derive(Debug, Serialize, Deserialize)]
struct SectionComment<'a> {
    content: &'a str,
    version: u32,
}

#[cfg(test)]
mod tests;
