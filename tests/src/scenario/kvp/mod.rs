//! Key-value pairs: what is tried with the pools, the guest's facts and its
//! interfaces.

pub(super) mod facts;
pub(super) mod files;
pub(super) mod lifetime;
pub(super) mod messages;
pub(super) mod network;
pub(super) mod network_command;
pub(super) mod network_early;
pub(super) mod peers;
pub(super) mod pools;

use anyhow::{Result, ensure};
use hyperv_vmbus::ic::Status;

use crate::kvp::KvpHost;

/// The pools that are nothing but files: the other is computed.
const FILES: [u8; 4] = [0, 1, 3, 4];

/// Sets a key.
fn set(host: &mut KvpHost, pool: u8, key: &str, value: &str) -> Result<()> {
    let what = format!("a SET of {key:?} in pool {pool}");
    super::stage::expect(host.set(pool, key, value)?, Status::OK, &what)
}

/// Expects that the first of this key is enumerated with this value.
fn expect_value(host: &mut KvpHost, pool: u8, key: &str, value: &str) -> Result<()> {
    let items = host.list(pool)?;
    let found = items.iter().find(|item| item.0 == key);
    ensure!(
        found.is_some_and(|item| item.1 == value),
        "expected {value:?} for {key:?} in pool {pool}; it has {items:?}"
    );
    Ok(())
}

/// Expects that a GET brings this.
fn expect_got(host: &mut KvpHost, pool: u8, key: &str, value: &str) -> Result<()> {
    let got = host.get(pool, key)?;
    ensure!(
        got.as_deref() == Ok(value),
        "expected a GET of {key:?} in pool {pool} to bring {value:?}; the guest answered {got:?}"
    );
    Ok(())
}

/// Expects that a GET brings nothing.
fn expect_missing(host: &mut KvpHost, pool: u8, key: &str) -> Result<()> {
    let got = host.get(pool, key)?;
    ensure!(
        got.is_err(),
        "expected no {key:?} in pool {pool}; the guest answered {got:?}"
    );
    Ok(())
}
