//! The host's side of a file copy, over rings and over the char device.
//! Protocol section 5.

mod message;

use std::collections::VecDeque;
use std::io::Read;

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::{Status, Version};

use crate::host::{Protocol, Service, ServiceHost};
use crate::ic::FILE_COPY;
pub use message::{CHUNK, CREATE_PATH, NAME_UNITS, OVERWRITE, Operation, Start};

/// The protocol of file copies.
#[derive(Debug, Clone, Copy)]
pub struct Fcopy;

impl Protocol for Fcopy {
    const SERVICE: Service = Service {
        name: "fcopy",
        class: Guid::from_u128(0x34d14be3_dee4_41c8_9ae7_6b174977c192),
        instance: Guid::from_u128(0xeb765408_105f_49b6_b4aa_c123b64d17d4),
        node: "vmbus/hv_fcopy",
    };
    const KIND: u16 = FILE_COPY;
    const VERSIONS: &'static [Version] = &[Version::new(1, 1)];
    const VERSION: Version = Version::new(1, 1);
    const REPLY_LEN: usize = 4;

    type Operation = Operation;

    /// There is nothing to call off.
    const HARMLESS: Operation = Operation::Cancel;

    fn encode_utf16(operation: &Operation, _: Version) -> Vec<u8> {
        operation.encode_utf16()
    }

    fn encode_utf8(operation: &Operation) -> Vec<u8> {
        operation.encode_utf8()
    }

    fn register(registration: &[u8]) -> Result<Vec<u8>> {
        ensure!(
            registration == 1u32.to_le_bytes(),
            "expected the registration [1, 0, 0, 0]; the guest wrote {registration:?}"
        );
        Ok(registration.to_vec())
    }
}

/// A host that copies files to a guest, from when the guest has opened its
/// device.
pub type FcopyHost = ServiceHost<Fcopy>;

impl ServiceHost<Fcopy> {
    /// Copies what `source` returns, with up to `in_flight` requests at a time,
    /// telling `progress` how many bytes the guest has taken. A request that
    /// the guest declines ends the copy with a CANCEL. A char device has one
    /// request at a time, and so has the kernel's driver: it drops a reply that
    /// finds no room in the ring.
    ///
    /// # Errors
    ///
    /// If the guest does not answer as it should, or `source` fails.
    pub fn copy(
        &mut self,
        start: &Start,
        source: &mut dyn Read,
        in_flight: usize,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Status> {
        let status = self.request(&Operation::Start(start.clone()))?;
        if status != Status::OK {
            return Ok(status);
        }
        let in_flight = match self.has_rings() {
            true => in_flight.max(1),
            false => 1,
        };
        let (mut offset, mut at_end) = (0u64, false);
        let mut sizes = VecDeque::new();
        let mut taken = 0u64;
        let mut declined = Status::OK;
        let mut chunk = vec![0; CHUNK];
        while !at_end || self.in_flight() > 0 {
            if !at_end && declined == Status::OK && self.in_flight() < in_flight {
                let len = fill(source, &mut chunk)?;
                at_end = len < CHUNK;
                if len > 0 {
                    let data = chunk.get(..len).unwrap_or_default();
                    self.send(&Operation::write(offset, data))?;
                    offset += len as u64;
                    sizes.push_back(len as u64);
                }
                continue;
            }
            if self.in_flight() == 0 {
                break;
            }
            let status = self.reply()?.status;
            taken += sizes.pop_front().unwrap_or_default();
            if status == Status::OK {
                progress(taken);
            } else if declined == Status::OK {
                declined = status;
            }
        }
        if declined != Status::OK {
            self.request(&Operation::Cancel)?;
            return Ok(declined);
        }
        self.request(&Operation::Complete)
    }
}

/// Reads until the buffer is full or the source at its end.
fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("reading what is to be copied"),
        }
    }
    Ok(filled)
}
