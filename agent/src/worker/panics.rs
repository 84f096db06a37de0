//! Panics of workers, which are reported when the worker has ended.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    /// Whether this thread is a worker.
    static WORKER: Cell<bool> = const { Cell::new(false) };
    /// Where this worker panicked.
    static PANICKED_AT: Cell<Option<String>> = const { Cell::new(None) };
}

/// How many panics of other threads are printed: nothing else limits their output.
const MAX_PANICS: usize = 100;
static OTHERS: AtomicUsize = AtomicUsize::new(0);

/// Installs a panic hook that prints nothing for workers. A write to standard error could
/// wait for a file system that the worker has frozen and must thaw.
pub(crate) fn install_panic_hook() {
    let at_once = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if WORKER.get() {
            PANICKED_AT.set(panic.location().map(ToString::to_string));
        } else if OTHERS.fetch_add(1, Ordering::Relaxed) < MAX_PANICS {
            at_once(panic);
        }
    }));
}

/// Runs a worker on this thread. Returns the message of a panic as an error.
pub(crate) fn catch_panic<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    WORKER.set(true);
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| message_of(&*panic))
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    match PANICKED_AT.take() {
        Some(place) => format!("{text} (at {place})"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_panic_is_reported_with_its_place() {
        install_panic_hook();
        let message = thread::spawn(|| catch_panic(|| panic!("out of {}", "luck")));
        let Ok(Err::<(), _>(message)) = message.join() else {
            panic!("no message");
        };
        assert!(
            message.starts_with("out of luck (at ") && message.contains("panics.rs:"),
            "{message}"
        );
    }
}
