//! Pool files that others read and write too.

use std::fs::File;

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::Status;
use rustix::fs::{FlockOperation, flock};

use super::super::Pattern;
use super::super::stage::{KvpStage, SETTLE_TIME, expect, expect_failure};
use super::{FILES, expect_got, expect_value, set};
use crate::kvp::{POOLS, pool};
use crate::wait::until;

pub(in super::super) fn first_boot(stage: &mut KvpStage<'_>) -> Result<()> {
    let files = stage.files();
    let before = pool::records(&[("instance-id", "1"), ("user-data", "#cloud-config")]);
    for (pool, mode) in POOLS.into_iter().zip([0o600, 0o644, 0o640, 0o600, 0o400]) {
        files.write(&stage.pool(pool), &before)?;
        files.set_mode(&stage.pool(pool), mode)?;
    }
    let mut host = stage.connect()?;
    for pool in FILES {
        let items = [("instance-id", "1"), ("user-data", "#cloud-config")];
        stage.expect_items(&mut host, pool, &items)?;
    }
    for (pool, mode) in POOLS.into_iter().zip([0o600, 0o644, 0o640, 0o600, 0o400]) {
        stage.expect_content(&stage.pool(pool), &before)?;
        expect_mode(stage, pool, mode)?;
    }
    set(&mut host, 0, "new", "2")?;
    expect(host.delete(3, "instance-id")?, Status::OK, "a DELETE")?;
    let mut after = before.clone();
    after.extend(pool::records(&[("new", "2")]));
    stage.expect_content(&stage.pool(0), &after)?;
    stage.expect_items(&mut host, 3, &[("user-data", "#cloud-config")])?;
    expect_mode(stage, 0, 0o600)?;
    expect_mode(stage, 3, 0o600)
}

pub(in super::super) fn at_start(stage: &mut KvpStage<'_>) -> Result<()> {
    let files = stage.files();
    let before = pool::records(&[("kept", "1")]);
    files.write(&stage.pool(3), &before)?;
    files.set_mode(&stage.pool(3), 0o600)?;
    stage.machine().start().context("starting the program")?;
    until(SETTLE_TIME, "all pool files to be there", || {
        let there: Result<Vec<_>> = POOLS
            .map(|pool| files.facts(&stage.pool(pool)))
            .into_iter()
            .collect();
        Ok(there?.iter().all(Option::is_some).then_some(()))
    })?;
    for pool in [0, 1, 2, 4] {
        stage.expect_content(&stage.pool(pool), b"")?;
        expect_mode(stage, pool, 0o644)?;
    }
    stage.expect_content(&stage.pool(3), &before)?;
    expect_mode(stage, 3, 0o600)?;
    stage.offer_only()?;
    let mut host = stage.connect()?;
    stage.expect_items(&mut host, 3, &[("kept", "1")])?;
    stage.expect_working(&mut host)
}

fn expect_mode(stage: &KvpStage<'_>, pool: u8, expected: u32) -> Result<()> {
    let facts = stage.files().facts(&stage.pool(pool))?;
    let mode = facts.context("the file is gone")?.mode;
    ensure!(
        mode == expected,
        "expected the file of pool {pool} to have the mode {expected:04o}; it is {mode:04o}"
    );
    Ok(())
}

pub(in super::super) fn torn(stage: &mut KvpStage<'_>) -> Result<()> {
    for len in [1, 100, pool::KEY, pool::RECORD - 1] {
        let mut content = pool::records(&[("first", "1"), ("second", "2")]);
        let torn = pool::record(b"third", b"3");
        content.extend(torn.get(..len).unwrap_or_default());
        stage.files().write(&stage.pool(1), &content)?;
        let mut host = stage.connect()?;
        // What is there of the last one may count as a record or not.
        let whole = |items: &[(String, String)]| -> Vec<(String, String)> {
            let torn = |item: &&(String, String)| !"third".starts_with(&item.0);
            items.iter().filter(torn).cloned().collect()
        };
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let found = whole(&host.list(1)?);
        let expected = [pair("first", "1"), pair("second", "2")];
        ensure!(
            found == expected,
            "expected {expected:?} before {len} bytes of a record; found {found:?}"
        );
        set(&mut host, 1, "fourth", "4")?;
        set(&mut host, 1, "first", "changed")?;
        let found = whole(&host.list(1)?);
        let expected = [
            pair("first", "changed"),
            pair("second", "2"),
            pair("fourth", "4"),
        ];
        ensure!(
            found == expected,
            "expected {expected:?} after {len} bytes of a record; found {found:?}"
        );
        drop(host);
        stage.stop()?;
        stage.rescind()?;
    }
    stage.connect().map(drop)
}

pub(in super::super) fn foreign(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut content = Vec::new();
    // A NUL, and what was there before behind it.
    content.extend(pool::record(b"stale\0key", b"stale\0value of before"));
    // No NUL at all: the reply has as much as fits.
    content.extend(pool::record(&[b'k'; pool::KEY], &[b'v'; pool::VALUE]));
    content.extend(pool::record(b"no utf-8 \xff\xfe", b"nor \xc3( here \x80"));
    content.extend(pool::record(b"last", b"here"));
    stage.files().write(&stage.pool(1), &content)?;
    let mut host = stage.connect()?;
    expect_value(&mut host, 1, "stale", "stale")?;
    expect_value(&mut host, 1, "last", "here")?;
    let items = host.list(1)?;
    ensure!(
        items.len() == 4,
        "expected 4 records, whatever is in them; found {items:?}"
    );
    let begins = |at: usize, key: &str, value: &str| {
        items
            .get(at)
            .is_some_and(|item| item.0.starts_with(key) && item.1.starts_with(value))
    };
    ensure!(
        begins(0, "stale", "stale")
            && begins(1, &"k".repeat(200), &"v".repeat(1000))
            && begins(2, "no utf-8 ", "nor ")
            && begins(3, "last", "here"),
        "expected what is in the records, as far as it is text; found {items:?}"
    );
    // A change of one leaves the others as they are.
    set(&mut host, 1, "last", "changed")?;
    let last = content.len() - pool::RECORD;
    content.truncate(last);
    content.extend(pool::record(b"last", b"changed"));
    stage.expect_content(&stage.pool(1), &content)?;
    set(&mut host, 1, "stale", "new")?;
    expect_value(&mut host, 1, "stale", "new")
}

