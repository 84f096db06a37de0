//! The undo log of a transaction. If the agent ends before it has replied to the host, the next
//! one rolls back the IP configuration by what the log says.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::backups::{self, Backups};
use crate::kvp::network::error::InjectError;
use crate::kvp::network::plan::{Plan, Step};

/// How to undo a transaction.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::kvp::network) struct UndoLog {
    /// Run before the previous files are restored.
    pub(super) stop: Vec<Step>,
    /// The files, and whether there were previous ones.
    pub(in crate::kvp::network) files: Vec<(PathBuf, bool)>,
    /// Run when the previous files are restored.
    pub(super) revert: Vec<Step>,
    /// The units of the network manager. While they start, only steps that work offline are run.
    pub(super) units: Vec<String>,
}

impl UndoLog {
    /// Returns the log with its files only.
    pub(in crate::kvp::network) fn without_steps(self) -> Self {
        Self {
            files: self.files,
            ..Self::default()
        }
    }

    /// Returns the files that the transaction wrote or removed.
    pub(in crate::kvp::network) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }
}

// The first field of a line. Before each further one is a NUL, which neither paths nor
// arguments contain.
const STOP: &[u8] = b"before";
const REPLACED: &[u8] = b"replaced";
const NEW: &[u8] = b"new";
const REVERT: &[u8] = b"revert";
const REVERT_OFFLINE: &[u8] = b"revert-offline";
const UNIT: &[u8] = b"unit";
/// The last line of a complete log.
const END: &[u8] = b"end";

/// Writes the undo log of a plan whose files are backed up.
pub(super) fn write(path: &Path, plan: &Plan, backups: &Backups<'_>) -> Result<(), InjectError> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let units = plan.units.iter();
    lines.extend(units.map(|unit| [UNIT, unit.as_bytes()].join(&0)));
    lines.extend(plan.stop.iter().map(|step| step_line(STOP, step)));
    for (path, existed) in backups.paths() {
        let kind = if existed { REPLACED } else { NEW };
        lines.push([kind, path.as_os_str().as_bytes()].join(&0));
    }
    lines.extend(plan.revert.iter().map(|step| {
        let kind = if step.offline { REVERT_OFFLINE } else { REVERT };
        step_line(kind, step)
    }));
    lines.push(END.to_vec());
    if lines.iter().any(|line| line.contains(&b'\n')) {
        return Err(InjectError::LineEnd(path.to_owned()));
    }
    backups::write(path, &lines.join(&b'\n'), 0o600, None)
}

fn step_line(kind: &[u8], step: &Step) -> Vec<u8> {
    let program = step.program.as_os_str().as_bytes();
    let args = step.args.iter().map(String::as_bytes);
    let fields: Vec<&[u8]> = [kind, program].into_iter().chain(args).collect();
    fields.join(&0)
}

/// Returns the undo log of two transactions of which `first` was applied first: what was before
/// both. It also returns the files of `then` that are not in `first`.
pub(in crate::kvp::network) fn joined(first: &[u8], then: &[u8]) -> (Vec<u8>, Vec<PathBuf>) {
    let lines = |log: &'_ [u8]| -> Vec<Vec<u8>> {
        let lines = log.split(|&byte| byte == b'\n');
        lines
            .map(<[u8]>::to_vec)
            .filter(|line| line != END)
            .collect()
    };
    let mut joined: Vec<Vec<u8>> = match first {
        [] => Vec::new(),
        first => lines(first),
    };
    let known: Vec<PathBuf> = joined.iter().filter_map(|line| file(line)).collect();
    let then = lines(then);
    let files = then.iter().filter_map(|line| file(line));
    let new: Vec<PathBuf> = files.filter(|path| !known.contains(path)).collect();
    // Otherwise it has no step that the first one does not have, or would go back to it.
    if !new.is_empty() {
        for line in then {
            let is_new = file(&line).is_none_or(|path| new.contains(&path));
            if is_new && !joined.contains(&line) {
                joined.push(line);
            }
        }
    }
    joined.push(END.to_vec());
    (joined.join(&b'\n'), new)
}

