//! The stream of a capture from the agent, until something ends it.

use std::cell::Cell;
use std::io::{self, BufReader, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyperv_services::retry::poll_until;
use rustix::event::{PollFd, PollFlags};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::progress::Progress;

/// How long the agent may take to send the rest after the end.
const REST_LIMIT: Duration = Duration::from_secs(2);

/// Why a capture has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// SIGINT or SIGTERM.
    Signal,
    /// Its time is over.
    Time,
}

/// Becomes readable at SIGINT and SIGTERM.
pub(super) struct Signals(UnixStream);

impl Signals {
    /// From now on these signals do not end the process.
    pub(super) fn catch() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(Self(receiver))
    }
}

/// The stream, as a reader that ends when the capture does. A signal or the end of the time
/// asks the agent for the rest; a second signal does not wait for it.
pub(super) struct Source {
    stream: BufReader<UnixStream>,
    signals: Signals,
    until: Option<Instant>,
    end: Rc<Cell<Option<End>>>,
    progress: Rc<Progress>,
}

impl Source {
    /// Reads `stream` for this long.
    pub(super) fn new(
        stream: BufReader<UnixStream>,
        signals: Signals,
        limit: Duration,
        progress: Rc<Progress>,
    ) -> Self {
        Self {
            stream,
            signals,
            until: Instant::now().checked_add(limit),
            end: Rc::default(),
            progress,
        }
    }

    /// Returns where it is said why the capture has ended; `None` if the agent ended it.
    pub(super) fn end(&self) -> Rc<Cell<Option<End>>> {
        Rc::clone(&self.end)
    }

    /// Whether the next read does not wait.
    pub(super) fn has_more(&self) -> bool {
        !self.stream.buffer().is_empty()
    }

    /// Asks the agent for the rest.
    fn ask_to_end(&mut self, end: End) -> io::Result<()> {
        self.end.set(Some(end));
        self.until = Some(Instant::now() + REST_LIMIT);
        self.stream.get_ref().shutdown(Shutdown::Write)
    }
}

impl Read for Source {
    fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        while !self.has_more() {
            let refresh = self.progress.show_at();
            let wait = self.until.into_iter().chain(refresh).min();
            let mut fds = [
                PollFd::new(self.stream.get_ref(), PollFlags::IN),
                PollFd::new(&self.signals.0, PollFlags::IN),
            ];
            poll_until(&mut fds, wait)?;
            let [readable, signalled] = fds.map(|fd| !fd.revents().is_empty());
            let now = Instant::now();
            let over = self.until.is_some_and(|until| until <= now);
            if signalled {
                let _ = self.signals.0.read(&mut [0]);
            }
            match self.end.get() {
                Some(_) if signalled || over => return Ok(0),
                None if signalled => self.ask_to_end(End::Signal)?,
                None if over => self.ask_to_end(End::Time)?,
                _ if readable => break,
                _ => {}
            }
            self.progress.show_if_due(now);
        }
        self.stream.read(place)
    }
}
