//! Decodes the host's requests. Protocol section 5.

use std::ops::Range;

use hyperv_vmbus::Encoding;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::name::{self, BadName, NAME_LEN};

/// Most bytes of data in one WRITE.
pub const MAX_DATA: usize = 6144;

pub(super) const START: u32 = 0;
pub(super) const WRITE: u32 = 1;
pub(super) const COMPLETE: u32 = 2;
pub(super) const CANCEL: u32 = 3;

pub(super) const FLAG_OVERWRITE: u32 = 1;
pub(super) const FLAG_CREATE_PATH: u32 = 2;

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub(super) operation: U32,
    services: [[u8; 16]; 2],
}

const _: () = assert!(size_of::<Header>() == 36);

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct StartFields {
    pub(super) file_name: [u8; NAME_LEN],
    pub(super) directory: [u8; NAME_LEN],
    pub(super) flags: U32,
    pub(super) size: U64,
}

const _: () = assert!(size_of::<StartFields>() == 1052);

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct WriteFields {
    reserved: U32,
    pub(super) offset: U64,
    pub(super) size: U32,
}

const _: () = assert!(size_of::<WriteFields>() == 16);

/// A request of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// Begin a copy.
    Start(Start),
    /// Write a part of the file.
    Write {
        /// Offset in the file, in bytes.
        offset: u64,
        /// The data, [`MAX_DATA`] bytes at most.
        data: &'a [u8],
    },
    /// Finish the copy: all parts were sent.
    Complete,
    /// Cancel the copy.
    Cancel,
}

/// The fields of a START. Names are valid Unicode without a NUL; nothing else is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Directory of the file.
    pub directory: String,
    /// Name of the file in that directory.
    pub file_name: String,
    /// Whether a file of that name may be replaced.
    pub overwrite: bool,
    /// Whether missing directories are created.
    pub create_path: bool,
    /// Announced size of the file in bytes.
    pub size: u64,
}

/// Why a message is malformed. The host gets "invalid argument".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The message ends before its fields do.
    #[error("the host's message has {len} bytes, expected at least {needed}")]
    Short {
        /// Bytes in the message.
        len: usize,
        /// Length of the fields of its operation.
        needed: usize,
    },
    /// An unknown operation.
    #[error("the host's message has the unknown operation {0}")]
    Operation(u32),
    /// A WRITE that states more than [`MAX_DATA`] bytes.
    #[error("the host's message states {0} bytes of data, more than {MAX_DATA}")]
    DataSize(u32),
    /// A WRITE that states more data than the message carries.
    #[error("the host's message states {stated} bytes of data and carries {carried}")]
    DataBeyondMessage {
        /// Bytes stated.
        stated: usize,
        /// Bytes behind the fields.
        carried: usize,
    },
    /// A name without a NUL.
    #[error("the host's {0} has no NUL at its end")]
    Unterminated(&'static str),
    /// A name that is not Unicode: a lone surrogate, or bytes that are not
    /// UTF-8.
    #[error("the host's {0} is not valid Unicode")]
    NotUnicode(&'static str),
}

/// Decodes the body of a message. Bytes after the fields of its operation are padding.
/// Allocates only for the names of a START.
///
/// # Errors
///
/// Returns any [`Malformed`].
pub fn decode(encoding: Encoding, message: &[u8]) -> Result<Request<'_>, Malformed> {
    let short = |fields: usize| Malformed::Short {
        len: message.len(),
        needed: size_of::<Header>() + fields,
    };
    let (header, rest) = Header::ref_from_prefix(message).map_err(|_| short(0))?;
    match header.operation.get() {
        START => {
            let (fields, _) =
                StartFields::ref_from_prefix(rest).map_err(|_| short(size_of::<StartFields>()))?;
            let read = |field, what| {
                name::read(encoding, field).map_err(|bad| match bad {
                    BadName::Unterminated => Malformed::Unterminated(what),
                    BadName::NotUnicode => Malformed::NotUnicode(what),
                })
            };
            let flags = fields.flags.get();
            Ok(Request::Start(Start {
                directory: read(&fields.directory, "directory")?,
                file_name: read(&fields.file_name, "file name")?,
                overwrite: flags & FLAG_OVERWRITE != 0,
                create_path: flags & FLAG_CREATE_PATH != 0,
                size: fields.size.get(),
            }))
        }
        WRITE => {
            let (fields, rest) =
                WriteFields::ref_from_prefix(rest).map_err(|_| short(size_of::<WriteFields>()))?;
            let stated = fields.size.get();
            let size = usize::try_from(stated)
                .ok()
                .filter(|&size| size <= MAX_DATA)
                .ok_or(Malformed::DataSize(stated))?;
            let data = rest.get(..size).ok_or(Malformed::DataBeyondMessage {
                stated: size,
                carried: rest.len(),
            })?;
            Ok(Request::Write {
                offset: fields.offset.get(),
                data,
            })
        }
        COMPLETE => Ok(Request::Complete),
        CANCEL => Ok(Request::Cancel),
        other => Err(Malformed::Operation(other)),
    }
}

