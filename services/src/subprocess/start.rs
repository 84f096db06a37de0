//! Explains why a program cannot be started where the kernel's error misleads.
//!
//! The kernel returns `ENOENT` also if the file exists and its interpreter does not. In a
//! script that was written on Windows the name of the interpreter ends in a carriage return.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::io::Errno;

/// Bytes at a file's start that the kernel reads to find the interpreter.
const HEAD: u64 = 256;

/// The UTF-8 byte order mark that some editors write, and the start of a script.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF#!";

/// Mode bits that let anybody execute a file.
pub(crate) const EXECUTABLE: u32 = 0o111;

/// Why a program cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the program does not exist")]
    Missing,

    #[error("its interpreter {} does not exist", .0.display())]
    NoInterpreter(PathBuf),

    #[error(
        "its interpreter {interpreter:?} does not exist: the file has Windows line ends; remove \
         them with sed -i 's/\\r$//' {}", program.display()
    )]
    WindowsLines {
        program: PathBuf,
        interpreter: String,
    },

    #[error("the interpreter or dynamic loader that {} needs does not exist", .0.display())]
    NoLoader(PathBuf),

    #[error("its interpreter {} is not executable", .0.display())]
    InterpreterNotExecutable(PathBuf),

    #[error("it is on a file system that is mounted with noexec")]
    NoExec,

    #[error(
        "it begins with a byte order mark; remove it with sed -i '1s/^\\xEF\\xBB\\xBF//' {}",
        .0.display()
    )]
    ByteOrderMark(PathBuf),

    #[error("it is built for another architecture")]
    OtherMachine,

    #[error("it is not a program; a script must begin with a line like #!/bin/sh")]
    NoProgram,

    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Returns why the kernel will refuse `program`, as far as its file tells.
pub(crate) fn find_problem(program: &Path) -> Option<StartError> {
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

/// Explains the kernel's refusal to execute `program`.
pub(super) fn explain(program: &Path, refusal: io::Error) -> StartError {
    match Errno::from_io_error(&refusal) {
        Some(Errno::NOENT) => missing(program),
        Some(Errno::ACCESS) => find_problem(program).unwrap_or_else(|| refusal.into()),
        Some(Errno::NOEXEC) if head(program).starts_with(b"\x7FELF") => StartError::OtherMachine,
        Some(Errno::NOEXEC) => find_problem(program).unwrap_or(StartError::NoProgram),
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

/// Whether `program` is a script with Windows line ends.
pub(super) fn has_windows_lines(program: &Path) -> bool {
    windows_lines(&head(program))
}

fn windows_lines(head: &[u8]) -> bool {
    first_line(head).is_some_and(|line| line.ends_with(b"\r"))
}

/// Returns the interpreter of a script.
fn interpreter(head: &[u8]) -> Option<PathBuf> {
    let mut words = first_line(head)?
        .split(|byte| matches!(byte, b' ' | b'\t' | 0))
        .filter(|word| !word.is_empty());
    // The working directory of programs is `/`.
    Some(Path::new("/").join(OsStr::from_bytes(words.next()?)))
}

/// Returns the first line of a script, without `#!`.
fn first_line(head: &[u8]) -> Option<&[u8]> {
    head.strip_prefix(b"#!")?
        .split(|&byte| byte == b'\n')
        .next()
}

/// Reads the start of a file; nothing if it cannot be read.
fn head(program: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    let regular = fs::metadata(program).is_ok_and(|file| file.is_file());
    let file = regular.then(|| File::open(program)).and_then(Result::ok);
    if file.is_some_and(|file| file.take(HEAD).read_to_end(&mut head).is_err()) {
        head.clear();
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
