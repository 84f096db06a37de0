//! What is done between the hooks and the first `FIFREEZE`: the [`plan`], a
//! descriptor of each file system in it, and writing out what is not on the disk
//! yet, so that little is left to be written when everybody waits for it.
//!
//! Nothing of this waits longer than there is time for: what does not answer is
//! named, and nothing is frozen.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Instant;

use super::blocking::{Job, JobError, Lookups, NotResponding};
use super::config::Config;
use super::open::{self, OpenError, Opened};
use super::plan::{self, Blocked, Blocker, LeftOut, Plan, PlanError, Reason};
use super::write_out::WriteOut;

/// How many file systems are written out at the same time.
const AT_ONCE: usize = 16;

/// A plan, and what it takes to carry it out.
#[derive(Debug, Default)]
pub struct Prepared {
    /// What is frozen, and what is not.
    pub plan: Plan,
    /// A descriptor of each of those that are frozen, in that order.
    pub opened: Vec<Opened>,
    /// What was unmounted meanwhile.
    pub gone: Vec<OpenError>,
}

/// Why nothing can be frozen.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error(
        "cannot freeze the file system at {point:?}: {reason}; let it be reached, or name it in \
         [vss.exclude]"
    )]
    Blocked { point: PathBuf, reason: Blocker },
    #[error(
        "cannot write out the file system at {point:?}: it does not answer; see what the kernel \
         says of its disk, or name it in [vss.exclude]"
    )]
    NotWritten { point: PathBuf },
    #[error("nothing is frozen: the agent was told to end")]
    Stopped,
}

/// Makes a plan and opens what is frozen by it.
///
/// # Errors
///
/// If the kernel does not tell what is mounted.
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
            Err(gone @ OpenError::Gone { .. }) => prepared.gone.push(gone),
            Err(OpenError::ShutDown { .. }) => plan.left_out.push(LeftOut {
                file_system,
                reason: Reason::ShutDown,
            }),
            Err(OpenError::Nowhere { problems, .. }) => plan.blocked.push(Blocked {
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
    /// Refuses a plan that something is in the way of.
    pub(super) fn check(&self) -> Result<(), PrepareError> {
        match self.plan.blocked.first() {
            None => Ok(()),
            Some(blocked) => Err(PrepareError::Blocked {
                point: blocked.file_system.mount_point().to_owned(),
                reason: blocked.reason.clone(),
            }),
        }
    }

    /// Writes out what is not on the disk yet, until then; what fails at it fails
    /// again when it is frozen.
    pub(super) fn write_out(
        &self,
        write_out: WriteOut,
        until: Instant,
        stop: Option<BorrowedFd<'_>>,
    ) -> Result<(), PrepareError> {
        for some in self.opened.chunks(AT_ONCE) {
            let begun = some.iter().map(|opened| (opened, begin(opened, write_out)));
            // All of them have begun before the first is waited for.
            let begun: Vec<_> = begun.collect();
            for (opened, job) in &begun {
                let ended = match job {
                    Ok(job) => job.wait(until, stop),
                    Err(no_answer) => Err(no_answer.clone().into()),
                };
                match ended {
                    Ok(()) => {}
                    Err(JobError::NotResponding(_)) => {
                        let point = opened.mount_point.clone();
                        return Err(PrepareError::NotWritten { point });
                    }
                    Err(JobError::Stopped) => return Err(PrepareError::Stopped),
                }
            }
        }
        Ok(())
    }
}

/// Begins to write one out, by a descriptor that the job has to itself: where it
/// is left behind it keeps no other file system from being unmounted.
fn begin(opened: &Opened, write_out: WriteOut) -> Result<Job<()>, NotResponding> {
    let fd = opened.fd.as_fd().try_clone_to_owned();
    Job::begin(&opened.mount_point, move || {
        if let Ok(fd) = fd {
            let _ = write_out(fd);
        }
    })
}
