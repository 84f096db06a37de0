//! System and C library calls that no crate wraps safely. The only `unsafe` code of the
//! services.
#![expect(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::process::Command;
use std::ptr;
use std::sync::OnceLock;
use std::{fs, iter, thread};

use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::io::{self, FdFlags, fcntl_setfd};
use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};
use rustix::mm::{Advice, madvise};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// `FIFREEZE`. The kernel ignores the argument that its number declares.
const FREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);

/// `FITHAW`, likewise.
const THAW: Opcode = opcode::read_write::<i32>(b'X', 120);

/// Freezes the file system that `fd` is on. When this returns, all data is on the disk
/// and new writes block.
///
/// # Errors
///
/// Returns `EBUSY` if it is frozen already, `EOPNOTSUPP` if it cannot be frozen, and any
/// error of writing to it.
pub fn freeze(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: the kernel reads and writes no memory for it.
    unsafe { ioctl(fd, NoArg::<FREEZE>::new()) }
}

/// Thaws the file system that `fd` is on.
///
/// # Errors
///
/// Returns `EINVAL` if it is not frozen.
pub fn thaw(fd: impl AsFd) -> io::Result<()> {
    // SAFETY: the kernel reads and writes no memory for it.
    unsafe { ioctl(fd, NoArg::<THAW>::new()) }
}

/// Writes out `len` bytes of a file from `offset` and waits until they are written. An error
/// is reported once: a later `fsync` of the same open file does not repeat it. What is
/// necessary to find the data on the disk is not written.
///
/// # Errors
///
/// The error of writing; `ENOSYS` and others if the kernel or the file cannot do this.
pub(crate) fn write_out(file: impl AsFd, offset: u64, len: u64) -> io::Result<()> {
    const FLAGS: libc::c_uint = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) else {
        return Err(io::Errno::FBIG);
    };
    // SAFETY: the descriptor is open, and no memory is passed.
    match unsafe { libc::sync_file_range(file.as_fd().as_raw_fd(), offset, len, FLAGS) } {
        0 => Ok(()),
        _ => {
            Err(io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(io::Errno::IO))
        }
    }
}

/// The address ranges of code and constants, read before there were threads.
static CODE: OnceLock<Vec<(usize, usize)>> = OnceLock::new();

/// The limit of open files with which this process was started.
static OPEN_FILES: OnceLock<Rlimit> = OnceLock::new();

/// Prepares a process of the agent. Must be called first, before there are threads.
///
/// All threads share one heap; glibc would create one for many of them, each of which
/// keeps what it has used once. Inherited descriptors become close-on-exec. A write
/// beyond `RLIMIT_FSIZE` fails with `EFBIG` instead of killing the process.
pub fn prepare_process() {
    // SAFETY: it sets a parameter of the allocator, and there is no other thread.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    // SAFETY: no code of this process handles that signal or relies on it.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    for entry in fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
    {
        let number = entry.file_name().to_str().and_then(|it| it.parse().ok());
        if let Some(number) = number.filter(|&number: &RawFd| number > libc::STDERR_FILENO) {
            // SAFETY: there is no other thread to close it.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
        }
    }
    OPEN_FILES.get_or_init(|| getrlimit(Resource::Nofile));
}

/// Records what [`release_memory`] may release. Must be called before there are threads.
pub fn record_code() {
    // If the list cannot be read, all code stays in memory.
    let mappings = || fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    CODE.get_or_init(|| releasable(&mappings()));
}