/// Returns where the data is in the body of a WRITE, or of the reply to one over a ring.
pub(super) fn data(body: &[u8]) -> Option<Range<usize>> {
    let (header, rest) = Header::ref_from_prefix(body).ok()?;
    let (fields, rest) = WriteFields::ref_from_prefix(rest).ok()?;
    if header.operation.get() != WRITE {
        return None;
    }
    let stated = usize::try_from(fields.size.get()).unwrap_or(usize::MAX);
    let start = size_of::<Header>() + size_of::<WriteFields>();
    Some(start..start + stated.min(MAX_DATA).min(rest.len()))
}

#[cfg(test)]
pub(super) mod tests {
    //! An encoder of our own for the tests of both encodings, and what they
    //! have in common.

    use super::*;

    pub(in crate::fcopy) fn header(operation: u32) -> Vec<u8> {
        let mut message = operation.to_le_bytes().to_vec();
        message.resize(36, 0xee);
        message
    }

    pub(in crate::fcopy) fn start(
        file_name: &[u8],
        directory: &[u8],
        flags: u32,
        size: u64,
    ) -> Vec<u8> {
        let mut message = header(0);
        message.extend_from_slice(file_name);
        message.resize(36 + 520, 0);
        message.extend_from_slice(directory);
        message.resize(36 + 1040, 0);
        message.extend_from_slice(&flags.to_le_bytes());
        message.extend_from_slice(&size.to_le_bytes());
        message
    }

    pub(in crate::fcopy) fn write(offset: u64, size: u32, data: &[u8]) -> Vec<u8> {
        let mut message = header(1);
        message.extend_from_slice(&[0xee; 4]);
        message.extend_from_slice(&offset.to_le_bytes());
        message.extend_from_slice(&size.to_le_bytes());
        message.extend_from_slice(data);
        message
    }

    #[test]
    fn flags_and_size() {
        for (flags, overwrite, create_path) in [
            (0, false, false),
            (1, true, false),
            (2, false, true),
            (0xffff_ffff, true, true),
        ] {
            let message = start(b"", b"", flags, u64::MAX);
            let Ok(Request::Start(start)) = decode(Encoding::Utf8, &message) else {
                panic!("not a START");
            };
            assert_eq!(
                (start.overwrite, start.create_path),
                (overwrite, create_path)
            );
            assert_eq!(start.size, u64::MAX);
        }
    }

    #[test]
    fn data_ends_where_the_size_says() {
        let message = write(7, 3, b"abc-padding");
        let wanted = Request::Write {
            offset: 7,
            data: b"abc",
        };
        assert_eq!(decode(Encoding::Utf8, &message), Ok(wanted));
        let full = write(0, 6144, &[1; 6144]);
        assert!(decode(Encoding::Utf8, &full).is_ok());
    }

    #[test]
    fn a_size_that_lies() {
        assert_eq!(
            decode(Encoding::Utf8, &write(0, 6145, &[1; 7000])),
            Err(Malformed::DataSize(6145))
        );
        assert_eq!(
            decode(Encoding::Utf8, &write(0, u32::MAX, &[1; 7000])),
            Err(Malformed::DataSize(u32::MAX))
        );
        assert_eq!(
            decode(Encoding::Utf8, &write(0, 4, b"abc")),
            Err(Malformed::DataBeyondMessage {
                stated: 4,
                carried: 3
            })
        );
    }

    #[test]
    fn every_shorter_message_is_refused() {
        for whole in [
            start(b"", b"", 0, 0),
            write(0, 1, b"x"),
            header(2),
            header(3),
        ] {
            assert!(decode(Encoding::Utf8, &whole).is_ok());
            for len in 0..whole.len() {
                let cut = whole.get(..len).unwrap();
                assert!(
                    decode(Encoding::Utf8, cut).is_err(),
                    "{len} of {}",
                    whole.len()
                );
            }
        }
    }

    #[test]
    fn operations_that_do_not_exist() {
        for operation in [4, 5, 0x100, u32::MAX] {
            let message = header(operation);
            assert_eq!(
                decode(Encoding::Utf8, &message),
                Err(Malformed::Operation(operation))
            );
        }
    }
}
