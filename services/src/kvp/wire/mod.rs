//! The layout of a message. Protocol section 7.
//!
//! It depends on the encoding, which the transport decides, and for IP configurations over a
//! ring on the negotiated version. `pairs` has the fields of keys and values, `text_ip` and
//! `binary_ip` those of IP configurations.

mod binary_ip;
pub(super) mod describe;
mod error;
mod fields;
mod pairs;
pub(super) mod text_ip;

use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::Version;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use self::binary_ip::{BINARY_IP_AT, BinaryIpFields};
pub use self::error::{Malformed, TooLong};
use self::fields::{fields, fields_mut};
use self::pairs::{DeleteFields, EnumerateFields, ValueFields};
use self::text_ip::TextIpFields;
use super::encoding::{Form, Utf8, Utf16};
use super::request::{IpConfiguration, IpInfo, PoolId, Reply, Request};

/// Length of the longest key that reaches the host by any transport, in UTF-16 units without
/// the NUL.
pub const KEY_UNITS: usize = 254;

/// Length of the longest value that reaches the host by any transport, in UTF-16 units without
/// the NUL.
pub const VALUE_UNITS: usize = 1022;

const GET: u8 = 0;
const SET: u8 = 1;
const DELETE: u8 = 2;
const ENUMERATE: u8 = 3;
const GET_IP_INFO: u8 = 4;
const SET_IP_INFO: u8 = 5;

/// The layout of IP configurations over a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IpLayout {
    /// Lists in text.
    #[default]
    Text,
    /// Counts and arrays.
    Binary,
}

impl IpLayout {
    /// Returns the layout in this version of the messages.
    pub fn of(version: Version) -> Self {
        match version.major {
            0..5 => Self::Text,
            _ => Self::Binary,
        }
    }
}

#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    operation: u8,
    pool: u8,
    padding: [u8; 2],
}

const HEADER_LEN: usize = size_of::<Header>();

/// Decodes the body of a message. A character device has one layout of IP configurations.
///
/// # Errors
///
/// [`Malformed`] if the body is no valid request.
pub fn decode(encoding: Encoding, layout: IpLayout, body: &[u8]) -> Result<Request, Malformed> {
    match encoding {
        Encoding::Utf16 => decode_as::<Utf16>(layout, body),
        Encoding::Utf8 => decode_as::<Utf8>(IpLayout::Text, body),
    }
}

/// Encodes the reply in place of its request, see [`decode`].
///
/// # Errors
///
/// [`TooLong`] if the reply does not fit the body.
pub fn encode(
    encoding: Encoding,
    layout: IpLayout,
    body: &mut [u8],
    reply: &Reply,
) -> Result<(), TooLong> {
    match encoding {
        Encoding::Utf16 => encode_as::<Utf16>(layout, body, reply),
        Encoding::Utf8 => encode_as::<Utf8>(IpLayout::Text, body, reply),
    }
}

/// Reads the version of the kernel's driver from the reply to the registration.
pub fn driver_version(answer: &[u8]) -> Option<String> {
    let version = Utf8::read(answer.get(4..)?).ok()?;
    let plain = |letter: char| letter.is_ascii_graphic() || letter == ' ';
    (!version.is_empty() && version.chars().all(plain)).then_some(version)
}

fn decode_as<E: Form>(layout: IpLayout, message: &[u8]) -> Result<Request, Malformed> {
    let header: &Header = fields(message, 0)?;
    let pool = || PoolId::new(header.pool).ok_or(Malformed::Pool(header.pool));
    match header.operation {
        GET => {
            let fields: &ValueFields = fields(message, HEADER_LEN)?;
            let (pool, key) = (pool()?, fields.key::<E>()?);
            Ok(Request::Get { pool, key })
        }
        SET => {
            let fields: &ValueFields = fields(message, HEADER_LEN)?;
            let (pool, (key, value)) = (pool()?, fields.key_and_value::<E>()?);
            Ok(Request::Set { pool, key, value })
        }
        DELETE => {
            let fields: &DeleteFields = fields(message, HEADER_LEN)?;
            let (pool, key) = (pool()?, fields.key::<E>()?);
            Ok(Request::Delete { pool, key })
        }
        ENUMERATE => {
            let fields: &EnumerateFields = fields(message, HEADER_LEN)?;
            let (pool, index) = (pool()?, fields.index.get());
            Ok(Request::Enumerate { pool, index })
        }
        GET_IP_INFO => {
            let (adapter, family) = match layout {
                IpLayout::Text => {
                    let fields: &TextIpFields = fields(message, E::IP_INFO_AT)?;
                    (fields.adapter::<E>()?, fields.family())
                }
                IpLayout::Binary => {
                    let fields: &BinaryIpFields = fields(message, BINARY_IP_AT)?;
                    (fields.adapter()?, fields.family())
                }
            };
            Ok(Request::GetIpInfo { adapter, family })
        }
        SET_IP_INFO => Ok(Request::SetIpInfo(decode_ip::<E>(layout, message)?)),
        operation => Err(Malformed::Operation(operation)),
    }
}

fn decode_ip<E: Form>(layout: IpLayout, message: &[u8]) -> Result<IpInfo, Malformed> {
    match layout {
        IpLayout::Text => fields::<TextIpFields>(message, E::IP_INFO_AT)?.info::<E>(),
        IpLayout::Binary => fields::<BinaryIpFields>(message, BINARY_IP_AT)?.info(),
    }
}

fn encode_as<E: Form>(layout: IpLayout, message: &mut [u8], reply: &Reply) -> Result<(), TooLong> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Value(value) => {
            let fields: &mut ValueFields = fields_mut(message, E::GET_VALUE_AT)?;
            fields.write_value::<E>(value)
        }
        Reply::Item { key, value } => {
            let fields: &mut EnumerateFields = fields_mut(message, HEADER_LEN)?;
            fields.item.write_key::<E>(key)?;
            fields.item.write_value::<E>(value)
        }
        Reply::IpInfo(configuration) => encode_ip::<E>(layout, message, configuration),
    }
}

fn encode_ip<E: Form>(
    layout: IpLayout,
    message: &mut [u8],
    configuration: &IpConfiguration,
) -> Result<(), TooLong> {
    match layout {
        IpLayout::Text => {
            fields_mut::<TextIpFields>(message, E::IP_INFO_AT)?.write::<E>(configuration)
        }
        IpLayout::Binary => {
            fields_mut::<BinaryIpFields>(message, BINARY_IP_AT)?.write(configuration);
            Ok(())
        }
    }
}

#[cfg(test)]
mod binary_ip_tests;
#[cfg(test)]
mod describe_tests;
#[cfg(test)]
#[expect(clippy::cast_possible_truncation)]
mod tests;
