//! What is in memory is not what is in the file any more.

use std::os::unix::fs::chown;
use std::time::Instant;

use super::*;
use crate::kvp::pool::crash;
use crate::timeouts::KVP_REPLY;

/// Waits until a request is answered from memory.
pub(super) fn remember(memory: &Memory, pools: &mut Pools) {
    let begun = Instant::now();
    while memory.value("k").is_none() {
        assert!(begun.elapsed() < KVP_REPLY, "it is never in memory");
        pools.get(PoolId::Guest, "k").unwrap();
    }
}

/// What another program does to a pool with a record `k`, and the value that it has then.
type Change = (&'static str, fn(&Place), Option<&'static str>);

const CHANGES: [Change; 15] = [
    (
        "write in place",
        |place| write_to(&place.path()),
        Some("new"),
    ),
    (
        "truncate",
        |place| drop(File::create(place.path()).unwrap()),
        None,
    ),
    (
        "append",
        |place| {
            let mut bytes = place.bytes();
            bytes.extend(file(&[("more", "")]));
            fs::write(place.path(), bytes).unwrap();
        },
        Some("old"),
    ),
    (
        "delete",
        |place| fs::remove_file(place.path()).unwrap(),
        None,
    ),
    (
        "delete and create",
        |place| {
            fs::remove_file(place.path()).unwrap();
            fs::write(place.path(), file(&[("k", "new")])).unwrap();
        },
        Some("new"),
    ),
    (
        "rename over",
        |place| {
            let other = place.directory.path().join("other");
            fs::write(&other, file(&[("k", "new")])).unwrap();
            fs::rename(other, place.path()).unwrap();
        },
        Some("new"),
    ),
    (
        "rename away",
        |place| fs::rename(place.path(), place.directory.path().join("away")).unwrap(),
        None,
    ),
    (
        "exchange",
        |place| {
            let other = place.directory.path().join("other");
            fs::write(&other, file(&[("k", "new")])).unwrap();
            let (flags, cwd) = (rustix::fs::RenameFlags::EXCHANGE, rustix::fs::CWD);
            rustix::fs::renameat_with(cwd, other, cwd, place.path(), flags).unwrap();
        },
        Some("new"),
    ),
    (
        "write to a hard link elsewhere",
        |place| {
            let link = place.directory.path().parent().unwrap().join("link");
            fs::hard_link(place.path(), &link).unwrap();
            write_to(&link);
        },
        Some("new"),
    ),
    (
        "write to a file opened before",
        |place| {
            let other = place.directory.path().join("other");
            fs::write(&other, file(&[("k", "old")])).unwrap();
            let opened = File::options().write(true).open(&other).unwrap();
            fs::rename(other, place.path()).unwrap();
            opened.write_all_at(&file(&[("k", "new")]), 0).unwrap();
        },
        Some("new"),
    ),
    (
        "leave a journal",
        |place| {
            // A second record lies on two pages. Killed before it writes to the pool.
            crash::stop_after(3, 0);
            place
                .pools()
                .set(PoolId::Guest, "journaled", "new")
                .unwrap_err();
            crash::run();
            assert!(place.journal().exists());
        },
        Some("old"),
    ),
    (
        "chmod",
        |place| fs::set_permissions(place.path(), fs::Permissions::from_mode(0o600)).unwrap(),
        Some("old"),
    ),
    (
        "chown",
        |place| {
            let owner = fs::metadata(place.path()).unwrap().uid();
            chown(place.path(), Some(owner), None).unwrap();
        },
        Some("old"),
    ),
    (
        "replace the directory",
        |place| {
            let directory = place.directory.path();
            fs::rename(directory, directory.with_extension("away")).unwrap();
            fs::create_dir(directory).unwrap();
            fs::write(place.path(), file(&[("k", "new")])).unwrap();
        },
        Some("new"),
    ),
    (
        "replace the directory with a link",
        |place| {
            let directory = place.directory.path();
            let other = directory.with_extension("other");
            fs::create_dir(&other).unwrap();
            fs::write(other.join(".kvp_pool_1"), file(&[("k", "new")])).unwrap();
            fs::rename(directory, directory.with_extension("away")).unwrap();
            symlink(other, directory).unwrap();
        },
        Some("new"),
    ),
];

fn write_to(path: &Path) {
    let opened = File::options().write(true).open(path).unwrap();
    opened.write_all_at(&file(&[("k", "new")]), 0).unwrap();
}

/// A pool with the record `k`, whose parent directory is this one.
fn place_in(parent: &TempDir) -> Place {
    let directory = tempfile::tempdir_in(parent).unwrap();
    let place = Place { directory };
    fs::write(place.path(), file(&[("k", "old")])).unwrap();
    place
}

#[test]
fn every_change_of_another_program_shows_at_once() {
    for parent in testing::directories() {
        for (name, change, wanted) in CHANGES {
            let at = || format!("{name} in {}", parent.path().display());
            let place = place_in(&parent);
            let all = PoolId::ALL.map(|_| Memory::default());
            let memory = &all[1];
            let mut pools = place.pools().with_memory(&all);
            remember(memory, &mut pools);
            assert_eq!(memory.value("k"), Some(Some("old".to_owned())));
            change(&place);
            assert_eq!(memory.value("k"), None, "{}", at());
            let value = pools.get(PoolId::Guest, "k").unwrap();
            assert_eq!(value.as_deref(), wanted, "{}", at());
            if place.path().exists() {
                remember(memory, &mut pools);
                assert_eq!(memory.value("k").unwrap().as_deref(), wanted, "{}", at());
            }
            let _ = fs::remove_file(parent.path().join("link"));
        }
    }
}

/// As with a mount on the directory or above it.
#[test]
fn a_path_that_leads_elsewhere_shows_when_the_records_are_old() {
    for parent in testing::directories() {
        let (here, there) = (parent.path().join("here"), parent.path().join("there"));
        for (directory, value) in [(&here, "old"), (&there, "new")] {
            fs::create_dir(directory).unwrap();
            let content = file(&[("k", value)]);
            fs::write(directory.join(".kvp_pool_1"), content).unwrap();
        }
        let link = parent.path().join("link");
        symlink(here, &link).unwrap();
        let all = PoolId::ALL.map(|_| Memory::default());
        let mut pools = Pools::new(&link).with_memory(&all);
        remember(&all[1], &mut pools);
        fs::remove_file(&link).unwrap();
        symlink(there, &link).unwrap();
        all[1].age();
        assert_eq!(all[1].value("k"), None);
        let value = pools.get(PoolId::Guest, "k").unwrap();
        assert_eq!(value.as_deref(), Some("new"));
    }
}

/// A look at its directory would not show that the file behind the link was replaced.
#[test]
fn a_pool_behind_a_link_is_looked_up_for_each_request() {
    for parent in testing::directories() {
        let place = place_in(&parent);
        let other = parent.path().join("other");
        fs::rename(place.path(), &other).unwrap();
        symlink(&other, place.path()).unwrap();
        let all = PoolId::ALL.map(|_| Memory::default());
        let mut pools = place.pools().with_memory(&all);
        while !all[1].is_of(pools.stamp(PoolId::Guest).unwrap()) {
            pools.get(PoolId::Guest, "k").unwrap();
        }
        pools.get(PoolId::Guest, "k").unwrap();
        assert_eq!(all[1].value("k"), None);
    }
}
