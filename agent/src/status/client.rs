//! Asks the running agent for its status.

use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::IgnoredAny;

/// How long the agent may take: its loop waits for nothing, so that more means
/// that it was stopped.
const LIMIT: Duration = Duration::from_secs(5);

/// Bytes that are read at most.
const MAX_LEN: u64 = 16 << 20;

/// Why there is no status to show.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nobody listens.
    #[error(
        "no agent runs (nobody listens at {}): start it with `systemctl start hyperv-agent`, or \
         with `hyperv-agent run`",
        .0.display()
    )]
    NotRunning(PathBuf),
    /// This user may not ask.
    #[error("not allowed to ask the agent at {}: run this as root", .0.display())]
    NotAllowed(PathBuf),
    /// It does not answer.
    #[error("the agent does not answer within {} s; is its process stopped?", LIMIT.as_secs())]
    Silent,
    /// The answer breaks off.
    #[error("the agent's answer breaks off: it may have ended meanwhile")]
    BrokenOff,
    /// A system call failed.
    #[error("cannot ask the agent at {}: {source}", path.display())]
    Io {
        /// Where it was asked.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
}

/// The status of the agent that listens at `socket`: a whole JSON document.
///
/// # Errors
///
/// Any [`StatusError`].
pub fn fetch(socket: &Path) -> Result<String, StatusError> {
    let path = socket.to_owned();
    let mut answer = String::new();
    let asked = UnixStream::connect(socket).and_then(|stream| {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.take(MAX_LEN).read_to_string(&mut answer)
    });
    match asked {
        Ok(_) => {}
        Err(source) => {
            return Err(match source.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => StatusError::NotRunning(path),
                ErrorKind::PermissionDenied => StatusError::NotAllowed(path),
                ErrorKind::WouldBlock | ErrorKind::TimedOut => StatusError::Silent,
                ErrorKind::ConnectionReset => StatusError::BrokenOff,
                _ => StatusError::Io { path, source },
            });
        }
    }
    match serde_json::from_str::<IgnoredAny>(&answer) {
        Ok(_) => Ok(answer),
        Err(_) => Err(StatusError::BrokenOff),
    }
}
