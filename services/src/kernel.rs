//! What is asked of the kernel and of the C library by calls that no crate wraps, or
//! not as safe ones.
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

/// Has all threads take memory from one heap, where glibc would give many of them a
/// heap of its own, each with what it has used once. To be called before there are
/// threads.
pub fn share_heap() {
    // SAFETY: it sets a number in the allocator, and no other thread is there yet.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1) };
}

/// Gives back what a process that waits for days does not need: memory that nobody
/// has taken from its heap, and its code and constants, which are mapped again where
/// they are needed again.
pub fn release_memory() {
    // SAFETY: it gives pages back in which nothing is, and may be called at any time.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { nix::libc::malloc_trim(0) };
    release_code();
}

fn release_code() {
    // Without the list everything stays where it is, as it would without this.
    let mappings = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for (start, end) in releasable(&mappings) {
        let start_of = ptr::with_exposed_provenance_mut(start);
        // SAFETY: the pages are those of a file, mapped so that nobody writes to
        // them, and none was written to before that: what is read there next is
        // the same.
        let _ = unsafe { madvise(start_of, end.saturating_sub(start), Advice::LinuxDontNeed) };
    }
}

/// From where to where files are mapped to be read or executed only, without a
/// page of which the process has a copy of its own, out of `/proc/PID/smaps`:
/// `START-END PERMISSIONS OFFSET DEVICE INODE PATH`, and then a line for each
/// property.
fn releasable(mappings: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in mappings.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("Anonymous:") if words.next() == Some("0") => found.extend(candidate.take()),
            Some(word) if !word.ends_with(':') => candidate = file(line),
            _ => {}
        }
    }
    found
}

/// Where a file is mapped that nobody writes to, out of a mapping's first line.
fn file(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?;
    let inode = words.nth(2)?;
    if !matches!(permissions, "r-xp" | "r--p") || inode == "0" {
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
    fn only_what_nobody_wrote_to_is_released() {
        let mapping = |first: &str, own: u32| {
            format!("{first}\nSize:  4096 kB\nAnonymous:  {own} kB\nVmFlags: rd mr\n")
        };
        let agent = "r-xp 00001000 fe:00 1234    /usr/sbin/hyperv-agent (deleted)";
        let constants = "r--p 00001000 fe:00 1234    /usr/sbin/hyperv-agent";
        let mappings = [
            mapping(&format!("7f00-8f00 {agent}"), 0),
            mapping(&format!("9f00-af00 {constants}"), 0),
            // Constants that the loader has filled in.
            mapping(&format!("bf00-cf00 {constants}"), 88),
            mapping(
                "df00-ef00 rw-p 00001000 fe:00 1234    /usr/sbin/hyperv-agent",
                0,
            ),
            mapping("f000-f100 r--s 00001000 fe:00 1234    /dev/uio0", 0),
            mapping("f200-f300 r-xp 00000000 00:00 0       [vdso]", 0),
            mapping("f400-f500 r-xp", 0),
        ];
        let found = releasable(&mappings.concat());
        assert_eq!(found, [(0x7f00, 0x8f00), (0x9f00, 0xaf00)]);
        assert_eq!(releasable(""), []);
    }

    #[test]
    fn the_process_runs_on_without_its_code() {
        release_code();
        assert_eq!(format!("{:x}", "ab".len() + 253), "ff");
    }
}
