//! The control socket: each client receives the agent's status as one JSON document.
//! Beside it is the socket for [requests](crate::request).
//!
//! A client costs the loop no wait and no state. The document fits the socket's buffer, so
//! it is written at once and the connection is closed, whether the client reads or not. A
//! client whose buffer is too small receives only a part.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use slog::{Logger, debug, warn};

/// Name of the control socket in the runtime directory.
pub const NAME: &str = "control";

/// Maximum number of clients that are accepted before the loop handles other events.
const MAX_CLIENTS: usize = 16;

/// A listening socket, removed when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens at `path`, for this user only: the status contains file names. It replaces
    /// a socket that a killed agent has left, as the caller holds the lock of the
    /// directory.
    ///
    /// # Errors
    ///
    /// If the old socket cannot be removed, or the new one cannot be created.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = Self {
            listener: UnixListener::bind(path)?,
            path: path.to_owned(),
        };
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        socket.listener.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Returns the descriptor, which is readable when a client has connected.
    pub(crate) fn fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    /// Sends the document to each client that has connected. Returns whether there may be
    /// more clients: the descriptor will not become readable for those.
    pub(crate) fn send_to_clients(&self, log: &Logger, document: impl Fn() -> Vec<u8>) -> bool {
        self.for_each_client(log, |mut client| {
            let sent = client
                .set_nonblocking(true)
                .and_then(|()| client.write_all(&document()));
            if let Err(error) = sent {
                debug!(log, "cannot send the status to a client: {}", error);
            }
        })
    }

    /// Calls `handle` for each client that has connected. Returns whether there may be more,
    /// as [`ControlSocket::send_to_clients`] does.
    pub(crate) fn for_each_client(&self, log: &Logger, mut handle: impl FnMut(UnixStream)) -> bool {
        for _ in 0..MAX_CLIENTS {
            match self.listener.accept() {
                Ok((client, _)) => handle(client),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => {
                    warn!(
                        log,
                        "cannot accept a client at {}: {}",
                        self.path.display(),
                        error
                    );
                    return false;
                }
            }
        }
        true
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // A socket that stays does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use slog::{Discard, o};

    use super::*;

    #[test]
    fn the_loop_never_waits_for_a_client() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(NAME);
        let socket = ControlSocket::bind(&path).unwrap();
        let log = Logger::root(Discard, o!());
        // Each status is smaller than the first; the last one fits no buffer.
        for (len, whole) in [(64 << 10, true), (64 << 20, false)] {
            let mut client = UnixStream::connect(&path).unwrap();
            assert!(!socket.send_to_clients(&log, || vec![b' '; len]));
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert_eq!(answer.len() == len, whole, "{len}");
        }
    }
}
