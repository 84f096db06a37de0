//! Finds out from `/proc` which process holds the lock on a pool, so that a warning can
//! name it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{major, minor};

use super::lock::Access;
use crate::kvp::files;
use crate::processes;

/// How often to look for the lock in the kernel's list.
const LOOKS: usize = 10;

/// How long to search for processes that have the file open if the kernel does not tell
/// which of them holds the lock.
const SEARCH: Duration = Duration::from_millis(200);

/// Processes named in a message.
const MAX_NAMED: usize = 3;

/// Describes a holder that was not found.
const UNKNOWN: &str = "another program (`lslocks` may tell which)";

/// Describes the processes that keep `file` from being locked for `access`.
pub(super) fn describe(file: &File, access: Access) -> String {
    let Ok(metadata) = file.metadata() else {
        return UNKNOWN.to_owned();
    };
    let (device, inode) = (metadata.dev(), metadata.ino());
    let id = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    // The kernel gives the list in parts, and leaves out locks while others are taken and
    // released between two of them.
    let mut looks = (0..LOOKS).map(|_| {
        let locks = files::text(Path::new("/proc/locks")).unwrap_or_default();
        lock_holders(&locks, &id, access)
    });
    let mut pids = looks.find(|pids| !pids.is_empty()).unwrap_or_default();
    let mut prefix = "";
    if pids.contains(&None) {
        // A lock of an open file description belongs to no process in particular.
        prefix = "one of those that have it open: ";
        pids = other_openers(file).into_iter().map(Some).collect();
    }
    let names: Vec<_> = pids
        .iter()
        .flatten()
        .take(MAX_NAMED)
        .map(|pid| name(*pid))
        .collect();
    match (names.as_slice(), pids.len().saturating_sub(MAX_NAMED)) {
        ([], _) => UNKNOWN.to_owned(),
        (names, 0) => format!("{prefix}{}", names.join(", ")),
        (names, more) => format!("{prefix}{} and {more} more", names.join(", ")),
    }
}

/// Returns the processes whose lock on the file conflicts with `access`; `None` stands for
/// a lock of which the kernel does not tell the process. `file` is as in `/proc/locks`.
fn lock_holders(locks: &str, file: &str, access: Access) -> Vec<Option<u32>> {
    let held = |exactly: bool| {
        let inode = file.rsplit(':').next().unwrap_or_default();
        let mut pids: Vec<Option<u32>> = Vec::new();
        for line in locks.lines() {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [_, family, _, kind, pid, id, ..] = fields[..] else {
                continue;
            };
            let same = match exactly {
                true => id == file,
                false => id.rsplit(':').next() == Some(inode),
            };
            // An arrow marks a process that waits for the lock.
            if same && family != "->" && (access == Access::Exclusive || kind == "WRITE") {
                let pid = pid.parse().ok();
                if !pids.contains(&pid) {
                    pids.push(pid);
                }
            }
        }
        pids
    };
    // The device is that of the file system, which on btrfs differs from the file's.
    match held(true) {
        pids if pids.is_empty() => held(false),
        pids => pids,
    }
}

/// Returns other processes that have the file open. Compares link texts only: looking up
/// their files could hang in a file system that does not answer.
fn other_openers(file: &File) -> Vec<u32> {
    let end = Instant::now() + SEARCH;
    let Ok(path) = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) else {
        return Vec::new();
    };
    let mut pids = Vec::new();
    let others = processes::numbers(Path::new("/proc")).into_iter().flatten();
    for pid in others.filter(|pid| *pid != std::process::id()) {
        let fds = fs::read_dir(format!("/proc/{pid}/fd"));
        let is_same = |fd: fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|link| link == path);
        let mut fds = fds
            .into_iter()
            .flatten()
            .flatten()
            .take_while(|_| Instant::now() < end);
        if fds.any(is_same) {
            pids.push(pid);
        }
        if Instant::now() >= end {
            break;
        }
    }
    pids
}

/// Describes a process by its number, program and user.
fn name(pid: u32) -> String {
    let status = files::text(Path::new(&format!("/proc/{pid}/status"))).unwrap_or_default();
    let field = |name: &str| {
        let mut lines = status.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    let program = field("Name").unwrap_or_default().trim();
    let user = field("Uid").and_then(|ids| ids.split_whitespace().next());
    let Some(user) = user else {
        return format!("process {pid}, which has ended");
    };
    let passwd = files::text(Path::new("/etc/passwd")).unwrap_or_default();
    let mut entries = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>());
    let entry = entries.find(|entry| entry.get(2) == Some(&user));
    let user = entry
        .and_then(|entry| entry.first().copied())
        .unwrap_or(user);
    let (program, user) = (program.escape_debug(), user.escape_debug());
    format!("process {pid} ({program}, user {user})")
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use rustix::fs::{FlockOperation, flock};

    use super::*;

    #[test]
    fn holders_of_conflicting_locks_are_found() {
        let locks = "\
1: FLOCK  ADVISORY  WRITE 100 08:01:42 0 EOF
1: -> FLOCK  ADVISORY  WRITE 101 08:01:42 0 EOF
2: POSIX  ADVISORY  READ  102 08:01:42 0 9
3: POSIX  ADVISORY  WRITE 103 08:02:42 0 EOF
4: FLOCK  ADVISORY  READ  102 08:01:42 0 EOF
5: LEASE  ACTIVE    READ  104 08:01:43 0 EOF
6: garbage
7: OFDLCK ADVISORY  READ  -1 08:01:43 0 EOF
8: FLOCK  ADVISORY  WRITE 105 00:1f:44 0 EOF
";
        let found = |place, access| lock_holders(locks, place, access);
        assert_eq!(found("08:01:42", Access::Shared), [Some(100)]);
        assert_eq!(found("08:01:42", Access::Exclusive), [Some(100), Some(102)]);
        assert_eq!(found("08:01:43", Access::Exclusive), [Some(104), None]);
        // On btrfs.
        assert_eq!(found("00:25:44", Access::Shared), [Some(105)]);
        assert_eq!(found("00:25:45", Access::Exclusive), []);
    }

    #[test]
    fn the_holder_is_found_while_other_locks_come_and_go() {
        let held = tempfile::tempfile().unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        let me = format!("process {} (", std::process::id());
        // So many locks that the list takes more than the page that the kernel gives at once.
        let ready = Barrier::new(4);
        let done = AtomicBool::new(false);
        let others = || {
            let files: Vec<_> = (0..60).map(|_| tempfile::tempfile().unwrap()).collect();
            ready.wait();
            while !done.load(Ordering::Relaxed) {
                for operation in [FlockOperation::LockExclusive, FlockOperation::Unlock] {
                    for file in &files {
                        flock(file, operation).unwrap();
                    }
                }
            }
        };
        thread::scope(|scope| {
            (0..3).for_each(|_| drop(scope.spawn(others)));
            ready.wait();
            let named: Vec<_> = (0..1000).map(|_| describe(&held, Access::Shared)).collect();
            done.store(true, Ordering::Relaxed);
            for holder in named {
                assert!(holder.starts_with(&me), "{holder}");
            }
        });
    }

    #[test]
    fn a_process_is_named_with_its_program_and_user() {
        let me = std::process::id();
        let name = name(me);
        assert!(name.starts_with(&format!("process {me} (")), "{name}");
        assert!(name.contains(", user "), "{name}");
    }
}
