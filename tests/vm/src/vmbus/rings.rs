//! The rings of an opened channel, over the guest's pages, which need not lie
//! one behind the other.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Result, ensure};
use hyperv_sim::port::{Ring, Rings};
use hyperv_vmbus::ring::{RingMemory, Word};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::gpadl::PAGE;

/// Whether an opened channel's pages are still the host's to write: once the
/// guest has closed it, the guest may use them for anything.
#[derive(Debug, Default)]
pub struct Lease(RwLock<Ended>);

/// Whether the lease has ended.
pub type Ended = bool;

impl Lease {
    /// Nothing is written from here on.
    pub fn end(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn write(&self, write: impl FnOnce()) {
        let ended = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if !*ended {
            write();
        }
    }
}

/// A ring in guest memory. It can still be read when the guest has closed the
/// channel, for what came last.
///
/// Its pages were found to be the guest's when it was opened, and guest memory
/// neither grows nor shrinks: an access fails only where this code is wrong,
/// and then the ring reads as zeroes.
pub struct GuestRing {
    memory: GuestMemoryMmap,
    lease: Arc<Lease>,
    header: GuestAddress,
    data: Vec<GuestAddress>,
    data_len: u32,
}

impl GuestRing {
    fn new(memory: &GuestMemoryMmap, pages: &[GuestAddress], lease: &Arc<Lease>) -> Result<Self> {
        let split = pages.split_first().filter(|(_, data)| !data.is_empty());
        let Some((header, data)) = split else {
            anyhow::bail!("a ring of {} pages", pages.len());
        };
        Ok(Self {
            memory: memory.clone(),
            lease: Arc::clone(lease),
            header: *header,
            data: data.to_vec(),
            data_len: u32::try_from(data.len() * PAGE)?,
        })
    }

    /// Where a range of the data area lies, piece by piece.
    fn pieces(&self, offset: u32, len: usize) -> impl Iterator<Item = (GuestAddress, usize)> {
        let mut at = offset as usize;
        let end = at + len;
        std::iter::from_fn(move || {
            let within = at % PAGE;
            let len = (PAGE - within).min(end - at);
            let page = self.data.get(at / PAGE).filter(|_| len > 0)?;
            at += len;
            Some((page.unchecked_add(within as u64), len))
        })
    }
}

impl RingMemory for GuestRing {
    fn data_len(&self) -> u32 {
        self.data_len
    }

    fn load(&self, word: Word) -> u32 {
        let at = self.header.unchecked_add(word as u64);
        let value: u32 = self.memory.load(at, Ordering::Acquire).unwrap_or_default();
        u32::from_le(value)
    }

    fn store(&self, word: Word, value: u32) {
        let at = self.header.unchecked_add(word as u64);
        self.lease.write(|| {
            // See the type's documentation.
            let _ = self.memory.store(value.to_le(), at, Ordering::Release);
        });
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn copy_out(&self, offset: u32, to: &mut [u8]) {
        let mut rest = to;
        for (at, len) in self.pieces(offset, rest.len()) {
            let (part, behind) = std::mem::take(&mut rest).split_at_mut(len);
            if self.memory.read_slice(part, at).is_err() {
                part.fill(0);
            }
            rest = behind;
        }
    }

    fn copy_in(&self, offset: u32, from: &[u8]) {
        let mut rest = from;
        for (at, len) in self.pieces(offset, rest.len()) {
            let (part, behind) = rest.split_at(len);
            self.lease.write(|| {
                // See the type's documentation.
                let _ = self.memory.write_slice(part, at);
            });
            rest = behind;
        }
    }
}

/// The two rings in a list of pages: that to the guest begins at page
/// `incoming`.
///
/// # Errors
///
/// If one of them has no page for data.
pub fn rings(
    memory: &GuestMemoryMmap,
    pages: &[GuestAddress],
    incoming: u32,
    lease: &Arc<Lease>,
) -> Result<Rings> {
    let incoming = incoming as usize;
    ensure!(
        incoming < pages.len(),
        "the ring to the guest begins at page {incoming} of {}",
        pages.len()
    );
    let (outgoing, incoming) = pages.split_at(incoming);
    let ring = |pages| -> Result<Ring> { Ok(Arc::new(GuestRing::new(memory, pages, lease)?)) };
    Ok(Rings {
        outgoing: ring(outgoing)?,
        incoming: ring(incoming)?,
    })
}
