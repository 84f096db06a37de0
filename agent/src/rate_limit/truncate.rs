//! Truncates records: they contain names from the host and from other programs.

use std::borrow::Cow;
use std::fmt::{Arguments, Write};

use slog::{KV, Key, OwnedKVList, Record, Serializer};

use crate::fields::is_field;

/// Maximum length in bytes of a quoted name or a value.
const MAX_NAME: usize = 160;

/// Maximum length of a message in bytes.
pub(super) const MAX_MESSAGE: usize = 700;

/// Maximum cost of a record in bytes.
pub(super) const MAX_COST: u64 = 1536;

/// Overhead in bytes of a message in every target: `PRIORITY`, `SYSLOG_FACILITY`,
/// `SYSLOG_IDENTIFIER` and `MESSAGE` of the journal, or the time and the program's name.
const OVERHEAD: usize = 96;

/// Overhead in bytes of a key and its value, once in the text and once in a field.
const PAIR_OVERHEAD: usize = 32;

/// Replaces what is left out.
const ELLIPSIS: &str = "…";

/// A record that is short enough to be logged.
#[derive(Debug)]
pub(crate) struct TruncatedRecord {
    message: String,
    pairs: Vec<(Key, String)>,
    cost: usize,
}

impl TruncatedRecord {
    /// Truncates a record. Pairs that exceed [`MAX_COST`] are left out.
    pub(crate) fn of(record: &Record<'_>, values: &OwnedKVList) -> Self {
        let message =
            truncate(&truncate_names(&record.msg().to_string()), MAX_MESSAGE).into_owned();
        let mut short = Self {
            cost: OVERHEAD + message.len(),
            message,
            pairs: Vec::new(),
        };
        // Pairs that cannot be written are left out.
        let _ = values.serialize(record, &mut short);
        let _ = record.kv().serialize(record, &mut short);
        short
    }

    /// Returns the message without its pairs.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Returns the message with its pairs, except structured fields.
    pub(crate) fn text(&self) -> String {
        let mut text = self.message.clone();
        for (key, value) in self.pairs.iter().filter(|(key, _)| !is_field(key)) {
            // Writing to a string does not fail.
            let _ = write!(text, ", {key}: {value}");
        }
        text
    }

    /// Returns whether it reports the end of a backup or a copy.
    pub(crate) fn is_event(&self) -> bool {
        self.pairs.iter().any(|(key, _)| *key == "HYPERV_EVENT")
    }

    /// Returns an upper bound of its bytes in every target.
    pub(crate) fn cost(&self) -> u64 {
        self.cost as u64
    }
}

impl Serializer for TruncatedRecord {
    fn emit_arguments(&mut self, key: Key, value: &Arguments<'_>) -> slog::Result {
        let value = truncate(&value.to_string(), MAX_NAME).into_owned();
        let cost = self.cost + 2 * (key.len() + value.len()) + PAIR_OVERHEAD;
        if cost as u64 <= MAX_COST {
            self.cost = cost;
            self.pairs.push((key, value));
        }
        Ok(())
    }
}

impl KV for TruncatedRecord {
    fn serialize(&self, _: &Record<'_>, to: &mut dyn Serializer) -> slog::Result {
        for (key, value) in &self.pairs {
            to.emit_str(key, value)?;
        }
        Ok(())
    }
}

/// Truncates a text in the middle to at most `max` bytes.
pub(super) fn truncate(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let kept = max.saturating_sub(ELLIPSIS.len());
    let mut end = kept * 2 / 3;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut start = text.len() - (kept - end);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let part = |range| text.get(range).unwrap_or_default();
    Cow::Owned(format!(
        "{}{ELLIPSIS}{}",
        part(0..end),
        part(start..text.len())
    ))
}

/// Truncates the quoted names in a text.
fn truncate_names(text: &str) -> String {
    let mut short = String::with_capacity(text.len().min(2 * MAX_MESSAGE));
    let mut rest = text;
    while let Some((before, quoted)) = rest.split_once('"') {
        let (name, after) = quoted.split_at(end_of_name(quoted));
        short.push_str(before);
        short.push('"');
        short.push_str(&truncate(name, MAX_NAME));
        rest = match after.strip_prefix('"') {
            Some(after) => {
                short.push('"');
                after
            }
            None => after,
        };
    }
    short.push_str(rest);
    short
}

/// Returns where a quoted name ends, as `Debug` formats it.
fn end_of_name(quoted: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in quoted.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at,
            _ => {}
        }
    }
    quoted.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end() {
        assert_eq!(truncate("short", 5), "short");
        assert_eq!(truncate("0123456789abcdef", 12), "012345…def");
        for len in 0..200 {
            let text = "ü".repeat(len);
            let short = truncate(&text, 101);
            assert!(short.len() <= 101, "{short}");
            assert_eq!(short.contains('…'), text.len() > 101, "{short}");
        }
    }

    #[test]
    fn names_are_truncated_and_the_rest_of_the_message_stays() {
        let long = "n".repeat(1000);
        let text = format!(
            "copy failed: {long:?}: as {:?}: no room",
            format!("\"{long}\\")
        );
        let short = truncate_names(&text);
        assert!(short.len() < 400, "{short}");
        assert!(short.starts_with("copy failed: \"nnn"), "{short}");
        assert!(short.ends_with("n\\\\\": no room"), "{short}");
        assert_eq!(short.matches('…').count(), 2, "{short}");
        for text in ["", "\"", "no name", "\"a\" \"\\\"b\\\\\" c\"", "\"\\"] {
            assert_eq!(truncate_names(text), text);
        }
    }
}
