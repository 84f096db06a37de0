//! Waiting with a deadline for what gives no event of its own.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long to wait between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// Looks until `look` gives a value; an error names `what` was waited for.
///
/// # Errors
///
/// Where the time is over, or `look` fails.
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
