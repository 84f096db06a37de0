//! Counting a process's system calls, with strace.

use std::fs;
use std::io::ErrorKind;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyperv_sim::host::{Protocol, ServiceHost};
use hyperv_sim::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;

use super::process;

const TIME: Duration = Duration::from_secs(10);

/// Counts the system calls that a process, and whatever it starts, makes while
/// `work` is done; an error in words where they cannot be counted.
pub(super) fn system_calls<P: Protocol>(
    pid: u32,
    host: &mut ServiceHost<P>,
    work: impl FnOnce(&mut ServiceHost<P>) -> Result<()>,
) -> Result<Result<u64, String>> {
    let trace = match attach(pid)? {
        Ok(trace) => trace,
        Err(reason) => return work(host).map(|()| Err(reason)),
    };
    let worked = work(host);
    // A process that sleeps in a device of ours cannot be let go of.
    let bell = host
        .channel()
        .ok()
        .map(|channel| Arc::clone(channel.bell()));
    let calls = trace.finish(|| {
        if let Some(bell) = &bell {
            bell.interrupt();
        }
    });
    worked?;
    calls.map(Ok)
}

/// strace, attached to a process.
struct Trace {
    strace: Child,
    summary: NamedTempFile,
}

/// Attaches strace to all threads of a process; an error in words where it
/// cannot be.
fn attach(pid: u32) -> Result<Result<Trace, String>> {
    let summary = NamedTempFile::new()?;
    let strace = Command::new("strace")
        .args(["-f", "-c", "-o"])
        .arg(summary.path())
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut strace = match strace {
        Ok(strace) => strace,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Err("strace is not installed".to_owned()));
        }
        Err(error) => return Err(error).context("starting strace"),
    };
    let attached = until(TIME, "strace to attach to every thread", || {
        if let Some(status) = strace.try_wait()? {
            bail!("strace ended at once: {status}");
        }
        Ok(process::is_traced(pid)?.then_some(()))
    });
    if let Err(error) = attached {
        // It may be gone already; that is what it is killed for.
        let _ = strace.kill();
        strace.wait()?;
        return Ok(Err(format!("{error:#}")));
    }
    Ok(Ok(Trace { strace, summary }))
}

impl Trace {
    /// Detaches, and gives the number of system calls since. `nudge` wakes the
    /// process.
    fn finish(mut self, nudge: impl Fn()) -> Result<u64> {
        kill(Pid::from_raw(self.strace.id().try_into()?), Signal::SIGINT)?;
        until(TIME, "strace to detach", || {
            nudge();
            Ok(self.strace.try_wait()?)
        })?;
        let summary = fs::read_to_string(self.summary.path())?;
        total(&summary).with_context(|| format!("strace's summary has no total: {summary:?}"))
    }
}

/// The calls in the summary's last line: share, seconds, microseconds a call,
/// calls, errors if there were any, the word.
fn total(summary: &str) -> Option<u64> {
    if summary.trim().is_empty() {
        return Some(0);
    }
    let line = summary.lines().rfind(|line| line.ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn the_total_is_found_with_errors_and_without() {
        let head = "% time     seconds  usecs/call     calls    errors syscall\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                    100.00    0.001000           1        41         2 read\n";
        let with = format!("{head}100.00    0.001000           1       123         4 total\n");
        let without = format!("{head}100.00    0.001000           1       123           total\n");
        assert_eq!(total(&with), Some(123));
        assert_eq!(total(&without), Some(123));
        assert_eq!(total(""), Some(0));
        assert_eq!(total("nonsense"), None);
    }
}
