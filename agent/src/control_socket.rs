//! The control socket: who connects is told the agent's status, as one JSON
//! document, and nothing else. Beside it lies the one for [requests](crate::request).
//!
//! A client costs the loop no wait and no state. The document fits the socket's
//! buffer, so it is written at once and the connection closed, whether or not
//! the client ever reads; where it does not fit, the client goes without.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use slog::{Logger, debug, warn};

/// Name of the control socket in the runtime directory.
pub const NAME: &str = "control";

/// Clients that are answered before the loop looks at its devices again.
const AT_ONCE: usize = 16;

/// A socket that clients can connect to, gone when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Listens at `path`, for this user only: file names in a status are not for
    /// everybody. What is there already was left by an agent that died: the
    /// caller has claimed the directory.
    ///
    /// # Errors
    ///
    /// Where there can be no such socket.
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

    /// The descriptor that is readable when a client has connected.
    pub(crate) fn fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }

    /// Answers clients that have connected. `true` where there may be more: the
    /// descriptor will not become readable for those.
    pub(crate) fn answer(&self, log: &Logger, document: impl Fn() -> Vec<u8>) -> bool {
        self.each(log, |mut client| {
            let sent = client
                .set_nonblocking(true)
                .and_then(|()| client.write_all(&document()));
            if let Err(error) = sent {
                debug!(log, "a client did not take the status: {}", error);
            }
        })
    }

    /// Does something with each client that has connected; `true` as for
    /// [`ControlSocket::answer`].
    pub(crate) fn each(&self, log: &Logger, mut each: impl FnMut(UnixStream)) -> bool {
        for _ in 0..AT_ONCE {
            match self.listener.accept() {
                Ok((client, _)) => each(client),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => {
                    warn!(
                        log,
                        "cannot take a client at {}: {}",
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
        // Left behind it would do no harm: nobody answers there.
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
        // No status is as large as the first, none is ever as large as the last.
        for (len, whole) in [(64 << 10, true), (64 << 20, false)] {
            let mut client = UnixStream::connect(&path).unwrap();
            assert!(!socket.answer(&log, || vec![b' '; len]));
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert_eq!(answer.len() == len, whole, "{len}");
        }
    }
}
