//! The records that the guest's pools must have for the replies of a capture to come again:
//! those that replies show and no request has set, and those that another program in the
//! guest has changed meanwhile.

use std::collections::{BTreeMap, BTreeSet};

/// The value of a record of which nothing but its key, or its place, is known.
const UNKNOWN: &str = "unknown";

/// The most records that are prepared: those that a capture merely counts cost memory.
const MOST: usize = 1 << 16;

/// A key and its value.
pub(super) type Record = (String, String);

/// What a request did to a pool, or what its reply shows of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// The host has set a key.
    Set(String, String),
    /// The host has deleted a key.
    Deleted(String),
    /// The value of a key.
    Value(String, String),
    /// There is no such key.
    Missing(String),
    /// The record at an index.
    At(usize, String, String),
    /// There are so many records at most.
    End(usize),
}

/// A change by another program in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// This record is added, or its value replaced.
    Put(String, String),
    /// The record of this key is gone.
    Remove(String),
}

/// One pool, as the capture shows it so far.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// The records before the first request.
    pub(super) initial: Vec<Record>,
    /// The records now; whether each was there before the first request.
    now: Vec<(String, String, bool)>,
    /// Keys that were there at some time.
    known: BTreeSet<String>,
    /// All records were seen once: others were added since.
    complete: bool,
    /// Where an enumeration first shows a key.
    order: BTreeMap<String, usize>,
}

