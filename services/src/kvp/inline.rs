//! Answers requests from memory, on the thread that talks to the host. Nothing here waits: for
//! what may wait there is the executor.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::config::Config;
use super::error::Error;
use super::facts::{Facts, KEYS, OS_REFRESH};
use super::interfaces::Interfaces;
use super::network;
use super::pool::{Memory, Record};
use super::request::{PoolId, Reply, Request};
use crate::progress::Progress;

/// What the thread that talks to the host and the executor's share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) interfaces: Arc<Interfaces>,
    pub(super) facts: Arc<Facts>,
    /// The records of each pool, by number.
    pub(super) memory: [Memory; PoolId::ALL.len()],
    pub(super) progress: Arc<Progress>,
    /// An IP configuration is in force when its network manager starts. The executor's
    /// thread sets and clears it.
    pub(super) deferred: Arc<AtomicBool>,
}

impl Shared {
    pub(super) fn new(config: &Config) -> Self {
        let interfaces = Arc::new(Interfaces::new(&config.environment.root));
        Self {
            facts: Arc::new(Facts::new(config, Arc::clone(&interfaces))),
            interfaces,
            memory: PoolId::ALL.map(|_| Memory::default()),
            progress: Arc::default(),
            deferred: Arc::new(AtomicBool::new(network::is_deferred(config))),
        }
    }

    /// Returns the memory of a pool.
    pub(super) fn memory(&self, pool: PoolId) -> &Memory {
        let [external, guest, auto, auto_external, auto_internal] = &self.memory;
        match pool {
            PoolId::External => external,
            PoolId::Guest => guest,
            PoolId::Auto => auto,
            PoolId::AutoExternal => auto_external,
            PoolId::AutoInternal => auto_internal,
        }
    }

    /// Answers a request that needs no wait; `None` if it needs the executor. A pool is not
    /// read before the executor is `idle`, since what it does comes first.
    pub(super) fn answer(&self, request: &Request, idle: bool) -> Option<Result<Reply, Error>> {
        // An old name of the system is better than none.
        let max_age = match idle {
            true => OS_REFRESH,
            false => Duration::MAX,
        };
        match request {
            Request::Get { pool, key } if *pool == PoolId::Auto && KEYS.contains(&&**key) => {
                let value = self.facts.known(key, max_age)?;
                Some(Ok(Reply::Value(value)))
            }
            Request::Enumerate { pool, index } if *pool == PoolId::Auto => {
                let index = usize::try_from(*index).unwrap_or(usize::MAX);
                let Some(&key) = KEYS.get(index) else {
                    return Some(Err(Error::NoItem));
                };
                let value = self.facts.known(key, max_age)?;
                let key = key.to_owned();
                Some(Ok(Reply::Item { key, value }))
            }
            Request::Get { pool, key } if idle => {
                let value = self.memory(*pool).value(key)?;
                Some(value.map(Reply::Value).ok_or(Error::NoKey))
            }
            Request::Enumerate { pool, index } if idle => {
                let record = self.memory(*pool).at(*index)?;
                let item = record.map(|Record { key, value }| Reply::Item { key, value });
                Some(item.ok_or(Error::NoItem))
            }
            _ => None,
        }
    }
}
