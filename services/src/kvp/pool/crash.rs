//! Fault injection: stops the writer of this thread at a chosen step, as a crash would.

use std::cell::RefCell;
use std::io;

/// Offset and length of a write.
pub(super) type Step = (u64, usize);

#[derive(Default)]
struct Plan {
    taken: Vec<Step>,
    /// Steps that succeed, and bytes of the next one.
    stop: Option<(usize, usize)>,
    /// A function to call before this step.
    call: Option<(usize, Box<dyn FnOnce()>)>,
}

thread_local! {
    static PLAN: RefCell<Plan> = RefCell::default();
}

/// Lets `steps` steps succeed and `cut` bytes of the next, then fails all.
pub(super) fn stop_after(steps: usize, cut: usize) {
    PLAN.with_borrow_mut(|plan| {
        *plan = Plan {
            taken: Vec::new(),
            stop: Some((steps, cut)),
            call: None,
        };
    });
}

/// Lets every step succeed, and calls this before one of them.
pub(super) fn call_at(step: usize, call: impl FnOnce() + 'static) {
    PLAN.with_borrow_mut(|plan| {
        *plan = Plan {
            call: Some((step, Box::new(call))),
            ..Plan::default()
        };
    });
}

/// Lets every step succeed; returns those since the last call.
pub(super) fn run() -> Vec<Step> {
    PLAN.take().taken
}

pub(super) fn step(
    offset: u64,
    len: usize,
    torn: impl FnOnce(usize) -> io::Result<()>,
) -> io::Result<()> {
    PLAN.with_borrow_mut(|plan| {
        let before = plan.taken.len();
        plan.taken.push((offset, len));
        if let Some((_, call)) = plan.call.take_if(|(step, _)| *step == before) {
            call();
        }
        match plan.stop {
            Some((steps, cut)) if before >= steps => {
                if before == steps && cut > 0 {
                    torn(cut.min(len))?;
                }
                Err(io::Error::other("stopped here"))
            }
            _ => Ok(()),
        }
    })
}
