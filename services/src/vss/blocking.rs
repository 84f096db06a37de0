//! Runs file-system calls that may block forever on threads, each with a timeout.
//!
//! To look up a path, open a directory or write out a file system waits for a disk, a
//! server or another program, and nothing interrupts that wait. After its timeout a job is
//! abandoned: its thread continues, its result is dropped, and until it ends no other job
//! is started on the same path.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};

use crate::retry::{is_readable, poll_until};
use crate::stop::Stop;
use crate::timeouts::{LOOKUP, LOOKUP_LATE, LOOKUPS};

/// How many abandoned jobs there may be.
const MAX_ABANDONED: usize = 64;

/// The abandoned jobs that have not ended yet.
static ABANDONED: Mutex<Vec<Arc<Place>>> = Mutex::new(Vec::new());

thread_local! {
    /// The path at which the job of this thread is.
    static PLACE: RefCell<Option<Arc<Place>>> = const { RefCell::new(None) };
}

/// A path does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} does not answer", .0.display())]
pub(super) struct NotResponding(pub(super) PathBuf);

/// Why a job has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobError {
    #[error(transparent)]
    NotResponding(#[from] NotResponding),
    /// The agent ends.
    #[error("the agent is being stopped")]
    Stopped,
}

/// Runs `describe` without looking up paths: [`enter`] refuses each.
pub(super) fn without_lookups<T>(describe: impl FnOnce() -> T) -> T {
    let nowhere = Place(Mutex::new(Position {
        path: PathBuf::new(),
        refuses: true,
        refused: false,
    }));
    let before = PLACE.replace(Some(Arc::new(nowhere)));
    let outcome = describe();
    PLACE.set(before);
    outcome
}

/// The path at which a thread is.
struct Place(Mutex<Position>);

struct Position {
    path: PathBuf,
    /// No path may be looked up.
    refuses: bool,
    /// Another job hangs at the path that this one was about to enter.
    refused: bool,
}

/// The time that is left for look-ups.
#[derive(Debug)]
pub(super) struct Lookups {
    /// When the time for all of them is used up.
    until: Instant,
}

/// A call that runs on its own thread.
pub(super) struct Job<T> {
    place: Arc<Place>,
    outcome: Arc<Mutex<Option<T>>>,
    /// Readable when the job has ended.
    done: Arc<Stop>,
}

impl Lookups {
    pub(super) fn new() -> Self {
        Self {
            until: Instant::now() + LOOKUPS,
        }
    }

    /// Runs `action`, which begins at `path` and calls [`enter`] before each further path.
    ///
    /// # Errors
    ///
    /// If it takes too long, or another job hangs at one of the paths.
    pub(super) fn run<T: Send + 'static>(
        &self,
        path: &Path,
        action: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotResponding> {
        let left = self.until.saturating_duration_since(Instant::now());
        let until = Instant::now() + left.clamp(LOOKUP_LATE, LOOKUP);
        match Job::begin(path, action)?.wait(until, None) {
            Ok(outcome) => Ok(outcome),
            Err(JobError::NotResponding(error)) => Err(error),
            // There is no `stop`.
            Err(JobError::Stopped) => Err(NotResponding(path.to_owned())),
        }
    }
}

/// Notes that the job of this thread is about to look up `path`.
///
/// # Errors
///
/// If another job hangs there: this one must end then.
pub(super) fn enter(path: &Path) -> Result<(), NotResponding> {
    PLACE.with_borrow(|place| match place {
        Some(place) => place.enter(path),
        // This thread may block.
        None => Ok(()),
    })
}

impl<T: Send + 'static> Job<T> {
    /// Starts `work`, which begins at `path`.
    ///
    /// # Errors
    ///
    /// If another job hangs there, or too many jobs hang anywhere.
    pub(super) fn begin(
        path: &Path,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Self, NotResponding> {
        let place = Arc::new(Place(Mutex::new(Position {
            path: path.to_owned(),
            refuses: false,
            refused: false,
        })));
        place.enter(path)?;
        let not_responding = || NotResponding(path.to_owned());
        if lock(&ABANDONED).len() >= MAX_ABANDONED {
            return Err(not_responding());
        }
        let job = Self {
            place: Arc::clone(&place),
            outcome: Arc::default(),
            done: Arc::new(Stop::new().map_err(|_| not_responding())?),
        };
        let outcome = Arc::clone(&job.outcome);
        let ended = Ended {
            place: Arc::clone(&place),
            done: Arc::clone(&job.done),
        };
        let run = move || {
            let _ended = ended;
            PLACE.set(Some(place));
            let result = work();
            *lock(&outcome) = Some(result);
        };
        let thread = thread::Builder::new().name("vss-job".to_owned());
        thread.spawn(run).map_err(|_| not_responding())?;
        Ok(job)
    }

    /// Waits for the result, until the time `until` or until `stop` is readable.
    ///
    /// # Errors
    ///
    /// Any [`JobError`]; the job continues then.
    pub(super) fn wait(&self, until: Instant, stop: Option<BorrowedFd<'_>>) -> Result<T, JobError> {
        let done = self.done.as_fd();
        let mut fds =
            [done, stop.unwrap_or(done)].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let ready = poll_until(&mut fds, Some(until)).is_ok_and(|ready| ready > 0);
        let stopped = ready && fds[0].revents().is_empty();
        let outcome = lock(&self.outcome).take();
        let (path, refused) = {
            let at = self.place.lock();
            (at.path.clone(), at.refused)
        };
        match outcome {
            Some(outcome) if !refused => Ok(outcome),
            _ if stopped => Err(JobError::Stopped),
            _ => Err(NotResponding(path).into()),
        }
    }
}

