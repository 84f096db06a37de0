//! Copies while an ordinary user changes all that he can where they go.
//!
//! `SOAK_SECONDS` says how long, `CHAOS_SEED` with which choices; when each of them
//! is made is up to the machine.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write as _};
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use hyperv_needs::random::{self, Random};
use hyperv_needs::skip;
use hyperv_vmbus::ic::Status;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, mknodat, renameat_with};

use crate::guest::{CREATE_PATH, Encoding, Guest, OVERWRITE, is_root, names};

const BOB: u32 = 4_000_001;

/// How long it takes unless `SOAK_SECONDS` says otherwise.
const SECONDS: u64 = 10;

/// What bob must not come to read.
const SECRET: &[u8] = b"a pushed secret";
/// What is copied to bob's own directory.
const FOR_BOB: &[u8] = b"for bob";

/// Names that everybody uses.
const NAMES: [&str; 5] = ["a", "b", "c", "sub", "deep"];

/// Where bob may write: as `/tmp`, without the sticky bit, and his own.
const PLACES: [&str; 3] = ["in/tmp", "in/all", "in/home"];

fn seed() -> u64 {
    let seed = random::seed().unwrap();
    // The harness captures what the macros print.
    let line = format!("racing: CHAOS_SEED={seed}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    seed
}

/// What bob is not to change, by path: kind and mode, owner, inode and content.
type Kept = BTreeMap<PathBuf, (u32, u32, u64, Vec<u8>)>;

fn look(path: &Path, kept: &mut Kept) {
    let found = fs::symlink_metadata(path).unwrap();
    let mut content = Vec::new();
    if found.is_file() {
        content = fs::read(path).unwrap();
    }
    let facts = (found.mode(), found.uid(), found.ino(), content);
    kept.insert(path.to_owned(), facts);
    if found.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            look(&entry.unwrap().path(), kept);
        }
    }
}

/// All outside the allowed directory, and what is root's alone in it.
fn kept(guest: &Guest) -> Kept {
    let mut kept = Kept::new();
    for name in ["out", "in/kept"] {
        look(&guest.path(name), &mut kept);
    }
    kept
}

struct Race {
    stop: AtomicBool,
    /// What bob did that the kernel let him do.
    deeds: AtomicU64,
    /// Bob has read what he must not.
    leaked: AtomicBool,
}

/// Ends bob also where the test panics: its end waits for him.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A place where bob may do something, at most two directories deep.
fn somewhere(base: &Path, choices: &mut Random) -> PathBuf {
    let mut path = base.join(choices.one(&PLACES));
    for name in ["sub", "deep"] {
        if choices.one_in(3) {
            path.push(name);
        }
    }
    path.push(choices.one(&NAMES));
    path
}

/// One thing that bob does; whether the kernel let him.
fn deed(base: &Path, choices: &mut Random, race: &Race) -> bool {
    let path = somewhere(base, choices);
    match choices.below(10) {
        0 | 1 => {
            let text = match choices.below(9) {
                0 => base.join("out/secret"),
                1 => base.join("out"),
                2 => base.join("in/kept/secret"),
                3 => "../kept".into(),
                4 => "../../out/secret".into(),
                5 => "../..".into(),
                6 => base.join("in/home"),
                7 => "/proc/self/cwd".into(),
                _ => (*choices.one(&NAMES)).into(),
            };
            symlink(text, &path).is_ok()
        }
        2 => {
            let mode = *choices.one(&[0o666, 0o4777, 0o600]);
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let mut options = OpenOptions::new();
            let options = options.write(true).create_new(true).mode(0o600);
            let made = options.custom_flags(flags.bits() as i32).open(&path);
            made.is_ok_and(|file| {
                file.set_permissions(fs::Permissions::from_mode(mode))
                    .is_ok()
            })
        }
        3 => fs::DirBuilder::new().mode(0o777).create(&path).is_ok(),
        4 => mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).is_ok(),
        5 => fs::remove_file(&path)
            .or_else(|_| fs::remove_dir_all(&path))
            .is_ok(),
        6 => fs::rename(&path, somewhere(base, choices)).is_ok(),
        7 => {
            let other = somewhere(base, choices);
            renameat_with(CWD, &path, CWD, &other, RenameFlags::EXCHANGE).is_ok()
        }
        8 => fs::hard_link(&path, somewhere(base, choices)).is_ok(),
        _ => {
            let flags = OFlags::NONBLOCK.bits() as i32;
            let opened = OpenOptions::new()
                .read(true)
                .custom_flags(flags)
                .open(&path);
            let mut start = Vec::new();
            let read = |file: File| file.take(100).read_to_end(&mut start).is_ok();
            if opened.is_ok_and(read) && start.starts_with(SECRET) {
                race.leaked.store(true, Ordering::Relaxed);
            }
            false
        }
    }
}

