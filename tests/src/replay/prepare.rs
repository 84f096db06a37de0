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

/// Writes the records that were there before the first request.
pub(super) fn pools(capture: &Capture, machine: &dyn Machine) -> Result<()> {
    for (number, records) in &capture.initial {
        if records.is_empty() {
            continue;
        }
        let records = records
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        let records: Vec<(&str, &str)> = records.collect();
        let path = machine.pools().join(pool::file(*number));
        machine.files().write(&path, &pool::records(&records))?;
    }
    Ok(())
}

/// Prepares for the request of an exchange, which the capture answers with `status`.
pub(super) fn before(
    capture: &Capture,
    machine: &dyn Machine,
    exchange: usize,
    operation: Option<&Operation>,
    status: Option<Status>,
) -> Result<()> {
    for (number, change) in capture.changes.get(&exchange).into_iter().flatten() {
        let path = machine.pools().join(pool::file(*number));
        let files = machine.files();
        let changed = changed(&files.read(&path)?, change);
        files.write(&path, &changed)?;
    }
    match operation.and_then(Operation::start).zip(status) {
        Some((start, status)) => target(start, status, machine),
        None => Ok(()),
    }
}

/// A pool with this change.
fn changed(records: &[u8], change: &Change) -> Vec<u8> {
    let (key, new) = match change {
        Change::Put(key, value) => (key, Some(pool::record(key.as_bytes(), value.as_bytes()))),
        Change::Remove(key) => (key, None),
    };
    let same = |record: &[u8]| {
        let its_key = record.split(|byte| *byte == 0).next();
        its_key == Some(key.as_bytes())
    };
    let mut put = false;
    let mut changed = Vec::with_capacity(records.len());
    for record in records.chunks(pool::RECORD) {
        match &new {
            _ if !same(record) => changed.extend(record),
            Some(new) if !put => {
                changed.extend(new);
                put = true;
            }
            _ => {}
        }
    }
    if let Some(new) = new.filter(|_| !put) {
        changed.extend(new);
    }
    changed
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
        let put = |key: &str, value: &str| Change::Put(key.into(), value.into());
        let after = changed(&before, &put("a", "new"));
        assert_eq!(after, pool::records(&[("a", "new"), ("b", "2")]));
        let after = changed(&before, &put("c", "3"));
        assert_eq!(after[before.len()..], pool::records(&[("c", "3")]));
        let after = changed(&before, &Change::Remove("a".into()));
        assert_eq!(after, pool::records(&[("b", "2")]));
    }
}
