//! Any sequence of operations, and any bytes as a file.

use std::io::Write;

use proptest::collection::vec;
use proptest::prelude::*;

use super::memory::remember;
use super::*;
use crate::kvp::pool::crash;
use crate::kvp::pool::record::RECORD_LEN;

#[derive(Debug, Clone)]
enum Step {
    Get(String),
    Set(String, String),
    Delete(String),
    At(u32),
    List,
    /// By another program.
    Append(String, String),
    /// By another program, in place.
    Rewrite(usize, String, String),
    /// By another program.
    Cut(usize),
    Reopen,
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[a-e]",
        1 => "[^\0]{1,100}",
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[a-z]{0,9}",
        1 => "[^\0]{0,500}",
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => key().prop_map(Step::Get),
        4 => (key(), value()).prop_map(|(key, value)| Step::Set(key, value)),
        2 => key().prop_map(Step::Delete),
        1 => (0..9u32).prop_map(Step::At),
        1 => Just(Step::List),
        1 => (key(), value()).prop_map(|(key, value)| Step::Append(key, value)),
        1 => (0..9usize, key(), value()).prop_map(|(at, key, value)| Step::Rewrite(at, key, value)),
        1 => (0..9usize).prop_map(Step::Cut),
        1 => Just(Step::Reopen),
    ]
}

/// A record that any program or a crash may leave.
fn record() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (key(), value()).prop_map(|(key, value)| file(&[(&key, &value)])),
        (key(), value()).prop_map(|(key, value)| dirty(&key, &value)),
        vec(any::<u8>(), LEN),
        any::<u8>().prop_map(|byte| vec![byte; LEN]),
    ]
}

/// Records, and a part of another.
fn any_file() -> impl Strategy<Value = Vec<u8>> {
    (vec(record(), 0..6), record(), 0..LEN).prop_map(|(records, last, torn)| {
        let mut bytes = records.concat();
        bytes.extend(&last[..torn]);
        bytes
    })
}