/// Returns the file of a line, if it is about one.
fn file(line: &[u8]) -> Option<PathBuf> {
    let (kind, path) = line.split_at(line.iter().position(|&byte| byte == 0)?);
    let path = path.get(1..)?.to_vec();
    let path = || PathBuf::from(std::ffi::OsString::from_vec(path));
    matches!(kind, REPLACED | NEW).then(path)
}

/// Parses an undo log; `None` if it is not a complete one.
pub(in crate::kvp::network) fn parse(bytes: &[u8]) -> Option<UndoLog> {
    let mut undo_log = UndoLog::default();
    let mut lines = bytes.split(|&byte| byte == b'\n');
    if lines.next_back()? != END {
        return None;
    }
    for line in lines {
        let mut fields = line.split(|&byte| byte == 0);
        let kind = fields.next()?;
        let first = fields.next()?.to_vec();
        if kind == UNIT {
            undo_log.units.push(String::from_utf8(first).ok()?);
            continue;
        }
        let path = PathBuf::from(std::ffi::OsString::from_vec(first));
        if !path.is_absolute() {
            return None;
        }
        let args: Option<Vec<&str>> = fields
            .map(|field| std::str::from_utf8(field).ok())
            .collect();
        let args = args?;
        match kind {
            STOP => undo_log.stop.push(Step::new(path, &args).may_fail()),
            REVERT => undo_log.revert.push(Step::new(path, &args)),
            REVERT_OFFLINE => undo_log.revert.push(Step::new(path, &args).offline()),
            REPLACED => undo_log.files.push((path, true)),
            NEW => undo_log.files.push((path, false)),
            _ => return None,
        }
    }
    Some(undo_log)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_complete_undo_log_is_read() {
        let bytes =
            b"unit\0networking.service\nbefore\0/bin/ifdown\0eth0\nreplaced\0/etc/a b\nnew\0/etc/c\n\
            revert-offline\0/bin/generate\nrevert\0/bin/ifup\nend";
        let undo_log = parse(bytes).unwrap();
        assert_eq!(undo_log.units, ["networking.service"]);
        assert_eq!(
            undo_log.files,
            [("/etc/a b".into(), true), ("/etc/c".into(), false)]
        );
        assert_eq!(undo_log.stop[0].args, ["eth0"]);
        assert!(undo_log.revert[0].offline && !undo_log.revert[1].offline);
        assert_eq!(undo_log.revert[1].program, Path::new("/bin/ifup"));
        for len in 0..bytes.len() {
            assert_eq!(parse(&bytes[..len]), None);
        }
        for wrong in ["other\0/x\nend", "new\0x\nend", "new\nend", "\nend"] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_name_that_would_end_a_line_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("log");
        let plan = Plan::new("x", Vec::new(), Vec::new(), Vec::new());
        let copies = root.path().join("copies");
        let mut backups = Backups::new(root.path(), &copies);
        backups.add(&root.path().join("a\nb")).unwrap();
        write(&log, &plan, &backups).unwrap_err();
        assert!(!log.exists());
    }

    #[test]
    fn the_first_of_two_transactions_says_what_was_before() {
        let first = b"replaced\0/etc/a\nrevert\0/bin/up\0old\nend";
        let (log, new) = joined(b"", first);
        assert_eq!((&*log, &*new), (&first[..], &[PathBuf::from("/etc/a")][..]));
        // The same file: nothing is added, and `/bin/up mine` would bring up what is undone.
        let again = b"replaced\0/etc/a\nrevert\0/bin/up\0mine\nend";
        assert_eq!(joined(&log, again), (log.clone(), Vec::new()));
        // Another network manager.
        let other = b"before\0/bin/down\nnew\0/etc/b\nreplaced\0/etc/a\nrevert\0/bin/reload\nend";
        let (log, new) = joined(&log, other);
        assert_eq!(new, [PathBuf::from("/etc/b")]);
        let log = parse(&log).unwrap();
        assert_eq!(
            log.files,
            [("/etc/a".into(), true), ("/etc/b".into(), false)]
        );
        assert_eq!((log.stop.len(), log.revert.len()), (1, 2));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, other: Vec<u8>) {
            let _ = parse(&bytes);
            let _ = joined(&bytes, &other);
        }
    }
}
