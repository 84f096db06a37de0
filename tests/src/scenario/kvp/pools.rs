//! Keys and values as the host sets and gets them.

use anyhow::{Result, ensure};
use hyperv_vmbus::ic::Status;

use super::super::Transport;
use super::super::stage::{KvpStage, expect, expect_failure};
use super::{FILES, expect_got, expect_missing, expect_value, set};
use crate::kvp::{
    DEVICE_KEY_UNITS, DEVICE_VALUE_UNITS, KEY_UNITS, KvpHost, Operation, POOLS, VALUE_UNITS, Value,
    pool,
};

/// Units of the longest key and the longest value.
fn longest_of(transport: Transport) -> (usize, usize) {
    match transport {
        Transport::Uio(_) => (KEY_UNITS, VALUE_UNITS),
        Transport::HvUtil => (DEVICE_KEY_UNITS, DEVICE_VALUE_UNITS),
    }
}

pub(in super::super) fn pools(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    for pool in FILES {
        stage.expect_items(&mut host, pool, &[])?;
        // Keys with a common prefix are distinct.
        for (key, value) in [("one", "1"), ("on", "2"), ("ones", "3"), ("two", "")] {
            set(&mut host, pool, key, value)?;
        }
        let items = [("one", "1"), ("on", "2"), ("ones", "3"), ("two", "")];
        stage.expect_items(&mut host, pool, &items)?;
        set(&mut host, pool, "on", "a longer value than before")?;
        set(&mut host, pool, "one", "")?;
        expect_value(&mut host, pool, "on", "a longer value than before")?;
        set(&mut host, pool, "on", "short")?;
        let items = [("one", ""), ("on", "short"), ("ones", "3"), ("two", "")];
        stage.expect_items(&mut host, pool, &items)?;
        let status = host.delete(pool, "on")?;
        expect(status, Status::OK, "a DELETE")?;
        expect_missing(&mut host, pool, "on")?;
        stage.expect_items(&mut host, pool, &[("one", ""), ("ones", "3"), ("two", "")])?;
    }
    // None has anything of another's.
    for pool in FILES {
        let items = [("one", ""), ("ones", "3"), ("two", "")];
        stage.expect_items(&mut host, pool, &items)?;
        for key in ["two", "one", "ones"] {
            expect(host.delete(pool, key)?, Status::OK, "a DELETE")?;
        }
        stage.expect_items(&mut host, pool, &[])?;
    }
    Ok(())
}

pub(in super::super) fn get(stage: &mut KvpStage<'_>) -> Result<()> {
    let (key_units, value_units) = longest_of(stage.transport());
    let (key, value) = ("k".repeat(key_units), "v".repeat(value_units));
    let letters = "😀".repeat(511);
    let items = [
        ("short", "1"),
        ("empty", ""),
        ("twice", "first"),
        ("twice", "second"),
        (&key, &value),
        ("Schlüssel 🗝", &letters),
    ];
    for pool in FILES {
        let content = pool::records(&items);
        stage.files().write(&stage.pool(pool), &content)?;
    }
    let mut host = stage.connect()?;
    for pool in FILES {
        for (key, value) in items.iter().filter(|item| item.1 != "second") {
            expect_got(&mut host, pool, key, value)?;
        }
        for key in ["shor", "shorts", "SHORT"] {
            expect_missing(&mut host, pool, key)?;
        }
        set(&mut host, pool, "short", "another")?;
        expect_got(&mut host, pool, "short", "another")?;
    }
    Ok(())
}

pub(in super::super) fn missing(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    set(&mut host, 1, "there", "value")?;
    for pool in POOLS {
        expect_missing(&mut host, pool, "not there")?;
        let status = host.delete(pool, "not there")?;
        expect_failure(
            status,
            &format!("a DELETE in pool {pool} of what is not there"),
        )?;
    }
    expect_end(stage, &mut host, &[1, 2, 1000])
}

pub(in super::super) fn beyond(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    set(&mut host, 1, "there", "value")?;
    expect_end(stage, &mut host, &[i32::MAX as u32, 1 << 31, u32::MAX])
}

/// Expects no more items at these places of pool 1, which has one.
fn expect_end(stage: &KvpStage<'_>, host: &mut KvpHost, places: &[u32]) -> Result<()> {
    for index in places.iter().copied() {
        let item = host.enumerate(1, index)?;
        ensure!(
            item == Err(Status::NO_MORE_ITEMS),
            "expected no more items at place {index} of 1; the guest answered {item:?}"
        );
    }
    stage.expect_items(host, 1, &[("there", "value")])
}

