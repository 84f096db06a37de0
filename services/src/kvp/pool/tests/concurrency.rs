//! Other processes use the pool at the same time, each with one family of locks.

use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{FlockOperation, flock};

use super::*;
use crate::kvp::pool::crash;
use crate::kvp::pool::lock::Access;

const KEYS: usize = 25;

/// Rounds of the other processes, which are faster: they wait inside the kernel.
const ROUNDS: usize = 40;

/// Rounds of each of our threads.
const OUR_ROUNDS: usize = 4;

const FAMILY: &str = "KVP_POOL_TEST_FAMILY";
const PATH: &str = "KVP_POOL_TEST_PATH";

/// The value of a key in a round: long, to show whether it is torn.
fn value(key: &str, round: usize) -> String {
    format!("{key}, round {round};").repeat(60)
}

fn is_whole(value: &str) -> bool {
    let (first, _) = value.split_once(';').unwrap();
    value == format!("{first};").repeat(60)
}

/// Runs one of the tests that begin with `the_other_process` in another process.
fn other(name: &str, family: &str, place: &Place) -> Child {
    let name = format!("kvp::pool::tests::concurrency::{name}");
    Command::new(env::current_exe().unwrap())
        .args([&name, "--exact", "--nocapture"])
        .env(FAMILY, family)
        .env(PATH, place.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn lock(family: &str, file: &File, lock: bool) {
    if family.starts_with("flock") {
        let operation = match lock {
            true => FlockOperation::LockExclusive,
            false => FlockOperation::Unlock,
        };
        flock(file, operation).unwrap();
    } else {
        let kind = if lock { libc::F_WRLCK } else { libc::F_UNLCK };
        let range = libc::flock {
            l_type: kind.try_into().unwrap(),
            l_whence: libc::SEEK_SET.try_into().unwrap(),
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(file, FcntlArg::F_SETLKW(&range)).unwrap();
    }
}

/// Does something only in the process that another test starts.
#[test]
fn the_other_process_writes() {
    let Ok(family) = env::var(FAMILY) else {
        return;
    };
    let path = env::var(PATH).unwrap();
    for round in 0..ROUNDS {
        for number in 0..KEYS {
            let key = format!("{family} {number}");
            let mut file = File::options().read(true).write(true).open(&path).unwrap();
            lock(&family, &file, true);
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() % LEN, 0);
            let place = bytes.chunks(LEN).position(|record| {
                RawRecord::read_from_bytes(record).unwrap().key() == key.as_bytes()
            });
            // An appended record is there in every later round.
            assert_eq!(place.is_some(), round > 0, "{key}");
            let offset = place.map_or(bytes.len(), |place| place * LEN);
            let record = file_record(&key, round);
            // In two writes: no reader may see the first alone.
            let (first, second) = record.split_at(LEN / 3);
            file.write_all_at(first, offset as u64).unwrap();
            thread::yield_now();
            file.write_all_at(second, (offset + first.len()) as u64)
                .unwrap();
            lock(&family, &file, false);
        }
    }
}

fn file_record(key: &str, round: usize) -> Vec<u8> {
    file(&[(key, &value(key, round))])
}

/// Sets, gets and deletes as the service does; leaves the same keys as the others.
fn ours(name: &str, mut pools: Pools) {
    for round in 0..OUR_ROUNDS {
        for number in 0..KEYS {
            let key = format!("{name} {number}");
            let wanted = value(&key, round);
            pools.set(PoolId::Guest, &key, &wanted).unwrap();
            let found = pools.get(PoolId::Guest, &key).unwrap();
            assert_eq!(found, Some(wanted));
            let passing = format!("{name} passing {number}");
            if number % 8 == 0 {
                pools.set(PoolId::Guest, &passing, "x").unwrap();
            } else if number % 8 == 4 {
                let passing = format!("{name} passing {}", number - 4);
                assert!(pools.delete(PoolId::Guest, &passing).unwrap());
            }
            for record in pools.list(PoolId::Guest).unwrap() {
                let whole = record.value == "x" || is_whole(&record.value);
                assert!(whole, "{record:?} is torn");
            }
        }
    }
}

/// Two other processes with the same family of locks: those of different families do not
/// exclude each other.
fn nothing_is_lost_or_torn(family: &str) {
    let place = Place::new(&[]);
    let names = [1, 2].map(|number| format!("{family} {number}"));
    let mut others = names
        .each_ref()
        .map(|name| other("the_other_process_writes", name, &place));
    thread::scope(|scope| {
        for name in ["first", "second"] {
            let pools = place.pools();
            scope.spawn(move || ours(name, pools));
        }
    });
    for other in &mut others {
        assert!(other.wait().unwrap().success());
    }
    let mut left = place.list();
    left.retain(|(key, _)| !key.contains("passing"));
    left.sort();
    let mut wanted = Vec::new();
    for (name, rounds) in [
        (&*names[0], ROUNDS),
        (&*names[1], ROUNDS),
        ("first", OUR_ROUNDS),
        ("second", OUR_ROUNDS),
    ] {
        for number in 0..KEYS {
            let key = format!("{name} {number}");
            wanted.push((key.clone(), value(&key, rounds - 1)));
        }
    }
    wanted.sort();
    assert_eq!(left, wanted);
}

#[test]
fn nothing_is_lost_while_others_write_under_flock() {
    nothing_is_lost_or_torn("flock");
}

#[test]
fn nothing_is_lost_while_others_write_under_record_locks() {
    nothing_is_lost_or_torn("fcntl");
}

/// Does something only in the process that another test starts.
#[test]
fn the_other_process_holds_the_lock() {
    let Ok(family) = env::var(FAMILY) else {
        return;
    };
    let path = env::var(PATH).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    lock(&family, &file, true);
    println!("\nlocked");
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Another process that has the pool locked until its standard input is closed.
struct Holder {
    process: Child,
    said: BufReader<ChildStdout>,
}

impl Holder {
    fn new(family: &str, place: &Place) -> Self {
        let mut process = other("the_other_process_holds_the_lock", family, place);
        let mut said = BufReader::new(process.stdout.take().unwrap());
        assert!(said.by_ref().lines().any(|line| line.unwrap() == "locked"));
        Self { process, said }
    }

    fn end(mut self) {
        drop(self.process.stdin.take());
        self.said.read_to_end(&mut Vec::new()).unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

/// While another process holds the lock, writes fail and reads succeed. Both name the
/// process.
fn writes_wait_and_reads_do_not(family: &str) {
    let place = Place::new(&file(&[("a", "1"), ("b", "2")]));
    let mut pools = place.pools();
    assert_eq!(pools.get(PoolId::Guest, "a").unwrap().unwrap(), "1");
    let other = Holder::new(family, &place);
    let named = format!("process {} (", other.process.id());

    let before = place.bytes();
    let refused = pools.set(PoolId::Guest, "a", "new").unwrap_err();
    assert!(matches!(refused, PoolError::Locked { .. }), "{refused}");
    let words = refused.to_string();
    assert!(
        words.contains(".kvp_pool_1") && words.contains(&named),
        "{words}"
    );
    assert_eq!(place.bytes(), before);

    assert_eq!(pools.take_warnings(), [""; 0]);
    for _ in 0..3 {
        assert_eq!(pools.get(PoolId::Guest, "b").unwrap().unwrap(), "2");
        assert_eq!(list(&mut pools), pairs(&[("a", "1"), ("b", "2")]));
        assert_eq!(pools.at(PoolId::Guest, 1).unwrap().unwrap().key, "b");
    }
    // It is reported once.
    let warnings = pools.take_warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(&named), "{warnings:?}");

    other.end();
    pools.set(PoolId::Guest, "a", "new").unwrap();
    assert_eq!(pools.get(PoolId::Guest, "a").unwrap().unwrap(), "new");
    assert_eq!(pools.take_warnings(), [""; 0]);
}

#[test]
fn a_flock_of_another_process_stops_writes_only() {
    writes_wait_and_reads_do_not("flock");
}

#[test]
fn a_record_lock_of_another_process_stops_writes_only() {
    writes_wait_and_reads_do_not("fcntl");
}

#[test]
fn a_read_without_the_lock_is_repeated_after_a_change() {
    let place = Place::new(&file(&[("a", "1")]));
    let held = File::options().write(true).open(place.path()).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    let mut pool = PoolFile::new(place.directory.path(), ".kvp_pool_1");
    let reads = std::cell::Cell::new(0);
    let read = pool.with_lock(Access::Shared, None, |contents| {
        reads.set(reads.get() + 1);
        let read = contents.list();
        if reads.get() == 1 {
            held.write_all_at(&file(&[("a", "2")]), 0).unwrap();
        }
        read
    });
    assert_eq!(read.unwrap().unwrap()[0].value, "2");
    assert_eq!(reads.get(), 2);
}

/// The other process holds the lock and is in the middle of writing.
#[test]
fn a_read_without_the_lock_returns_whole_records() {
    let place = Place::new(&file(&[("a", "1")]));
    let mut pools = place.pools();
    let other = Holder::new("flock", &place);
    assert_eq!(pools.get(PoolId::Guest, "a").unwrap().unwrap(), "1");

    // An incomplete record at the end is left out.
    let whole = file(&[("a", "1"), ("b", "2")]);
    fs::write(place.path(), &whole[..LEN + KEY_LEN + 1]).unwrap();
    assert_eq!(list(&mut pools), pairs(&[("a", "1")]));
    assert_eq!(pools.get(PoolId::Guest, "b").unwrap(), None);
    assert_eq!(pools.at(PoolId::Guest, 1).unwrap(), None);
    fs::write(place.path(), &whole).unwrap();
    assert_eq!(pools.get(PoolId::Guest, "b").unwrap().unwrap(), "2");

    // Nothing is read while records are being moved.
    fs::write(place.journal(), "").unwrap();
    let error = pools.get(PoolId::Guest, "b").unwrap_err();
    assert!(matches!(error, PoolError::Locked { .. }), "{error}");
    fs::remove_file(place.journal()).unwrap();

    // The value is written in two halves, over and over.
    let stop = AtomicBool::new(false);
    let begun = Barrier::new(2);
    let writer = File::options().write(true).open(place.path()).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                let record = file_record("b", round);
                let (first, second) = record.split_at(LEN / 3);
                writer.write_all_at(first, LEN as u64).unwrap();
                thread::yield_now();
                let at = (LEN + first.len()) as u64;
                writer.write_all_at(second, at).unwrap();
                if round == 0 {
                    begun.wait();
                }
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        begun.wait();
        let read = pools.get(PoolId::Guest, "b");
        stop.store(true, Ordering::Relaxed);
        assert!(matches!(read, Err(PoolError::Locked { .. })), "{read:?}");
    });
    let value = pools.get(PoolId::Guest, "b").unwrap().unwrap();
    assert!(is_whole(&value), "{value}");
    other.end();
}

/// A killed program left a journal, and a local user holds the lock.
#[test]
fn a_pool_with_the_journal_of_a_set_is_read_without_the_lock() {
    // The second record lies on two pages; it is replaced or appended.
    let after = pairs(&[("a", "1"), ("b", "new")]);
    for before in [&[("a", "1"), ("b", "2")][..], &[("a", "1")]] {
        // Killed right after the journal was renamed.
        let place = (1..)
            .map(|steps| {
                let place = Place::new(&file(before));
                crash::stop_after(steps, 0);
                place.pools().set(PoolId::Guest, "b", "new").unwrap_err();
                crash::run();
                place
            })
            .find(|place| place.journal().exists())
            .unwrap();
        let mut pools = place.pools();
        let (left, journal) = (place.bytes(), fs::read(place.journal()).unwrap());
        let other = Holder::new("flock", &place);
        for _ in 0..2 {
            assert_eq!(list(&mut pools), after);
            assert_eq!(pools.get(PoolId::Guest, "b").unwrap().unwrap(), "new");
            assert_eq!(pools.get(PoolId::Guest, "a").unwrap().unwrap(), "1");
        }
        assert_eq!(pools.at(PoolId::Guest, 1).unwrap().unwrap().value, "new");
        assert_eq!(place.bytes(), left);
        assert_eq!(fs::read(place.journal()).unwrap(), journal);

        // A damaged one changes nothing.
        let mut damaged = journal.clone();
        damaged[100] ^= 1;
        fs::write(place.journal(), damaged).unwrap();
        let read = pools.get(PoolId::Guest, "b");
        assert!(matches!(read, Err(PoolError::Locked { .. })), "{read:?}");

        fs::write(place.journal(), journal).unwrap();
        other.end();
        assert_eq!(list(&mut pools), after);
        assert!(!place.journal().exists());
        assert_ne!(place.bytes(), left);
    }
}

#[test]
fn readers_share_the_lock_and_every_lock_is_released() {
    let place = Place::new(&file(&[("a", "1")]));
    let mut pools = place.pools();
    let reader = File::open(place.path()).unwrap();
    flock(&reader, FlockOperation::LockShared).unwrap();
    assert_eq!(pools.get(PoolId::Guest, "a").unwrap().unwrap(), "1");
    flock(&reader, FlockOperation::Unlock).unwrap();
    pools.set(PoolId::Guest, "a", "2").unwrap();
    // The pool keeps the file open after reading and writing, but not locked.
    flock(&reader, FlockOperation::NonBlockingLockExclusive).unwrap();
    let range = libc::flock {
        l_type: libc::F_RDLCK.try_into().unwrap(),
        l_whence: libc::SEEK_SET.try_into().unwrap(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&reader, FcntlArg::F_OFD_SETLK(&range)).unwrap();
}
