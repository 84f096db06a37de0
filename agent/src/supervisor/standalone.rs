//! A service that runs without a device, for one local command.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use hyperv_services::backup::Backup;
use hyperv_services::command::{Client, Command};
use hyperv_services::retry::poll_until;
use hyperv_services::service::Entry;
use rustix::event::{PollFd, PollFlags};
use slog::{Logger, warn};

use crate::stats::ServiceStats;
use crate::worker::panics::catch_panic;
use crate::worker::state::WorkerState;

/// A service that runs without a device, on its own thread.
#[derive(Debug)]
pub(crate) struct Standalone {
    /// The service's registry entry.
    pub(crate) entry: &'static Entry,
    /// Its state, for the status.
    pub(crate) state: Arc<WorkerState>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Standalone {
    /// Creates the service and executes a command. `ended` is called when the service is
    /// dropped, just before the client receives the result.
    pub(crate) fn start(
        entry: &'static Entry,
        config: Arc<hyperv_services::Config>,
        stats: Arc<ServiceStats>,
        log: Logger,
        (command, client): (Command, Box<dyn Client>),
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (its_state, its_stop) = (Arc::<WorkerState>::default(), Arc::<AtomicBool>::default());
        let (state, stop) = (Arc::clone(&its_state), Arc::clone(&its_stop));
        let result = Arc::<DeferredResult>::default();
        let client = Box::new(DeferredClient {
            client,
            result: Arc::clone(&result),
        });
        let run = move || {
            let outcome = catch_panic(|| {
                let mut service = (entry.make)(&config, &log);
                service.record_in(&stats.record);
                state.opened(&*service);
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
                    if poll_until(&mut fds, None).is_err() {
                        return;
                    }
                    service.woken();
                }
            });
            if let Err(panic) = outcome {
                warn!(log, "the service panicked: {}", panic);
            }
            // A client that has the result may send another request at once.
            ended();
            let result = result.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((client, result)) = result {
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

    /// Joins the thread of a service that was dropped. Then the client has the result.
    pub(crate) fn join(self) {
        // A panic was logged already.
        let _ = self.thread.join();
    }

    /// Ends the service, whatever it does.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.state.stop();
    }
}

/// A client, and the result that it receives when the service has ended.
type DeferredResult = Mutex<Option<(Box<dyn Client>, Result<Backup, String>)>>;

/// A client that receives the result later.
#[derive(Debug)]
struct DeferredClient {
    client: Box<dyn Client>,
    result: Arc<DeferredResult>,
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
        let mut deferred = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        *deferred = Some((self.client, result));
    }
}
