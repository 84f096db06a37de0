//! A note of the configuration that is being put in force. Where the agent ends
//! in the middle of that, the next one takes the configuration back: the host was
//! not told that it is in force.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::error::InjectError;
use super::files::{self, Backups};
use super::plan::{Plan, Step};

/// What the note says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UndoLog {
    /// Run before the previous files are put back.
    pub(super) before: Vec<Step>,
    /// The files, and whether there were previous ones.
    pub(super) files: Vec<(PathBuf, bool)>,
    /// Run when the previous files are back.
    pub(super) revert: Vec<Step>,
}

// What a line is about. Its fields follow, each after a NUL, which no path and
// no argument has.
const BEFORE: &[u8] = b"before";
const REPLACED: &[u8] = b"replaced";
const NEW: &[u8] = b"new";
const REVERT: &[u8] = b"revert";
/// The last line: the note is whole.
const END: &[u8] = b"end";

/// Notes the plan, once copies are kept of what it replaces.
pub(super) fn write(path: &Path, plan: &Plan, replaced: &Backups<'_>) -> Result<(), InjectError> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    lines.extend(plan.before.iter().map(|step| step_line(BEFORE, step)));
    for (path, existed) in replaced.kept() {
        let kind = if existed { REPLACED } else { NEW };
        lines.push([kind, path.as_os_str().as_bytes()].join(&0));
    }
    lines.extend(plan.revert.iter().map(|step| step_line(REVERT, step)));
    lines.push(END.to_vec());
    files::put(path, &lines.join(&b'\n'), 0o600, None)
}

fn step_line(kind: &[u8], step: &Step) -> Vec<u8> {
    let program = step.program().as_os_str().as_bytes();
    let args = step.args().iter().map(String::as_bytes);
    let fields: Vec<&[u8]> = [kind, program].into_iter().chain(args).collect();
    fields.join(&0)
}

/// Keeps the note of what is in force now, in case that it has to be taken back.
pub(super) fn keep_applied(note: &Path, applied: &Path) -> Result<(), InjectError> {
    fs::rename(note, applied).map_err(files::error("rename", note))
}

/// Removes the note; there may be none.
pub(super) fn remove(path: &Path) -> Result<(), InjectError> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(files::error("remove", path)(cause))
        }
        _ => Ok(()),
    }
}

/// Reads a note; `None` of what is none.
pub(super) fn parse(note: &[u8]) -> Option<UndoLog> {
    let mut pending = UndoLog {
        before: Vec::new(),
        files: Vec::new(),
        revert: Vec::new(),
    };
    let mut lines = note.split(|&byte| byte == b'\n');
    if lines.next_back()? != END {
        return None;
    }
    for line in lines {
        let mut fields = line.split(|&byte| byte == 0);
        let kind = fields.next()?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(fields.next()?.to_vec()));
        if !path.is_absolute() {
            return None;
        }
        let args: Option<Vec<&str>> = fields
            .map(|field| std::str::from_utf8(field).ok())
            .collect();
        let args = args?;
        match kind {
            BEFORE => pending.before.push(Step::of(path, &args).optional()),
            REVERT => pending.revert.push(Step::of(path, &args)),
            REPLACED => pending.files.push((path, true)),
            NEW => pending.files.push((path, false)),
            _ => return None,
        }
    }
    Some(pending)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_whole_note_is_one() {
        let note =
            b"before\0/bin/ifdown\0eth0\nreplaced\0/etc/a b\nnew\0/etc/c\nrevert\0/bin/ifup\nend";
        let pending = parse(note).unwrap();
        assert_eq!(
            pending.files,
            [("/etc/a b".into(), true), ("/etc/c".into(), false)]
        );
        assert_eq!(pending.before[0].args(), ["eth0"]);
        assert_eq!(pending.revert[0].program(), Path::new("/bin/ifup"));
        for len in 0..note.len() {
            assert_eq!(parse(&note[..len]), None);
        }
        for wrong in ["other\0/x\nend", "new\0x\nend", "new\nend", "\nend"] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
