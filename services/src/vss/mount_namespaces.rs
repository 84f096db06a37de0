//! What is mounted in other mount namespaces: those of containers, and of services
//! with an image of their own. Each is seen by one process that is in it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::mountinfo::{self, MountInfo};
use crate::processes;

/// How many processes are looked at, and how many namespaces.
const MOST_PROCESSES: usize = 1 << 15;
const MOST_NAMESPACES: usize = 512;

/// What one process has mounted, by paths in its root.
pub(super) struct Namespace {
    pub(super) process: u32,
    pub(super) mounted: Vec<MountInfo>,
}

/// Calls `each` with the mount namespaces beside this process' own, as far as it is let
/// to them. Who is not in that of the machine's first process is kept apart on purpose,
/// and is told of none. There may be a lot in each: an ordinary user can make some of
/// his own.
pub(super) fn namespaces(root: &Path, mut each: impl FnMut(Namespace)) {
    let of = |process: &str| fs::read_link(root.join("proc").join(process).join("ns/mnt"));
    let Ok(own) = of("self") else {
        return;
    };
    if of("1").ok().as_ref() != Some(&own) {
        return;
    }
    let mut seen = HashSet::from([own]);
    for process in in_order(root).unwrap_or_default() {
        if seen.len() > MOST_NAMESPACES {
            break;
        }
        let Ok(namespace) = of(&process.to_string()) else {
            continue;
        };
        // Where it cannot be read, another process may tell.
        if !seen.contains(&namespace) {
            if let Ok(mounted) = mounted(root, process) {
                seen.insert(namespace);
                each(Namespace { process, mounted });
            }
        }
    }
}

/// What a process has mounted.
pub(super) fn mounted(root: &Path, process: u32) -> io::Result<Vec<MountInfo>> {
    let list = fs::read(root.join(format!("proc/{process}/mountinfo")))?;
    Ok(mountinfo::parse(&list))
}

/// Where the root of a process is.
pub(super) fn root_of(process: u32) -> PathBuf {
    format!("/proc/{process}/root").into()
}

/// The processes there are, those first that were likely started first.
fn in_order(root: &Path) -> io::Result<Vec<u32>> {
    let numbers = processes::numbers(&root.join("proc"))?;
    let mut numbers: Vec<u32> = numbers.take(MOST_PROCESSES).collect();
    numbers.sort_unstable();
    Ok(numbers)
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
        namespaces(root, |it| found.push((it.process, it.mounted.len())));
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

        // An agent that is kept apart.
        fs::remove_dir_all(root.join("proc/self")).unwrap();
        process(root, "self", "6", Some(list));
        assert_eq!(found(root), []);
    }
}
