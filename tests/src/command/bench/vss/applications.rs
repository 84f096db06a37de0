//! Applications: threads of a process in the guest that write to a file, one page
//! after the other, and keep the time of each write.
//!
//! They are no threads of the simulator's: one that waits for a thaw cannot be
//! killed, and a simulator that does not go holds the guest's `/dev` up.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use hyperv_sim::blackbox::BlackBox;
use hyperv_sim::wait::until;
use nix::sys::prctl::set_timerslack;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Between two writes of an application: short beside what is measured, and long
/// enough that applications do not take the processors away from the program.
const PAUSE: Duration = Duration::from_micros(100);

const PAGE: [u8; 4096] = [0x5a; 4096];

/// A file, in each directory that is soiled.
const DIRT: &str = "dirt";

/// How long they may take to come going, and to end.
const TIME: Duration = Duration::from_secs(60);

/// What they say when they are at work.
const READY: &str = "ready";

/// `hyperv-sim applications`, which runs in a guest: writes pages until its input
/// ends, and prints when.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What is written first to a file in each of these directories.
    #[arg(long, value_name = "DIRECTORY")]
    make_dirty: Vec<PathBuf>,
    /// How much of it, in KiB.
    #[arg(long, value_name = "KIB")]
    dirty: u64,
    /// Pages that each writes before they are ready.
    #[arg(long, value_name = "N")]
    pages: usize,
    /// A file for each application.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// A write, which the file's system may have kept waiting.
#[derive(Debug, Serialize, Deserialize)]
struct Write {
    begun: u64,
    done: u64,
}

/// Nanoseconds of a clock that is the same in all processes.
pub(super) fn now() -> Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u64::try_from(now.as_nanos())?)
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let dirt: Vec<_> = arguments
        .make_dirty
        .iter()
        .map(|it| it.join(DIRT))
        .collect();
    for path in &dirt {
        make_dirty(path, arguments.dirty).with_context(|| path.display().to_string())?;
    }
    let stop = AtomicBool::new(false);
    let ready = AtomicUsize::new(0);
    let all = thread::scope(|scope| {
        let mut threads = Vec::new();
        for path in &arguments.files {
            threads.push(scope.spawn(|| write(path, arguments.pages, &ready, &stop)));
        }
        let result = until(TIME, "all applications at work", || {
            let at_work = ready.load(Ordering::Relaxed);
            Ok((at_work == arguments.files.len()).then_some(()))
        });
        let result = result.and_then(|()| {
            println!("{READY}");
            Ok(io::stdin().read_to_end(&mut Vec::new()).map(drop)?)
        });
        stop.store(true, Ordering::Relaxed);
        let ended = threads.into_iter().map(|thread| {
            let ended = thread.join();
            ended.map_err(|_| anyhow!("an application panicked"))?
        });
        let all: Result<Vec<_>> = ended.collect();
        result.and(all)
    })?;
    for path in &dirt {
        fs::remove_file(path).with_context(|| path.display().to_string())?;
    }
    println!("{}", serde_json::to_string(&all)?);
    Ok(())
}

fn make_dirty(path: &Path, kib: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    for _ in 0..kib.div_ceil(4) {
        file.write_all(&PAGE)?;
    }
    Ok(())
}

fn write(path: &Path, pages: usize, ready: &AtomicUsize, stop: &AtomicBool) -> Result<Vec<Write>> {
    let failed = || path.display().to_string();
    let file = File::create(path).with_context(failed)?;
    // Or else each pause would be half as long again.
    set_timerslack(1)?;
    let mut writes = Vec::new();
    loop {
        let begun = now()?;
        file.write_all_at(&PAGE, 0).with_context(failed)?;
        let done = now()?;
        writes.push(Write { begun, done });
        if writes.len() == pages {
            ready.fetch_add(1, Ordering::Relaxed);
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(writes);
        }
        thread::sleep(PAUSE);
    }
}

/// Applications that run in a guest; those that are dropped are killed.
pub(super) struct Applications {
    process: Child,
    /// What they print.
    lines: Receiver<io::Result<String>>,
}

/// What the host knows of a freeze, by the clock of [`now`].
pub(super) struct Freeze {
    /// When it sent the FREEZE.
    pub(super) asked: u64,
    /// When it had the reply.
    pub(super) replied: u64,
    /// When it sent the THAW.
    pub(super) thawing: u64,
}

