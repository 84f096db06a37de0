//! Which other program has a device open.
//!
//! Descriptors of other programs are told by the text of their links in `/proc`, which
//! the kernel has at hand: to ask what a descriptor is open on may wait for the server
//! of a file system that does not answer. Only what is called like the device, and what
//! is below some `/dev`, is looked at, without asking a server either. In a container
//! the same device may have another node, so that names are not enough.
//!
//! As far as can be seen: other users' descriptors by root only, and nothing of what
//! another PID namespace has.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use hyperv_services::processes;
use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags, statx};

/// How long is looked for it.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(2);

/// How many searches there may be at a time, with those that were given up.
const MAX_SEARCHES: usize = 8;

/// How many there are.
static SEARCHES: AtomicUsize = AtomicUsize::new(0);

/// It cannot be told in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the search for another program that has it open was not done in time")]
pub(crate) struct SearchTimedOut;

/// The program that has `node` open, in words; `None` where none was seen.
///
/// # Errors
///
/// [`SearchTimedOut`]; the search goes on by itself then.
pub(crate) fn find(node: &Path) -> Result<Option<String>, SearchTimedOut> {
    find_within(node, SEARCH_TIMEOUT)
}

fn find_within(node: &Path, limit: Duration) -> Result<Option<String>, SearchTimedOut> {
    let slot = Search::begin().ok_or(SearchTimedOut)?;
    let deadline = Instant::now() + limit;
    let node = node.to_owned();
    let (found, result) = channel();
    let look = move || {
        let _slot = slot;
        // Nobody may wait for it any more.
        let _ = found.send(search(&node, deadline));
    };
    let thread = thread::Builder::new().name("holder".to_owned());
    thread.spawn(look).map_err(|_| SearchTimedOut)?;
    result.recv_timeout(limit).map_err(|_| SearchTimedOut)?
}

/// One of the searches that there may be.
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

fn search(node: &Path, deadline: Instant) -> Result<Option<String>, SearchTimedOut> {
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
            if may_be && stat(&link).is_some_and(|open| is_same(&open, &device)) {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                return Ok(Some(format!("{} (process {pid})", name.trim_end())));
            }
        }
    }
    Ok(None)
}

/// What the kernel knows of a file without asking whoever serves it.
fn stat(path: &Path) -> Option<Statx> {
    let wanted = StatxFlags::TYPE | StatxFlags::INO;
    statx(CWD, path, AtFlags::STATX_DONT_SYNC, wanted).ok()
}

/// Whether two files are one, or nodes of one character device.
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
    fn whoever_has_it_open_is_named_and_nobody_with_another_of_that_name() {
        let place = tempfile::tempdir().unwrap();
        let (node, other) = (place.path().join("uio0"), place.path().join("other/uio0"));
        fs::create_dir(other.parent().unwrap()).unwrap();
        fs::write(&node, "").unwrap();
        fs::write(&other, "").unwrap();
        let _other = Program::with(&other);
        assert_eq!(find_within(&node, LONG), Ok(None));
        let program = Program::with(&node);
        let found = find_within(&node, LONG).unwrap().unwrap();
        // The shell may not be the other program yet.
        assert!(
            found.ends_with(&format!("(process {})", program.0.id())),
            "{found}"
        );
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
    fn a_search_has_an_end() {
        let node = Path::new("/dev/null");
        assert_eq!(search(node, Instant::now()), Err(SearchTimedOut));
    }

    /// In one test with what searches, for it leaves no search to others.
    fn expect_not_too_many(node: &Path) {
        let all: Vec<_> = std::iter::from_fn(Search::begin)
            .take(MAX_SEARCHES)
            .collect();
        assert!(Search::begin().is_none());
        assert_eq!(find_within(node, LONG), Err(SearchTimedOut));
        drop(all);
        assert!(Search::begin().is_some());
    }
}
