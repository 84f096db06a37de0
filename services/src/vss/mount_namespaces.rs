//! Other mount namespaces: those of containers, and of services with an image of their
//! own. Each is seen through one process that is in it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::mountinfo::{self, MountInfo};
use crate::processes;

/// How many processes are looked at.
const MAX_PROCESSES: usize = 1 << 15;

/// How many mount namespaces are looked at.
const MAX_NAMESPACES: usize = 512;

/// A mount namespace.
pub(super) struct Namespace {
    /// A process in it.
    pub(super) process: u32,
    /// Its mounts, by paths below the root of that process.
    pub(super) mounted: Vec<MountInfo>,
}

/// Calls `action` with each mount namespace but this process' own, as far as the kernel
/// allows. Returns whether there are more than [`MAX_NAMESPACES`]: an ordinary user can
/// make a lot of them.
///
/// An agent outside of the first process' mount namespace is isolated on purpose, and sees
/// no other one.
pub(super) fn for_each(root: &Path, mut action: impl FnMut(Namespace)) -> bool {
    let of = |process: &str| fs::read_link(root.join("proc").join(process).join("ns/mnt"));
    let Ok(own) = of("self") else {
        return false;
    };
    if of("1").ok().as_ref() != Some(&own) {
        return false;
    }
    let mut seen = HashSet::from([own]);
    let processes = processes::numbers(&root.join("proc")).into_iter().flatten();
    let mut processes: Vec<u32> = processes.take(MAX_PROCESSES).collect();
    // Likely the order in which they were started.
    processes.sort_unstable();
    for process in processes {
        let Ok(namespace) = of(&process.to_string()) else {
            continue;
        };
        if seen.contains(&namespace) {
            continue;
        }
        if seen.len() > MAX_NAMESPACES {
            return true;
        }
        // If this process' list cannot be read, that of another one in there may.
        if let Ok(mounted) = mounted(root, process) {
            seen.insert(namespace);
            action(Namespace { process, mounted });
        }
    }
    false
}

/// Reads the mounts of a process.
pub(super) fn mounted(root: &Path, process: u32) -> io::Result<Vec<MountInfo>> {
    let list = fs::read(root.join(format!("proc/{process}/mountinfo")))?;
    Ok(mountinfo::parse(&list))
}

/// Returns the path of the root of a process.
pub(super) fn root_of(process: u32) -> PathBuf {
    format!("/proc/{process}/root").into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn process(root: &Path, name: &str, namespace: &str, list: Option<&str>) {
        let directory = root.join("proc").join(name);
        fs::create_dir_all(directory.join("ns")).unwrap();
        symlink(format!("mnt:[{namespace}]"), directory.join("ns/mnt")).unwrap();
        if let Some(list) = list {
            fs::write(directory.join("mountinfo"), list).unwrap();
        }
    }

    fn found(root: &Path) -> Vec<(u32, usize)> {
        let mut found = Vec::new();
        assert!(!for_each(root, |it| found.push((it.process, it.mounted.len()))));
        found
    }

    #[test]
    fn each_namespace_is_seen_by_the_first_process_that_shows_it() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(found(root), []);
        let list = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n";
        let twice = list.repeat(2);
        for (name, namespace, list) in [
            ("self", "4", Some(list)),
            ("1", "4", Some(list)),
            ("20", "5", None),
            ("300", "5", Some(&twice)),
            ("1000", "5", Some(list)),
            ("7", "6", Some(list)),
            ("8", "4", Some(list)),
            ("x9", "9", Some(list)),
        ] {
            process(root, name, namespace, list);
        }
        fs::create_dir(root.join("proc/77")).unwrap();
        assert_eq!(found(root), [(7, 1), (300, 2)]);

        // An agent that is isolated.
        fs::remove_dir_all(root.join("proc/self")).unwrap();
        process(root, "self", "6", Some(list));
        assert_eq!(found(root), []);
    }

    #[test]
    fn more_namespaces_than_are_looked_at_are_reported() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for name in ["self", "1"] {
            process(root, name, "own", Some(""));
        }
        for number in 0..MAX_NAMESPACES {
            let number = (number + 10).to_string();
            process(root, &number, &number, Some(""));
        }
        let mut count = 0;
        assert!(!for_each(root, |_| count += 1));
        assert_eq!(count, MAX_NAMESPACES);
        process(root, "2", "2", Some(""));
        assert!(for_each(root, |_| ()));
    }
}
