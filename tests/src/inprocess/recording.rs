//! A capture of what the agent in this process says.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use hyperv_agent::capture::Level;
use hyperv_agent::request;

use crate::recording;

/// A capture that goes on until the agent ends.
pub(super) struct Recording {
    path: PathBuf,
    root: PathBuf,
    thread: JoinHandle<std::io::Result<Vec<u8>>>,
}

impl Recording {
    /// Begins one, which is to be a file at `path`. The guest's devices are below `root`.
    pub(super) fn begin(socket: &Path, path: &Path, root: &Path) -> Result<Self> {
        let capture = request::capture(socket, Vec::new(), Level::Full);
        let mut capture = capture.context("beginning a capture")?;
        capture.get_ref().set_read_timeout(None)?;
        let thread = std::thread::Builder::new().name("recording".into());
        let thread = thread.spawn(move || {
            let mut bytes = Vec::new();
            capture.read_to_end(&mut bytes).map(|_| bytes)
        })?;
        Ok(Self {
            path: path.to_owned(),
            root: root.to_owned(),
            thread,
        })
    }

    /// Writes the file, once the agent has ended.
    pub(super) fn end(self) -> Result<()> {
        let bytes = self.thread.join();
        let bytes = bytes.map_err(|_| anyhow!("the recording panicked"))??;
        recording::write(&self.path, &bytes, &self.root)
    }
}
