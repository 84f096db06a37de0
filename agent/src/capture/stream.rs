//! Sends what the recorder has to the client that captures, as pcapng.
//!
//! The thread ends when the client closes its end, or only the half that it writes to: then it
//! gets what was recorded until that moment. It also ends when the client reads nothing for
//! [`READ_LIMIT`], and when the agent ends. While nothing is recorded, it sleeps.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hyperv_services::retry::poll_until;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use slog::{Logger, info, warn};

use super::recorder::{Item, Recorder, Taken};
use super::recording::Recording;
use super::{Level, Section};
use crate::timeouts::CAPTURE_FLUSH;

/// How long the client may take to read anything.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// How much is collected for one write.
const CHUNK: usize = 64 << 10;

/// Why a capture cannot begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    /// Another one runs.
    #[error("another capture is running: end that one first")]
    Running,
    /// A call failed.
    #[error("cannot begin a capture: {0}")]
    Io(#[from] io::Error),
}

/// A capture that has begun, before its thread runs. It is over when this is dropped.
#[derive(Debug)]
pub(crate) struct Begun {
    recorder: Arc<Recorder>,
    /// Readable when the recorder has something.
    wake: Arc<OwnedFd>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.recorder.finish();
    }
}

/// Begins a capture of these services, or of all if there is none. `content` says what it has
/// of the data of files.
///
/// # Errors
///
/// Any [`BeginError`].
pub(crate) fn begin(
    recorder: &Arc<Recorder>,
    services: Vec<String>,
    content: Level,
) -> Result<Begun, BeginError> {
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let wake = Arc::new(eventfd(0, flags).map_err(io::Error::from)?);
    if !recorder.begin(services, content, Arc::clone(&wake)) {
        return Err(BeginError::Running);
    }
    Ok(Begun {
        recorder: Arc::clone(recorder),
        wake,
    })
}

/// Why a capture has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client has ended it.
    Client,
    /// The agent ends.
    Agent,
    /// The client does not read.
    Unread,
}

impl Begun {
    /// Starts the thread that sends the capture, with everything that messages contain, but
    /// for the data of files.
    /// `client` does not block.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub(crate) fn stream(self, client: UnixStream, log: Logger) -> io::Result<()> {
        let mut connection = Connection {
            client,
            wake: Arc::clone(&self.wake),
            hung_up: false,
            ends_by: None,
        };
        let run = move || {
            let ended = self.run(&mut connection);
            let captured = self.recorder.finish();
            // Only now, as a client that notices the end may begin another capture.
            drop(connection);
            let (records, dropped) = captured.map_or((0, 0), |it| (it.records, it.dropped));
            let counts = format!("{records} records, {dropped} dropped");
            match ended {
                Ok(End::Client) => info!(log, "the capture has ended: {}", counts),
                Ok(End::Agent) => info!(log, "the capture ends with the agent: {}", counts),
                Ok(End::Unread) => warn!(
                    log,
                    "the capture has ended, as its client has read nothing for {} s: {}",
                    READ_LIMIT.as_secs(),
                    counts
                ),
                Err(error) => warn!(log, "the capture has failed: {}: {}", error, counts),
            }
        };
        thread::Builder::new()
            .name("capture".to_owned())
            .spawn(run)
            .map(drop)
    }

    fn run(&self, connection: &mut Connection) -> io::Result<End> {
        let mut out = Recording::new(Vec::with_capacity(CHUNK), &this_machine())?;
        let ended = loop {
            // At first this is the head of the file, which tells the client that it has begun.
            if let Some(end) = self.send(connection, out.get_mut())? {
                return Ok(end);
            }
            match self.recorder.take() {
                Taken::Records(items) => {
                    for Item { interface, record } in items {
                        out.add(&interface, record)?;
                        if out.get_mut().len() >= CHUNK {
                            if let Some(end) = self.send(connection, out.get_mut())? {
                                return Ok(end);
                            }
                        }
                    }
                }
                Taken::Nothing if connection.hung_up => break End::Client,
                Taken::Nothing => connection.wait(None)?,
                Taken::Ended => break End::Agent,
            }
        };
        out.finish()?;
        Ok(self.send(connection, out.get_mut())?.unwrap_or(ended))
    }

    /// Sends all of `bytes`, and clears them. Returns why it cannot.
    fn send(&self, connection: &mut Connection, bytes: &mut Vec<u8>) -> io::Result<Option<End>> {
        let mut rest = &bytes[..];
        let mut unread_by = Instant::now() + READ_LIMIT;
        while !rest.is_empty() {
            match connection.client.write(rest) {
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    unread_by = Instant::now() + READ_LIMIT;
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                        return Ok(Some(End::Client));
                    }
                    ErrorKind::WouldBlock => {
                        let now = Instant::now();
                        if self.recorder.is_ending() {
                            let by = connection.ends_by.get_or_insert(now + CAPTURE_FLUSH);
                            unread_by = unread_by.min(*by);
                        }
                        if now >= unread_by {
                            return Ok(Some(match connection.ends_by {
                                Some(_) => End::Agent,
                                None => End::Unread,
                            }));
                        }
                        connection.wait(Some(unread_by))?;
                    }
                    _ => return Err(error),
                },
            }
        }
        bytes.clear();
        Ok(None)
    }
}

struct Connection {
    client: UnixStream,
    wake: Arc<OwnedFd>,
    /// The client wants no more.
    hung_up: bool,
    /// When the rest must be sent, as the agent ends.
    ends_by: Option<Instant>,
}

impl Connection {
    /// Waits for the recorder or the client to end, and for records, or until the client can
    /// be written to, but then not longer than the deadline.
    fn wait(&mut self, writable_by: Option<Instant>) -> io::Result<()> {
        let mut events = PollFlags::empty();
        if !self.hung_up {
            // The client has nothing more to say: whatever it sends ends the capture.
            events |= PollFlags::IN | PollFlags::RDHUP;
        }
        if writable_by.is_some() {
            events |= PollFlags::OUT;
        }
        let [client, wake] = {
            let mut fds = [
                PollFd::new(&self.client, events),
                PollFd::new(&self.wake, PollFlags::IN),
            ];
            poll_until(&mut fds, writable_by)?;
            fds.map(|fd| fd.revents())
        };
        self.hung_up |= client.intersects(!PollFlags::OUT);
        if !wake.is_empty() {
            // Others have woken this thread in vain if it fails.
            let _ = rustix::io::read(self.wake.as_fd(), &mut [0; 8]);
        }
        Ok(())
    }
}

/// What a capture of this machine says of itself.
fn this_machine() -> Section {
    let kernel = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    Section {
        hardware: text(kernel.machine()),
        os: format!("Linux {}", text(kernel.release())),
        application: format!("hyperv-agent {}", env!("HYPERV_AGENT_VERSION")),
        level: Level::Full,
    }
}
