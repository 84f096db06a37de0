//! Stops the writer before each of its steps, and within each write.

use std::io::Write;

use super::*;
use crate::kvp::pool::crash::{self, Step};

enum Change {
    Set(&'static str, &'static str),
    Delete(&'static str),
}

impl Change {
    fn make(&self, pools: &mut Pools) -> Result<(), PoolError> {
        match self {
            Self::Set(key, value) => pools.set(PoolId::Guest, key, value),
            Self::Delete(key) => pools.delete(PoolId::Guest, key).map(drop),
        }
    }

    fn key(&self) -> &'static str {
        match self {
            Self::Set(key, _) | Self::Delete(key) => key,
        }
    }
}

/// Files to change, all with the key `k` at least once.
fn shapes() -> Vec<Vec<u8>> {
    let k = || dirty("k", "old");
    let a = || dirty("a", "first");
    let b = || file(&[("b", "second")]);
    let mut long = vec![k()];
    for number in 0..60 {
        long.push(dirty(
            &format!("key {number}"),
            &format!("{number}").repeat(500),
        ));
    }
    let whole = [
        vec![k()],
        vec![k(), a(), b()],
        vec![a(), k(), b(), a()],
        vec![a(), b(), k()],
        vec![k(), a(), k(), k(), b(), k()],
        vec![k(), k(), k(), a()],
        vec![k(), a(), b(), k()],
        long,
    ];
    let whole = whole.map(|records| records.concat());
    let torn = [
        [k(), a(), b()[..KEY_LEN + 10].to_vec()].concat(),
        [k(), a(), k()[..1000].to_vec()].concat(),
        [a(), k()[..2].to_vec()].concat(),
    ];
    whole.into_iter().chain(torn).collect()
}

/// How many bytes of a write are written: none, half of them, and up to each page.
fn cuts((offset, len): Step) -> Vec<usize> {
    let start = usize::try_from(offset).unwrap();
    let pages = (start / 4096 + 1..).map(|page| page * 4096 - start);
    let mut cuts = vec![0];
    cuts.extend(pages.take_while(|&cut| cut < len));
    if len > 1 {
        cuts.push(len / 2);
    }
    cuts
}

/// Returns the steps of a change, and the file after them.
fn whole(before: &[u8], change: &Change) -> (Vec<Step>, Vec<u8>) {
    let place = Place::new(before);
    crash::run();
    change.make(&mut place.pools()).unwrap();
    (crash::run(), place.bytes())
}

/// Returns the file after a crash, before recovery.
fn crashed(before: &[u8], change: &Change, steps: usize, cut: usize) -> Place {
    let place = Place::new(before);
    crash::stop_after(steps, cut);
    let stopped = change.make(&mut place.pools());
    crash::run();
    assert!(stopped.is_err());
    place
}

fn recover(place: &Place) -> Vec<u8> {
    place.list();
    assert!(!place.journal().exists());
    place.bytes()
}

/// Returns the bytes of each record, an incomplete one padded.
fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
    let pad = |record: &[u8]| {
        let mut record = record.to_vec();
        record.resize(LEN, 0);
        record
    };
    bytes.chunks(LEN).map(pad).collect()
}

#[track_caller]
fn assert_others_are_readable(place: &Place, before: &[u8], change: &Change) {
    let mut pools = place.pools();
    for record in records(before) {
        let record = RawRecord::read_from_bytes(&record).unwrap().decode();
        if record.key != change.key() {
            let found = pools.get(PoolId::Guest, &record.key).unwrap();
            assert_eq!(found, Some(record.value));
        }
    }
}

#[test]
fn a_stopped_set_leaves_every_other_record() {
    for before in shapes() {
        for change in [Change::Set("k", "new"), Change::Set("new", "value")] {
            let (steps, after) = whole(&before, &change);
            let (old, new) = (records(&before), records(&after));
            for (taken, step) in steps.iter().enumerate() {
                for cut in cuts(*step) {
                    let place = crashed(&before, &change, taken, cut);
                    let left = records(&recover(&place));
                    assert!((old.len()..=new.len()).contains(&left.len()));
                    for (number, record) in left.iter().enumerate() {
                        let written = old.get(number) != new.get(number);
                        assert!(written || Some(record) == old.get(number));
                    }
                    assert_others_are_readable(&place, &before, &change);
                }
            }
        }
    }
}

