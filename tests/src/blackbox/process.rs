//! The program, as a process.

use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::namespace::Namespace;
use super::{lock, wait_until};

/// How often a process that is to end is looked at: it may sit in a system call
/// that only the host can end.
const LOOK: Duration = Duration::from_millis(10);

/// A running or ended program.
pub(super) struct Process {
    pid: Pid,
    end: Arc<End>,
}

#[derive(Default)]
struct End {
    /// Locked while the process is signalled or reaped, so that no signal goes
    /// to another one with the same number.
    status: Mutex<Option<ExitStatus>>,
    changed: Condvar,
}

impl Process {
    /// Starts `words` in `namespace`, with these variables in its environment, and its
    /// standard output and error going to `output`.
    pub(super) fn start(
        namespace: &Namespace,
        words: &[String],
        environment: &[(&str, &str)],
        output: [fs::File; 2],
    ) -> Result<Self> {
        let (program, arguments) = words.split_first().context("the command is empty")?;
        let program = program.clone();
        let [stdout, stderr] = output;
        // The guest does not outlive its host, whatever ends it.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        let child = namespace
            .run(move || command.spawn())?
            .with_context(|| format!("starting {program}"))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id")?);
        let end = Arc::new(End::default());
        let reaper = Arc::clone(&end);
        thread::Builder::new()
            .name("reaper".to_owned())
            .spawn(move || reap(child, pid, &reaper))
            .context("starting the thread that waits for the program")?;
        Ok(Self { pid, end })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// How it has ended, if it has.
    pub(super) fn status(&self) -> Option<ExitStatus> {
        *lock(&self.end.status)
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let status = lock(&self.end.status);
        if status.is_none() {
            kill(self.pid, signal).with_context(|| format!("sending {signal}"))?;
        }
        Ok(())
    }

    /// Waits until it has ended. A signal that waits for a system call to end
    /// gets it: `interrupt` ends those that the host can end.
    pub(super) fn wait(
        &self,
        timeout: Duration,
        signal: Signal,
        interrupt: impl Fn(),
    ) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.has_pending(signal) {
                interrupt();
            }
            let status = lock(&self.end.status);
            let status = wait_until(&self.end.changed, status, LOOK, |status| status.is_some());
            if let Some(status) = *status {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("the program has not ended {timeout:?} after {signal}");
            }
        }
    }

    /// Whether one of its threads has yet to notice `signal`.
    fn has_pending(&self, signal: Signal) -> bool {
        let bit = 1u64 << (signal as u32 - 1);
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return false;
        };
        threads.flatten().any(|thread| {
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            status
                .lines()
                .filter_map(|line| {
                    line.strip_prefix("SigPnd:")
                        .or_else(|| line.strip_prefix("ShdPnd:"))
                })
                .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
                .any(|mask| mask & bit != 0)
        })
    }
}

fn reap(mut child: Child, pid: Pid, end: &End) {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(pid), flags) == Err(nix::errno::Errno::EINTR) {}
    let mut status = lock(&end.status);
    *status = child.wait().ok();
    end.changed.notify_all();
}
