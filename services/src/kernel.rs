//! What is asked of the kernel by calls that no crate wraps, or not as safe
//! ones.
#![allow(unsafe_code)]

use std::fs;
use std::os::fd::AsFd;
use std::ptr;

use rustix::io;
use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};
use rustix::mm::{Advice, madvise};

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

/// Takes the process' code out of its memory, to be mapped again where it runs
/// again: most of what a process that waits for years has run, it ran once, at
/// its start.
pub fn release_code() {
    // Without the list everything stays where it is, as it would without this.
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, end) in maps.lines().filter_map(code) {
        let start_of = ptr::with_exposed_provenance_mut(start);
        // SAFETY: the pages are those of a file, mapped to be read and executed
        // and never written to, so that what is read there next is the same.
        let _ = unsafe { madvise(start_of, end.saturating_sub(start), Advice::LinuxDontNeed) };
    }
}

/// From where to where the code of a file is mapped, out of a line of
/// `/proc/PID/maps`: `START-END PERMISSIONS OFFSET DEVICE INODE PATH`.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let inode = words.nth(2)?;
    if permissions != "r-xp" || inode == "0" {
        return None;
    }
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?))
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

    #[test]
    fn only_the_code_of_files_is_released() {
        let mapped = "7f00-8f00 r-xp 00001000 fe:00 1234    /usr/sbin/hyperv-agent (deleted)";
        assert_eq!(code(mapped), Some((0x7f00, 0x8f00)));
        for other in [
            "7f00-8f00 r--p 00001000 fe:00 1234    /usr/sbin/hyperv-agent",
            "7f00-8f00 rwxp 00001000 fe:00 1234    /usr/sbin/hyperv-agent",
            "7f00-8f00 r-xs 00001000 fe:00 1234    /usr/sbin/hyperv-agent",
            "7f00-8f00 r-xp 00000000 00:00 0       [vdso]",
            "7f00-8f00 r-xp",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn the_process_runs_on_without_its_code() {
        release_code();
        assert_eq!(format!("{:x}", "ab".len() + 253), "ff");
    }
}
