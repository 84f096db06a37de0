//! Polling with a deadline, for conditions without an event.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// Polls until `look` returns a value; an error names `what` was waited for.
///
/// # Errors
///
/// If the time is over, or `look` fails.
pub fn until<T>(
    timeout: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = look()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("expected {what} within {timeout:?}; it did not come");
        }
        thread::sleep(PAUSE);
    }
}
