//! The note of what is frozen, for an agent that is started after one that
//! could not thaw, and for an administrator who does it by hand.
//!
//! It is a file in the runtime directory, whole or absent, of a line for each
//! thing: `frozen MAJOR:MINOR` for a file system, in the order in which they
//! were frozen, and `hook PATH` for a program that waits for the end. It is
//! there for as long as the host may still ask for a thaw that nobody can give
//! it any more.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::plan::DeviceNumber;

const NAME: &str = "vss-frozen";

/// What is noted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Note {
    /// The file systems, in the order in which they were frozen.
    pub frozen: Vec<DeviceNumber>,
    /// The hooks that wait for the end, in the order in which they ran.
    pub hooks: Vec<PathBuf>,
}

/// Writes `note` in `directory`, in place of what was there.
///
/// # Errors
///
/// Where the file cannot be written; what was there stays.
pub fn write(directory: &Path, note: &Note) -> io::Result<()> {
    let mut text = Vec::new();
    for device in &note.frozen {
        writeln!(text, "frozen {device}")?;
    }
    for hook in &note.hooks {
        text.extend_from_slice(b"hook ");
        text.extend_from_slice(hook.as_os_str().as_bytes());
        text.push(b'\n');
    }
    fs::create_dir_all(directory)?;
    let new = directory.join(format!("{NAME}.new"));
    File::create(&new)?.write_all(&text)?;
    fs::rename(new, directory.join(NAME))
}

/// Reads what is noted in `directory`, if anything is. A line that says nothing
/// is passed over.
///
/// # Errors
///
/// Where the file is there and cannot be read.
pub fn read(directory: &Path) -> io::Result<Option<Note>> {
    let text = match fs::read(directory.join(NAME)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut note = Note::default();
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(number) = line.strip_prefix(b"frozen ") {
            let device = str::from_utf8(number).ok().map(str::parse);
            note.frozen
                .extend(device.and_then(Result::<DeviceNumber, _>::ok));
        } else if let Some(path) = line.strip_prefix(b"hook ") {
            note.hooks.push(OsStr::from_bytes(path).into());
        }
    }
    Ok(Some(note))
}

/// Removes the note, if there is one.
///
/// # Errors
///
/// Where it stays.
pub fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_file(directory.join(NAME)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_read_until_it_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("run");
        assert_eq!(read(&directory).unwrap(), None);
        remove(&directory).unwrap();
        let note = Note {
            frozen: vec![
                DeviceNumber { major: 8, minor: 1 },
                DeviceNumber {
                    major: 0,
                    minor: 57,
                },
            ],
            hooks: vec![
                "/etc/vss.d/10 first".into(),
                OsStr::from_bytes(b"/etc/\xff").into(),
            ],
        };
        for note in [note, Note::default()] {
            write(&directory, &note).unwrap();
            assert_eq!(read(&directory).unwrap(), Some(note));
        }
        remove(&directory).unwrap();
        assert_eq!(read(&directory).unwrap(), None);
    }

    #[test]
    fn what_says_nothing_is_passed_over() {
        let home = tempfile::tempdir().unwrap();
        let text = "frozen 8\nfrozen x:1\n\nthawed 8:1\nfrozen 8:2\nfrozen 9:";
        fs::write(home.path().join(NAME), text).unwrap();
        let frozen = vec![DeviceNumber { major: 8, minor: 2 }];
        let hooks = Vec::new();
        assert_eq!(read(home.path()).unwrap(), Some(Note { frozen, hooks }));
    }
}
