//! Gives the guest what it had in the capture, as far as the capture's replies show it: the
//! records of its pools, and directories and files where copies went.

use std::path::Path;

use anyhow::Result;
use hyperv_vmbus::ic::Status;

use super::capture::Capture;
use super::operation::{self, Operation};
use super::pools::Change;
use crate::fcopy::{self, Start};
use crate::files::Files;
use crate::kvp::pool;
use crate::port::Machine;

/// Prepares for the request of an exchange, which the capture answers with `status`.
pub(super) fn before(
    capture: &Capture,
    machine: &dyn Machine,
    exchange: usize,
    operation: Option<&Operation>,
    status: Option<Status>,
) -> Result<()> {
    if let Some((number, changes)) = capture.changes.get(&exchange) {
        let path = machine.pools().join(pool::file(*number));
        let files = machine.files();
        let records = match files.facts(&path)? {
            Some(_) => files.read(&path)?,
            None => Vec::new(),
        };
        files.write(&path, &changed(&records, changes))?;
    }
    match operation.and_then(Operation::start).zip(status) {
        Some((start, status)) => target(start, status, machine),
        None => Ok(()),
    }
}

/// A pool with these changes, as far as it has the records that they are about.
fn changed(records: &[u8], changes: &[Change]) -> Vec<u8> {
    let records = records.chunks(pool::RECORD);
    let mut records: Vec<Vec<u8>> = records.map(<[u8]>::to_vec).collect();
    for change in changes {
        match change {
            Change::Insert(at, key, value) => {
                let record = pool::record(key.as_bytes(), value.as_bytes());
                records.insert(records.len().min(*at), record);
            }
            Change::Value(at, value) => {
                if let Some(record) = records.get_mut(*at) {
                    record.truncate(pool::KEY);
                    *record = pool::record(record, value.as_bytes());
                }
            }
            Change::Remove(places) => {
                let end = places.end.min(records.len());
                records.drain(places.start.min(end)..end);
            }
        }
    }
    records.concat()
}

/// Makes the directory of a copy that succeeds, or the file that prevents it.
fn target(start: &Start, status: Status, machine: &dyn Machine) -> Result<()> {
    let Some(below) = operation::directory(start) else {
        return Ok(());
    };
    let name = String::from_utf16_lossy(&start.name);
    // The guest refuses these paths; nothing is made outside.
    if name.contains('/') || below.split('/').any(|part| part == "..") {
        return Ok(());
    }
    let directory = machine.directory().join(below);
    let path = directory.join(&name);
    let files = machine.files();
    match status {
        Status::OK => {
            if start.flags & fcopy::CREATE_PATH == 0 {
                files.create_directories(&directory)?;
            }
            if start.flags & fcopy::OVERWRITE == 0 {
                remove(&*files, &path)?;
            }
        }
        Status::ALREADY_EXISTS => {
            files.create_directories(&directory)?;
            files.write(&path, b"there already")?;
        }
        _ => {}
    }
    Ok(())
}

fn remove(files: &dyn Files, path: &Path) -> Result<()> {
    match files.facts(path)? {
        Some(_) => files.remove(path),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_leaves_other_records_alone() {
        let before = pool::records(&[("a", "1"), ("b", "2"), ("a", "3")]);
        let insert = |at, key: &str| Change::Insert(at, key.into(), "new".into());
        let value = |at| Change::Value(at, "other".into());
        for (change, after) in [
            (
                insert(1, "c"),
                &[("a", "1"), ("c", "new"), ("b", "2"), ("a", "3")][..],
            ),
            (
                insert(9, "c"),
                &[("a", "1"), ("b", "2"), ("a", "3"), ("c", "new")],
            ),
            (value(2), &[("a", "1"), ("b", "2"), ("a", "other")]),
            (value(3), &[("a", "1"), ("b", "2"), ("a", "3")]),
            (Change::Remove(0..2), &[("a", "3")]),
            (Change::Remove(1..9), &[("a", "1")]),
            (Change::Remove(7..9), &[("a", "1"), ("b", "2"), ("a", "3")]),
        ] {
            assert_eq!(
                changed(&before, std::slice::from_ref(&change)),
                pool::records(after),
                "{change:?}"
            );
        }
    }
}
