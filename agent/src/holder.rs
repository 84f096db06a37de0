//! Finds the other program that has a device open.
//!
//! The search reads the links in `/proc/PID/fd`, whose text the kernel has in memory. A
//! `stat` of each descriptor could wait for a file server that does not answer. Only
//! descriptors with the device's name, or below `/dev`, get a `statx` that asks no server:
//! a container may have the device under another name.
//!
//! Only root sees the descriptors of other users, and nobody those of a process in another
//! PID namespace.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use hyperv_services::processes;
use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags, statx};

use crate::timeouts::HOLDER_SEARCH;

/// Maximum number of searches at a time, with those that were given up but still run.
const MAX_SEARCHES: usize = 8;

/// The number of running searches.
static SEARCHES: AtomicUsize = AtomicUsize::new(0);

/// The search did not end in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the search for another program that has it open timed out")]
pub(crate) struct SearchTimedOut;

/// Returns the name and PID of another program that has `node` open; `None` if there is
/// none.
///
/// # Errors
///
/// [`SearchTimedOut`]. The search continues in the background then.
pub(crate) fn find(node: &Path) -> Result<Option<String>, SearchTimedOut> {
    find_other(node, std::process::id())
}

/// As [`find`], for the process `own`, which may be another one than this.
pub(crate) fn find_other(node: &Path, own: u32) -> Result<Option<String>, SearchTimedOut> {
    find_within(node, own, HOLDER_SEARCH)
}

/// As [`find`], for the process `own`.
fn find_within(node: &Path, own: u32, limit: Duration) -> Result<Option<String>, SearchTimedOut> {
    let slot = Search::begin().ok_or(SearchTimedOut)?;
    let deadline = Instant::now() + limit;
    let node = node.to_owned();
    let (found, result) = channel();
    let run = move || {
        let _slot = slot;
        // It fails if the caller has given up.
        let _ = found.send(search(&node, own, deadline));
    };
    let thread = thread::Builder::new().name("holder".to_owned());
    thread.spawn(run).map_err(|_| SearchTimedOut)?;
    result.recv_timeout(limit).map_err(|_| SearchTimedOut)?
}

/// A running search, one of at most [`MAX_SEARCHES`].
struct Search;

impl Search {
    fn begin() -> Option<Self> {
        let one_more = |count| (count < MAX_SEARCHES).then_some(count + 1);
        SEARCHES
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(Self)
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        SEARCHES.fetch_sub(1, Ordering::Relaxed);
    }
}

fn search(node: &Path, own: u32, deadline: Instant) -> Result<Option<String>, SearchTimedOut> {
    let (Some(device), Some(name)) = (stat(node), node.file_name()) else {
        return Ok(None);
    };
    let processes = processes::numbers(Path::new("/proc"));
    for pid in processes.into_iter().flatten() {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        for descriptor in descriptors.into_iter().flatten().flatten() {
            if Instant::now() >= deadline {
                return Err(SearchTimedOut);
            }
            let link = descriptor.path();
            let Ok(text) = fs::read_link(&link) else {
                continue;
            };
            let may_be = text.file_name() == Some(name) || text.starts_with("/dev");
            let same = may_be && stat(&link).is_some_and(|open| is_same(&open, &device));
            if same && !is_own(pid, own) {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                return Ok(Some(format!("{} (process {pid})", name.trim_end())));
            }
        }
    }
    Ok(None)
}

/// Returns whether a process is the agent, or a child of it, which has the agent's
/// descriptors until it has become another program.
fn is_own(pid: u32, own: u32) -> bool {
    pid == own || processes::parent(pid) == Some(own)
}

/// Returns what the kernel knows of a file, without asking a file server.
fn stat(path: &Path) -> Option<Statx> {
    let wanted = StatxFlags::TYPE | StatxFlags::INO;
    statx(CWD, path, AtFlags::STATX_DONT_SYNC, wanted).ok()
}

/// Returns whether two files are the same, or nodes of the same character device.
fn is_same(one: &Statx, other: &Statx) -> bool {
    let file = |it: &Statx| (it.stx_dev_major, it.stx_dev_minor, it.stx_ino);
    let device = |it: &Statx| {
        let kind = FileType::from_raw_mode(it.stx_mode.into());
        (kind == FileType::CharacterDevice).then_some((it.stx_rdev_major, it.stx_rdev_minor))
    };
    file(one) == file(other) || device(one).is_some_and(|number| device(other) == Some(number))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that has nothing open.
    const NOBODY: u32 = u32::MAX;

    const LONG: Duration = Duration::from_secs(60);

    /// A program that has `path` open as its descriptor 3.
    struct Program(Child);

    impl Program {
        fn with(path: &Path) -> Self {
            let mut child = Command::new("sh")
                .args(["-c", "exec 3<\"$0\"; echo; exec sleep 1000"])
                .arg(path)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = [0];
            child.stdout.take().unwrap().read_exact(&mut line).unwrap();
            Self(child)
        }
    }

    impl Drop for Program {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn the_program_that_has_the_device_open_is_found_and_not_one_with_another_file_of_that_name() {
        let place = tempfile::tempdir().unwrap();
        let (node, other) = (place.path().join("uio0"), place.path().join("other/uio0"));
        fs::create_dir(other.parent().unwrap()).unwrap();
        fs::write(&node, "").unwrap();
        fs::write(&other, "").unwrap();
        let _other = Program::with(&other);
        assert_eq!(find_within(&node, NOBODY, LONG), Ok(None));
        let program = Program::with(&node);
        let found = find_within(&node, NOBODY, LONG).unwrap().unwrap();
        // The shell may not be the other program yet.
        assert!(
            found.ends_with(&format!("(process {})", program.0.id())),
            "{found}"
        );
        // It is a child of this process.
        assert_eq!(find_within(&node, std::process::id(), LONG), Ok(None));
        expect_not_too_many(&node);
    }

    #[test]
    fn a_character_device_is_known_by_its_number() {
        let [null, zero] = ["/dev/null", "/dev/zero"].map(|it| stat(Path::new(it)).unwrap());
        let mut elsewhere = null;
        elsewhere.stx_ino = 1;
        assert!(is_same(&null, &elsewhere));
        assert!(!is_same(&null, &zero));
    }

    #[test]
    fn a_search_ends_at_its_deadline() {
        let node = Path::new("/dev/null");
        assert_eq!(search(node, NOBODY, Instant::now()), Err(SearchTimedOut));
    }

    /// Part of the test that searches, as it leaves no search to others.
    fn expect_not_too_many(node: &Path) {
        let all: Vec<_> = std::iter::from_fn(Search::begin)
            .take(MAX_SEARCHES)
            .collect();
        assert!(Search::begin().is_none());
        assert_eq!(find_within(node, NOBODY, LONG), Err(SearchTimedOut));
        drop(all);
        assert!(Search::begin().is_some());
    }
}
