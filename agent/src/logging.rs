//! Logging: a bounded queue, and a thread that writes the records to their target.

use std::env;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, o};
use slog_async::{Async, AsyncGuard, OverflowStrategy};

use crate::journal::{self, Journal};
use crate::lines::Lines;
use crate::timeouts::LOG_FLUSH;

/// Capacity of the queue. Further records are dropped and counted.
const QUEUE_LEN: usize = 256;

const SYSLOG_SOCKET: &str = "/dev/log";

/// Where log records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// The system log: the journal, or /dev/log.
    Syslog,
    /// Standard error.
    Stderr,
}

/// The least severe level that is logged. It can be changed at run time.
#[derive(Debug, Clone)]
pub struct Threshold(Arc<AtomicU8>);

impl Threshold {
    /// Creates a threshold at `level`.
    pub fn new(level: Level) -> Self {
        let threshold = Self(Arc::default());
        threshold.set(level);
        threshold
    }

    /// Logs records of `level` and more severe ones from now on.
    pub fn set(&self, level: Level) {
        // Levels are numbers from 1 to 6.
        #[expect(clippy::cast_possible_truncation)]
        self.0.store(level.as_usize() as u8, Ordering::Relaxed);
    }

    fn passes(&self, level: Level) -> bool {
        level.as_usize() <= usize::from(self.0.load(Ordering::Relaxed))
    }
}

/// A running log. Dropping it flushes the queue, for a short time.
pub struct Log {
    /// The root of all loggers.
    pub logger: Logger,
    guard: Option<AsyncGuard>,
}

impl Log {
    /// Starts to log to `target`.
    ///
    /// # Errors
    ///
    /// If the system log cannot be reached.
    pub fn start(target: Target, threshold: Threshold) -> io::Result<Self> {
        let stream = env::var("JOURNAL_STREAM").ok();
        let to_journal = journal::is_stream(io::stderr(), stream.as_deref());
        let (queue, guard) = match target {
            // Without the journal's native socket, its socket for syslog is used.
            Target::Syslog => {
                match journal::socket(
                    Path::new(SYSLOG_SOCKET),
                    Path::new(journal::DIRECTORY),
                    to_journal,
                )
                .and_then(|path| Journal::connect(path).ok())
                {
                    Some(journal) => queue(journal.ignore_res()),
                    None => syslog_queue()?,
                }
            }
            Target::Stderr => queue(Lines::new(io::stderr(), to_journal).ignore_res()),
        };
        let drain = ThresholdDrain {
            to: queue,
            threshold,
        };
        Ok(Self {
            logger: Logger::root(drain, o!()),
            guard: Some(guard),
        })
    }
}

/// A drain that filters records by level.
struct ThresholdDrain {
    to: Async,
    threshold: Threshold,
}

impl Drain for ThresholdDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if self.is_enabled(record.level()) {
            // It fails if the queue is full. slog_async counts and reports that.
            let _ = self.to.log(record, values);
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        self.threshold.passes(level)
    }
}

fn queue(drain: impl Drain<Ok = (), Err = Never> + Send + 'static) -> (Async, AsyncGuard) {
    Async::new(drain)
        .chan_size(QUEUE_LEN)
        .overflow_strategy(OverflowStrategy::DropAndReport)
        .thread_name("log".to_owned())
        .build_with_guard()
}

#[cfg(feature = "syslog")]
fn syslog_queue() -> io::Result<(Async, AsyncGuard)> {
    let syslog = crate::syslog::Syslog::connect(SYSLOG_SOCKET.into())?;
    Ok(queue(syslog.ignore_res()))
}

#[cfg(not(feature = "syslog"))]
fn syslog_queue() -> io::Result<(Async, AsyncGuard)> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "there is no journal, and this agent was built without the feature `syslog`",
    ))
}

impl Drop for Log {
    fn drop(&mut self) {
        let guard = self.guard.take();
        // The guard waits for the log thread, which may wait for a reader that hangs.
        // Then the process exits without it.
        let (flushed, wait) = channel();
        thread::spawn(move || {
            drop(guard);
            let _ = flushed.send(());
        });
        let _ = wait.recv_timeout(LOG_FLUSH);
    }
}

/// A log level in the configuration and in flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// Only failures that keep the agent from its work.
    Error,
    /// Failed requests and other problems, too.
    Warning,
    /// What the agent does, too.
    Info,
    /// Details of each request, too.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::Error,
            LogLevel::Warning => Self::Warning,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

#[cfg(test)]
mod tests {
    use slog::warn;

    use super::*;
    use crate::rate_limit::RateLimit;
    use crate::stats::ServiceStats;

    #[test]
    fn structured_fields_pass_all_drains_before_the_journal() {
        use std::os::unix::net::UnixDatagram;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        let (queue, guard) = queue(Journal::connect(path).unwrap().ignore_res());
        let drain = ThresholdDrain {
            to: queue,
            threshold: Threshold::new(Level::Info),
        };
        let stats = ServiceStats::new(RateLimit::new(|| {}));
        let log = stats.logger(Logger::root(drain, o!()));
        let log = log.new(o!("service" => "vss"));
        warn!(log, "failed"; "HYPERV_EVENT" => "backup", "why" => "no");
        drop((log, guard));
        let mut datagram = [0; 4096];
        let len = socket.recv(&mut datagram).unwrap();
        let text = String::from_utf8_lossy(&datagram[..len]);
        for field in ["HYPERV_EVENT=backup", "HYPERV_SERVICE=vss", "HYPERV_WHY=no"] {
            assert!(text.lines().any(|line| line == field), "{text}");
        }
        let last_error = stats.last_error().map(|(_, text)| text);
        assert_eq!(last_error.as_deref(), Some("failed, why: no"));
    }
}
