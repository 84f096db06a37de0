//! Lists of guest pages that the guest hands the host piece by piece.

use anyhow::{Result, ensure};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};
use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use super::message::{GpadlHeader, Range};

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Pages that a list has at most: its length is given in 16 bits, and
/// `uio_hv_generic` nearly fills them (31 MiB).
const MOST_PAGES: usize = 8190;

/// A list that is being handed over, or is whole.
#[derive(Debug)]
pub struct Gpadl {
    /// The channel that it is for.
    pub relid: u32,
    bytes: Vec<u8>,
    len: usize,
}

impl Gpadl {
    /// Begins a list with what the first message has of it.
    ///
    /// # Errors
    ///
    /// If it is no single range of whole pages.
    pub fn begin(header: &GpadlHeader, rest: &[u8]) -> Result<Self> {
        let len = usize::from(header.len.get());
        ensure!(
            header.ranges.get() == 1,
            "a list of {} ranges",
            header.ranges
        );
        let longest = size_of::<Range>() + 8 * MOST_PAGES;
        ensure!(
            len > size_of::<Range>() && len <= longest && len.is_multiple_of(8),
            "a list of {len} bytes"
        );
        let mut list = Self {
            relid: header.relid.get(),
            bytes: Vec::new(),
            len,
        };
        list.add(rest);
        Ok(list)
    }

    /// Takes what a further message has of it; what is beyond its stated
    /// length is nothing.
    pub fn add(&mut self, rest: &[u8]) {
        let missing = self.len - self.bytes.len();
        self.bytes.extend(rest.iter().take(missing));
    }

    /// Whether it is all here.
    pub fn is_whole(&self) -> bool {
        self.bytes.len() == self.len
    }

    /// The pages' addresses.
    ///
    /// # Errors
    ///
    /// If the range does not fit its pages, or a page is none of the
    /// guest's memory.
    pub fn pages(&self, memory: &GuestMemoryMmap) -> Result<Vec<GuestAddress>> {
        let (range, numbers) =
            Range::read_from_prefix(&self.bytes).map_err(|_| anyhow::anyhow!("no range"))?;
        let stated = range.len.get() as usize;
        let count = numbers.len() / 8;
        ensure!(
            range.offset.get() == 0 && stated == count * PAGE,
            "{stated} bytes from {} in {count} pages",
            range.offset
        );
        let mut pages = Vec::with_capacity(count);
        for number in numbers.chunks_exact(8) {
            let number = U64::read_from_bytes(number).map_or(u64::MAX, U64::get);
            let address = number.checked_mul(PAGE as u64).map(GuestAddress);
            let page =
                address.filter(|page| memory.check_range(*page, PAGE, Permissions::ReadWrite));
            ensure!(page.is_some(), "page {number:#x} is none of the guest's");
            pages.extend(page);
        }
        Ok(pages)
    }
}
