//! Why a program cannot be started, where the kernel's word for it misleads.
//!
//! It says that there is no such file also where the file is there and its
//! interpreter is not, as with the first line of a script that was written on
//! Windows: the interpreter is then called `/bin/sh` and a carriage return.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::io::Errno;

/// Bytes of a file's beginning that the kernel looks at.
const HEAD: u64 = 256;

/// What some editors put before the first letter, and the first letters of a script.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF#!";

/// The bits that let anybody run a file.
pub(crate) const EXECUTABLE: u32 = 0o111;

/// Why a program cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("there is no such program")]
    Missing,

    #[error("its interpreter {} is not there", .0.display())]
    NoInterpreter(PathBuf),

    #[error(
        "its interpreter {interpreter:?} is not there: the file has Windows line ends; take them \
         away with sed -i 's/\\r$//' {}", program.display()
    )]
    WindowsLines {
        program: PathBuf,
        interpreter: String,
    },

    #[error("the interpreter or dynamic loader that {} needs is not there", .0.display())]
    NoLoader(PathBuf),

    #[error("its interpreter {} is not executable", .0.display())]
    InterpreterNotExecutable(PathBuf),

    #[error("it is on a file system that is mounted with noexec")]
    NoExec,

    #[error(
        "it begins with a byte order mark; take that away with sed -i '1s/^\\xEF\\xBB\\xBF//' {}",
        .0.display()
    )]
    ByteOrderMark(PathBuf),

    #[error("it is made for another kind of machine")]
    OtherMachine,

    #[error("it is no program: a script says in its first line what runs it, as #!/bin/sh does")]
    NoProgram,

    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why the kernel is going to refuse `program`, as far as that can be seen without
/// trying.
pub(crate) fn obstacle(program: &Path) -> Option<StartError> {
    let head = head(program);
    if head.starts_with(BYTE_ORDER_MARK) {
        return Some(StartError::ByteOrderMark(program.to_owned()));
    }
    if is_noexec(program) {
        return Some(StartError::NoExec);
    }
    let interpreter = interpreter(&head)?;
    match fs::metadata(&interpreter) {
        Ok(file) if file.mode() & EXECUTABLE != 0 => None,
        Ok(_) => Some(StartError::InterpreterNotExecutable(interpreter)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(missing(program)),
        Err(_) => None,
    }
}

/// Why `program` cannot be started, where the kernel refuses it like this.
pub(super) fn why(program: &Path, refusal: io::Error) -> StartError {
    match Errno::from_io_error(&refusal) {
        Some(Errno::NOENT) => missing(program),
        Some(Errno::ACCESS) => obstacle(program).unwrap_or_else(|| refusal.into()),
        Some(Errno::NOEXEC) if head(program).starts_with(b"\x7FELF") => StartError::OtherMachine,
        Some(Errno::NOEXEC) => obstacle(program).unwrap_or(StartError::NoProgram),
        _ => refusal.into(),
    }
}

fn missing(program: &Path) -> StartError {
    if fs::metadata(program).is_err() {
        return StartError::Missing;
    }
    let head = head(program);
    let Some(interpreter) = interpreter(&head) else {
        return StartError::NoLoader(program.to_owned());
    };
    if fs::metadata(&interpreter).is_ok() {
        return StartError::NoLoader(interpreter);
    }
    match windows_lines(&head) {
        true => StartError::WindowsLines {
            program: program.to_owned(),
            interpreter: interpreter.to_string_lossy().into_owned(),
        },
        false => StartError::NoInterpreter(interpreter),
    }
}

fn is_noexec(program: &Path) -> bool {
    statvfs(program).is_ok_and(|seen| seen.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// Whether `program` is a script that was written on Windows.
pub(super) fn has_windows_lines(program: &Path) -> bool {
    windows_lines(&head(program))
}

fn windows_lines(head: &[u8]) -> bool {
    first_line(head).is_some_and(|line| line.ends_with(b"\r"))
}

/// What a script is run by, from its first line.
fn interpreter(head: &[u8]) -> Option<PathBuf> {
    let mut words = first_line(head)?
        .split(|byte| matches!(byte, b' ' | b'\t' | 0))
        .filter(|word| !word.is_empty());
    // A program is run in this directory.
    Some(Path::new("/").join(OsStr::from_bytes(words.next()?)))
}

/// The first line of a script, without `#!`.
fn first_line(head: &[u8]) -> Option<&[u8]> {
    head.strip_prefix(b"#!")?
        .split(|&byte| byte == b'\n')
        .next()
}

/// The beginning of a file; nothing, where it cannot be read.
fn head(program: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    if fs::metadata(program).is_ok_and(|file| file.is_file()) {
        if let Ok(file) = File::open(program) {
            if file.take(HEAD).read_to_end(&mut head).is_err() {
                head.clear();
            }
        }
    }
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_names_its_interpreter() {
        for (head, expected) in [
            ("#!/bin/sh\necho", Some("/bin/sh")),
            ("#!/bin/sh", Some("/bin/sh")),
            ("#! \t/usr/bin/env\tbash x\n", Some("/usr/bin/env")),
            ("#!/bin/sh\r\n", Some("/bin/sh\r")),
            ("#!bin/sh\n", Some("/bin/sh")),
            ("#!\n/bin/sh", None),
            ("#/bin/sh\n", None),
            (" #!/bin/sh\n", None),
            ("", None),
        ] {
            let found = interpreter(head.as_bytes());
            assert_eq!(found.as_deref(), expected.map(Path::new), "{head:?}");
        }
    }

    #[test]
    fn only_the_first_line_of_a_script_counts() {
        assert!(windows_lines(b"#!/usr/bin/env bash\r\necho\n"));
        assert!(!windows_lines(b"#!/bin/sh\necho\r\n"));
        assert!(!windows_lines(b"MZ\r\n"));
    }
}
