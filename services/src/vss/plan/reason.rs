//! Why a file system is not frozen, or keeps all others from being frozen.

use std::path::PathBuf;

/// Why a file system is left out of a freeze.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The kernel makes it up, or it is in memory. There are many of them.
    #[error("it is on no block device")]
    NoBlockDevice,
    /// A program in user space serves it.
    #[error("a program serves it (FUSE)")]
    Fuse,
    /// The kernel cannot freeze file systems of this type.
    #[error("file systems of this type cannot be frozen")]
    Unsupported,
    /// The same, of ZFS.
    #[error("ZFS cannot be frozen; its snapshots are consistent by themselves")]
    Zfs,
    /// It is a network file system, or the host's.
    #[error("its files are on another machine")]
    Network,
    /// It is a layer over other file systems.
    #[error("its files are in other file systems")]
    Stacked,
    /// It is mounted read-only.
    #[error("it is read-only")]
    ReadOnly,
    /// The kernel made it read-only after an error.
    #[error("the kernel made it read-only after an error; see dmesg")]
    Error,
    /// The kernel or an administrator shut it down: nothing can be read or written.
    #[error("it was shut down after an error; see dmesg")]
    ShutDown,
    /// A pattern of `[vss.exclude]` matches it.
    #[error("the configuration excludes it: it matches {pattern:?} in {list} of [vss.exclude]")]
    Excluded {
        /// The list that the pattern is in, such as `mount-points`.
        list: &'static str,
        /// The pattern.
        pattern: String,
    },
    /// `[vss.include]` has patterns, and none matches it.
    #[error("the configuration does not include it: it matches no pattern in [vss.include]")]
    NotIncluded,
    /// Only other mount namespaces have it, and the configuration leaves those out.
    #[error(
        "it is mounted in another mount namespace only, and other-namespaces in [vss] is false"
    )]
    OtherNamespace,
}

impl Reason {
    /// Whether something is wrong with the file system, so that the administrator has to
    /// see a warning.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Error | Self::ShutDown)
    }
}

/// Why a file system that is to be frozen cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocker {
    /// A path that has to be looked up does not answer.
    #[error("{}, which it lies on, does not answer", .0.display())]
    NotResponding(PathBuf),
    /// It cannot be opened at any of its mount points: what is wrong there.
    #[error("it cannot be opened ({0})")]
    CannotOpen(String),
}
