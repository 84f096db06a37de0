//! A private mount namespace, held by one thread: whatever is mounted on that
//! thread, and whatever is started from it, stays apart from the machine.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long killed processes may take to go.
const KILL: Duration = Duration::from_secs(5);

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
            unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
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
    /// left behind too, and waits until they have ended.
    pub(super) fn kill_all(&self) -> Result<()> {
        self.run(|| {
            let deadline = Instant::now() + KILL;
            loop {
                let processes = processes()?;
                if processes.is_empty() {
                    return Ok(());
                }
                if Instant::now() >= deadline {
                    bail!("{processes:?} do not die");
                }
                for process in processes {
                    // One that has ended meanwhile is none to kill.
                    let _ = kill(process, Signal::SIGKILL);
                }
                thread::yield_now();
            }
        })?
    }
}

/// The processes in this thread's namespace, its own aside.
fn processes() -> Result<Vec<Pid>> {
    let namespace = fs::read_link("/proc/thread-self/ns/mnt")
        .context("reading which mount namespace this is")?;
    let entries = fs::read_dir("/proc").context("reading /proc")?;
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|of| of == namespace))
        .map(Pid::from_raw)
        .collect())
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