impl Pool {
    /// A pool of which all of this will be seen.
    pub(super) fn new<'s>(seen: impl IntoIterator<Item = &'s Seen>) -> Self {
        let mut pool = Self::default();
        for seen in seen {
            if let Seen::At(index, key, _) = seen {
                pool.order.entry(key.clone()).or_insert(*index);
            }
        }
        pool
    }

    /// Takes note of what was seen, and returns what must have changed before.
    pub(super) fn see(&mut self, seen: &Seen) -> Vec<Change> {
        match seen {
            Seen::Set(key, value) => {
                self.put(key, value);
                Vec::new()
            }
            Seen::Deleted(key) => {
                if self.known.insert(key.clone()) {
                    self.initial.push((key.clone(), UNKNOWN.into()));
                }
                self.now.retain(|(now, ..)| now != key);
                Vec::new()
            }
            Seen::Value(key, value) => match self.place(key) {
                Some(_) => self.changed(key, value),
                None if self.may_be_initial(key) => {
                    self.add_initial(key, value);
                    Vec::new()
                }
                None => self.changed(key, value),
            },
            Seen::Missing(key) => match self.place(key) {
                Some(place) => self.removed(place, place + 1),
                None => Vec::new(),
            },
            Seen::At(index, key, value) => self.see_at(*index, key, value),
            Seen::End(count) => {
                let removed = self.removed(*count, self.now.len());
                self.complete |= *count == self.now.len();
                removed
            }
        }
    }

    fn see_at(&mut self, index: usize, key: &str, value: &str) -> Vec<Change> {
        match self.place(key) {
            Some(place) => {
                let mut changes = self.removed(index.min(place), place);
                changes.extend(self.changed(key, value));
                changes
            }
            None if index < MOST && self.may_be_initial(key) => {
                // Records that are set come behind those that were there.
                for place in 0..index.min(self.now.len()) {
                    self.was_initial(place);
                }
                while self.now.len() < index {
                    let key = format!("{UNKNOWN}-{}", self.now.len());
                    self.order.insert(key.clone(), self.now.len());
                    self.add_initial(&key, UNKNOWN);
                }
                self.add_initial(key, value);
                Vec::new()
            }
            None => self.changed(key, value),
        }
    }

    fn place(&self, key: &str) -> Option<usize> {
        self.now.iter().position(|(now, ..)| now == key)
    }

    fn may_be_initial(&self, key: &str) -> bool {
        !self.complete && !self.known.contains(key)
    }

    fn put(&mut self, key: &str, value: &str) {
        self.known.insert(key.to_owned());
        match self.now.iter_mut().find(|(now, ..)| now == key) {
            Some((_, now, _)) => value.clone_into(now),
            None => self.now.push((key.to_owned(), value.to_owned(), false)),
        }
    }

    /// The key has this value, whoever has set it.
    fn changed(&mut self, key: &str, value: &str) -> Vec<Change> {
        let same = |(now, its_value, _): &(String, String, bool)| now == key && its_value == value;
        if self.now.iter().any(same) {
            return Vec::new();
        }
        self.put(key, value);
        vec![Change::Put(key.to_owned(), value.to_owned())]
    }

    fn removed(&mut self, from: usize, to: usize) -> Vec<Change> {
        if from >= to || to > self.now.len() {
            return Vec::new();
        }
        let removed = self.now.drain(from..to);
        removed.map(|(key, ..)| Change::Remove(key)).collect()
    }

    /// A record that the host has set was there before.
    fn was_initial(&mut self, place: usize) {
        if let Some((key, _, initial)) = self.now.get_mut(place) {
            if !std::mem::replace(initial, true) {
                self.initial.push((key.clone(), UNKNOWN.into()));
            }
        }
    }

    /// Adds a record that was there before, in the order of the enumerations.
    fn add_initial(&mut self, key: &str, value: &str) {
        self.known.insert(key.to_owned());
        let order = |key: &str| self.order.get(key).copied().unwrap_or(usize::MAX);
        let before = |other: &str| order(other) <= order(key);
        let now = |(other, _, initial): &(String, String, bool)| *initial && before(other);
        let place = self.now.iter().rposition(now).map_or(0, |last| last + 1);
        let first = self.initial.iter().rposition(|(other, _)| before(other));
        let first = first.map_or(0, |last| last + 1);
        let record = (key.to_owned(), value.to_owned());
        self.now
            .insert(place, (record.0.clone(), record.1.clone(), true));
        self.initial.insert(first, record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(all: &[Seen]) -> (Vec<Record>, Vec<Vec<Change>>) {
        let mut pool = Pool::new(all);
        let changes = all.iter().map(|seen| pool.see(seen)).collect();
        (pool.initial, changes)
    }

    fn at(index: usize, key: &str, value: &str) -> Seen {
        Seen::At(index, key.into(), value.into())
    }

    fn records(records: &[(&str, &str)]) -> Vec<Record> {
        let records = records.iter();
        records
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    }

    fn nothing(changes: &[Vec<Change>]) -> bool {
        changes.iter().all(Vec::is_empty)
    }

    #[test]
    fn what_is_shown_was_there_unless_it_was_set() {
        let (initial, changes) = see(&[
            Seen::Value("b".into(), "2".into()),
            Seen::Set("c".into(), "3".into()),
            Seen::Value("c".into(), "3".into()),
            at(0, "a", "1"),
            at(1, "b", "2"),
            at(2, "c", "3"),
            Seen::End(3),
            Seen::Deleted("a".into()),
            at(0, "b", "2"),
            at(1, "c", "3"),
            Seen::End(2),
        ]);
        assert_eq!(initial, records(&[("a", "1"), ("b", "2")]));
        assert!(nothing(&changes), "{changes:?}");
    }

    #[test]
    fn a_key_that_is_set_and_stands_before_others_was_there() {
        let (initial, changes) = see(&[
            Seen::Set("a".into(), "new".into()),
            at(0, "a", "new"),
            at(1, "b", "2"),
            at(3, "d", "4"),
        ]);
        let unknown = ("unknown-2", "unknown");
        let expected = [("a", "unknown"), ("b", "2"), unknown, ("d", "4")];
        assert_eq!(initial, records(&expected));
        assert!(nothing(&changes), "{changes:?}");
    }

    #[test]
    fn what_is_deleted_was_there() {
        let (initial, changes) = see(&[
            Seen::Deleted("a".into()),
            Seen::Missing("a".into()),
            Seen::Set("a".into(), "1".into()),
            at(0, "a", "1"),
        ]);
        assert_eq!(initial, records(&[("a", "unknown")]));
        assert!(nothing(&changes), "{changes:?}");
    }

    #[test]
    fn what_no_request_has_changed_was_changed_by_the_guest() {
        let (initial, changes) = see(&[
            at(0, "a", "1"),
            at(1, "b", "2"),
            Seen::End(2),
            Seen::Value("a".into(), "other".into()),
            Seen::Value("c".into(), "3".into()),
            Seen::Missing("a".into()),
            at(0, "c", "3"),
            Seen::End(0),
        ]);
        assert_eq!(initial, records(&[("a", "1"), ("b", "2")]));
        let put = |key: &str, value: &str| vec![Change::Put(key.into(), value.into())];
        let remove = |key: &str| vec![Change::Remove(key.into())];
        let expected = [
            put("a", "other"),
            put("c", "3"),
            remove("a"),
            remove("b"),
            remove("c"),
        ];
        assert_eq!(changes[3..], expected);
    }
}