/// For how long applications stood still.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pause {
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
    /// Starts them by a command of the guest's that runs [`run`], and waits until
    /// all are at work.
    pub(super) fn start(machine: &BlackBox, command: &[&str]) -> Result<Self> {
        let mut process = machine.spawn(command)?;
        let output = process.stdout.take().context("they have no output")?;
        let (tell, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                // Nobody listens any more where they were dropped.
                let _ = tell.send(line);
            }
        });
        let mut applications = Self { process, lines };
        let line = applications.line()?;
        ensure!(line == READY, "the applications say {line:?}");
        Ok(applications)
    }

    /// Ends them, each after another write, and says for how long they stood
    /// still.
    pub(super) fn end(mut self, freeze: &Freeze) -> Result<Pause> {
        drop(self.process.stdin.take());
        let each: Vec<Vec<Write>> = serde_json::from_str(&self.line()?)?;
        self.process.wait()?;
        let mut all = Pause::default();
        for writes in each {
            let one = pause(&writes, freeze)?;
            all.to_reply = all.to_reply.max(one.to_reply);
            all.to_thawed = all.to_thawed.max(one.to_thawed);
            all.longest = all.longest.max(one.longest);
            all.otherwise = all.otherwise.max(one.otherwise);
        }
        Ok(all)
    }

    fn line(&mut self) -> Result<String> {
        if let Ok(line) = self.lines.recv_timeout(TIME) {
            return Ok(line?);
        }
        let Some(status) = self.process.try_wait()? else {
            bail!("the applications say nothing in {TIME:?}");
        };
        let mut complaint = String::new();
        if let Some(mut stderr) = self.process.stderr.take() {
            stderr.read_to_string(&mut complaint)?;
        }
        bail!(
            "the applications have ended: {status}, {}",
            complaint.trim()
        );
    }
}

impl Drop for Applications {
    fn drop(&mut self) {
        // They may have ended.
        let _ = self.process.kill();
    }
}

/// For how long one application stood still.
fn pause(writes: &[Write], freeze: &Freeze) -> Result<Pause> {
    let (before, after) = writes.split_at(writes.partition_point(|it| it.done < freeze.thawing));
    let last = before.last().context("nothing was written before")?;
    let next = after.first().context("nothing was written after")?;
    ensure!(
        last.begun < freeze.replied,
        "a page was written while everything was to stand still"
    );
    let to_reply = Duration::from_nanos(freeze.replied.saturating_sub(last.done));
    let to_thawed = Duration::from_nanos(next.done - freeze.thawing);
    let gaps = before.windows(2).filter_map(|pair| match pair {
        [one, next] if next.done < freeze.asked => Some(next.done - one.done),
        _ => None,
    });
    Ok(Pause {
        to_reply,
        to_thawed,
        longest: to_reply + to_thawed,
        otherwise: Duration::from_nanos(gaps.max().unwrap_or_default()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREEZE: Freeze = Freeze {
        asked: 20,
        replied: 50,
        thawing: 100,
    };

    /// Writes that take one nanosecond and begin at these.
    fn writes(at: &[u64]) -> Vec<Write> {
        let write = |begun: &u64| Write {
            begun: *begun,
            done: begun + 1,
        };
        at.iter().map(write).collect()
    }

    #[test]
    fn the_time_of_the_host_does_not_count() {
        let mut writes = writes(&[0, 2, 7, 9, 30]);
        // The one that had to wait.
        writes.push(Write {
            begun: 33,
            done: 104,
        });
        let expected = Pause {
            to_reply: Duration::from_nanos(50 - 31),
            to_thawed: Duration::from_nanos(4),
            longest: Duration::from_nanos(19 + 4),
            otherwise: Duration::from_nanos(5),
        };
        assert_eq!(pause(&writes, &FREEZE).unwrap(), expected);
    }

    #[test]
    fn one_that_went_on_writing_is_an_error() {
        let error = pause(&writes(&[0, 60, 110]), &FREEZE).unwrap_err();
        assert!(error.to_string().contains("stand still"), "{error}");
        assert!(pause(&writes(&[0]), &FREEZE).is_err());
        assert!(pause(&writes(&[110]), &FREEZE).is_err());
    }
}
