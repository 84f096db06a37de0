//! What a capture shows of the guest's pools, and what must change in them for its replies to
//! come again: the capture does not say what was in them before, and what other programs in
//! the guest have changed.

use std::ops::Range;

/// The value of a record of which nothing but its key, or its place, is known.
const UNKNOWN: &str = "unknown";

/// The most records of a pool: those that a capture merely counts cost memory.
const MOST: usize = 1 << 16;

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

/// A change that no request has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// A record comes to this index, before the one that is there.
    Insert(usize, String, String),
    /// The record at this index gets a value.
    Value(usize, String),
    /// The records at these indices are gone.
    Remove(Range<usize>),
}

/// The keys and values of one pool, as the capture shows them so far.
#[derive(Debug, Default)]
pub(super) struct Pool {
    records: Vec<(String, String)>,
    /// Where an enumeration has arrived, and its first exchange.
    enumerated: Option<(usize, usize)>,
}

impl Pool {
    /// Takes note of what an exchange shows. Returns what must have changed before, and the
    /// exchange before which it is changed. An enumeration shows one state of the pool: all
    /// of it changes before its first request.
    pub(super) fn see(&mut self, exchange: usize, seen: &Seen) -> (usize, Vec<Change>) {
        let index = match seen {
            Seen::At(index, ..) | Seen::End(index) => Some(*index),
            _ => None,
        };
        let begun = self.enumerated.zip(index);
        let begun = begun.filter(|((last, _), index)| last < index);
        let first = begun.map_or(exchange, |((_, first), _)| first);
        self.enumerated = index.map(|index| (index, first));
        (first, self.changes(seen))
    }

    fn changes(&mut self, seen: &Seen) -> Vec<Change> {
        let count = self.records.len();
        match seen {
            Seen::Set(key, value) => {
                match self.place(0, key) {
                    Some(place) => drop(self.value(place, value)),
                    None => drop(self.insert(count, key, value)),
                }
                Vec::new()
            }
            Seen::Deleted(key) => {
                let changes = match self.place(0, key) {
                    Some(_) => Vec::new(),
                    None => self.insert(count, key, UNKNOWN),
                };
                self.records.retain(|(its_key, _)| its_key != key);
                changes
            }
            Seen::Value(key, value) => match self.place(0, key) {
                Some(place) => self.value(place, value),
                None => self.insert(count, key, value),
            },
            Seen::Missing(key) => {
                let mut changes = Vec::new();
                while let Some(place) = self.place(0, key) {
                    changes.extend(self.remove(place..place + 1));
                }
                changes
            }
            Seen::At(index, key, value) => match self.place(*index, key) {
                Some(place) => {
                    let mut changes = self.remove(*index..place);
                    changes.extend(self.value(*index, value));
                    changes
                }
                None if *index >= MOST => Vec::new(),
                None => {
                    let unknown = count..*index;
                    let unknown = unknown.map(|place| {
                        let key = format!("{UNKNOWN}-{place}");
                        self.insert(place, &key, UNKNOWN)
                    });
                    let mut changes: Vec<Change> = unknown.flatten().collect();
                    changes.extend(self.insert(*index, key, value));
                    changes
                }
            },
            Seen::End(end) => self.remove(*end..count),
        }
    }

    /// The index of the first record of a key from this index on.
    fn place(&self, from: usize, key: &str) -> Option<usize> {
        let mut records = self.records.iter().enumerate().skip(from);
        let found = records.find(|(_, (its_key, _))| its_key == key);
        found.map(|(place, _)| place)
    }

