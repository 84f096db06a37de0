//! Prepares a freeze, between the hooks and the first `FIFREEZE`: makes the [`plan`], opens
//! its file systems and writes out their dirty pages, so that little is left to write while
//! everybody waits.
//!
//! All of this has time limits. If a file system does not answer, nothing is frozen, and
//! the error names it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::blocking::{Job, JobError, Lookups, NotResponding};
use super::config::Config;
use super::open::{self, OpenError, Opened};
use super::plan::{self, Blocked, Blocker, LeftOut, Plan, PlanError, Reason};
use super::write_out::WriteOut;

/// How many file systems are written out at the same time.
const AT_ONCE: usize = 16;

/// If writing all of them out takes so long, it is done twice.
pub(super) const WRITE_OUT_LONG: Duration = Duration::from_secs(1);

/// A plan with open file systems.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The plan.
    pub plan: Plan,
    /// The file systems to freeze, in freeze order.
    pub opened: Vec<Opened>,
    /// Those that were unmounted meanwhile.
    pub gone: Vec<OpenError>,
}

/// Why a freeze cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error(
        "cannot freeze the file system at {point:?}: {reason}; make it reachable, or list it in \
         [vss.exclude]"
    )]
    Blocked { point: PathBuf, reason: Blocker },
    #[error(
        "cannot write out the file system at {point:?}: it does not answer; see what the kernel \
         logs about its disk, or list it in [vss.exclude]"
    )]
    NotWritten { point: PathBuf },
    #[error("nothing is frozen: the agent is being stopped")]
    Stopped,
}

/// Makes a plan and opens the file systems that it freezes.
///
/// # Errors
///
/// If the list of mounts cannot be read.
pub fn plan_and_open(config: &Config) -> Result<Prepared, PlanError> {
    let lookups = Lookups::new();
    let mut plan = plan::make_within(config, &lookups)?;
    let mut prepared = Prepared::default();
    for file_system in std::mem::take(&mut plan.freeze) {
        match open::open_within(&file_system, &config.environment.root, &lookups) {
            Ok(opened) => {
                prepared.opened.push(opened);
                plan.freeze.push(file_system);
            }
            Err(gone @ OpenError::Gone(_)) => prepared.gone.push(gone),
            Err(OpenError::ShutDown(_)) => plan.left_out.push(LeftOut {
                file_system,
                reason: Reason::ShutDown,
            }),
            Err(OpenError::Failed { problems, .. }) => plan.blocked.push(Blocked {
                file_system,
                reason: Blocker::CannotOpen(problems),
            }),
        }
    }
    let place = |it: &LeftOut| it.file_system.mount_point().to_owned();
    plan.left_out.sort_by_cached_key(place);
    prepared.plan = plan;
    Ok(prepared)
}

impl Prepared {
    /// Returns an error if a file system that is to be frozen cannot be.
    pub(super) fn check(&self) -> Result<(), PrepareError> {
        match self.plan.blocked.first() {
            None => Ok(()),
            Some(blocked) => Err(PrepareError::Blocked {
                point: blocked.file_system.mount_point().to_owned(),
                reason: blocked.reason.clone(),
            }),
        }
    }

    /// Writes out the dirty pages, until the time `until` or until `stop` is readable. If
    /// that fails, the freeze fails with the same error.
    ///
    /// If it takes `long` or more, and there is time for it, it is done once more: meanwhile
    /// applications have written to the file systems that were done first.
    pub(super) fn write_out(
        &self,
        write_out: WriteOut,
        long: Duration,
        until: Instant,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<(), PrepareError> {
        let began = Instant::now();
        self.write_out_once(write_out, until, stop)?;
        let took = began.elapsed();
        let left = until.saturating_duration_since(Instant::now());
        if took >= long && took < left / 2 {
            self.write_out_once(write_out, until, stop)?;
        }
        Ok(())
    }

    fn write_out_once(
        &self,
        write_out: WriteOut,
        until: Instant,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<(), PrepareError> {
        let mut begun = VecDeque::with_capacity(AT_ONCE);
        let mut rest = self.opened.iter();
        loop {
            let next = if begun.len() < AT_ONCE {
                rest.next()
            } else {
                None
            };
            if let Some(opened) = next {
                begun.push_back((opened, begin(opened, write_out)));
                continue;
            }
            let Some((opened, job)) = begun.pop_front() else {
                return Ok(());
            };
            match job
                .map_err(JobError::from)
                .and_then(|job| job.wait(until, stop))
            {
                Ok(()) => {}
                Err(JobError::NotResponding(_)) => {
                    let point = opened.mount_point.clone();
                    return Err(PrepareError::NotWritten { point });
                }
                Err(JobError::Stopped) => return Err(PrepareError::Stopped),
            }
        }
    }
}

/// Starts to write one out. The job has its own copy of the descriptor, so that an
/// abandoned one does not keep other file systems from being unmounted.
fn begin(opened: &Opened, write_out: WriteOut) -> Result<Job<()>, NotResponding> {
    let fd = opened.fd.as_fd().try_clone_to_owned();
    Job::begin(&opened.mount_point, move || {
        if let Ok(fd) = fd {
            let _ = write_out(fd);
        }
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io;
    use std::os::fd::OwnedFd;
    use std::sync::Mutex;

    use super::*;
    use crate::vss::device_number::DeviceNumber;

    static WRITTEN: Mutex<usize> = Mutex::new(0);

    fn count(_: OwnedFd) -> io::Result<()> {
        *WRITTEN.lock().unwrap() += 1;
        Ok(())
    }

    #[test]
    fn what_takes_long_to_write_out_is_written_out_again() {
        const COUNT: usize = 2 * AT_ONCE + 1;
        let directory = tempfile::tempdir().unwrap();
        let opened = (0..COUNT).map(|index| {
            let path = directory.path().join(index.to_string());
            Opened {
                fd: File::create(&path).unwrap().into(),
                mount_point: path,
                device: DeviceNumber::default(),
                after: Vec::new(),
            }
        });
        let prepared = Prepared {
            opened: opened.collect(),
            ..Prepared::default()
        };
        let later = Duration::from_secs(600);
        for (long, times) in [(later, 1), (Duration::ZERO, 2)] {
            *WRITTEN.lock().unwrap() = 0;
            let until = Instant::now() + later;
            prepared.write_out(count, long, until, None).unwrap();
            assert_eq!(*WRITTEN.lock().unwrap(), COUNT * times);
        }
    }
}
