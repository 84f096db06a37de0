//! Applications: threads that write to a file, one page after the other, and
//! keep the time of each write.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use hyperv_sim::wait::until;
use nix::sys::prctl::set_timerslack;

/// Between two writes of an application: short beside what is measured, and long
/// enough that applications do not take the processors away from the program.
const PAUSE: Duration = Duration::from_micros(100);

const PAGE: [u8; 4096] = [0x5a; 4096];

/// How long they may take to come going.
const TIME: Duration = Duration::from_secs(60);

/// Applications that run until they are ended. Those that are dropped end as
/// soon as they can write.
pub(super) struct Applications {
    stop: Arc<AtomicBool>,
    each: Vec<Application>,
}

struct Application {
    path: PathBuf,
    written: Arc<AtomicUsize>,
    thread: JoinHandle<Result<Vec<Write>>>,
}

/// A write, which the file's system may have kept waiting.
struct Write {
    begun: Instant,
    done: Instant,
}

/// What the host knows of a freeze.
pub(super) struct Held {
    /// When it sent the FREEZE.
    pub(super) asked: Instant,
    /// When it had the reply.
    pub(super) replied: Instant,
    /// When it sent the THAW.
    pub(super) thawing: Instant,
}

/// For how long applications stood still.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StoodStill {
    /// From the last write of the application that stopped first to the reply to
    /// the FREEZE.
    pub(super) to_reply: Duration,
    /// From the THAW to the first write of the application that went on last.
    pub(super) to_thawed: Duration,
    /// The longest time between two writes of one application, without that for
    /// which the host held it.
    pub(super) longest: Duration,
    /// The longest time between two writes of one before the FREEZE.
    pub(super) otherwise: Duration,
}

impl Applications {
    /// Starts one for each of these files, and waits until each has written so
    /// many pages.
    pub(super) fn start(files: impl IntoIterator<Item = PathBuf>, pages: usize) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |path| Application::start(path, Arc::clone(&stop));
        let each = files.into_iter().map(start).collect::<Result<_>>()?;
        let applications = Self { stop, each };
        for application in &applications.each {
            let what = format!("{pages} writes to {}", application.path.display());
            until(TIME, &what, || {
                let written = application.written.load(Ordering::Relaxed);
                Ok((written >= pages || application.thread.is_finished()).then_some(()))
            })?;
        }
        Ok(applications)
    }

    /// Ends them, each after another write, and says for how long they stood
    /// still.
    pub(super) fn end(mut self, held: &Held) -> Result<StoodStill> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = StoodStill::default();
        for application in std::mem::take(&mut self.each) {
            let ended = application.thread.join();
            let writes = ended.map_err(|_| anyhow!("an application panicked"))??;
            let one = stood_still(&writes, held)
                .with_context(|| format!("writing to {}", application.path.display()))?;
            all.to_reply = all.to_reply.max(one.to_reply);
            all.to_thawed = all.to_thawed.max(one.to_thawed);
            all.longest = all.longest.max(one.longest);
            all.otherwise = all.otherwise.max(one.otherwise);
        }
        Ok(all)
    }
}

impl Drop for Applications {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Application {
    fn start(path: PathBuf, stop: Arc<AtomicBool>) -> Result<Self> {
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let written = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&written);
        let name = path.clone();
        let thread = thread::Builder::new()
            .name("application".to_owned())
            .spawn(move || write(&file, &name, &stop, &count))?;
        Ok(Self {
            path,
            written,
            thread,
        })
    }
}

fn write(file: &File, path: &Path, stop: &AtomicBool, count: &AtomicUsize) -> Result<Vec<Write>> {
    // Or else each pause would be half as long again.
    set_timerslack(1)?;
    let mut writes = Vec::new();
    loop {
        let begun = Instant::now();
        file.write_all_at(&PAGE, 0)
            .with_context(|| path.display().to_string())?;
        writes.push(Write {
            begun,
            done: Instant::now(),
        });
        count.fetch_add(1, Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            return Ok(writes);
        }
        thread::sleep(PAUSE);
    }
}

/// For how long one application stood still.
fn stood_still(writes: &[Write], held: &Held) -> Result<StoodStill> {
    let (before, after) = writes.split_at(writes.partition_point(|it| it.done < held.thawing));
    let last = before.last().context("nothing was written before")?;
    let next = after.first().context("nothing was written after")?;
    ensure!(
        last.begun < held.replied,
        "a page was written while everything was to stand still"
    );
    let to_reply = held.replied.saturating_duration_since(last.done);
    let to_thawed = next.done.duration_since(held.thawing);
    let gaps = before.windows(2).filter_map(|pair| match pair {
        [one, next] if next.done < held.asked => Some(next.done.duration_since(one.done)),
        _ => None,
    });
    Ok(StoodStill {
        to_reply,
        to_thawed,
        longest: to_reply + to_thawed,
        otherwise: gaps.max().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes of a millisecond that begin at these.
    fn writes(start: Instant, at: &[u64]) -> Vec<Write> {
        let write = |at: &u64| Write {
            begun: start + Duration::from_millis(*at),
            done: start + Duration::from_millis(*at + 1),
        };
        at.iter().map(write).collect()
    }

    #[test]
    fn the_time_of_the_host_does_not_count() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let held = Held {
            asked: at(20),
            replied: at(50),
            thawing: at(100),
        };
        let mut writes = writes(start, &[0, 2, 7, 9, 30]);
        // The one that had to wait.
        writes.push(Write {
            begun: at(33),
            done: at(104),
        });
        let milliseconds = Duration::from_millis;
        let expected = StoodStill {
            to_reply: milliseconds(50 - 31),
            to_thawed: milliseconds(4),
            longest: milliseconds(19 + 4),
            otherwise: milliseconds(5),
        };
        assert_eq!(stood_still(&writes, &held).unwrap(), expected);
    }

    #[test]
    fn one_that_went_on_writing_is_an_error() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let held = Held {
            asked: at(20),
            replied: at(50),
            thawing: at(100),
        };
        let error = stood_still(&writes(start, &[0, 60, 110]), &held).unwrap_err();
        assert!(error.to_string().contains("stand still"), "{error}");
        assert!(stood_still(&writes(start, &[0]), &held).is_err());
        assert!(stood_still(&writes(start, &[110]), &held).is_err());
    }
}
