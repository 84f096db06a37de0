//! The agent's log lines, kept and passed on.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use slog::{Drain, KV, Logger, Never, OwnedKVList, Record, Serializer, o};

/// Takes each line as it comes.
pub type Sink = Box<dyn Fn(&str) + Send + Sync>;

/// What was logged so far.
#[derive(Clone)]
pub(super) struct Log {
    text: Arc<Mutex<String>>,
    sink: Arc<Mutex<Option<Sink>>>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            text: Arc::default(),
            sink: Arc::default(),
        }
    }

    /// Passes each further line to `sink` too.
    pub(super) fn pass_to(&self, sink: Sink) {
        *self.sink.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink);
    }

    pub(super) fn text(&self) -> String {
        self.text
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn logger(&self) -> Logger {
        Logger::root(self.clone(), o!())
    }
}

impl Drain for Log {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let mut line = Line(format!(
            "{} {}",
            record.level().as_short_str(),
            record.msg()
        ));
        // Writing to a string does not fail.
        let _ = record.kv().serialize(record, &mut line);
        let _ = values.serialize(record, &mut line);
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.push_str(&line.0);
        text.push('\n');
        drop(text);
        let sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sink) = sink.as_ref() {
            sink(&line.0);
        }
        Ok(())
    }
}

struct Line(String);

impl Serializer for Line {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        // Fields for programs: the text of the record says the same.
        if key.starts_with("HYPERV_") {
            return Ok(());
        }
        write!(self.0, " {key}={value}").map_err(slog::Error::from)
    }
}
