//! Counting a process's system calls, with strace.

use std::fs;
use std::io::ErrorKind;
use std::ops::AddAssign;
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
    let summary = match traced(&["-c"], &[pid], host, work)? {
        Ok(summary) => summary,
        Err(reason) => return Ok(Err(reason)),
    };
    let total = total(&summary);
    total
        .with_context(|| format!("strace's summary has no total: {summary:?}"))
        .map(Ok)
}

/// System calls of several processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Calls {
    pub(super) all: u64,
    /// Those from the first one on in whose line the mark is.
    pub(super) marked: u64,
}

/// Counts those that processes, and whatever they start, make while `work` is
/// done; an error in words where they cannot be counted.
pub(super) fn system_calls_from<P: Protocol>(
    mark: &str,
    pids: &[u32],
    host: &mut ServiceHost<P>,
    work: impl FnOnce(&mut ServiceHost<P>) -> Result<()>,
) -> Result<Result<Calls, String>> {
    let log = traced(&[], pids, host, work)?;
    Ok(log.map(|log| count(&log, mark)))
}

/// What strace writes with these options while `work` is done; an error in words
/// where it cannot trace.
fn traced<P: Protocol>(
    options: &[&str],
    pids: &[u32],
    host: &mut ServiceHost<P>,
    work: impl FnOnce(&mut ServiceHost<P>) -> Result<()>,
) -> Result<Result<String, String>> {
    let trace = match attach(options, pids)? {
        Ok(trace) => trace,
        Err(reason) => return work(host).map(|()| Err(reason)),
    };
    let worked = work(host);
    // A process that sleeps in a device of ours cannot be let go of.
    let bell = host
        .channel()
        .ok()
        .map(|channel| Arc::clone(channel.bell()));
    let output = trace.finish(|| {
        if let Some(bell) = &bell {
            bell.interrupt();
        }
    });
    worked?;
    output.map(Ok)
}

/// strace, attached to processes.
struct Trace {
    strace: Child,
    output: NamedTempFile,
}

/// Attaches strace to all threads of processes; an error in words where it
/// cannot be.
fn attach(options: &[&str], pids: &[u32]) -> Result<Result<Trace, String>> {
    let output = NamedTempFile::new()?;
    let strace = Command::new("strace")
        .args(["-f", "-o"])
        .arg(output.path())
        .args(options)
        .args(pids.iter().map(|pid| format!("--attach={pid}")))
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
        for pid in pids {
            if !process::is_traced(*pid)? {
                return Ok(None);
            }
        }
        Ok(Some(()))
    });
    if let Err(error) = attached {
        // It may be gone already; that is what it is killed for.
        let _ = strace.kill();
        strace.wait()?;
        return Ok(Err(format!("{error:#}")));
    }
    Ok(Ok(Trace { strace, output }))
}

impl Trace {
    /// Detaches, and gives what was written. `nudge` wakes the processes.
    fn finish(mut self, nudge: impl Fn()) -> Result<String> {
        kill(Pid::from_raw(self.strace.id().try_into()?), Signal::SIGINT)?;
        until(TIME, "strace to detach", || {
            nudge();
            Ok(self.strace.try_wait()?)
        })?;
        Ok(fs::read_to_string(self.output.path())?)
    }
}

/// What a program did from its start on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Opened {
    /// System calls.
    pub(super) calls: u64,
    /// Those of them that opened a file or a directory.
    pub(super) files: u64,
}

impl AddAssign for Opened {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.files += other.files;
    }
}

/// What is in the log of a program that strace has started.
pub(super) fn opened(log: &str) -> Opened {
    let files = log.lines().filter(|line| {
        let opens = line.contains(" open(") || line.contains(" openat(");
        let resumed = line.contains("<... open resumed>") || line.contains("<... openat resumed>");
        let ended = line.contains(" = ") && !line.contains(" = -1 ");
        (opens || resumed) && ended
    });
    Opened {
        calls: count(log, "").all,
        files: files.count() as u64,
    }
}

/// The calls in a log of strace's. One that another process came between has two
/// lines; signals and ends of processes are no calls.
fn count(log: &str, mark: &str) -> Calls {
    let calls = log.lines().filter(|line| {
        let what = line.split_once(' ').map_or(*line, |(_, what)| what.trim());
        !["<...", "---", "+++"].iter().any(|it| what.starts_with(it))
    });
    let marked = calls.clone().skip_while(|line| !line.contains(mark));
    Calls {
        all: calls.count() as u64,
        marked: marked.count() as u64,
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
    use super::{Calls, Opened, count, opened, total};

    #[test]
    fn calls_are_counted_once_and_from_the_mark_on() {
        let log = "17 read(3, \"x\", 1) = 1\n\
                   17 ioctl(4, FIFREEZE <unfinished ...>\n\
                   9 +++ exited with 0 +++\n\
                   18 write(2, \"y\", 1) = 1\n\
                   17 <... ioctl resumed>) = 0\n\
                   17 --- SIGCHLD {si_signo=SIGCHLD} ---\n";
        assert_eq!(count(log, "FIFREEZE"), Calls { all: 3, marked: 2 });
        assert_eq!(count(log, "FITHAW"), Calls { all: 3, marked: 0 });
    }

    #[test]
    fn files_are_counted_that_were_opened() {
        let log = "17 execve(\"/x\", [], 0x1) = 0\n\
                   17 openat(AT_FDCWD, \"/etc/a\", O_RDONLY) = -1 ENOENT (No such file or directory)\n\
                   17 openat(AT_FDCWD, \"/etc/b\", O_RDONLY <unfinished ...>\n\
                   18 open(\"/etc/c\", O_RDONLY) = 3\n\
                   17 <... openat resumed>)             = 4\n";
        assert_eq!(opened(log), Opened { calls: 4, files: 2 });
    }

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