pub(in super::super) fn duplicates(stage: &mut KvpStage<'_>) -> Result<()> {
    let twice = [("twice", "1"), ("once", "2"), ("twice", "3")];
    stage
        .files()
        .write(&stage.pool(0), &pool::records(&twice))?;
    let mut host = stage.connect()?;
    stage.expect_items(&mut host, 0, &twice)?;
    set(&mut host, 0, "twice", "4")?;
    expect_value(&mut host, 0, "twice", "4")?;
    expect(host.delete(0, "twice")?, Status::OK, "a DELETE")?;
    stage.expect_items(&mut host, 0, &[("once", "2")])?;
    expect_failure(host.delete(0, "twice")?, "a DELETE of both once more")
}

pub(in super::super) fn other_writers(stage: &mut KvpStage<'_>) -> Result<()> {
    let files = stage.files();
    let path = stage.pool(1);
    let mut host = stage.connect()?;
    set(&mut host, 1, "host", "1")?;
    for round in 0..5 {
        // Appended, as by `echo >>`.
        let mut content = files.read(&path)?;
        let key = format!("guest {round}");
        content.extend(pool::record(key.as_bytes(), b"appended"));
        files.write(&path, &content)?;
        expect_value(&mut host, 1, &key, "appended")?;
        // Of the same length, at once after that.
        let at = content.len() - pool::VALUE;
        content.splice(at..at + 8, *b"rewroten");
        files.write(&path, &content)?;
        expect_value(&mut host, 1, &key, "rewroten")?;
        set(&mut host, 1, "host", &round.to_string())?;
        expect_value(&mut host, 1, &key, "rewroten")?;
    }
    files.write(&path, &pool::records(&[("only", "this")]))?;
    stage.expect_items(&mut host, 1, &[("only", "this")])?;
    files.write(&path, &[])?;
    stage.expect_items(&mut host, 1, &[])
}

/// Anybody who may read a file may lock it.
pub(in super::super) fn locked(stage: &mut KvpStage<'_>) -> Result<()> {
    let path = stage.pool(1);
    let mut host = stage.connect()?;
    set(&mut host, 1, "kept", "1")?;
    set(&mut host, 1, "read", "2")?;
    let content = stage.files().read(&path)?;
    let held = File::open(&path)?;
    flock(&held, FlockOperation::LockExclusive)?;
    let items = [("kept", "1"), ("read", "2")];
    stage.expect_items(&mut host, 1, &items)?;
    expect_got(&mut host, 1, "read", "2")?;
    // The reply to the host reports the failure.
    expect_failure(host.set(1, "kept", "new")?, "a SET in a locked pool")?;
    expect_failure(host.delete(1, "read")?, "a DELETE in a locked pool")?;
    stage.expect_content(&path, &content)?;
    set(&mut host, 0, "another pool", "works")?;
    let holder = format!("process {} (", std::process::id());
    stage.expect_logged(&["has been locked for", &holder])?;
    drop(held);
    set(&mut host, 1, "kept", "new")?;
    stage.expect_items(&mut host, 1, &[("kept", "new"), ("read", "2")])
}

pub(in super::super) fn removed(stage: &mut KvpStage<'_>) -> Result<()> {
    let path = stage.pool(1);
    let mut host = stage.connect()?;
    set(&mut host, 1, "host", "1")?;
    stage.files().remove(&path)?;
    stage.expect_items(&mut host, 1, &[])?;
    set(&mut host, 1, "host", "again")?;
    stage.expect_items(&mut host, 1, &[("host", "again")])?;
    stage.expect_content(&path, &pool::records(&[("host", "again")]))
}

const MANY: u64 = 10_000;

pub(in super::super) fn many(stage: &mut KvpStage<'_>) -> Result<()> {
    let items: Vec<(String, String)> = (0..MANY)
        .map(|number| {
            let len = usize::try_from(number % 500)?;
            let value: String = Pattern::bytes(number, len)
                .iter()
                .map(|byte| char::from(b'a' + byte % 26))
                .collect();
            Ok((format!("key {number}"), value))
        })
        .collect::<Result<_>>()?;
    let as_text: Vec<(&str, &str)> = items
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    stage
        .files()
        .write(&stage.pool(0), &pool::records(&as_text))?;
    let mut host = stage.connect()?;
    let found = host.list(0)?;
    let differs = found.iter().zip(&items).position(|(a, b)| a != b);
    ensure!(
        differs.is_none() && found.len() == items.len(),
        "expected {MANY} records as they are; {} came, the first that differs is {differs:?}",
        found.len()
    );
    set(&mut host, 0, "key 9999", "changed")?;
    expect(host.delete(0, "key 0")?, Status::OK, "a DELETE")?;
    let last = host.enumerate(0, 9998)?;
    let last = last.map(|item| (item.key, item.value));
    ensure!(
        last == Ok(("key 9999".to_owned(), "changed".to_owned())),
        "expected the last key to have moved up by one; found {last:?}"
    );
    Ok(())
}
