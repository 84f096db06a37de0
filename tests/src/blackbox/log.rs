//! What the program says: its output, and what it sends to syslog, in one file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use super::lock;

/// A datagram that no program sends: everything before it has been written.
const MARK: &[u8] = b"\0";

/// The program's log.
pub(super) struct Log {
    file: PathBuf,
    socket: PathBuf,
    marks: Mutex<Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    /// Collects into `directory`.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let file = directory.join("log");
        let socket = directory.join("syslog");
        let mut output = append(&file)?;
        let receiver = UnixDatagram::bind(&socket).context("the guest's /dev/log")?;
        let (mark, marks) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("syslog".to_owned())
            .spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(len) = receiver.recv(&mut buffer) {
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
                    // One write: lines of the two sources do not mix.
                    let _ = output.write_all(&line);
                }
            })
            .context("starting the thread for the guest's syslog")?;
        Ok(Self {
            file,
            socket,
            marks: Mutex::new(marks),
            thread: Some(thread),
        })
    }

    /// The socket that is the guest's `/dev/log`.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// A descriptor for the program's output.
    pub(super) fn output(&self) -> Result<File> {
        append(&self.file)
    }

    /// Everything up to now.
    pub(super) fn read(&self) -> String {
        let marks = lock(&self.marks);
        if self.mark().is_ok() {
            // The thread cannot fall behind for long; the limit keeps a broken
            // one from stopping the caller.
            let _ = marks.recv_timeout(Duration::from_secs(5));
        }
        let bytes = std::fs::read(&self.file).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn mark(&self) -> std::io::Result<()> {
        UnixDatagram::unbound()?.send_to(MARK, &self.socket)?;
        Ok(())
    }
}

fn append(file: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .with_context(|| file.display().to_string())
}

impl Drop for Log {
    fn drop(&mut self) {
        // The thread ends at the next mark when nobody takes it.
        self.marks = Mutex::new(mpsc::channel().1);
        if let (Ok(()), Some(thread)) = (self.mark(), self.thread.take()) {
            let _ = thread.join();
        }
    }
}