/// The kernel ends the write of a killed program between two pages only.
#[test]
fn a_killed_set_is_done_or_not() {
    for before in shapes() {
        for change in [Change::Set("k", "new"), Change::Set("new", "value")] {
            let (steps, after) = whole(&before, &change);
            let allowed = [records(&before), records(&after)];
            for (taken, step) in steps.iter().enumerate() {
                let halfway = step.1 / 2;
                for cut in cuts(*step).into_iter().filter(|cut| *cut != halfway) {
                    let place = crashed(&before, &change, taken, cut);
                    let left = records(&recover(&place));
                    assert!(allowed.contains(&left), "step {taken}, {cut} bytes");

                    // Another program appends before recovery.
                    let place = crashed(&before, &change, taken, cut);
                    if place.bytes().len() % LEN != 0 {
                        assert!(before.len() % LEN != 0, "step {taken}, {cut} bytes");
                        continue;
                    }
                    let other = dirty("other", "x");
                    let mut file = File::options().append(true).open(place.path()).unwrap();
                    file.write_all(&other).unwrap();
                    let left = records(&recover(&place));
                    let allowed = allowed.clone().map(|mut records| {
                        records.push(other.clone());
                        records
                    });
                    assert!(
                        allowed.contains(&left),
                        "step {taken}, {cut} bytes, appended"
                    );
                }
            }
        }
    }
}

#[test]
fn a_damaged_journal_of_a_set_is_removed_and_changes_nothing() {
    // The last record lies on two pages.
    let before = [dirty("a", "1"), dirty("k", "old")].concat();
    let change = Change::Set("k", "new");
    let (steps, after) = whole(&before, &change);
    let written = (1..steps.len())
        .find(|&taken| crashed(&before, &change, taken, 0).journal().exists())
        .unwrap();
    let place = crashed(&before, &change, written, 0);
    let journal = fs::read(place.journal()).unwrap();
    for damage in (0..48).filter(|damage| !(12..16).contains(damage)) {
        let mut bytes = journal.clone();
        bytes[damage] ^= 1;
        fs::write(place.journal(), bytes).unwrap();
        assert_eq!(recover(&place), before, "byte {damage}");
    }
    // Another record has taken the place.
    let moved = [dirty("a", "1"), dirty("b", "2"), dirty("k", "old")].concat();
    fs::write(place.path(), &moved).unwrap();
    fs::write(place.journal(), &journal).unwrap();
    assert_eq!(recover(&place), moved);
    fs::write(place.path(), &before).unwrap();
    fs::write(place.journal(), &journal).unwrap();
    assert_eq!(recover(&place), after);
}

#[test]
fn a_stopped_set_leaves_an_incomplete_record_as_it_was() {
    let before = [dirty("a", "1"), b"torn".to_vec()].concat();
    let change = Change::Set("new", "value");
    let (steps, _) = whole(&before, &change);
    for (taken, step) in steps.iter().enumerate() {
        for cut in cuts(*step) {
            let place = crashed(&before, &change, taken, cut);
            assert!(recover(&place).starts_with(&before));
            assert_others_are_readable(&place, &before, &change);
        }
    }
}

#[test]
fn a_stopped_delete_is_done_or_not() {
    for before in shapes() {
        let change = Change::Delete("k");
        let (steps, after) = whole(&before, &change);
        let mut done = 0;
        for (taken, step) in steps.iter().enumerate() {
            for cut in cuts(*step) {
                let place = crashed(&before, &change, taken, cut);
                let left = recover(&place);
                assert!(left == before || left == after, "step {taken}, {cut} bytes");
                done += usize::from(left == after);
                assert_others_are_readable(&place, &before, &change);
            }
        }
        // With a journal, the delete is completed.
        assert_eq!(done > 0, steps.len() > 1);
    }
}

#[test]
fn a_recovery_may_be_stopped_as_well() {
    let before = [dirty("k", "old"), dirty("a", "1"), dirty("b", "2")].concat();
    let change = Change::Delete("k");
    let (steps, after) = whole(&before, &change);
    for (taken, step) in steps.iter().enumerate() {
        for cut in cuts(*step) {
            for again in 0.. {
                let place = crashed(&before, &change, taken, cut);
                crash::stop_after(again, LEN / 2);
                let stopped = place.pools().list(PoolId::Guest).is_err();
                crash::run();
                let left = recover(&place);
                assert!(left == before || left == after, "{taken} {cut} {again}");
                if !stopped {
                    break;
                }
            }
        }
    }
}