fn bob(base: &Path, mut choices: Random, race: &Race) {
    // Of this thread only; what root may do with files goes with it.
    setfsgid(Gid::from_raw(BOB));
    setfsuid(Uid::from_raw(BOB));
    while !race.stop.load(Ordering::Relaxed) {
        if deed(base, &mut choices, race) {
            race.deeds.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Makes one copy, which may fail or be cancelled; returns whether it was completed.
fn copy(guest: &mut Guest, choices: &mut Random) -> bool {
    let path = somewhere(guest.directory.path(), choices);
    let home = path.starts_with(guest.path("in/home"));
    let content = if home { FOR_BOB } else { SECRET };
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (directory, name) = (text(path.parent().unwrap()), path.file_name().unwrap());
    let flags = *choices.one(&[OVERWRITE, OVERWRITE | CREATE_PATH, CREATE_PATH, 0]);
    let size = content.len() as u64;
    if guest.start_in(&directory, &text(Path::new(name)), flags, size) != Status::OK
        || guest.write(0, content) != Status::OK
    {
        return false;
    }
    match choices.below(20) {
        0 => {
            guest.cancel();
            false
        }
        1 => {
            guest.reopen();
            false
        }
        _ => {
            let completed = guest.complete() == Status::OK;
            assert_roots(&path);
            completed
        }
    }
}

/// A file with the secret is root's alone: bob, who cannot read it, has no other.
#[track_caller]
fn assert_roots(path: &Path) {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let Ok(mut file) = opened else { return };
    let mut content = Vec::new();
    if file.read_to_end(&mut content).is_ok() && content.starts_with(SECRET) {
        let found = file.metadata().unwrap();
        let facts = (found.uid(), found.mode() & 0o7777);
        assert_eq!(facts, (0, 0o600), "{}", path.display());
        assert_eq!(content, SECRET, "{} is not whole", path.display());
    }
}

#[test]
fn a_user_who_changes_all_that_he_can_meanwhile() {
    if !is_root() {
        return skip("acting as another user needs root");
    }
    let mut guest = Guest::with(Encoding::Utf16, |config, base| {
        config.directories = vec![base.join("in")];
        config.mode = 0o600;
        config.sync = false;
    });
    fs::set_permissions(guest.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, mode) in [
        ("in", 0o755),
        ("in/tmp", 0o1777),
        ("in/all", 0o777),
        ("in/home", 0o755),
        ("in/kept", 0o700),
        ("out", 0o755),
        ("out/empty", 0o755),
    ] {
        fs::create_dir(guest.path(name)).unwrap();
        fs::set_permissions(guest.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    chown(guest.path("in/home"), Some(BOB), Some(BOB)).unwrap();
    for name in ["in/kept/secret", "out/secret", "out/a"] {
        fs::write(guest.path(name), "root's").unwrap();
        fs::set_permissions(guest.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    let seed = seed();
    let until = Instant::now() + random::soak_time(SECONDS).unwrap();
    let before = kept(&guest);
    let race = Race {
        stop: AtomicBool::new(false),
        deeds: AtomicU64::new(0),
        leaked: AtomicBool::new(false),
    };
    let base = guest.directory.path().to_owned();
    let (mut tried, mut completed) = (0u64, 0u64);
    thread::scope(|scope| {
        let _stop = Stop(&race.stop);
        for which in 1..=2 {
            let (base, race) = (&base, &race);
            scope.spawn(move || bob(base, Random::new(seed ^ which), race));
        }
        let mut choices = Random::new(seed);
        while Instant::now() < until {
            tried += 1;
            if copy(&mut guest, &mut choices) {
                completed += 1;
            }
            if tried % 64 == 0 {
                guest.log.clear();
                assert_eq!(kept(&guest), before, "after {tried} copies");
                assert!(!race.leaked.load(Ordering::Relaxed), "after {tried} copies");
            }
        }
    });
    guest.cancel();
    assert_eq!(kept(&guest), before);
    assert!(!race.leaked.load(Ordering::Relaxed));
    let deeds = race.deeds.load(Ordering::Relaxed);
    println!("{tried} copies, {completed} of them completed, and {deeds} deeds");
    assert!(
        completed > 0 && deeds > 0,
        "{completed} copies, {deeds} deeds"
    );

    // Everything that is left of the copies is whole, and nothing is left of others.
    let mut all = Kept::new();
    look(&guest.path("in"), &mut all);
    for path in all.keys() {
        assert!(
            !path.to_string_lossy().contains(".hyperv-agent-"),
            "{path:?}"
        );
        assert_roots(path);
    }
    assert!(names(&guest.config.environment.state_dir).is_empty());
}
