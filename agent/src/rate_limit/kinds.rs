//! Kinds of records. A kind is the records that one line of code logs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use super::truncate::truncate;

/// Maximum number of kinds that are counted separately.
pub(super) const MAX_KINDS: usize = 64;

/// The first record of a kind passes, and so does one after that much time.
const FIRST_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Number of kinds that a summary names.
const MOST_FREQUENT: usize = 3;

/// Maximum length in bytes of the sample of each.
const MAX_SAMPLE: usize = 120;

/// Maximum length of a summary in bytes. Numbers have at most 20 digits.
pub(super) const MAX_SUMMARY: usize = 120 + MOST_FREQUENT * (MAX_SAMPLE + 30);

/// File and line that log the records of a kind.
pub(super) type Site = (&'static str, u32);

#[derive(Debug, Default)]
pub(super) struct Kinds {
    known: BTreeMap<Site, Kind>,
    /// Suppressed records of further kinds since the last summary.
    others: u64,
}

#[derive(Debug, Default)]
struct Kind {
    /// When its last record passed.
    passed: Option<Instant>,
    /// Suppressed records since the last summary, and the text of the first.
    suppressed: u64,
    sample: String,
}

impl Kinds {
    fn kind(&mut self, site: Site) -> Option<&mut Kind> {
        if self.known.len() == MAX_KINDS && !self.known.contains_key(&site) {
            return None;
        }
        Some(self.known.entry(site).or_default())
    }

    /// Notes that a record of a kind passes.
    pub(super) fn passed(&mut self, site: Site, now: Instant) {
        if let Some(kind) = self.kind(site) {
            kind.passed = Some(now);
        }
    }

    /// Returns whether no record of that kind has passed for a day. Then this one passes.
    pub(super) fn is_first(&mut self, site: Site, now: Instant) -> bool {
        let Some(kind) = self.kind(site) else {
            return false;
        };
        let again = kind.passed.map(|passed| passed + FIRST_AFTER);
        if again.is_some_and(|again| now < again) {
            return false;
        }
        kind.passed = Some(now);
        true
    }

    /// Counts a suppressed record.
    pub(super) fn suppressed(&mut self, site: Site, text: impl FnOnce() -> String) {
        let Some(kind) = self.kind(site) else {
            self.others += 1;
            return;
        };
        if kind.suppressed == 0 {
            kind.sample = truncate(&text(), MAX_SAMPLE).into_owned();
        }
        kind.suppressed += 1;
    }

    /// Returns the summary of the suppressed records, over that much time.
    pub(super) fn summary(&mut self, span: Duration) -> String {
        let mut kinds: Vec<_> = self.known.values_mut().collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.suppressed));
        let all = kinds.iter().map(|kind| kind.suppressed).sum::<u64>() + self.others;
        let mut text = format!(
            "{all} messages suppressed in the last {}, most frequent: ",
            humanize(span)
        );
        let most = kinds.iter().filter(|kind| kind.suppressed > 0);
        for (number, kind) in most.take(MOST_FREQUENT).enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            // Writing to a string does not fail.
            let _ = write!(text, "{comma}({} times) {}", kind.suppressed, kind.sample);
        }
        for kind in kinds {
            kind.suppressed = 0;
            kind.sample = String::new();
        }
        self.others = 0;
        text
    }
}

/// Formats a time in its largest unit.
fn humanize(span: Duration) -> String {
    match span.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