#[test]
fn records_appended_to_an_interrupted_delete_are_kept() {
    let change = Change::Delete("k");
    for before in shapes().into_iter().filter(|shape| shape.len() < 10 * LEN) {
        // An appended record would not be aligned.
        if before.len() % LEN != 0 {
            continue;
        }
        let (steps, after) = whole(&before, &change);
        for appended in [1, 2, 7] {
            let others: Vec<u8> = (0..appended)
                .flat_map(|number| dirty(&format!("other {number}"), "x"))
                .collect();
            for taken in 0..steps.len() {
                for again in 0.. {
                    let place = crashed(&before, &change, taken, 0);
                    let mut file = File::options().append(true).open(place.path()).unwrap();
                    file.write_all(&others).unwrap();
                    crash::stop_after(again, LEN / 2);
                    let stopped = place.pools().list(PoolId::Guest).is_err();
                    crash::run();
                    let left = recover(&place);
                    let wanted = |kept: &[u8]| left == [kept, &others].concat();
                    assert!(wanted(&before) || wanted(&after), "{taken} {again}");
                    if !stopped {
                        break;
                    }
                }
            }
        }
    }
}

/// Returns a pool with the journal that a crash left, and its content after recovery.
fn with_journal() -> (Place, Vec<u8>) {
    let before = [dirty("k", "old"), dirty("a", "1"), dirty("b", "2")].concat();
    let change = Change::Delete("k");
    let (steps, after) = whole(&before, &change);
    let renamed = (1..steps.len())
        .find(|&taken| crashed(&before, &change, taken, 0).journal().exists())
        .unwrap();
    (crashed(&before, &change, renamed, 0), after)
}

#[test]
fn every_operation_begins_with_recovery() {
    let operations: [fn(&mut Pools); 5] = [
        |pools| drop(pools.get(PoolId::Guest, "a").unwrap().unwrap()),
        |pools| pools.set(PoolId::Guest, "a", "1").unwrap(),
        |pools| assert!(!pools.delete(PoolId::Guest, "k").unwrap()),
        |pools| assert_eq!(pools.at(PoolId::Guest, 0).unwrap().unwrap().key, "a"),
        |pools| assert_eq!(list(pools), pairs(&[("a", "1"), ("b", "2")])),
    ];
    for operation in operations {
        let (place, _) = with_journal();
        operation(&mut place.pools());
        assert!(!place.journal().exists());
        assert_eq!(place.list(), pairs(&[("a", "1"), ("b", "2")]));
    }
}

#[test]
fn an_open_pool_is_recovered_from_the_journal_of_another_process() {
    let (place, after) = with_journal();
    let left = fs::read(place.journal()).unwrap();
    fs::remove_file(place.journal()).unwrap();
    let mut pools = place.pools();
    assert_eq!(pools.get(PoolId::Guest, "k").unwrap().unwrap(), "old");
    fs::write(place.journal(), left).unwrap();
    assert_eq!(pools.get(PoolId::Guest, "k").unwrap(), None);
    assert_eq!(place.bytes(), after);
}

#[test]
fn a_journal_of_another_pool_is_removed_and_changes_nothing() {
    let (place, _) = with_journal();
    let others = file(&[("x", "1"), ("y", "2"), ("z", "3"), ("x", "4")]);
    let new = place.directory.path().join("new");
    fs::write(&new, &others).unwrap();
    fs::rename(new, place.path()).unwrap();
    assert_eq!(recover(&place), others);
}

#[test]
fn a_journal_of_a_truncated_pool_is_removed_and_changes_nothing() {
    let (place, _) = with_journal();
    let others = file(&[("x", "1")]);
    fs::write(place.path(), &others).unwrap();
    assert_eq!(recover(&place), others);
}

#[test]
fn a_damaged_journal_is_removed_and_changes_nothing() {
    let (place, _) = with_journal();
    let (before, journal) = (place.bytes(), fs::read(place.journal()).unwrap());
    let damaged = (0..64).chain([journal.len() / 2, journal.len() - 1]);
    for damage in damaged {
        // The mark changes during the steps and is not part of the checksum.
        if damage == 8 {
            continue;
        }
        let mut bytes = journal.clone();
        bytes[damage] ^= 1;
        fs::write(place.journal(), bytes).unwrap();
        assert_eq!(recover(&place), before, "byte {damage}");
    }
    for len in [0, 7, 55, 56, journal.len() - 1] {
        fs::write(place.journal(), &journal[..len]).unwrap();
        assert_eq!(recover(&place), before, "{len} bytes");
    }
}

#[test]
fn a_delete_that_fails_leaves_no_journal_behind() {
    let before = [dirty("k", "old"), dirty("a", "1")].concat();
    let place = Place::new(&before);
    // A directory in place of the journal.
    fs::create_dir(place.directory.path().join(".kvp_pool_1.journal.new")).unwrap();
    assert!(place.pools().delete(PoolId::Guest, "k").is_err());
    assert_eq!(recover(&place), before);
}
