//! Structured fields of log records, for programs.
//!
//! A key that begins with `HYPERV_` is such a field. The journal stores it; lines of text
//! omit it, as the message says the same.

use std::fmt::{Arguments, Write};

use slog::{BorrowedKV, Drain, KV, Key, OwnedKVList, Record, RecordStatic, Serializer, o};

/// Returns whether a key is a structured field.
pub(crate) fn is_field(key: &str) -> bool {
    key.starts_with("HYPERV_")
}

/// The message of a record with its pairs, except structured fields.
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

/// A drain that removes structured fields.
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

/// The pairs of a record, except structured fields.
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
