//! Structured fields of log records, for programs.
//!
//! A key that begins with `HYPERV_` is such a field. The journal stores it; lines of text
//! omit it, as the message says the same.

use std::fmt::{Arguments, Write};

use slog::{KV, Key, OwnedKVList, Record, Serializer};

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
