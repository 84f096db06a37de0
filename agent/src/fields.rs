//! Fields of log records for programs, beside the text for people.
//!
//! A key that begins with `HYPERV_` is such a field: the journal has it, and no line
//! of text does, for its text says the same.

use std::fmt::{Arguments, Write};

use slog::{BorrowedKV, Drain, KV, Key, OwnedKVList, Record, RecordStatic, Serializer, o};

/// Whether a key is for programs only.
pub(crate) fn is_field(key: &str) -> bool {
    key.starts_with("HYPERV_")
}

/// The text of a record, with the keys that are for people.
pub(crate) struct RecordText(pub(crate) String);

impl RecordText {
    pub(crate) fn of(record: &Record<'_>, values: &OwnedKVList) -> Self {
        let mut texts = Self(record.msg().to_string());
        // Writing to a string does not fail.
        let _ = values.serialize(record, &mut texts);
        let _ = record.kv().serialize(record, &mut texts);
        texts
    }
}

impl Serializer for RecordText {
    fn emit_arguments(&mut self, key: Key, value: &Arguments<'_>) -> slog::Result {
        if !is_field(key) {
            write!(self.0, ", {key}: {value}")?;
        }
        Ok(())
    }
}

/// Passes every record on without the fields that are for programs.
pub(crate) struct WithoutFields<D>(pub(crate) D);

impl<D: Drain> Drain for WithoutFields<D> {
    type Ok = D::Ok;
    type Err = D::Err;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<D::Ok, D::Err> {
        let static_part = RecordStatic {
            location: record.location(),
            tag: record.tag(),
            level: record.level(),
        };
        let kept = FilteredPairs(values, record.kv());
        let record = Record::new(&static_part, record.msg(), BorrowedKV(&kept));
        self.0.log(&record, &OwnedKVList::from(o!()))
    }
}

/// The keys of a record that are for people.
struct FilteredPairs<'a>(&'a OwnedKVList, BorrowedKV<'a>);

impl KV for FilteredPairs<'_> {
    fn serialize(&self, record: &Record<'_>, to: &mut dyn Serializer) -> slog::Result {
        let mut filter = FieldFilter(to);
        self.0.serialize(record, &mut filter)?;
        self.1.serialize(record, &mut filter)
    }
}

struct FieldFilter<'a>(&'a mut dyn Serializer);

impl Serializer for FieldFilter<'_> {
    fn emit_arguments(&mut self, key: Key, value: &Arguments<'_>) -> slog::Result {
        match is_field(key) {
            true => Ok(()),
            false => self.0.emit_arguments(key, value),
        }
    }
}