impl<T> Drop for Job<T> {
    /// Abandons the job if it has not ended.
    fn drop(&mut self) {
        let mut left = lock(&ABANDONED);
        // Under the lock it cannot end in between.
        if !is_readable(&self.done, Instant::now()) {
            left.push(Arc::clone(&self.place));
        }
    }
}

/// Signals the end of a job when dropped, also by a panic.
struct Ended {
    place: Arc<Place>,
    done: Arc<Stop>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let mut left = lock(&ABANDONED);
        self.done.signal();
        left.retain(|place| !Arc::ptr_eq(place, &self.place));
    }
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, Position> {
        lock(&self.0)
    }

    fn enter(&self, path: &Path) -> Result<(), NotResponding> {
        let hangs = lock(&ABANDONED).iter().any(|left| left.lock().path == path);
        let mut at = self.lock();
        // The error names the path where it was refused.
        if !at.refused {
            path.clone_into(&mut at.path);
            at.refused = hangs;
        }
        match at.refused || at.refuses {
            true => Err(NotResponding(path.to_owned())),
            false => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Far longer than any of these jobs takes.
    const LONG: Duration = Duration::from_secs(600);

    fn later(time: Duration) -> Instant {
        Instant::now() + time
    }

    /// What hangs at a path, until the sender is dropped.
    fn hang(path: &str) -> (mpsc::Sender<()>, impl FnOnce() + Send + use<>) {
        let (resume, told) = mpsc::channel();
        let path = PathBuf::from(path);
        let job = move || {
            if enter(&path).is_ok() {
                let _ = told.recv();
            }
        };
        (resume, job)
    }

    #[test]
    fn what_answers_in_time_is_returned() {
        let lookups = Lookups::new();
        let look = || enter("/fine/too".as_ref()).map(|()| 7);
        assert_eq!(lookups.run("/fine".as_ref(), look), Ok(Ok(7)));
        // A thread that may block has no limits.
        enter("/fine".as_ref()).unwrap();
    }

    #[test]
    fn where_one_hangs_no_other_is_sent_until_it_is_done() {
        let (resume, job) = hang("/hangs/image");
        let expected = NotResponding("/hangs/image".into());
        let job = Job::begin("/hangs".as_ref(), job).unwrap();
        // It has to be there: the path it began at is free again.
        while job.place.lock().path != expected.0 {
            thread::yield_now();
        }
        let error = job.wait(Instant::now(), None).unwrap_err();
        assert_eq!(error.to_string(), "/hangs/image does not answer");
        drop(job);

        let began = Job::begin("/hangs/image".as_ref(), || ());
        assert_eq!(began.err(), Some(expected.clone()));
        let second = Job::begin("/hangs".as_ref(), hang("/hangs/image").1).unwrap();
        let error = second.wait(later(LONG), None).unwrap_err();
        assert_eq!(error.to_string(), expected.to_string());

        drop(resume);
        loop {
            match Job::begin("/hangs/image".as_ref(), || 7) {
                Ok(job) => break assert_eq!(job.wait(later(LONG), None).unwrap(), 7),
                Err(again) => assert_eq!(again, expected),
            }
            thread::yield_now();
        }
    }

    #[test]
    fn who_is_told_to_end_waits_no_longer() {
        let stop = Stop::new().unwrap();
        let (_go_on, job) = hang("/stops");
        let job = Job::begin("/stops".as_ref(), job).unwrap();
        stop.signal();
        let error = job.wait(later(LONG), Some(stop.as_fd())).unwrap_err();
        assert!(matches!(error, JobError::Stopped), "{error}");
    }

    #[test]
    fn a_job_that_panics_is_no_answer_and_not_in_the_way() {
        let path = Path::new("/panics");
        for _ in 0..2 {
            let job = Job::begin(path, || panic!("as it is to")).unwrap();
            let error = job.wait(later(LONG), None).unwrap_err();
            assert_eq!(error.to_string(), "/panics does not answer");
        }
    }

    #[test]
    fn without_lookups_every_path_is_refused() {
        let path = Path::new("/refused");
        assert_eq!(
            without_lookups(|| enter(path)),
            Err(NotResponding("/refused".into()))
        );
        enter(path).unwrap();
    }
}
