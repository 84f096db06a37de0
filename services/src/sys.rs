//! What is asked of the kernel and of the C library by calls that no crate wraps, or
//! not as safe ones.
#![expect(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::sync::OnceLock;
use std::{fs, iter};

use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::io::{self, FdFlags, fcntl_setfd};
use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};
use rustix::mm::{Advice, madvise};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

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

/// Where this process has its code and constants, noted before it had threads.
static CODE: OnceLock<Vec<(usize, usize)>> = OnceLock::new();

/// How many files this process could have open when it was started.
static OPEN_FILES: OnceLock<Rlimit> = OnceLock::new();

/// Prepares a process of the agent. To be called first, before there are threads.
///
/// All threads take memory from one heap, where glibc would give many of them a heap of
/// its own, each with what it has used once. Descriptors that whoever started the
/// process left open go to no program that it starts. A file that would grow larger than
/// `RLIMIT_FSIZE` allows fails with `EFBIG`, where the kernel would end the process.
pub fn prepare_process() {
    // SAFETY: it sets a number in the allocator, and no other thread is there yet.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    // SAFETY: no code of this process handles that signal, or relies on it.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    for entry in fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
    {
        let number = entry.file_name().to_str().and_then(|it| it.parse().ok());
        if let Some(number) = number.filter(|&number: &RawFd| number > libc::STDERR_FILENO) {
            // SAFETY: no other thread is there to close it.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
        }
    }
    OPEN_FILES.get_or_init(|| getrlimit(Resource::Nofile));
    // Without the list all code stays in memory.
    let mappings = || fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    CODE.get_or_init(|| releasable(&mappings()));
}

/// Has `command` start a program that finds no trace of the agent: it may have as many
/// files open as the agent could when it was started, and every signal does what it
/// does by default. The standard library unblocks them.
pub fn start_afresh(command: &mut Command) -> &mut Command {
    let open_files = OPEN_FILES.get().copied();
    let afresh = move || {
        for number in 1..=libc::SIGRTMAX() {
            // SAFETY: the child has no handlers. What cannot be set is refused.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
        match open_files {
            Some(limit) => Ok(setrlimit(Resource::Nofile, limit)?),
            None => Ok(()),
        }
    };
    // SAFETY: it makes system calls, and neither takes memory nor waits for a lock.
    unsafe { command.pre_exec(afresh) }
}

/// Has `command`, of which all else is set and which has an environment of its own, run
/// its program by its path or not at all: the C library would give a file that the
/// kernel does not know how to run to a shell.
pub fn run_directly(command: &mut Command) -> &mut Command {
    let program = command.get_program();
    let variables = command.get_envs().filter_map(|(name, value)| {
        let both = [name.as_bytes(), value?.as_bytes()];
        CString::new(both.join(&b'=')).ok()
    });
    let arguments = iter::once(program).chain(command.get_args());
    let arguments = arguments.filter_map(|word| CString::new(word.as_bytes()).ok());
    let (arguments, variables) = (Words::new(arguments), Words::new(variables));
    let directly = move || {
        // SAFETY: both are lists of strings, which live as long as this.
        unsafe { libc::execve(arguments.first(), arguments.list(), variables.list()) };
        Err(std::io::Error::last_os_error())
    };
    // SAFETY: it makes a system call, and neither takes memory nor waits for a lock.
    // What has a NUL in it, and is left out above, is refused before that.
    unsafe { command.pre_exec(directly) }
}

/// Strings as the kernel takes them.
struct Words {
    /// What `list` points to.
    words: Vec<CString>,
    /// With a null at its end.
    list: Vec<*const libc::c_char>,
}

// SAFETY: the pointers lead to strings of its own, which nobody changes.
unsafe impl Send for Words {}
// SAFETY: likewise.
unsafe impl Sync for Words {}

impl Words {
    fn new(words: impl Iterator<Item = CString>) -> Self {
        let words: Vec<_> = words.collect();
        let list = words.iter().map(|word| word.as_ptr());
        let list = list.chain(iter::once(ptr::null())).collect();
        Self { words, list }
    }

    fn first(&self) -> *const libc::c_char {
        self.words.first().map_or(ptr::null(), |word| word.as_ptr())
    }

    fn list(&self) -> *const *const libc::c_char {
        self.list.as_ptr()
    }
}

/// Gives back what a process that waits for days does not need: memory that nobody
/// has taken from its heap, and its code and constants, which are mapped again where
/// they are needed again. Their content stays in the kernel's page cache, as that of any
/// file.
pub fn release_memory() {
    // SAFETY: it gives pages back in which nothing is, and may be called at any time.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { libc::malloc_trim(0) };
    release(CODE.get().map(Vec::as_slice).unwrap_or_default());
}

/// `MADV_PAGEOUT` would have the kernel drop the pages from its cache, too: whatever
/// comes next waited for a disk then, which may stand still. It spares what a second
/// process maps, as the guard does.
fn release(code: &[(usize, usize)]) {
    for &(start, end) in code {
        let start_of = ptr::with_exposed_provenance_mut(start);
        // SAFETY: a program or library that is there before the first thread is never
        // unmapped, so that nothing else is at this place. These pages are mapped so that
        // nobody writes to them, and none was written to before that: what is read
        // there next is the same.
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
mod tests {
    use std::fs::File;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;

    use rustix::io::Errno;
    use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

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

    /// The code that is there now.
    fn code() -> Vec<(usize, usize)> {
        releasable(&fs::read_to_string("/proc/self/smaps").unwrap())
    }

    #[test]
    fn the_process_runs_on_without_its_code() {
        let code = code();
        assert!(!code.is_empty());
        release(&code);
        assert_eq!(format!("{:x}", "ab".len() + 253), "ff");
    }

    /// Where one thread has had a library for a moment, another one has its data.
    #[test]
    fn what_is_mapped_later_is_not_released() {
        const LEN: usize = 1 << 16;
        const ROUNDS: usize = 400;
        let code = code();
        let released = AtomicBool::new(false);
        let lost = AtomicUsize::new(0);
        let map_and_unmap = || {
            let library = File::open("/proc/self/exe").unwrap();
            while !released.load(Ordering::Relaxed) {
                // SAFETY: nobody else knows of what is mapped here.
                unsafe {
                    let flags = MapFlags::PRIVATE;
                    let place = mmap(ptr::null_mut(), LEN, ProtFlags::READ, flags, &library, 0);
                    let place = place.unwrap();
                    munmap(place, LEN).unwrap();
                    let both = ProtFlags::READ | ProtFlags::WRITE;
                    let data = mmap_anonymous(place, LEN, both, flags).unwrap();
                    data.cast::<u8>().write_bytes(7, LEN);
                    thread::yield_now();
                    let seen = std::slice::from_raw_parts(data.cast::<u8>(), LEN);
                    let missing = seen.iter().filter(|&&byte| byte != 7).count();
                    lost.fetch_add(missing, Ordering::Relaxed);
                    munmap(data, LEN).unwrap();
                }
            }
        };
        thread::scope(|scope| {
            let threads = [(); 3].map(|()| scope.spawn(map_and_unmap));
            for _ in 0..ROUNDS {
                release(&code);
            }
            released.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().unwrap();
            }
        });
        assert_eq!(lost.load(Ordering::Relaxed), 0, "bytes of live memory");
    }
}
