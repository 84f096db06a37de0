//! Messages over the serial port.

use std::io::Read;
use std::path::PathBuf;

use hyperv_sim::files::Facts;
use hyperv_sim::resources::Resources;
use serde::{Deserialize, Serialize};

use super::sparse;

/// A request or a reply with its number.
#[derive(Debug, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// The same in the reply as in the request.
    pub number: u64,
    /// The message.
    pub what: T,
}

/// What the helper is to do.
#[derive(Debug, Serialize, Deserialize)]
#[expect(missing_docs)]
pub enum Request {
    /// Nothing, but answer with the kernel's release.
    Hello,
    /// End.
    Leave,
    Facts(PathBuf),
    List(PathBuf),
    Read(PathBuf),
    Digest(PathBuf),
    Write {
        path: PathBuf,
        #[serde(with = "sparse")]
        data: Vec<u8>,
    },
    /// Makes a file of a pattern's bytes.
    Fill {
        path: PathBuf,
        seed: u64,
        len: usize,
    },
    SetMode {
        path: PathBuf,
        mode: u32,
    },
    CreateDirectories(PathBuf),
    Link {
        target: PathBuf,
        link: PathBuf,
    },
    MakeFifo(PathBuf),
    Remove(PathBuf),
    RemoveDirectory(PathBuf),
    SetImmutable {
        path: PathBuf,
        immutable: bool,
    },
    Mount {
        path: PathBuf,
        size: usize,
    },
    Unmount(PathBuf),
    /// Runs a command, and answers with what it prints.
    Run(Vec<String>),
    /// Starts the program under test.
    Start(Vec<String>),
    /// Sends the program a signal and waits for its end.
    End {
        signal: i32,
        millis: u64,
    },
    /// The program's process, while it runs.
    Pid,
    /// What the program holds, while it runs.
    Resources,
    /// The last of what the program has logged.
    Log,
    /// Lets the reader of syslog stand still with a full socket, or go on.
    StallSyslog(bool),
    /// Opens a device of `hv_utils`, registers with this message, reads what the
    /// kernel says to that, and keeps it open.
    Hold {
        path: PathBuf,
        #[serde(with = "sparse")]
        message: Vec<u8>,
    },
    /// Closes what is kept open.
    LetGo,
}

/// What the helper answers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs)]
pub enum Reply {
    Done,
    Failed(String),
    Text(String),
    Facts(Option<Facts>),
    Names(Vec<String>),
    Bytes(#[serde(with = "sparse")] Vec<u8>),
    /// Length and hash of a file.
    Digest(u64, u64),
    Pid(Option<u32>),
    Resources(Option<Resources>),
}

/// A hash of bytes (FNV-1a over whole words, and the rest as one): it detects
/// corrupt copies, not forgeries.
#[derive(Debug, Clone)]
pub struct Digest {
    hash: u64,
    len: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            len: 0,
        }
    }
}

impl Digest {
    /// Reads all of a source.
    ///
    /// # Errors
    ///
    /// If reading fails.
    pub fn of(source: &mut dyn Read) -> std::io::Result<Self> {
        let mut digest = Self::default();
        let mut buffer = Vec::with_capacity(1 << 16);
        loop {
            buffer.clear();
            source.take(1 << 16).read_to_end(&mut buffer)?;
            if buffer.is_empty() {
                return Ok(digest);
            }
            digest.len += buffer.len() as u64;
            for word in buffer.chunks(8) {
                let mut bytes = [0; 8];
                for (to, from) in bytes.iter_mut().zip(word) {
                    *to = *from;
                }
                digest.hash ^= u64::from_le_bytes(bytes);
                digest.hash = digest.hash.wrapping_mul(0x0100_0000_01b3).rotate_left(23);
            }
        }
    }

    /// The reply that carries it.
    pub fn reply(&self) -> Reply {
        Reply::Digest(self.len, self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_tells_lengths_places_and_bits() {
        let digest = |bytes: &[u8]| Digest::of(&mut &*bytes).unwrap().reply();
        let bytes: Vec<u8> = (0..200_003u32).map(|at| (at % 251) as u8).collect();
        assert_eq!(digest(&bytes), digest(&bytes));
        for at in [0, 8, 65_535, 65_536, 200_002] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_ne!(digest(&other), digest(&bytes), "at {at}");
        }
        assert_ne!(digest(&bytes[..200_000]), digest(&bytes));
        let mut turned = bytes.clone();
        turned.swap(0, 8);
        assert_ne!(digest(&turned), digest(&bytes));
    }
}
