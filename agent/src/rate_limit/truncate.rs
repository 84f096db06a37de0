//! Records made short: names come from the host and from other programs, and no line is
//! to be long.

use std::borrow::Cow;
use std::fmt::{Arguments, Write};

use slog::{KV, Key, OwnedKVList, Record, Serializer};

use crate::fields::is_field;

/// Bytes of a name, in quotation marks or as a value, that are shown.
const MAX_NAME: usize = 160;

/// Bytes of a message.
pub(super) const MAX_MESSAGE: usize = 700;

/// Bytes that a record costs at most.
pub(super) const MAX_COST: u64 = 1536;

/// Bytes around a message, wherever it goes: `PRIORITY`, `SYSLOG_FACILITY`,
/// `SYSLOG_IDENTIFIER` and `MESSAGE` of the journal, or the time and the program's name.
const AROUND: usize = 96;

/// Bytes around a key and its value, once in the text and once in a field.
const AROUND_PAIR: usize = 32;

/// What stands for what was left out.
const MARK: &str = "…";

/// A record as it is logged.
#[derive(Debug)]
pub(crate) struct TruncatedRecord {
    message: String,
    pairs: Vec<(Key, String)>,
    cost: usize,
}

impl TruncatedRecord {
    /// Makes a record short. Pairs for which there is no room are left out.
    pub(crate) fn of(record: &Record<'_>, values: &OwnedKVList) -> Self {
        let message = cut(&with_short_names(&record.msg().to_string()), MAX_MESSAGE).into_owned();
        let mut short = Self {
            cost: AROUND + message.len(),
            message,
            pairs: Vec::new(),
        };
        // Pairs that cannot be written are left out.
        let _ = values.serialize(record, &mut short);
        let _ = record.kv().serialize(record, &mut short);
        short
    }

    /// The message without its pairs.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The message with the pairs that are for people.
    pub(crate) fn text(&self) -> String {
        let mut text = self.message.clone();
        for (key, value) in self.pairs.iter().filter(|(key, _)| !is_field(key)) {
            // Writing to a string does not fail.
            let _ = write!(text, ", {key}: {value}");
        }
        text
    }

    /// Whether it tells of the end of a backup or a copy.
    pub(crate) fn is_event(&self) -> bool {
        self.pairs.iter().any(|(key, _)| *key == "HYPERV_EVENT")
    }

    /// Bytes of it, wherever it goes, or more.
    pub(crate) fn cost(&self) -> u64 {
        self.cost as u64
    }
}

impl Serializer for TruncatedRecord {
    fn emit_arguments(&mut self, key: Key, value: &Arguments<'_>) -> slog::Result {
        let value = cut(&value.to_string(), MAX_NAME).into_owned();
        let cost = self.cost + 2 * (key.len() + value.len()) + AROUND_PAIR;
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

/// The beginning and the end of a text that has more than so many bytes.
pub(super) fn cut(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return Cow::Borrowed(text);
    }
    let kept = max.saturating_sub(MARK.len());
    let mut end = kept * 2 / 3;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut start = text.len() - (kept - end);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let part = |range| text.get(range).unwrap_or_default();
    Cow::Owned(format!("{}{MARK}{}", part(0..end), part(start..text.len())))
}

/// A text in which what stands in quotation marks is cut.
fn with_short_names(text: &str) -> String {
    let mut short = String::with_capacity(text.len().min(2 * MAX_MESSAGE));
    let mut rest = text;
    while let Some((before, quoted)) = rest.split_once('"') {
        let (name, after) = quoted.split_at(end_of_name(quoted));
        short.push_str(before);
        short.push('"');
        short.push_str(&cut(name, MAX_NAME));
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

/// Where the name ends that stands in quotation marks, as `Debug` writes it.
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
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("0123456789abcdef", 12), "012345…def");
        for len in 0..200 {
            let text = "ü".repeat(len);
            let short = cut(&text, 101);
            assert!(short.len() <= 101, "{short}");
            assert_eq!(short.contains('…'), text.len() > 101, "{short}");
        }
    }

    #[test]
    fn names_are_cut_and_what_is_said_of_them_stays() {
        let long = "n".repeat(1000);
        let text = format!(
            "copy failed: {long:?}: as {:?}: no room",
            format!("\"{long}\\")
        );
        let short = with_short_names(&text);
        assert!(short.len() < 400, "{short}");
        assert!(short.starts_with("copy failed: \"nnn"), "{short}");
        assert!(short.ends_with("n\\\\\": no room"), "{short}");
        assert_eq!(short.matches('…').count(), 2, "{short}");
        for text in ["", "\"", "no name", "\"a\" \"\\\"b\\\\\" c\"", "\"\\"] {
            assert_eq!(with_short_names(text), text);
        }
    }
}