pub(in super::super) fn numbers(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let mut numbers = vec![
        (Value::U32(0), "0"),
        (Value::U32(7), "7"),
        (Value::U32(u32::MAX), "4294967295"),
        (Value::U64(0), "0"),
        (Value::U64(u64::MAX), "18446744073709551615"),
    ];
    // The kernel's driver does not know the numbers that Windows has for these.
    if let Transport::Uio(_) = stage.transport() {
        let text = Value::Expandable("%windir%".encode_utf16().collect());
        numbers.push((text, "%windir%"));
        numbers.push((Value::Qword(0), "0"));
        numbers.push((Value::Qword(1 << 63), "9223372036854775808"));
        numbers.push((Value::Qword(u64::MAX), "18446744073709551615"));
    }
    for (value, text) in numbers {
        let what = format!("a SET of {value:?}");
        let status = host.request(&Operation::set(0, "number", value))?;
        expect(status, Status::OK, &what)?;
        stage.expect_items(&mut host, 0, &[("number", text)])?;
    }
    Ok(())
}

pub(in super::super) fn longest(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let (key_units, value_units) = longest_of(stage.transport());
    let key = "k".repeat(key_units);
    let value = "v".repeat(value_units);
    set(&mut host, 0, "before", "1")?;
    set(&mut host, 0, &key, &value)?;
    set(&mut host, 0, "after", "2")?;
    let items = [("before", "1"), (&key, &value), ("after", "2")];
    stage.expect_items(&mut host, 0, &items)?;
    // One that differs in its last unit only is another.
    let other = format!("{}x", "k".repeat(key_units - 1));
    expect_missing(&mut host, 0, &other)?;
    set(&mut host, 0, &other, "3")?;
    expect_value(&mut host, 0, &key, &value)?;
    expect(host.delete(0, &key)?, Status::OK, "a DELETE of it")?;
    let items = [("before", "1"), ("after", "2"), (&other, "3")];
    stage.expect_items(&mut host, 0, &items)
}

pub(in super::super) fn unicode(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    // As much as a record holds in two, three and four bytes a letter.
    let (two, three, four) = ("ü".repeat(254), "目".repeat(170), "😀".repeat(127));
    let keys = [
        "Schlüssel",
        "ключ",
        "鍵 🗝",
        "a\u{301}",
        " ",
        "\n",
        &two,
        &three,
        &four,
    ];
    let value = "目".repeat(682);
    let pairs = "😀".repeat(511);
    let values = [
        "wärter",
        "",
        "🗝",
        "\u{10ffff}",
        "\u{ffff}",
        &value,
        &pairs,
        "x",
        "\t",
    ];
    let items: Vec<(&str, &str)> = keys.into_iter().zip(values).collect();
    for (key, value) in &items {
        set(&mut host, 1, key, value)?;
    }
    stage.expect_items(&mut host, 1, &items)
}

/// Expects that a request fails and that pool 0 is as it was.
fn expect_refused(
    stage: &KvpStage<'_>,
    host: &mut KvpHost,
    operation: &Operation,
    what: &str,
) -> Result<()> {
    expect_failure(host.request(operation)?, what)?;
    stage.expect_items(host, 0, &[("kept", "value")])
}

pub(in super::super) fn too_long(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    set(&mut host, 0, "kept", "value")?;
    let key = "目".repeat(171);
    let value = "目".repeat(683);
    let (units, more_units) = ("k".repeat(KEY_UNITS + 1), "v".repeat(VALUE_UNITS + 1));
    for (key, value) in [
        (units.as_str(), "v"),
        ("k", more_units.as_str()),
        ("kept", more_units.as_str()),
        (key.as_str(), "v"),
        ("k", value.as_str()),
        ("kept", value.as_str()),
    ] {
        let operation = Operation::set(0, key, Value::text(value));
        let what = format!("a SET of {} and {} bytes", key.len(), value.len());
        expect_refused(stage, &mut host, &operation, &what)?;
    }
    expect_refused(stage, &mut host, &Operation::get(0, &key), "a GET of it")?;
    expect_refused(stage, &mut host, &Operation::delete(0, &key), "a DELETE")?;
    stage.expect_working(&mut host)
}

pub(in super::super) fn lone_surrogate(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    set(&mut host, 0, "kept", "value")?;
    for lone in [vec![0x61, 0xd83d], vec![0xde00, 0x61], vec![0xd83d, 0x61]] {
        let what = format!("half a surrogate pair in {lone:04x?}");
        let kept = || "kept".encode_utf16().collect::<Vec<u16>>();
        for operation in [
            Operation::Set {
                pool: 0,
                key: lone.clone(),
                value: Value::text("v"),
            },
            Operation::Set {
                pool: 0,
                key: kept(),
                value: Value::Text(lone.clone()),
            },
            Operation::Get {
                pool: 0,
                key: lone.clone(),
            },
            Operation::Delete {
                pool: 0,
                key: lone.clone(),
            },
        ] {
            expect_refused(stage, &mut host, &operation, &what)?;
        }
    }
    stage.expect_working(&mut host)
}
