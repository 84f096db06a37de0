//! Where log records go: through a bounded queue to a thread that writes them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, o};
use slog_async::{Async, AsyncGuard, OverflowStrategy};
use slog_syslog::{Facility, Streamer3164, SyslogBuilder};

use crate::fields::WithoutFields;
use crate::journal::{self, Journal};
use crate::lines::Lines;

/// Records that may wait for the drain; more are dropped and counted.
const QUEUE: usize = 256;

/// How long the last records may take at the end.
const FLUSH_LIMIT: Duration = Duration::from_millis(200);

const SYSLOG_SOCKET: &str = "/dev/log";

/// Where log records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// The system log: the journal, or /dev/log.
    Syslog,
    /// Standard error.
    Stderr,
}

/// The least severe level that is logged; it can be changed while logging.
#[derive(Debug, Clone)]
pub struct Threshold(Arc<AtomicU8>);

impl Threshold {
    /// A threshold at `level`.
    pub fn new(level: Level) -> Self {
        let threshold = Self(Arc::default());
        threshold.set(level);
        threshold
    }

    /// Logs from `level` on.
    pub fn set(&self, level: Level) {
        // Levels are the numbers from 1 to 6.
        #[expect(clippy::cast_possible_truncation)]
        self.0.store(level.as_usize() as u8, Ordering::Relaxed);
    }

    fn passes(&self, level: Level) -> bool {
        level.as_usize() <= usize::from(self.0.load(Ordering::Relaxed))
    }
}

/// A running log; dropping it writes out what waits, for a short time.
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
    /// Where the system log is not there.
    pub fn start(target: Target, threshold: Threshold) -> io::Result<Self> {
        let (queue, guard) = match target {
            // Without the journal's own socket its one for syslog will do.
            Target::Syslog => match journal::socket(Path::new(SYSLOG_SOCKET))
                .and_then(|path| Journal::connect(path).ok())
            {
                Some(journal) => queue(journal.ignore_res()),
                None => {
                    let syslog = Syslog::connect(PathBuf::from(SYSLOG_SOCKET))?;
                    queue(WithoutFields(syslog).ignore_res())
                }
            },
            Target::Stderr => queue(Lines(Mutex::new(io::stderr())).ignore_res()),
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

/// Passes on what the threshold lets pass.
struct ThresholdDrain {
    to: Async,
    threshold: Threshold,
}

impl Drain for ThresholdDrain {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if self.is_enabled(record.level()) {
            // It fails where the queue is full, which it counts and reports.
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
        .chan_size(QUEUE)
        .overflow_strategy(OverflowStrategy::DropAndReport)
        .thread_name("log".to_owned())
        .build_with_guard()
}

impl Drop for Log {
    fn drop(&mut self) {
        let guard = self.guard.take();
        // The guard waits for the drain, which may wait for a reader that has
        // stopped: then the process ends without it.
        let (flushed, wait) = channel();
        thread::spawn(move || {
            drop(guard);
            let _ = flushed.send(());
        });
        let _ = wait.recv_timeout(FLUSH_LIMIT);
    }
}

/// The system log, found again after its daemon was restarted.
pub(crate) struct Syslog {
    socket: PathBuf,
    stream: Mutex<Streamer3164>,
}

impl Syslog {
    pub(crate) fn connect(socket: PathBuf) -> io::Result<Self> {
        let stream = Mutex::new(Self::stream(&socket)?);
        Ok(Self { socket, stream })
    }

    fn stream(socket: &PathBuf) -> io::Result<Streamer3164> {
        SyslogBuilder::new()
            .facility(Facility::LOG_DAEMON)
            // The crate passes on what is at most as severe as this; the
            // threshold has filtered before.
            .level(Level::Critical)
            .unix(socket)
            .start()
    }
}

impl Drain for Syslog {
    type Ok = ();
    type Err = io::Error;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> io::Result<()> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if stream.log(record, values).is_ok() {
            return Ok(());
        }
        *stream = Self::stream(&self.socket)?;
        stream.log(record, values)
    }
}

/// A log level as it is written in configuration and flags.
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

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}

#[cfg(test)]
mod tests {
    use slog::{info, warn};

    use super::*;
    use crate::rate_limit::RateLimit;
    use crate::stats::ServiceStats;

    #[test]
    fn fields_come_through_all_that_is_before_the_journal() {
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
        let noted = stats.last_error().map(|(_, text)| text);
        assert_eq!(noted.as_deref(), Some("failed, why: no"));
    }

    #[test]
    fn a_syslog_daemon_that_was_restarted_is_found_again() {
        use std::os::unix::net::UnixDatagram;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let bind = || {
            let daemon = UnixDatagram::bind(&path).unwrap();
            daemon
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            daemon
        };
        let daemon = bind();
        let syslog = WithoutFields(Syslog::connect(path.clone()).unwrap());
        let log = Logger::root(syslog.ignore_res(), o!("HYPERV_DEVICE" => "left out"));
        let read = |daemon: &UnixDatagram| {
            let mut line = [0; 256];
            let len = daemon.recv(&mut line).unwrap();
            String::from_utf8(line[..len].to_vec()).unwrap()
        };
        info!(log, "first"; "key" => "value", "HYPERV_EVENT" => "left out");
        let line = read(&daemon);
        // Facility daemon (3), severity notice (5).
        assert!(line.starts_with("<29>"), "{line}");
        assert!(line.ends_with("first, key: value"), "{line}");
        drop(daemon);
        std::fs::remove_file(&path).unwrap();
        let daemon = bind();
        warn!(log, "second");
        assert!(read(&daemon).ends_with("second"));
    }
}