    fn insert(&mut self, place: usize, key: &str, value: &str) -> Vec<Change> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.records.insert(place, (key.clone(), value.clone()));
        vec![Change::Insert(place, key, value)]
    }

    fn value(&mut self, place: usize, value: &str) -> Vec<Change> {
        match self.records.get_mut(place) {
            Some((_, its_value)) if its_value != value => {
                value.clone_into(its_value);
                vec![Change::Value(place, value.to_owned())]
            }
            _ => Vec::new(),
        }
    }

    fn remove(&mut self, places: Range<usize>) -> Vec<Change> {
        if places.is_empty() {
            return Vec::new();
        }
        self.records.drain(places.clone());
        vec![Change::Remove(places)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: usize, key: &str, value: &str) -> Seen {
        Seen::At(index, key.into(), value.into())
    }

    fn set(key: &str, value: &str) -> Seen {
        Seen::Set(key.into(), value.into())
    }

    fn got(key: &str, value: &str) -> Seen {
        Seen::Value(key.into(), value.into())
    }

    fn deleted(key: &str) -> Seen {
        Seen::Deleted(key.into())
    }

    fn insert(index: usize, key: &str, value: &str) -> Change {
        Change::Insert(index, key.into(), value.into())
    }

    fn value(index: usize, value: &str) -> Change {
        Change::Value(index, value.into())
    }

    /// All changes, each with the exchange before which it is made.
    fn changes(all: &[Seen]) -> Vec<(usize, Change)> {
        let mut pool = Pool::default();
        let seen = all.iter().enumerate();
        let changes = seen.flat_map(|(exchange, seen)| {
            let (before, changes) = pool.see(exchange, seen);
            changes.into_iter().map(move |change| (before, change))
        });
        changes.collect()
    }

    #[test]
    fn what_is_shown_was_there_unless_it_was_set() {
        let changes = changes(&[
            got("b", "2"),
            set("c", "3"),
            got("c", "3"),
            at(0, "a", "1"),
            at(1, "b", "2"),
            at(2, "c", "3"),
            Seen::End(3),
            deleted("a"),
            at(0, "b", "2"),
            at(1, "c", "3"),
            Seen::End(2),
        ]);
        assert_eq!(
            changes,
            [(0, insert(0, "b", "2")), (3, insert(0, "a", "1"))]
        );
    }

    #[test]
    fn an_enumeration_shows_one_state() {
        let changes = changes(&[
            set("a", "new"),
            at(0, "a", "new"),
            at(1, "b", "2"),
            at(3, "d", "4"),
            at(0, "x", "1"),
            Seen::End(1),
        ]);
        let expected = [
            (1, insert(1, "b", "2")),
            (1, insert(2, "unknown-2", UNKNOWN)),
            (1, insert(3, "d", "4")),
            (4, insert(0, "x", "1")),
            (4, Change::Remove(1..5)),
        ];
        assert_eq!(changes, expected);
    }

    #[test]
    fn what_is_deleted_was_there() {
        let changes = changes(&[
            deleted("a"),
            Seen::Missing("a".into()),
            set("a", "1"),
            at(0, "a", "1"),
            deleted("a"),
            deleted("a"),
        ]);
        let expected = [(0, insert(0, "a", UNKNOWN)), (5, insert(0, "a", UNKNOWN))];
        assert_eq!(changes, expected);
    }

    #[test]
    fn a_key_may_be_there_twice() {
        let changes = changes(&[
            at(0, "a", "1"),
            at(1, "b", "2"),
            at(2, "a", "3"),
            Seen::End(3),
            set("a", "4"),
            at(0, "a", "4"),
            at(1, "b", "2"),
            at(2, "a", "3"),
            deleted("a"),
            at(0, "b", "2"),
            Seen::End(1),
        ]);
        let expected = [
            (0, insert(0, "a", "1")),
            (0, insert(1, "b", "2")),
            (0, insert(2, "a", "3")),
        ];
        assert_eq!(changes, expected);
    }

    #[test]
    fn what_no_request_has_changed_was_changed_by_the_guest() {
        let changes = changes(&[
            set("a", "1"),
            set("b", "2"),
            set("a2", "3"),
            got("a", "other"),
            at(0, "b", "2"),
            at(1, "c", "3"),
            Seen::Missing("c".into()),
            Seen::End(0),
            at(MOST, "far", "1"),
        ]);
        let expected = [
            (3, value(0, "other")),
            (4, Change::Remove(0..1)),
            (4, insert(1, "c", "3")),
            (6, Change::Remove(1..2)),
            (7, Change::Remove(0..2)),
        ];
        assert_eq!(changes, expected);
    }
}
