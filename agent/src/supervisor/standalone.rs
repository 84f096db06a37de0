//! A service without a device, for as long as it takes to carry out what a local user
//! asks of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use hyperv_services::backup::Backup;
use hyperv_services::command::{Client, Command};
use hyperv_services::service::Entry;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use slog::{Logger, warn};

use crate::stats::ServiceStats;
use crate::worker::panics::catch_panic;
use crate::worker::state::WorkerState;

/// A service that works without a device, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Standalone {
    /// Which service.
    pub(crate) entry: &'static Entry,
    /// What it shows of itself.
    pub(crate) state: Arc<WorkerState>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Standalone {
    /// Makes the service and has it carry out a command; `ended` is called when the
    /// service is gone, just before the client has the result.
    pub(crate) fn start(
        entry: &'static Entry,
        config: Arc<hyperv_services::Config>,
        stats: Arc<ServiceStats>,
        log: Logger,
        (command, client): (Command, Box<dyn Client>),
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (its_state, its_stop) = (Arc::<WorkerState>::default(), Arc::<AtomicBool>::default());
        let (view, stop) = (Arc::clone(&its_state), Arc::clone(&its_stop));
        let told = Arc::<DeferredResult>::default();
        let client = Box::new(DeferredClient {
            client,
            told: Arc::clone(&told),
        });
        let run = move || {
            let outcome = catch_panic(|| {
                let mut service = (entry.make)(&config, &log);
                service.keep_in(&stats.last_backup);
                view.opened(&*service);
                if stop.load(Ordering::Acquire) {
                    return;
                }
                service.command(command, client, None);
                let end = service.stop();
                while service.busy() && !stop.load(Ordering::Acquire) {
                    let watched = service.watched();
                    let end = end.as_ref().map(|stop| stop.as_fd());
                    let mut fds: Vec<_> = watched
                        .into_iter()
                        .chain(end)
                        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                        .collect();
                    if !matches!(poll(&mut fds, None), Ok(_) | Err(Errno::INTR)) {
                        return;
                    }
                    service.woken();
                }
            });
            if let Err(panic) = outcome {
                warn!(log, "the service panicked: {}", panic);
            }
            // Who has the result can ask for something else at once.
            ended();
            let told = told.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((client, result)) = told {
                client.end(result);
            }
        };
        let thread = thread::Builder::new().name(entry.name.to_owned());
        Ok(Self {
            entry,
            state: its_state,
            stop: its_stop,
            thread: thread.spawn(run)?,
        })
    }

    /// Joins the thread, whose service is gone: its client has the result then.
    pub(crate) fn join(self) {
        // A panic was logged.
        let _ = self.thread.join();
    }

    /// Ends it, whatever it is at.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.state.stop();
    }
}

/// A client, and the result that it is told when the service has ended.
type DeferredResult = Mutex<Option<(Box<dyn Client>, Result<Backup, String>)>>;

/// A client that is told the result later.
#[derive(Debug)]
struct DeferredClient {
    client: Box<dyn Client>,
    told: Arc<DeferredResult>,
}

impl AsFd for DeferredClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}

impl Client for DeferredClient {
    fn progress(&mut self, words: &str) {
        self.client.progress(words);
    }

    fn end(self: Box<Self>, result: Result<Backup, String>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        *told = Some((self.client, result));
    }
}