/// Makes `command` start its program with the limit of open files with which the agent
/// was started and with default signal handlers. The standard library unblocks signals.
pub fn reset_limits_and_signals(command: &mut Command) -> &mut Command {
    let open_files = OPEN_FILES.get().copied();
    let reset = move || {
        for number in 1..=libc::SIGRTMAX() {
            // SAFETY: the child has no handlers. The kernel refuses what cannot be set.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
        match open_files {
            Some(limit) => Ok(setrlimit(Resource::Nofile, limit)?),
            None => Ok(()),
        }
    };
    // SAFETY: it makes system calls, and neither allocates memory nor takes a lock.
    unsafe { command.pre_exec(reset) }
}

/// Makes `command` execute its program with `execve`: the C library would pass a file
/// that the kernel cannot execute to a shell. Everything else must be set before, and the
/// environment must be cleared.
pub fn exec_without_shell(command: &mut Command) -> &mut Command {
    let program = command.get_program();
    let variables = command.get_envs().filter_map(|(name, value)| {
        let both = [name.as_bytes(), value?.as_bytes()];
        CString::new(both.join(&b'=')).ok()
    });
    let arguments = iter::once(program).chain(command.get_args());
    let arguments = arguments.filter_map(|word| CString::new(word.as_bytes()).ok());
    let (arguments, variables) = (StringArray::new(arguments), StringArray::new(variables));
    let exec = move || {
        // SAFETY: both are null-terminated arrays of strings, which outlive the call.
        unsafe { libc::execve(arguments.first(), arguments.array(), variables.array()) };
        Err(std::io::Error::last_os_error())
    };
    // SAFETY: it makes a system call, and neither allocates memory nor takes a lock.
    // Strings with a NUL, which are left out above, fail before this runs.
    unsafe { command.pre_exec(exec) }
}

/// A null-terminated array of strings, as `execve` takes it.
struct StringArray {
    /// What `array` points to.
    strings: Vec<CString>,
    array: Vec<*const libc::c_char>,
}

// SAFETY: the pointers lead to its own strings, which nothing changes.
unsafe impl Send for StringArray {}
// SAFETY: likewise.
unsafe impl Sync for StringArray {}

impl StringArray {
    fn new(strings: impl Iterator<Item = CString>) -> Self {
        let strings: Vec<_> = strings.collect();
        let array = strings.iter().map(|string| string.as_ptr());
        let array = array.chain(iter::once(ptr::null())).collect();
        Self { strings, array }
    }

    fn first(&self) -> *const libc::c_char {
        self.strings
            .first()
            .map_or(ptr::null(), |string| string.as_ptr())
    }

    fn array(&self) -> *const *const libc::c_char {
        self.array.as_ptr()
    }
}

/// More than the stacks of ended threads that glibc keeps, in bytes.
const MORE_THAN_ALL_STACKS: usize = 64 << 20;

/// Returns memory that an idle process does not need to the kernel: the stacks of threads
/// that have ended, the free parts of its heap, and the pages of its code and constants,
/// which are mapped again on the next access. Their content stays in the page cache.
pub fn release_memory() {
    aside(|| ());
    // SAFETY: it returns unused pages, and may be called at any time.
    #[cfg(target_env = "gnu")]
    let _ = unsafe { libc::malloc_trim(0) };
    release(CODE.get().map(Vec::as_slice).unwrap_or_default());
}

/// Runs `work` on a thread of its own, if one can be started. What the C library keeps for a
/// thread goes with it: the deepest part of its stack, and blocks of memory that it has
/// freed.
///
/// glibc keeps 40 MiB of stacks of ended threads, each with pages that were used. The end
/// of a thread that had a larger one makes it unmap all of them.
pub fn aside<T: Send>(mut work: impl FnMut() -> T + Send) -> T {
    let thread = thread::Builder::new().stack_size(MORE_THAN_ALL_STACKS);
    let ended = thread::scope(|scope| {
        let thread = thread.spawn_scoped(scope, &mut work);
        thread.map(|thread| thread.join())
    });
    match ended {
        Ok(ended) => ended.unwrap_or_else(|panic| resume_unwind(panic)),
        Err(_) => work(),
    }
}

/// With `MADV_DONTNEED`, an agent at rest has 1.3 MiB in memory instead of 5.4 MiB.
///
/// `MADV_PAGEOUT`, with which it has 2.7 to 5.0 MiB, would leave what a second process
/// maps, such as the C library, and drop the rest from the page cache, too: the next access
/// would wait for a disk, which may not respond. `MADV_COLD` releases next to nothing.
fn release(code: &[(usize, usize)]) {
    for &(start, end) in code {
        let start_of = ptr::with_exposed_provenance_mut(start);
        // SAFETY: programs and libraries that are mapped before the first thread are never
        // unmapped, so nothing else is at this address. The pages are not writable and
        // were not written to before: the next access reads the same content.
        let _ = unsafe { madvise(start_of, end.saturating_sub(start), Advice::LinuxDontNeed) };
    }
}

/// Finds in `/proc/PID/smaps` the address ranges of files that are mapped read-only or
/// executable and have no private copy of a page. A mapping is a line
/// `START-END PERMISSIONS OFFSET DEVICE INODE PATH` and a line for each property.
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

/// Parses a mapping's first line; `None` unless it is a file that is not writable.
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
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use rustix::io::Errno;
    use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

    use super::*;

    #[test]
    fn the_ioctl_numbers_are_those_of_the_kernel() {
        assert_eq!((FREEZE, THAW), (0xc004_5877, 0xc004_5878));
    }

    /// `/proc` supports neither call, and its errors tell which one the kernel saw.
    #[test]
    fn a_file_system_that_cannot_be_frozen_is_refused() {
        let file = File::open("/proc/self").unwrap();
        let errors = [freeze(&file), thaw(&file)].map(|result| result.unwrap_err());
        assert!(
            errors == [Errno::OPNOTSUPP, Errno::INVAL] || errors == [Errno::PERM; 2],
            "{errors:?}"
        );
    }

    #[test]
    fn only_unmodified_mappings_are_releasable() {
        let mapping = |first: &str, own: u32| {
            format!("{first}\nSize:  4096 kB\nAnonymous:  {own} kB\nVmFlags: rd mr\n")
        };
        let agent = "r-xp 00001000 fe:00 1234    /usr/sbin/hyperv-agent (deleted)";
        let constants = "r--p 00001000 fe:00 1234    /usr/sbin/hyperv-agent";
        let mappings = [
            mapping(&format!("7f00-8f00 {agent}"), 0),
            mapping(&format!("9f00-af00 {constants}"), 0),
            // Constants that the loader has relocated.
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

    /// The mappings of this process. They are found once, before a test maps anything else.
    fn code() -> &'static [(usize, usize)] {
        static CODE: OnceLock<Vec<(usize, usize)>> = OnceLock::new();
        CODE.get_or_init(|| releasable(&fs::read_to_string("/proc/self/smaps").unwrap()))
    }

    #[test]
    fn the_process_runs_after_its_code_is_released() {
        let code = code();
        assert!(!code.is_empty());
        release(code);
        assert_eq!(format!("{:x}", "ab".len() + 253), "ff");
    }

    #[test]
    fn stacks_of_ended_threads_are_released() {
        const STACK: usize = 3 << 20;
        let stacks = || {
            let mappings = fs::read_to_string("/proc/self/smaps").unwrap();
            let is_stack = |line: &&str| {
                let size = line.strip_prefix("Size:").map(|size| size.trim());
                size.is_some_and(|size| size == format!("{} kB", STACK >> 10))
            };
            mappings.lines().filter(is_stack).count()
        };
        let all = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                let thread = thread::Builder::new().stack_size(STACK);
                thread.spawn_scoped(scope, || all.wait()).unwrap();
            }
        });
        let kept = stacks();
        aside(|| ());
        // A thread of another test may run on one of them.
        assert!(stacks() < kept.max(1), "{} of {kept}", stacks());
    }

    /// One thread maps data where another had a library for a moment.
    #[test]
    fn later_mappings_are_not_released() {
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
                release(code);
            }
            released.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().unwrap();
            }
        });
        assert_eq!(lost.load(Ordering::Relaxed), 0, "bytes of live memory");
    }
}
