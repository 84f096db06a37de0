//! What each request does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::{Logger, debug, warn};

use super::error::Error;
use super::executor::Job;
use super::facts::Facts;
use super::pool::Pools;
use super::request::{PoolId, Reply, Request};
use super::{Config, inject, ip_info, published};
use crate::activity::{Activity, Work};
use crate::in_words;

/// How long an IP configuration may take to be in use, or undone.
const INJECT_TIME: Duration = Duration::from_secs(20);

pub(super) struct Logic {
    config: Config,
    pools: Pools,
    facts: Facts,
    activity: Arc<Activity>,
    log: Logger,
}

impl Logic {
    /// Publishes what the configuration says, and takes back an IP configuration
    /// that is half in force.
    pub(super) fn new(config: Config, log: Logger, activity: Arc<Activity>) -> Self {
        let mut pools = Pools::new(&config.directory);
        if let Err(error) = published::update(&config, &mut pools) {
            warn!(
                log,
                "cannot publish all that the configuration says: {}",
                in_words(&error)
            );
        }
        inject::recover(&config, Instant::now() + INJECT_TIME, &log);
        Self {
            facts: Facts::new(&config),
            pools,
            config,
            activity,
            log,
        }
    }

    /// Carries out one job; a request has an outcome.
    pub(super) fn carry_out(&mut self, job: Job) -> Option<Result<Reply, Error>> {
        match job {
            Job::DriverVersion(version) => {
                self.facts.set_driver_version(&version);
                None
            }
            Job::Request(request) => Some(self.answer(request)),
        }
    }

    fn answer(&mut self, request: Request) -> Result<Reply, Error> {
        self.config.access.check(&request)?;
        match request {
            Request::Get { pool, key } => {
                let value = match pool {
                    PoolId::Auto => self.facts.get(&key),
                    _ => None,
                };
                let value = match value {
                    Some(value) => Some(value),
                    None => self.pools.get(pool, &key)?,
                };
                value.map(Reply::Value).ok_or(Error::NoKey)
            }
            Request::Set { pool, key, value } => {
                self.pools.set(pool, &key, &value)?;
                debug!(self.log, "pool {}: {:?} is now {:?}", pool, key, value);
                Ok(Reply::Done)
            }
            Request::Delete { pool, key } => {
                if !self.pools.delete(pool, &key)? {
                    return Err(Error::NoKey);
                }
                debug!(self.log, "pool {}: {:?} is gone", pool, key);
                Ok(Reply::Done)
            }
            Request::Enumerate { pool, index } => {
                let item = match pool {
                    PoolId::Auto => self
                        .facts
                        .at(index)
                        .map(|(key, value)| (key.to_owned(), value)),
                    _ => self
                        .pools
                        .at(pool, index)?
                        .map(|record| (record.key, record.value)),
                };
                let (key, value) = item.ok_or(Error::NoItem)?;
                Ok(Reply::Item { key, value })
            }
            Request::GetIpInfo { adapter, family } => {
                let info = ip_info::get(&self.config, &adapter, family)?;
                Ok(Reply::IpInfo(info))
            }
            Request::SetIpInfo(info) => {
                let _underway = self.activity.begin(Work::Configuring {
                    adapter: info.adapter.clone(),
                });
                let deadline = Instant::now() + INJECT_TIME;
                inject::set(&self.config, &info, deadline, &self.log)?;
                Ok(Reply::Done)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_left_half_done_is_taken_back_at_the_start() {
        let root = tempfile::tempdir().unwrap();
        let config = Config {
            directory: root.path().join("pools"),
            state_directory: root.path().join("state"),
            root: root.path().to_owned(),
            ..Config::default()
        };
        let new = root.path().join("new");
        fs::write(&new, "").unwrap();
        fs::create_dir(&config.state_directory).unwrap();
        let note = format!("new\0{}\nend", new.display());
        fs::write(config.state_directory.join("network-pending"), note).unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        Logic::new(config, log, Arc::default());
        assert!(!new.exists());
    }
}