/// What happens to a pool that is in memory.
#[derive(Debug, Clone)]
enum Event {
    /// The host's request.
    Set(String, String),
    /// The host's request.
    Delete(String),
    /// By another program.
    Append(String, String),
    /// By another program, in place.
    Rewrite(usize, String, String),
    /// By another program, which renames a copy over the pool.
    Replace,
    /// By another program, which is killed at this step.
    Killed(String, String, usize),
    /// Time passes, until it is in memory.
    Settle,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (key(), value()).prop_map(|(key, value)| Event::Set(key, value)),
        1 => key().prop_map(Event::Delete),
        2 => (key(), value()).prop_map(|(key, value)| Event::Append(key, value)),
        2 => (0..9usize, key(), value()).prop_map(|(at, key, value)| Event::Rewrite(at, key, value)),
        1 => Just(Event::Replace),
        2 => (key(), value(), 0..5usize).prop_map(|(key, value, step)| Event::Killed(key, value, step)),
        4 => Just(Event::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_in_memory_is_what_is_in_the_file(events in vec(event(), 1..20), asked in key()) {
        let Some(directory) = testing::directory() else {
            return Ok(());
        };
        let place = Place { directory };
        fs::write(place.path(), file(&[("a", "1"), ("b", "2")])).unwrap();
        let memory = PoolId::ALL.map(|_| Memory::default());
        let inline = &memory[usize::from(PoolId::Guest.number())];
        let mut pools = place.pools().with_memory(&memory);
        for event in events {
            let other = || File::options().write(true).open(place.path()).unwrap();
            match event {
                Event::Set(key, value) => pools.set(PoolId::Guest, &key, &value).unwrap(),
                Event::Delete(key) => drop(pools.delete(PoolId::Guest, &key).unwrap()),
                Event::Append(key, value) => {
                    let end = place.bytes().len() as u64;
                    other().write_all_at(&file(&[(&key, &value)]), end).unwrap();
                }
                Event::Rewrite(at, key, value) => {
                    let offset = at as u64 * RECORD_LEN;
                    if offset < place.bytes().len() as u64 {
                        other().write_all_at(&file(&[(&key, &value)]), offset).unwrap();
                    }
                }
                Event::Replace => {
                    let copy = place.directory.path().join("copy");
                    fs::write(&copy, place.bytes()).unwrap();
                    fs::rename(copy, place.path()).unwrap();
                }
                Event::Killed(key, value, step) => {
                    crash::stop_after(step, 0);
                    let _ = place.pools().set(PoolId::Guest, &key, &value);
                    crash::run();
                }
                Event::Settle => remember(inline, &mut pools),
            }
            // Before anybody completes what the killed program began.
            let value = inline.value(&asked);
            let record = inline.at(1);
            let records = place.pools().list(PoolId::Guest).unwrap();
            let first = records.iter().find(|record| record.key == asked);
            let first = first.map(|record| record.value.clone());
            prop_assert!(value.is_none_or(|value| value == first));
            prop_assert!(record.is_none_or(|record| record.as_ref() == records.get(1)));
            prop_assert_eq!(pools.get(PoolId::Guest, &asked).unwrap(), first);
            let record = pools.at(PoolId::Guest, 1).unwrap();
            prop_assert_eq!(record.as_ref(), records.get(1));
        }
        remember(inline, &mut pools);
        let read = pools.get(PoolId::Guest, &asked).unwrap();
        prop_assert_eq!(inline.value(&asked), Some(read));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_pool_behaves_like_a_list_of_pairs(steps in vec(step(), 1..40)) {
        let place = Place::new(&[]);
        let mut pools = place.pools();
        let mut model: Vec<(String, String)> = Vec::new();
        let other = File::options().write(true).open(place.path()).unwrap();
        let mut appending = File::options().append(true).open(place.path()).unwrap();
        for step in steps {
            match step {
                Step::Get(key) => {
                    let wanted = model.iter().find(|pair| pair.0 == key);
                    let found = pools.get(PoolId::Guest, &key).unwrap();
                    prop_assert_eq!(found.as_ref(), wanted.map(|pair| &pair.1));
                }
                Step::Set(key, value) => {
                    pools.set(PoolId::Guest, &key, &value).unwrap();
                    match model.iter_mut().find(|pair| pair.0 == key) {
                        Some(pair) => pair.1 = value,
                        None => model.push((key, value)),
                    }
                }
                Step::Delete(key) => {
                    let len = model.len();
                    model.retain(|pair| pair.0 != key);
                    let deleted = pools.delete(PoolId::Guest, &key).unwrap();
                    prop_assert_eq!(deleted, model.len() < len);
                }
                Step::At(index) => {
                    let found = pools.at(PoolId::Guest, index).unwrap();
                    let found = found.map(|record| (record.key, record.value));
                    prop_assert_eq!(found.as_ref(), model.get(index as usize));
                }
                Step::List => prop_assert_eq!(list(&mut pools), model.clone()),
                Step::Append(key, value) => {
                    appending.write_all(&file(&[(&key, &value)])).unwrap();
                    model.push((key, value));
                }
                Step::Rewrite(at, key, value) => if let Some(pair) = model.get_mut(at) {
                    let offset = at as u64 * RECORD_LEN;
                    other.write_all_at(&file(&[(&key, &value)]), offset).unwrap();
                    *pair = (key, value);
                },
                Step::Cut(len) => if len < model.len() {
                    other.set_len(len as u64 * RECORD_LEN).unwrap();
                    model.truncate(len);
                },
                Step::Reopen => pools = place.pools(),
            }
        }
        prop_assert_eq!(place.list(), model);
    }

    #[test]
    fn any_bytes_are_read_as_records(bytes in any_file()) {
        let place = Place::new(&bytes);
        let mut pools = place.pools();
        let wanted: Vec<_> = raws(&bytes).iter().map(RawRecord::decode).collect();
        prop_assert_eq!(&pools.list(PoolId::Guest).unwrap(), &wanted);
        for (index, record) in (0..).zip(&wanted) {
            let found = pools.at(PoolId::Guest, index).unwrap();
            prop_assert_eq!(found.as_ref(), Some(record));
        }
        for raw in raws(&bytes) {
            if let Ok(key) = std::str::from_utf8(raw.key()) {
                let first = raws(&bytes).into_iter().find(|other| other.key() == raw.key());
                let found = pools.get(PoolId::Guest, key).unwrap();
                prop_assert_eq!(found, first.map(|first| first.decode().value));
            }
        }
        prop_assert_eq!(place.bytes(), bytes);
    }

    #[test]
    fn a_set_changes_no_byte_of_others(bytes in any_file(), key in key(), value in value()) {
        let place = Place::new(&bytes);
        place.pools().set(PoolId::Guest, &key, &value).unwrap();
        let (before, after) = (raws(&bytes), raws(&place.bytes()));
        let at = before.iter().position(|raw| raw.key() == key.as_bytes());
        prop_assert_eq!(after.len(), before.len() + usize::from(at.is_none()));
        let at = at.unwrap_or(before.len());
        prop_assert_eq!(after[at].decode(), Record { key, value });
        for (number, raw) in before.iter().enumerate().filter(|&(number, _)| number != at) {
            prop_assert_eq!(raw, &after[number]);
        }
    }

    #[test]
    fn a_delete_changes_no_byte_of_others(bytes in any_file(), key in key()) {
        let place = Place::new(&bytes);
        let deleted = place.pools().delete(PoolId::Guest, &key).unwrap();
        let other = |record: &&[u8]| raws(record)[0].key() != key.as_bytes();
        let wanted: Vec<_> = bytes.chunks(LEN).filter(other).collect();
        prop_assert_eq!(deleted, wanted.len() < bytes.chunks(LEN).count());
        prop_assert_eq!(place.bytes(), wanted.concat());
    }

    #[test]
    fn any_bytes_as_a_journal_change_nothing(bytes in any_file(), journal in any_file()) {
        let place = Place::new(&bytes);
        fs::write(place.journal(), journal).unwrap();
        place.list();
        prop_assert_eq!(place.bytes(), bytes);
        prop_assert!(!place.journal().exists());
    }
}
