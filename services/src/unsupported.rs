//! A service that takes part in negotiation and declines every request: the
//! place holder of the services whose work is not done here yet.

use hyperv_vmbus::ic::Status;

use crate::service::{Answer, Service};

/// Declines every request as not supported.
pub(crate) struct Unsupported;

impl Service for Unsupported {
    fn handle_uio(&mut self, _body: &mut [u8]) -> Status {
        Status::NOT_SUPPORTED
    }

    fn handle_hvutil(&mut self, buffer: &mut [u8], len: usize) -> Answer {
        let status = Status::NOT_SUPPORTED;
        if let Some(first) = buffer.first_chunk_mut() {
            *first = status.0.to_le_bytes();
        }
        Answer { len, status }
    }
}
