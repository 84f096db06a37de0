//! Formats log records as lines of text: with time and level, or for a stream to the journal.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use humantime::format_rfc3339_millis;
use slog::{Drain, OwnedKVList, Record};

use crate::fields::RecordText;
use crate::journal::priority;

/// A drain that writes each record as a line.
pub(crate) struct Lines<W> {
    to: Mutex<W>,
    /// The journal adds the time, and takes the level from the beginning of the line; see
    /// sd-daemon(3).
    to_journal: bool,
}

impl<W> Lines<W> {
    pub(crate) fn new(to: W, to_journal: bool) -> Self {
        let to = Mutex::new(to);
        Self { to, to_journal }
    }
}

impl<W: Write> Drain for Lines<W> {
    type Ok = ();
    type Err = io::Error;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> io::Result<()> {
        // A line break in a text must not look like the start of another record.
        let RecordText(text) = RecordText::of(record, values);
        let text = text.replace(char::is_control, " ");
        let level = record.level();
        let line = match self.to_journal {
            true => format!("<{}>{text}\n", priority(level)),
            false => {
                let time = format_rfc3339_millis(SystemTime::now());
                format!("{time} {} {text}\n", level.as_short_str())
            }
        };
        let mut to = self.to.lock().unwrap_or_else(PoisonError::into_inner);
        to.write_all(line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slog::{Logger, info, o, warn};

    use super::*;

    /// A buffer that the test can read.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_record_is_one_line_without_structured_fields() {
        let written = Written::default();
        let lines = Lines::new(written.clone(), false);
        let log = Logger::root(lines.fuse(), o!("service" => "vss", "HYPERV_DEVICE" => "x"));
        warn!(log, "one\nINFO two\u{1b}"; "key" => "value", "HYPERV_EVENT" => "x");
        let written = written.0.lock().unwrap();
        let text = std::str::from_utf8(&written).unwrap();
        let (time, rest) = text.split_once(' ').unwrap();
        assert_eq!(rest, "WARN one INFO two , service: vss, key: value\n");
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
    }

    #[test]
    fn a_line_for_the_journal_begins_with_its_priority() {
        let written = Written::default();
        let log = Logger::root(Lines::new(written.clone(), true).fuse(), o!());
        warn!(log, "one\n<0>two"; "key" => "value");
        info!(log, "three");
        let written = written.0.lock().unwrap();
        assert_eq!(*written, b"<4>one <0>two, key: value\n<6>three\n");
    }
}
