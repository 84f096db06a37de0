//! What a host never sends, and a guest has to live with.

use anyhow::{Context, Result};

use super::super::Pattern;
use super::super::stage::{KvpStage, expect_failure};
use super::set;
use crate::host::Protocol as _;
use crate::kvp::{DEVICE_LEN, Kvp, KvpHost, Operation, Value};

/// Where a body has the sizes of a SET's or GET's key and of its value, and of a
/// DELETE's key; the key and value of the first two, over both transports.
const KEY_SIZE: usize = 8;
const VALUE_SIZE: usize = 12;
const DELETE_SIZE: usize = 4;
const KEY: usize = 16;
const VALUE: usize = 528;

fn with(body: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.splice(at..at + bytes.len(), bytes.iter().copied());
    body
}

fn with_number(body: &[u8], at: usize, number: u32) -> Vec<u8> {
    with(body, at, &number.to_le_bytes())
}

/// Sends a message and expects that it fails and changes nothing.
fn expect_declined(
    stage: &KvpStage<'_>,
    host: &mut KvpHost,
    message: Vec<u8>,
    what: &str,
) -> Result<()> {
    let sent = match host.has_rings() {
        true => host.send_body(message),
        false => host.submit(message),
    };
    sent.with_context(|| what.to_owned())?;
    let reply = host
        .reply()
        .with_context(|| format!("expected an answer to {what}"))?;
    expect_failure(reply.status, what)?;
    stage
        .expect_items(host, 0, &[("kept", "value")])
        .with_context(|| format!("after {what}"))
}

pub(in super::super) fn rings(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    set(&mut host, 0, "kept", "value")?;
    let body = |operation: Operation| operation.encode_utf16(Kvp::VERSION);
    let set = body(Operation::set(0, "kept", Value::text("other")));
    let get = body(Operation::get(0, "kept"));
    let delete = body(Operation::delete(0, "kept"));
    let enumerate = body(Operation::Enumerate { pool: 0, index: 0 });
    let get_ip = body(Operation::get_ip_info("00:15:5D:00:00:01", 3));
    let cut = |body: &[u8], len: usize| body.get(..len).unwrap_or_default().to_vec();
    let mut bodies = vec![
        ("a body of no bytes".to_owned(), vec![]),
        ("a body of one byte".to_owned(), vec![0]),
        ("a header alone".to_owned(), cut(&set, 4)),
        ("a SET without its fields".to_owned(), cut(&set, KEY)),
        ("a SET that ends in its key".to_owned(), cut(&set, 100)),
        ("a SET without its value".to_owned(), cut(&set, VALUE)),
        ("a DELETE without its key".to_owned(), cut(&delete, 8)),
        (
            "an ENUMERATE without its index".to_owned(),
            cut(&enumerate, 6),
        ),
        ("an ENUMERATE without room".to_owned(), cut(&enumerate, 100)),
        (
            "a GET without room for the value".to_owned(),
            cut(&get, VALUE),
        ),
        ("a GET_IP_INFO without room".to_owned(), cut(&get_ip, 1000)),
        (
            "a key without a NUL".to_owned(),
            with_number(&with(&set, KEY, &[b'k'; 512]), KEY_SIZE, 512),
        ),
        (
            "a value without a NUL".to_owned(),
            with_number(&with(&set, VALUE, &[b'v'; 2048]), VALUE_SIZE, 2048),
        ),
        ("a value of type 0".to_owned(), with_number(&set, 4, 0)),
        ("a value of type 3".to_owned(), with_number(&set, 4, 3)),
        ("a value of type 255".to_owned(), with_number(&set, 4, 255)),
    ];
    for size in [1, 3, 9, 513, 514, 1 << 16, u32::MAX - 1, u32::MAX] {
        for (what, body, at) in [
            ("GET", &get, KEY_SIZE),
            ("SET", &set, KEY_SIZE),
            ("DELETE", &delete, DELETE_SIZE),
        ] {
            let what = format!("a {what} whose key size field is {size}");
            bodies.push((what, with_number(body, at, size)));
        }
    }
    for size in [1, 3, 2049, 2050, 1 << 16, u32::MAX - 1, u32::MAX] {
        let what = format!("a SET whose value size field is {size}");
        bodies.push((what, with_number(&set, VALUE_SIZE, size)));
    }
    for pool in [5, 6, 100, 255] {
        for (what, body) in [
            ("GET", &get),
            ("SET", &set),
            ("DELETE", &delete),
            ("ENUMERATE", &enumerate),
        ] {
            let what = format!("a {what} of pool {pool}");
            bodies.push((what, with(body, 1, &[pool])));
        }
    }
    for operation in [6, 7, 100, 128, 255] {
        let what = format!("operation {operation}");
        bodies.push((what, with(&set, 0, &[operation])));
    }
    for (what, body) in bodies {
        expect_declined(stage, &mut host, body, &what)?;
    }
    stage.expect_working(&mut host)
}

pub(in super::super) fn device(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    set(&mut host, 0, "kept", "value")?;
    let set = Operation::set(0, "kept", Value::text("other")).encode_utf8();
    let get = Operation::get(0, "kept").encode_utf8();
    let delete = Operation::delete(0, "kept").encode_utf8();
    let mut messages = vec![
        (
            "a key without a NUL".to_owned(),
            with_number(&with(&set, KEY, &[b'k'; 512]), KEY_SIZE, 512),
        ),
        (
            "a value without a NUL".to_owned(),
            with_number(&with(&set, VALUE, &[b'v'; 2048]), VALUE_SIZE, 2048),
        ),
        (
            "a key that is not UTF-8".to_owned(),
            with(&set, KEY, &[b'a', 0xff, 0]),
        ),
    ];
    for size in [513, 1 << 16, u32::MAX] {
        for (what, message, at) in [
            ("GET", &get, KEY_SIZE),
            ("SET", &set, KEY_SIZE),
            ("DELETE", &delete, DELETE_SIZE),
        ] {
            let what = format!("a {what} whose key size field is {size}");
            messages.push((what, with_number(message, at, size)));
        }
    }
    for size in [2049, 1 << 16, u32::MAX] {
        let what = format!("a SET whose value size field is {size}");
        messages.push((what, with_number(&set, VALUE_SIZE, size)));
    }
    for pool in [5, 100, 255] {
        for (what, message) in [("GET", &get), ("SET", &set), ("DELETE", &delete)] {
            let what = format!("a {what} of pool {pool}");
            messages.push((what, with(message, 1, &[pool])));
        }
    }
    for operation in [6, 100, 255] {
        let what = format!("operation {operation}");
        messages.push((what, with(&set, 0, &[operation])));
    }
    for (what, message) in messages {
        expect_declined(stage, &mut host, message, &what)?;
    }
    stage.expect_working(&mut host)
}

pub(in super::super) fn random(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    for seed in 0..200u64 {
        let len = match host.speaks_utf16() {
            true => usize::try_from(seed * 53 % 7500)?,
            false => DEVICE_LEN,
        };
        let mut message = Pattern::bytes(seed, len);
        // Of an operation and a pool that there are, so that more is looked at.
        for (byte, there_are) in message.iter_mut().zip([6, 5]) {
            *byte %= there_are;
        }
        // What it is answered with is the guest's affair.
        let sent = match host.speaks_utf16() {
            true => host.send_body(message),
            false => host.submit(message),
        };
        sent.and_then(|()| host.reply())
            .with_context(|| format!("random body number {seed}"))?;
    }
    stage.expect_working(&mut host)
}
