//! A mount namespace of its own, held by one thread: whatever is mounted on that
//! thread, and whatever is started from it, stays apart from the machine.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::{fs, thread};

use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

type Job = Box<dyn FnOnce() + Send>;

/// The thread that lives in the namespace. The namespace ends with it, and with
/// it all mounts in there.
pub(super) struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Makes the namespace; nothing that is mounted in it from now on shows
    /// outside.
    pub(super) fn new() -> Result<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let thread = thread::Builder::new()
            .name("guest".to_owned())
            .spawn(move || todo.into_iter().for_each(|job| job()))
            .context("starting the thread for the guest's mounts")?;
        let namespace = Self {
            jobs: Some(jobs),
            thread: Some(thread),
        };
        namespace.run(|| {
            unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace of its own")?;
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )
            .context("keeping mounts apart from the machine's")
        })??;
        Ok(namespace)
    }

    /// Runs `job` in the namespace and waits for it.
    pub(super) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let gone = || anyhow!("the thread that holds the guest's mounts has ended");
        let (done, result) = mpsc::channel();
        let job = Box::new(move || drop(done.send(job())));
        self.jobs
            .as_ref()
            .ok_or_else(gone)?
            .send(job)
            .map_err(|_| gone())?;
        result.recv().map_err(|_| gone())
    }

    /// Kills every process in the namespace, descendants that the program has
    /// left behind too.
    pub(super) fn kill_all(&self) -> Result<()> {
        self.run(|| {
            let own = fs::read_link("/proc/thread-self/ns/mnt")
                .context("reading which mount namespace this is")?;
            for entry in fs::read_dir("/proc").context("reading /proc")? {
                let Some(pid) = entry
                    .ok()
                    .and_then(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
                else {
                    continue;
                };
                // A process that has ended meanwhile is none to kill.
                if fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|of| of == own) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            Ok(())
        })?
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
