//! Copying files from the host into the guest. Protocol section 5.
//!
//! [`request`] decodes a message, and the `name`s in it. START resolves the `target`:
//! `confine` walks to its directory past each `entry` that the rules of `owners` allow, and
//! `directories` creates what is missing. `transfer` is the state of the one copy in
//! progress, with the `extents` that were received. `staging` holds its file until it is
//! complete and puts it in place with the `metadata` of the file that it replaces. `room`
//! keeps the disk from filling up, `journal` records what a killed agent would leave
//! behind, and `error` describes failures to the host and the administrator.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyperv_vmbus::hvutil::HvUtil;
use hyperv_vmbus::ic::{MessageType, Negotiated, Status, Version};
use hyperv_vmbus::message::ReplyLayout;
use hyperv_vmbus::{Encoding, classes};

use slog::{Logger, info, warn};

pub use self::config::Config;
use self::error::Error;
use self::request::{Request, Start};
use self::transfer::{Finished, Transfer};
use crate::counters::ServiceRecord;
use crate::error_chain::display_chain;
use crate::progress::{Operation, Progress};
use crate::service::{Entry, Service};

pub mod config;
mod confine;
mod describe;
mod directories;
mod entry;
mod error;
mod extents;
mod journal;
mod metadata;
mod name;
mod owners;
pub mod request;
mod room;
mod staging;
mod target;
mod transfer;

/// The service's entry in the registry.
pub static ENTRY: Entry = Entry {
    name: "fcopy",
    summary: "file copy from the host (Copy-VMFile)",
    class: classes::FILE_COPY,
    message_type: MessageType::FILE_COPY,
    frameworks: &[Version::new(3, 0)],
    versions: &[Version::new(1, 1)],
    hvutil: HvUtil {
        node: "vmbus/hv_fcopy",
        registration: &1u32.to_le_bytes(),
        // A WRITE has 6,196 bytes. Messages of other operations have any length that the
        // host sent, up to the kernel's buffer of 8 KiB, and the kernel fails a shorter read
        // with `EINVAL` for as long as the message is pending.
        message_len: 8192,
        reply: ReplyLayout::Status,
    },
    default: true,
    // A file could be written below a mount point: systemd alone gives a mount up.
    mounts_wait: |_| Duration::MAX,
    prepare: None,
    describe: describe::describe,
    data: request::data,
    make: |config, log| Box::new(FileCopy::new(&config.fcopy, log)),
};

struct FileCopy {
    config: Config,
    log: Logger,
    progress: Arc<Progress>,
    record: Arc<ServiceRecord>,
    state: State,
}

enum State {
    /// No copy is in progress. `quiet` after a logged failure, so that a host that
    /// continues to send does not fill the log.
    Idle {
        quiet: bool,
    },
    Copying(Box<Transfer>),
}

impl FileCopy {
    fn new(config: &Config, log: &Logger) -> Self {
        journal::clean(&config.environment.state_dir, log);
        Self {
            config: config.clone(),
            log: log.clone(),
            progress: Arc::default(),
            record: Arc::default(),
            state: State::Idle { quiet: false },
        }
    }

    fn execute(&mut self, request: Request<'_>) -> Result<(), Error> {
        match request {
            Request::Start(start) => self.start(&start),
            Request::Write { offset, data } => self.write(offset, data),
            Request::Complete => self.complete(),
            Request::Cancel => {
                self.cancel("the host cancelled it");
                Ok(())
            }
        }
    }

