//! A log that tests read.

use std::sync::{Arc, Mutex};

use slog::{Drain, OwnedKVList, Record};

/// The level and message of each record.
#[derive(Clone, Default)]
pub(super) struct Lines(pub(super) Arc<Mutex<Vec<String>>>);

impl Drain for Lines {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
        let line = format!("{} {}", record.level().as_str(), record.msg());
        self.0.lock().unwrap().push(line);
        Ok(())
    }
}
