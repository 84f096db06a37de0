//! Rings in memory shared with the host. All `unsafe` code of this crate is here.

#![expect(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::asm;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use memmap2::{MmapOptions, MmapRaw};

use crate::ring::{RingMemory, Word};

/// Bytes of a ring's header that are in use, and the least page size.
const HEADER_LEN: usize = 128;

const _: () = assert!(Word::FeatureBits as usize + size_of::<u32>() <= HEADER_LEN);

/// One ring of a mapped pair.
#[derive(Debug, Clone)]
pub struct MappedRing {
    map: Arc<MmapRaw>,
    /// Offset of the ring in the mapping, in bytes.
    start: usize,
    /// Offset of its data area in the mapping, in bytes.
    data: usize,
    data_len: u32,
}

/// Both rings of a channel, named from the guest's side.
#[derive(Debug)]
pub struct MappedRings {
    /// Guest to host.
    pub outgoing: MappedRing,
    /// Host to guest.
    pub incoming: MappedRing,
}

impl MappedRings {
    /// Maps `2 × ring_len` bytes from the start of `file`: the outgoing ring, then the
    /// incoming one. Each starts with a header of `page_size` bytes.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] if a data area of whole words does not remain of
    /// such a ring, otherwise the error of `mmap`.
    pub fn map(file: impl AsFd, ring_len: usize, page_size: usize) -> io::Result<Self> {
        let invalid = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("invalid ring size {ring_len} with pages of {page_size} bytes"),
            )
        };
        let data_len = ring_len
            .checked_sub(page_size)
            .and_then(|len| u32::try_from(len).ok())
            .filter(|len| *len > 0 && len % 8 == 0)
            .ok_or_else(invalid)?;
        if page_size % 8 != 0 || page_size < HEADER_LEN {
            return Err(invalid());
        }
        let map_len = ring_len.checked_mul(2).ok_or_else(invalid)?;
        let map = Arc::new(
            MmapOptions::new()
                .len(map_len)
                .map_raw(file.as_fd().as_raw_fd())?,
        );
        let ring = |start| MappedRing {
            map: Arc::clone(&map),
            start,
            data: start + page_size,
            data_len,
        };
        Ok(Self {
            outgoing: ring(0),
            incoming: ring(ring_len),
        })
    }
}

impl MappedRing {
    fn word(&self, word: Word) -> &AtomicU32 {
        // SAFETY: the header page lies within the mapping (`MappedRings::map`
        // made `start + page_size <= map.len()`, and every `Word` is within
        // `HEADER_LEN`, the least page size it takes). `start` is a multiple of 8 in a mapping
        // that starts on a page, so the word is aligned. The mapping lives as
        // long as `self.map`. Nothing in this process has a reference to that
        // memory other than to atomics.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().add(self.start + word as usize).cast()) }
    }

    /// Returns the words of the data area in `len` bytes from `offset`.
    ///
    /// # Panics
    ///
    /// If these are not whole words in the data area, which the ring code excludes
    /// whatever the host wrote.
    fn words(&self, offset: u32, len: usize) -> &[AtomicU64] {
        let offset = offset as usize;
        let in_data = offset
            .checked_add(len)
            .is_some_and(|end| end <= self.data_len as usize);
        assert!(
            in_data && offset % 8 == 0 && len % 8 == 0,
            "{len} bytes at {offset} of a ring's {} data bytes",
            self.data_len
        );
        // SAFETY: the range was just checked to lie in the data area, which
        // `MappedRings::map` placed within the mapping. `data` and `offset` are
        // multiples of 8 in a mapping that starts on a page, so the words are
        // aligned. The memory is shared with the host; all accesses of this
        // process to it are atomic, so that it is no data race whenever the
        // host writes. The mapping lives as long as `self.map`, which outlives
        // the borrow.
        unsafe {
            let first: *const AtomicU64 = self.map.as_mut_ptr().add(self.data + offset).cast();
            std::slice::from_raw_parts(first, len / 8)
        }
    }
}

impl RingMemory for MappedRing {
    fn data_len(&self) -> u32 {
        self.data_len
    }

    fn load(&self, word: Word) -> u32 {
        u32::from_le(self.word(word).load(Ordering::Acquire))
    }

    fn store(&self, word: Word, value: u32) {
        self.word(word).store(value.to_le(), Ordering::Release);
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn copy_out(&self, offset: u32, to: &mut [u8]) {
        let words = self.words(offset, to.len());
        load_words(words, to);
    }

    fn copy_in(&self, offset: u32, from: &[u8]) {
        let words = self.words(offset, from.len());
        store_words(from, words);
    }
}

/// Copies words to as many bytes. The compiler does not combine accesses to atomics: a loop
/// over them takes five times as many instructions as this one.
#[cfg(target_arch = "x86_64")]
fn load_words(words: &[AtomicU64], to: &mut [u8]) {
    assert!(size_of_val(words) == to.len());
    // SAFETY: both are of this length, and do not overlap. The direction flag is clear, as
    // the ABI demands. The words are loaded one by one by instructions that the compiler
    // does not look into, so that it is no data race whenever the host writes.
    unsafe {
        asm!(
            "rep movsq",
            inout("rcx") words.len() => _,
            inout("rsi") words.as_ptr() => _,
            inout("rdi") to.as_mut_ptr() => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Copies bytes to as many words.
#[cfg(target_arch = "x86_64")]
fn store_words(from: &[u8], words: &[AtomicU64]) {
    assert!(size_of_val(words) == from.len());
    // SAFETY: as in `load_words`; the words are atomics, which may be changed through a
    // shared reference.
    unsafe {
        asm!(
            "rep movsq",
            inout("rcx") words.len() => _,
            inout("rsi") from.as_ptr() => _,
            inout("rdi") words.as_ptr() => _,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn load_words(words: &[AtomicU64], to: &mut [u8]) {
    for (to, word) in to.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn store_words(from: &[u8], words: &[AtomicU64]) {
    for (from, word) in from.chunks_exact(8).zip(words) {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(from);
        word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
    }
}
