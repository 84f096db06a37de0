//! Doing what may wait for ever: each on a thread of its own, for a limited time.
//!
//! To look a path up, to open a directory or to write out a file system waits for
//! a disk, a server or another program, and nothing ends that wait. What takes
//! too long is given up: its thread goes on by itself, and what it comes to is
//! dropped. Until then nobody else is sent after it on the same path.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::stop::Stop;
use crate::timeouts::{LOOKUP, LOOKUP_LATE, LOOKUPS};

/// How many may be left behind before no other is begun.
const MOST_LEFT: usize = 64;

/// Those that were given up and are not done yet.
static LEFT: Mutex<Vec<Arc<Place>>> = Mutex::new(Vec::new());

thread_local! {
    /// Where the job is that this thread is for.
    static PLACE: RefCell<Option<Arc<Place>>> = const { RefCell::new(None) };
}

/// Something does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} does not answer", .0.display())]
pub(super) struct NotResponding(pub(super) PathBuf);

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobError {
    #[error(transparent)]
    NotResponding(#[from] NotResponding),
    /// The process is to end.
    #[error("the agent was told to end")]
    Stopped,
}

/// What `describe` comes to where no path may be looked up: [`at`] refuses each.
pub(super) fn without_lookups<T>(describe: impl FnOnce() -> T) -> T {
    let nowhere = Place(Mutex::new(At {
        path: PathBuf::new(),
        refuses: true,
        refused: false,
    }));
    let before = PLACE.replace(Some(Arc::new(nowhere)));
    let outcome = describe();
    PLACE.set(before);
    outcome
}

/// At which path a thread is.
struct Place(Mutex<At>);

struct At {
    path: PathBuf,
    /// No other path may be looked up.
    refuses: bool,
    /// Another job waits already at a path that this one was to go to.
    refused: bool,
}

/// How long is waited for look-ups.
#[derive(Debug)]
pub(super) struct Lookups {
    /// When the time for all of them is over.
    until: Instant,
}

/// What is being done on a thread of its own.
pub(super) struct Job<T> {
    place: Arc<Place>,
    outcome: Arc<Mutex<Option<T>>>,
    /// Readable when it is done.
    done: Arc<Stop>,
}

impl Lookups {
    pub(super) fn new() -> Self {
        Self {
            until: Instant::now() + LOOKUPS,
        }
    }

    /// What `look` comes to, which begins at `path` and says by [`at`] where it
    /// goes from there.
    ///
    /// # Errors
    ///
    /// Where it takes too long, or somebody else waits there already.
    pub(super) fn run<T: Send + 'static>(
        &self,
        path: &Path,
        action: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotResponding> {
        let left = self.until.saturating_duration_since(Instant::now());
        let until = Instant::now() + left.clamp(LOOKUP_LATE, LOOKUP);
        match Job::begin(path, action)?.wait(until, None) {
            Ok(outcome) => Ok(outcome),
            Err(JobError::NotResponding(silent)) => Err(silent),
            // Nobody can.
            Err(JobError::Stopped) => Err(NotResponding(path.to_owned())),
        }
    }
}

/// Says that the job that this thread is for goes to `path`.
///
/// # Errors
///
/// Where another one waits there already: this one is to end then, whatever it
/// comes to.
pub(super) fn at(path: &Path) -> Result<(), NotResponding> {
    PLACE.with_borrow(|place| match place {
        Some(place) => place.goes_to(path),
        // On a thread that may wait.
        None => Ok(()),
    })
}

impl<T: Send + 'static> Job<T> {
    /// Begins with `work`, at `path`.
    ///
    /// # Errors
    ///
    /// Where another one waits there already, or too many do anywhere.
    pub(super) fn begin(
        path: &Path,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Self, NotResponding> {
        let place = Arc::new(Place(Mutex::new(At {
            path: path.to_owned(),
            refuses: false,
            refused: false,
        })));
        place.goes_to(path)?;
        let silent = || NotResponding(path.to_owned());
        if lock(&LEFT).len() >= MOST_LEFT {
            return Err(silent());
        }
        let job = Self {
            place: Arc::clone(&place),
            outcome: Arc::default(),
            done: Arc::new(Stop::new().map_err(|_| silent())?),
        };
        let outcome = Arc::clone(&job.outcome);
        let ended = Ended {
            place: Arc::clone(&place),
            done: Arc::clone(&job.done),
        };
        let run = move || {
            let _ended = ended;
            PLACE.set(Some(place));
            let came_to = work();
            *lock(&outcome) = Some(came_to);
        };
        let thread = thread::Builder::new().name("vss-job".to_owned());
        thread.spawn(run).map_err(|_| silent())?;
        Ok(job)
    }

    /// Waits for what it comes to, until then, and no longer than until `stop` is
    /// told.
    ///
    /// # Errors
    ///
    /// Any [`JobError`]; it goes on by itself then.
    pub(super) fn wait(&self, until: Instant, stop: Option<BorrowedFd<'_>>) -> Result<T, JobError> {
        let ended = wait(self.done.as_fd(), until, stop);
        let outcome = lock(&self.outcome).take();
        let (path, refused) = {
            let at = self.place.lock();
            (at.path.clone(), at.refused)
        };
        match (outcome, ended) {
            (Some(outcome), _) if !refused => Ok(outcome),
            (_, Waited::Stopped) => Err(JobError::Stopped),
            (_, Waited::Ended | Waited::Late) => Err(NotResponding(path).into()),
        }
    }
}

impl<T> Drop for Job<T> {
    /// Nobody waits for it any more.
    fn drop(&mut self) {
        let mut left = lock(&LEFT);
        // Under the lock it cannot end unseen.
        if !readable(self.done.as_fd()) {
            left.push(Arc::clone(&self.place));
        }
    }
}

/// Tells the end of a job, also where it panics.
struct Ended {
    place: Arc<Place>,
    done: Arc<Stop>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let mut left = lock(&LEFT);
        self.done.tell();
        left.retain(|place| !Arc::ptr_eq(place, &self.place));
    }
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, At> {
        lock(&self.0)
    }

    fn goes_to(&self, path: &Path) -> Result<(), NotResponding> {
        let hangs = lock(&LEFT).iter().any(|left| left.lock().path == path);
        let mut at = self.lock();
        // Where it was refused is what it tells of.
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

enum Waited {
    Ended,
    Stopped,
    Late,
}

fn wait(done: BorrowedFd<'_>, until: Instant, stop: Option<BorrowedFd<'_>>) -> Waited {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Longer than any limit there is.
        let left = left.min(Duration::from_secs(1 << 20));
        let timeout = Timespec::try_from(left).ok();
        let of = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = [of(done), of(stop.unwrap_or(done))];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return Waited::Late,
            Ok(_) if !fds[0].revents().is_empty() => return Waited::Ended,
            Ok(_) => return Waited::Stopped,
            Err(Errno::INTR) => {}
            Err(_) => return Waited::Late,
        }
    }
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Far longer than any of these jobs takes.
    const LONG: Duration = Duration::from_secs(600);

    fn later(time: Duration) -> Instant {
        Instant::now() + time
    }

    /// What hangs at a path, until the sender is dropped.
    fn hang(path: &str) -> (mpsc::Sender<()>, impl FnOnce() + Send + use<>) {
        let (go_on, told) = mpsc::channel();
        let path = PathBuf::from(path);
        let job = move || {
            if at(&path).is_ok() {
                let _ = told.recv();
            }
        };
        (go_on, job)
    }

    #[test]
    fn what_answers_in_time_is_given_back() {
        let lookups = Lookups::new();
        let look = || at("/fine/too".as_ref()).map(|()| 7);
        assert_eq!(lookups.run("/fine".as_ref(), look), Ok(Ok(7)));
        // Nothing is limited on a thread that may wait.
        at("/fine".as_ref()).unwrap();
    }

    #[test]
    fn where_one_hangs_no_other_is_sent_until_it_is_done() {
        let (go_on, job) = hang("/hangs/image");
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

        drop(go_on);
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
        stop.tell();
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
            without_lookups(|| at(path)),
            Err(NotResponding("/refused".into()))
        );
        at(path).unwrap();
    }
}
