//! The kernel's calls to freeze and to thaw a file system, which no crate wraps.
#![allow(unsafe_code)]

use std::os::fd::AsFd;

use rustix::io;
use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};

/// `FIFREEZE`. The argument that its number promises is ignored by the kernel.
const FREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);

/// `FITHAW`, likewise.
const THAW: Opcode = opcode::read_write::<i32>(b'X', 120);

/// Freezes the file system that `fd` is on: what was written is on the disk
/// when this is back, and whoever writes from then on waits.
///
/// # Errors
///
/// `EBUSY` where it is frozen already, `EOPNOTSUPP` where it cannot be frozen,
/// and whatever writing to it may give.
pub fn freeze(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: the kernel reads and writes no memory for it.
    unsafe { ioctl(fd, NoArg::<FREEZE>::new()) }
}

/// Thaws the file system that `fd` is on.
///
/// # Errors
///
/// `EINVAL` where it is not frozen.
pub fn thaw(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: the kernel reads and writes no memory for it.
    unsafe { ioctl(fd, NoArg::<THAW>::new()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::File;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn the_numbers_are_the_kernels() {
        assert_eq!((FREEZE, THAW), (0xc004_5877, 0xc004_5878));
    }

    /// The file systems of `/proc` know neither call, which shows that the
    /// kernel understood which one was meant.
    #[test]
    fn what_cannot_be_frozen_is_left_as_it_is() {
        let file = File::open("/proc/self").unwrap();
        let errors = [freeze(&file), thaw(&file)].map(|result| result.unwrap_err());
        assert!(
            errors == [Errno::OPNOTSUPP, Errno::INVAL] || errors == [Errno::PERM; 2],
            "{errors:?}"
        );
    }
}
