//! A pool file and a journal of any bytes, and any operations on them: no
//! panic, every record is listed, and no operation touches a record that it is
//! not about.

#![no_main]

use std::fs;

use arbitrary::Arbitrary;
use hyperv_services::kvp::pool::Pools;
use hyperv_services::kvp::request::PoolId;
use libfuzzer_sys::fuzz_target;

const POOL: PoolId = PoolId::Guest;
const KEY_LEN: usize = 512;
const RECORD_LEN: usize = 2560;

#[derive(Arbitrary, Debug)]
struct Input {
    /// Records as key, what follows it, value, what follows that.
    records: Vec<[Vec<u8>; 4]>,
    torn: Vec<u8>,
    journal: Option<Vec<u8>>,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Get(Key),
    Set(Key, String),
    Delete(Key),
    At(u8),
    /// By another program.
    Append([Vec<u8>; 4]),
    /// By another program.
    Cut(u16),
    Reopen,
}

/// One that is in the file, or any.
#[derive(Arbitrary, Debug)]
enum Key {
    Of(u8),
    Any(String),
}

fn record([key, after_key, value, after_value]: &[Vec<u8>; 4]) -> Vec<u8> {
    let mut record = [&**key, b"\0", after_key].concat();
    record.resize(KEY_LEN, 0);
    record.extend_from_slice(value);
    record.push(0);
    record.extend_from_slice(after_value);
    record.resize(RECORD_LEN, 0);
    record
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap()
}

fn key(record: &[u8]) -> &[u8] {
    text(&record[..KEY_LEN.min(record.len())])
}

fn value(record: &[u8]) -> &[u8] {
    text(record.get(KEY_LEN..).unwrap_or_default())
}

fn name(name: &Key, bytes: &[u8]) -> String {
    match name {
        Key::Of(number) => {
            let record = bytes.chunks(RECORD_LEN).nth(usize::from(*number) % 8);
            String::from_utf8_lossy(key(record.unwrap_or_default())).into_owned()
        }
        Key::Any(key) => key.clone(),
    }
}

fuzz_target!(|input: Input| {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join(".kvp_pool_1");
    let journal = scratch.path().join(".kvp_pool_1.journal");
    let mut bytes: Vec<u8> = input.records.iter().flat_map(record).collect();
    bytes.extend(input.torn.iter().take(RECORD_LEN));
    fs::write(&path, &bytes).unwrap();
    if let Some(left) = input.journal {
        fs::write(&journal, left).unwrap();
    }

    let mut pools = Pools::new(scratch.path());
    for step in input.steps {
        let find = |key_: &str| {
            let mut records = bytes.chunks(RECORD_LEN);
            records.position(|record| key(record) == key_.as_bytes())
        };
        match step {
            Step::Get(key) => {
                let key = name(&key, &bytes);
                let wanted = find(&key).and_then(|at| bytes.chunks(RECORD_LEN).nth(at));
                let wanted = wanted.map(|record| String::from_utf8_lossy(value(record)).into());
                assert_eq!(pools.get(POOL, &key).unwrap(), wanted);
            }
            Step::Set(key, value) => {
                let key = name(&key, &bytes);
                let at = find(&key);
                let fits = !key.is_empty()
                    && !key.contains('\0')
                    && key.len() < KEY_LEN
                    && !value.contains('\0')
                    && value.len() < RECORD_LEN - KEY_LEN;
                assert_eq!(pools.set(POOL, &key, &value).is_ok(), fits);
                if fits {
                    let at = at.unwrap_or(bytes.len().div_ceil(RECORD_LEN)) * RECORD_LEN;
                    if bytes.len() < at + RECORD_LEN {
                        bytes.resize(at + RECORD_LEN, 0);
                    }
                    bytes[at..][..key.len()].copy_from_slice(key.as_bytes());
                    let field = &mut bytes[at + KEY_LEN..at + RECORD_LEN];
                    field.fill(0);
                    field[..value.len()].copy_from_slice(value.as_bytes());
                }
            }
            Step::Delete(gone) => {
                let gone = name(&gone, &bytes);
                if gone.is_empty() {
                    pools.delete(POOL, &gone).unwrap_err();
                    continue;
                }
                let deleted = pools.delete(POOL, &gone).unwrap();
                assert_eq!(deleted, find(&gone).is_some());
                bytes = bytes
                    .chunks(RECORD_LEN)
                    .filter(|record| key(record) != gone.as_bytes())
                    .collect::<Vec<_>>()
                    .concat();
            }
            Step::At(number) => {
                let found = pools.at(POOL, u32::from(number)).unwrap();
                let wanted = bytes.chunks(RECORD_LEN).nth(usize::from(number));
                assert_eq!(found.is_some(), wanted.is_some());
                if let (Some(found), Some(wanted)) = (found, wanted) {
                    assert_eq!(found.key, String::from_utf8_lossy(key(wanted)));
                    assert_eq!(found.value, String::from_utf8_lossy(value(wanted)));
                }
            }
            Step::Append(parts) => {
                bytes.extend(record(&parts));
                fs::write(&path, &bytes).unwrap();
            }
            Step::Cut(len) => {
                bytes.truncate(usize::from(len));
                fs::write(&path, &bytes).unwrap();
            }
            Step::Reopen => pools = Pools::new(scratch.path()),
        }
    }
    let listed = pools.list(POOL).unwrap();
    assert_eq!(listed.len(), bytes.len().div_ceil(RECORD_LEN));
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(!journal.exists());
});
