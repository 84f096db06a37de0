//! The file of a capture: new, for its owner only, and complete up to the last block.

use std::fmt;
use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use rustix::process::geteuid;

use crate::capture::recording::Recording;
use crate::capture::{Interface, Record, Section};

/// What is kept of the size for the statistics of each device at the end, for the
/// description of one that comes, and for what a record has besides its bytes.
const RESERVE: u64 = 512;

/// How much is collected for one write, at the most.
const CHUNK: usize = 64 << 10;

/// A capture that is written to a file or to standard output.
pub(super) struct Output {
    /// Blocks are collected here first.
    recording: Recording<Vec<u8>>,
    out: Box<dyn Write>,
    place: String,
    written: u64,
    limit: u64,
}

/// Whether the capture goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// The file would get too large.
    Full,
    /// Nobody reads it any more.
    Unread,
}

impl Output {
    /// Begins a capture of at most `limit` bytes there. What cannot begin leaves no file.
    pub(super) fn new(place: &Place, section: &Section, limit: u64) -> anyhow::Result<Self> {
        let mut output = Self {
            recording: Recording::new(Vec::new(), section)?,
            out: place.create()?,
            place: place.to_string(),
            written: 0,
            limit,
        };
        let begun = output.flush();
        if let (Err(_), Place::File(path)) = (&begun, place) {
            // The first error counts.
            let _ = fs::remove_file(path);
        }
        begun.map(|_| output)
    }

    /// Adds a message or an event of this device. It may be written only by [`Self::flush`].
    pub(super) fn add(&mut self, interface: &Interface, record: Record) -> anyhow::Result<State> {
        let reserve = (self.recording.interfaces() as u64 + 2) * RESERVE;
        let size = self.size() + record.bytes.len() as u64;
        if size.saturating_add(reserve) > self.limit {
            return Ok(State::Full);
        }
        self.recording.add(interface, record)?;
        match self.recording.get_mut().len() {
            CHUNK.. => self.flush(),
            _ => Ok(State::Open),
        }
    }

    /// Ends the capture, and returns its size in bytes.
    pub(super) fn finish(mut self) -> anyhow::Result<u64> {
        self.recording.finish()?;
        self.flush()?;
        Ok(self.written)
    }

    /// Returns the size so far in bytes.
    pub(super) fn size(&mut self) -> u64 {
        self.written + self.recording.get_mut().len() as u64
    }

    /// Writes all that was added.
    pub(super) fn flush(&mut self) -> anyhow::Result<State> {
        let bytes = self.recording.get_mut();
        let written = self.out.write_all(bytes).and_then(|()| self.out.flush());
        self.written += bytes.len() as u64;
        bytes.clear();
        match written {
            Ok(()) => Ok(State::Open),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(State::Unread),
            Err(error) => Err(error).with_context(|| format!("cannot write {}", self.place)),
        }
    }
}

/// The place of a capture.
#[derive(Debug)]
pub(super) enum Place {
    Stdout,
    File(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl Place {
    /// Checks that the capture can be written there: `-` is standard output.
    pub(super) fn new(path: &Path, overwrite: bool) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            if io::stdout().is_terminal() {
                bail!("a capture is no text: redirect standard output, or name a file");
            }
            return Ok(Self::Stdout);
        }
        check(path, overwrite)?;
        Ok(Self::File(path.to_owned()))
    }

    /// Returns the command that shows what is there, if it stays there.
    pub(super) fn show(&self) -> Option<String> {
        let Self::File(path) = self else {
            return None;
        };
        let path = path.display().to_string();
        let plain = |it: char| it.is_alphanumeric() || "/._-+,:@%".contains(it);
        let path = match path.chars().all(plain) {
            true => path,
            false => format!("'{}'", path.replace('\'', r"'\''")),
        };
        Some(format!("hyperv-agent capture show {path}"))
    }

    /// Creates it. A file is always a new one, so that nobody else has it open.
    fn create(&self) -> anyhow::Result<Box<dyn Write>> {
        let Self::File(path) = self else {
            return Ok(Box::new(io::stdout()));
        };
        let file = match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => create_new(path),
        };
        let file = file.map_err(|error| cannot_create(path, error))?;
        Ok(Box::new(file))
    }
}

/// Checks that a file can be created there, before the agent is asked for anything.
fn check(path: &Path, overwrite: bool) -> anyhow::Result<()> {
    let shown = path.display();
    let error = match fs::symlink_metadata(path) {
        Ok(found) => match no_file(found.file_type()) {
            Some(what) => bail!("{shown} is {what}"),
            None if !overwrite => bail!("{shown} exists: name another file, or add --overwrite"),
            None => return Ok(()),
        },
        Err(error) => error,
    };
    let mut above = path.ancestors().skip(1);
    match error.kind() {
        ErrorKind::NotFound => {
            let directory = above.next().filter(|it| *it != Path::new(""));
            if let Some(directory) = directory.filter(|it| !it.exists()) {
                let directory = directory.display();
                bail!(
                    "cannot create {shown}: there is no directory {directory}; create it, or \
                     name another file"
                );
            }
            Ok(())
        }
        ErrorKind::NotADirectory => {
            let file = above.find(|it| it.exists()).unwrap_or(path);
            let file = file.display();
            bail!("cannot create {shown}: {file} is no directory; name another file")
        }
        _ => Err(cannot_create(path, error)),
    }
}

/// Says of what is no regular file what it is, and what to do.
fn no_file(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_symlink() {
        Some(
            "a symbolic link, which is not followed: name what it leads to, or - for standard output",
        )
    } else if kind.is_dir() {
        Some("a directory: name a file in it")
    } else if kind.is_fifo() {
        Some("a pipe: name - as the file, and redirect standard output to the pipe")
    } else if kind.is_socket() {
        Some("a socket: name another file, or - for standard output")
    } else {
        Some("a device: name another file, or - for standard output")
    }
}

fn cannot_create(path: &Path, error: io::Error) -> anyhow::Error {
    let path = path.display();
    match error.kind() {
        // With this cause, the command says that it takes root.
        ErrorKind::PermissionDenied if !geteuid().is_root() => {
            anyhow::Error::new(error).context(format!("cannot create {path}"))
        }
        _ => anyhow!("cannot create {path}: {error}; name a file in another directory"),
    }
}

fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}
