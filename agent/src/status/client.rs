//! Fetches the status from the running agent.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::IgnoredAny;

/// How long the agent may take to answer. Its loop waits for nothing, so a slower
/// agent is a stopped process.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that are read at most.
const MAX_LEN: u64 = 16 << 20;

/// Why the running agent gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nothing listens on the socket.
    #[error(
        "no agent is running (nothing listens on {}): start it with `systemctl start \
         hyperv-agent`, or with `hyperv-agent run`",
        .0.display()
    )]
    NotRunning(PathBuf),
    /// The agent does not answer in time.
    #[error("the agent does not answer within {} s: is its process stopped?", TIMEOUT.as_secs())]
    Timeout,
    /// The connection was closed before the answer was complete.
    #[error("incomplete answer from the agent: it may have ended")]
    Incomplete,
    /// A system call failed.
    #[error("cannot query the agent at {}", path.display())]
    Io {
        /// Path of the socket.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

impl StatusError {
    /// Returns what it means that a call on the socket at `path` failed.
    pub(crate) fn from_io(path: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Self::NotRunning(path),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Timeout,
            ErrorKind::ConnectionReset => Self::Incomplete,
            _ => Self::Io { path, source },
        }
    }
}

/// Returns the status of the agent that listens at `socket`: a whole JSON document.
///
/// # Errors
///
/// [`StatusError::NotRunning`] if no agent is running, otherwise what kept it from
/// answering.
pub fn fetch(socket: &Path) -> Result<String, StatusError> {
    let mut answer = String::new();
    UnixStream::connect(socket)
        .and_then(|stream| {
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.take(MAX_LEN).read_to_string(&mut answer)
        })
        .map_err(|source| StatusError::from_io(socket.to_owned(), source))?;
    match serde_json::from_str::<IgnoredAny>(&answer) {
        Ok(_) => Ok(answer),
        Err(_) => Err(StatusError::Incomplete),
    }
}
