//! Bytes to copy: they look random, differ from file to file and are made again
//! when the copy is compared.

use std::io::{self, Read};

/// A source of so many bytes.
#[derive(Debug, Clone)]
pub struct Pattern {
    state: u64,
    left: u64,
}

impl Pattern {
    /// `len` bytes that depend on `seed`.
    pub fn new(seed: u64, len: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            left: len,
        }
    }

    /// All of them at once.
    pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        let mut pattern = Self::new(seed, len as u64);
        // Reading from a pattern does not fail.
        let _ = pattern.read_to_end(&mut bytes);
        bytes
    }

    fn word(&mut self) -> [u8; 8] {
        // Marsaglia's xorshift.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.to_le_bytes()
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        // Whole words only, or the bytes would depend on how they are read.
        let len = if len as u64 == self.left {
            len
        } else {
            len - len % 8
        };
        for part in buffer.get_mut(..len).unwrap_or_default().chunks_mut(8) {
            for (to, from) in part.iter_mut().zip(self.word()) {
                *to = from;
            }
        }
        self.left -= len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_do_not_depend_on_how_they_are_read() {
        let whole = Pattern::bytes(3, 1003);
        let mut pattern = Pattern::new(3, 1003);
        let mut parts: Vec<u8> = Vec::new();
        let mut buffer = [0; 24];
        loop {
            let len = pattern.read(&mut buffer).unwrap();
            if len == 0 {
                break;
            }
            parts.extend_from_slice(&buffer[..len]);
        }
        assert_eq!(parts, whole);
        assert_ne!(Pattern::bytes(4, 1003), whole);
    }
}
