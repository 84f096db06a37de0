//! Makes the message that is sent of a captured request: as it is, with the directory of a
//! copy moved, or for the other transport.

use std::path::Path;

use anyhow::{Context, Result};
use hyperv_vmbus::{Encoding, ic};

use super::conversation::{Exchange, is_negotiation};
use super::link::{Header, Link};
use super::operation::Operation;
use crate::ic::HEADER_LEN;
use crate::ring::IN_BAND;
use crate::{fcopy, kvp, vss};

/// Why a request is not sent.
pub(super) type Reason = &'static str;

/// Its body is nothing but zeros.
pub(super) const BLANKED: Reason = "a malformed request whose content is not in the capture";

const KERNELS: Reason = "the kernel answers it by itself on a character device";
const NOT_VALID: Reason =
    "not a valid request, and so without an equivalent on the other transport";
const TOO_LONG: Reason = "part of a copy to a directory that is too long below that of the replay";
const NETWORK: Reason = "it would configure the network of this machine";

/// Makes the messages of one channel.
pub(super) struct Translator {
    captured: Encoding,
    /// The START of a copy was left out.
    without_start: bool,
}

impl Translator {
    /// For requests that came over the transport with this encoding.
    pub(super) fn new(captured: Encoding) -> Self {
        Self {
            captured,
            without_start: false,
        }
    }

    /// The message to send, with the header of its packet, or why there is none. A copy
    /// goes to a directory below `root`.
    ///
    /// # Errors
    ///
    /// If the message is too long.
    pub(super) fn message(
        &mut self,
        link: &mut Link,
        exchange: &Exchange,
        operation: Option<Operation>,
        root: &Path,
    ) -> Result<Result<(Header, Vec<u8>), Reason>> {
        let request = &exchange.request;
        let same = self.captured == link.encoding();
        let (kind, flags, transaction) = request.packet;
        let header = match same {
            true => Header {
                kind,
                flags,
                transaction,
            },
            false => link.own_header(),
        };
        let negotiation = self.captured == Encoding::Utf16 && is_negotiation(&request.bytes);
        if negotiation && !same {
            return Ok(Err(KERNELS));
        }
        let Some(operation) = operation.filter(|_| same || self.is_message(kind, &request.bytes))
        else {
            return Ok(match same {
                true => Ok((header, request.bytes.clone())),
                false => Err(NOT_VALID),
            });
        };
        match &operation {
            Operation::Kvp(kvp::Operation::SetIpInfo(_)) => return Ok(Err(NETWORK)),
            Operation::Vss(vss::Operation::GetDmInfo) if !same && !link.has_rings() => {
                return Ok(Err(KERNELS));
            }
            Operation::Fcopy(fcopy::Operation::Start(_)) => self.without_start = false,
            Operation::Fcopy(_) if self.without_start => return Ok(Err(TOO_LONG)),
            _ => {}
        }
        let is_start = operation.start().is_some();
        let Some(operation) = operation.moved_below(root) else {
            self.without_start = true;
            return Ok(Err(TOO_LONG));
        };
        if same && !is_start {
            return Ok(Ok((header, request.bytes.clone())));
        }
        let body = operation.encode(link.encoding(), link.version());
        let message = match same {
            true => with_body(&request.bytes, &body, self.captured)?,
            false => link.message(body)?,
        };
        Ok(Ok((header, message)))
    }

    /// Whether this, in a packet of this type, is a message whose header is valid.
    fn is_message(&self, kind: u16, bytes: &[u8]) -> bool {
        self.captured == Encoding::Utf8 || (kind == IN_BAND && ic::decode(bytes).is_ok())
    }
}

/// A message with another body, which is as long as the one that it has, but for padding.
fn with_body(message: &[u8], body: &[u8], encoding: Encoding) -> Result<Vec<u8>> {
    let at = match encoding {
        Encoding::Utf16 => HEADER_LEN,
        Encoding::Utf8 => 0,
    };
    let mut message = message.to_vec();
    let place = message.get_mut(at..at + body.len());
    let place = place.context("the message is shorter than its operation")?;
    place.copy_from_slice(body);
    Ok(message)
}