    fn start(&mut self, start: &Start) -> Result<(), Error> {
        self.cancel("the host started another copy");
        let begun = target::path(start).and_then(|path| {
            let operation = self.progress.begin(Operation::Copying {
                path: path.display().to_string(),
                done: 0,
                size: start.size,
            });
            Transfer::start(start, &path, operation, &self.config, &self.log)
        });
        match begun {
            Ok(transfer) => {
                let may = |may: bool, what| if may { what } else { "" };
                info!(
                    self.log,
                    "copy started: {:?}, {} bytes{}{}",
                    transfer.path(),
                    start.size,
                    may(start.overwrite, ", may overwrite"),
                    may(start.create_path, ", may create its path")
                );
                self.state = State::Copying(Box::new(transfer));
                Ok(())
            }
            Err(error) => {
                let path = PathBuf::from(&start.directory).join(&start.file_name);
                self.end_failed(&path, &error);
                self.state = State::Idle { quiet: true };
                Err(error)
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        match &mut self.state {
            State::Copying(transfer) => {
                transfer.write(offset, data, &self.config)?;
                self.record.counters.fcopy.bytes.add(data.len() as u64);
                Ok(())
            }
            State::Idle { .. } => Err(Error::Idle),
        }
    }

    fn complete(&mut self) -> Result<(), Error> {
        match &mut self.state {
            State::Copying(transfer) => {
                let finished = transfer.complete(&self.config)?;
                self.state = State::Idle { quiet: false };
                self.end_finished(&finished);
                Ok(())
            }
            State::Idle { .. } => Err(Error::Idle),
        }
    }

    /// Drops the copy in progress, if there is one.
    fn cancel(&mut self, reason: &str) {
        if let Some(transfer) = self.take() {
            self.record.counters.fcopy.cancelled.add(1);
            warn!(
                self.log,
                "copy cancelled: {:?}: {}",
                transfer.path(),
                reason;
                "HYPERV_EVENT" => "copy", "HYPERV_OUTCOME" => "cancelled"
            );
        }
    }

    /// Fails the copy in progress, whichever request failed: it may have carried data of
    /// the file.
    fn fail(&mut self, error: &Error) {
        if let Some(transfer) = self.take() {
            self.end_failed(transfer.path(), error);
        } else if let State::Idle { quiet: false } = self.state {
            warn!(self.log, "request refused: {}", display_chain(error));
        }
        self.state = State::Idle { quiet: true };
    }

    fn take(&mut self) -> Option<Box<Transfer>> {
        match mem::replace(&mut self.state, State::Idle { quiet: false }) {
            State::Copying(transfer) => Some(transfer),
            idle @ State::Idle { .. } => {
                self.state = idle;
                None
            }
        }
    }

    fn end_failed(&self, path: &Path, error: &Error) {
        self.record.counters.fcopy.failed.add(1);
        warn!(
            self.log,
            "copy failed: {:?}: {}",
            path,
            display_chain(error);
            "HYPERV_EVENT" => "copy", "HYPERV_OUTCOME" => "failed"
        );
    }

    fn end_finished(&self, finished: &Finished) {
        self.record.counters.fcopy.finished.add(1);
        let Finished {
            path,
            size,
            announced,
            seconds,
        } = finished;
        let rate = *size as f64 / f64::from(1 << 20) / seconds.max(1e-6);
        let figures = format!("{path:?}, {size} bytes in {seconds:.3} s, {rate:.1} MiB/s");
        if size == announced {
            info!(
                self.log, "copy finished: {}", figures;
                "HYPERV_EVENT" => "copy", "HYPERV_OUTCOME" => "finished"
            );
        } else {
            warn!(
                self.log,
                "copy finished: {}, although {} bytes were announced", figures, announced;
                "HYPERV_EVENT" => "copy", "HYPERV_OUTCOME" => "finished"
            );
        }
    }
}

impl Drop for FileCopy {
    fn drop(&mut self) {
        self.cancel("the device was closed");
    }
}

impl Service for FileCopy {
    fn handle(&mut self, encoding: Encoding, body: &mut [u8]) -> Status {
        let result = request::decode(encoding, body)
            .map_err(Error::from)
            .and_then(|request| self.execute(request));
        match result {
            Ok(()) => Status::OK,
            Err(error) => {
                self.fail(&error);
                error.status()
            }
        }
    }

    fn negotiated(&mut self, _versions: Negotiated) {
        if self.busy() {
            self.fail(&Error::Renegotiated);
        }
    }

    fn busy(&self) -> bool {
        matches!(self.state, State::Copying(_))
    }

    fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Copying(transfer) => transfer.deadline(&self.config),
            State::Idle { .. } => None,
        }
    }

    fn woken(&mut self) {
        if self.deadline().is_some_and(|at| at <= Instant::now()) {
            self.fail(&Error::Stalled(self.config.idle_limit.as_secs()));
        }
    }

    fn reconfigure(&mut self, config: &crate::Config) -> bool {
        let State::Copying(transfer) = &self.state else {
            return false;
        };
        // Only the configuration of other services changed.
        if self.config == config.fcopy {
            return true;
        }
        self.config = config.fcopy.clone();
        if let Err(error) = transfer.check(&self.config, &self.log) {
            self.fail(&error);
        }
        true
    }

    fn progress(&self) -> Option<Arc<Progress>> {
        Some(Arc::clone(&self.progress))
    }

    fn record_in(&mut self, record: &Arc<ServiceRecord>) {
        self.record = Arc::clone(record);
    }
}
