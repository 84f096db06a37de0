//! Who reads what programs send to syslog: it goes into a file, or nowhere while
//! the reader stands still.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

/// A datagram that no program sends: everything before it has been written.
const MARK: &[u8] = b"\0";

/// What the socket is filled with.
const FILLER: &[u8] = b"a line that fills the socket";

/// How long the reader may take for what it has not read yet.
const FLUSH: Duration = Duration::from_secs(5);

/// A reader of syslog, and its socket.
pub struct Syslog {
    socket: PathBuf,
    stall: Arc<Stall>,
    marks: Mutex<Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Whether the reader stands still.
#[derive(Default)]
struct Stall {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    wanted: bool,
    stands: bool,
}

impl Stall {
    /// The reader is here between two datagrams.
    fn pass(&self) {
        let mut state = lock(&self.state);
        while state.wanted {
            state.stands = true;
            self.changed.notify_all();
            state = self.wait(state);
        }
        state.stands = false;
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Syslog {
    /// Makes the socket and writes each datagram to `output` as a line.
    ///
    /// # Errors
    ///
    /// If the socket cannot be made.
    pub fn new(socket: &Path, mut output: File) -> Result<Self> {
        let receiver = UnixDatagram::bind(socket)
            .with_context(|| format!("the guest's syslog at {}", socket.display()))?;
        let (mark, marks) = mpsc::channel();
        let stall = Arc::<Stall>::default();
        let passing = Arc::clone(&stall);
        let thread = thread::Builder::new()
            .name("syslog".to_owned())
            .spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(len) = receiver.recv(&mut buffer) {
                    passing.pass();
                    let datagram = buffer.get(..len).unwrap_or_default();
                    if datagram == MARK {
                        // Nobody waits any more: the log is being closed.
                        if mark.send(()).is_err() {
                            return;
                        }
                        continue;
                    }
                    let text = String::from_utf8_lossy(datagram);
                    let mut line = text.trim_end_matches(['\0', '\n']).as_bytes().to_vec();
                    line.push(b'\n');
                    // One write: lines of several sources do not mix.
                    let _ = output.write_all(&line);
                }
            })
            .context("starting the thread for the guest's syslog")?;
        Ok(Self {
            socket: socket.to_owned(),
            stall,
            marks: Mutex::new(marks),
            thread: Some(thread),
        })
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Lets the reader stand still and fills the socket, or lets it go on.
    ///
    /// # Errors
    ///
    /// If the socket cannot be written to.
    pub fn stall(&self, stalled: bool) -> Result<()> {
        let filler = UnixDatagram::unbound()?;
        let mut state = lock(&self.stall.state);
        state.wanted = stalled;
        self.stall.changed.notify_all();
        if !stalled {
            return Ok(());
        }
        filler.send_to(FILLER, &self.socket)?;
        while !state.stands {
            state = self.stall.wait(state);
        }
        drop(state);
        filler.set_nonblocking(true)?;
        while filler.send_to(FILLER, &self.socket).is_ok() {}
        Ok(())
    }

    /// Waits until all that was sent is written, unless the reader stands still.
    pub fn flush(&self) {
        let marks = lock(&self.marks);
        let reads = !lock(&self.stall.state).wanted;
        if reads && self.mark().is_ok() {
            // The reader cannot fall behind for long; the limit keeps a broken
            // one from stopping the caller.
            let _ = marks.recv_timeout(FLUSH);
        }
    }

    fn mark(&self) -> std::io::Result<()> {
        UnixDatagram::unbound()?.send_to(MARK, &self.socket)?;
        Ok(())
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        let _ = self.stall(false);
        // The thread ends at the next mark when nobody takes it.
        self.marks = Mutex::new(mpsc::channel().1);
        if let (Ok(()), Some(thread)) = (self.mark(), self.thread.take()) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn a_reader_that_stands_still_leaves_no_room_and_loses_nothing() {
        let home = tempfile::tempdir().unwrap();
        let (socket, file) = (home.path().join("socket"), home.path().join("log"));
        let log = Syslog::new(&socket, File::create(&file).unwrap()).unwrap();
        let program = UnixDatagram::unbound().unwrap();
        program.connect(&socket).unwrap();
        program.send(b"before\n").unwrap();
        log.stall(true).unwrap();
        log.flush();
        program.set_nonblocking(true).unwrap();
        let full = program.send(b"meanwhile").unwrap_err();
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        log.stall(false).unwrap();
        program.set_nonblocking(false).unwrap();
        program.send(b"after\0").unwrap();
        log.flush();
        let text = fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with("before\n") && text.ends_with("\nafter\n"),
            "{text}"
        );
    }
}
