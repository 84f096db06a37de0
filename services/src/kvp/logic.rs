//! What each request does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::{Logger, debug, info, warn};

use super::config::Config;
use super::error::Error;
use super::executor::Job;
use super::facts::Facts;
use super::limit::Limit;
use super::pool::Pools;
use super::request::{PoolId, Reply, Request};
use super::{inject, ip_info, published};
use crate::activity::{Activity, Work};
use crate::words::in_words;

/// How long an IP configuration may take to be in use, or undone.
const INJECT_TIME: Duration = Duration::from_secs(20);

/// What of that must be left for it to be begun: with less, managers would be stopped
/// in the middle of their work.
const LEAST_INJECT_TIME: Duration = Duration::from_secs(10);

/// After what time it is tried again to publish what the configuration says.
const PUBLISH_AGAIN: Duration = Duration::from_secs(60);

pub(super) struct Logic {
    config: Config,
    pools: Pools,
    facts: Facts,
    activity: Arc<Activity>,
    /// When it was last tried in vain to publish what the configuration says.
    unpublished: Option<Instant>,
    /// The last request that was carried out changed the IP configuration.
    configured: bool,
    log: Logger,
}

impl Logic {
    /// Publishes what the configuration says, and takes back an IP configuration
    /// that is half in force.
    pub(super) fn new(config: Config, log: Logger, activity: Arc<Activity>) -> Self {
        let pools = Pools::new(&config.directory).with_mode(config.mode);
        if config.mode.is_some()
            && let Err(error) = pools.restrict()
        {
            warn!(log, "{}", in_words(&error));
        }
        let mut logic = Self {
            facts: Facts::new(&config),
            pools,
            activity,
            unpublished: None,
            configured: false,
            log,
            config,
        };
        logic.publish();
        inject::recover(&logic.config, Instant::now() + INJECT_TIME, &logic.log);
        logic
    }

    /// Carries out one job; a request has an outcome.
    pub(super) fn carry_out(&mut self, job: Job) -> Option<Result<Reply, Error>> {
        match job {
            Job::DriverVersion(version) => {
                self.facts.set_driver_version(&version);
                None
            }
            Job::Request(request, limit) => Some(self.answer_in_time(request, &limit)),
            Job::TakeBack => {
                self.take_back();
                None
            }
        }
    }

    fn answer_in_time(&mut self, request: Request, limit: &Limit) -> Result<Reply, Error> {
        self.configured = false;
        self.pools.within(limit);
        if self
            .unpublished
            .is_some_and(|tried| tried.elapsed() >= PUBLISH_AGAIN)
        {
            self.publish();
        }
        let outcome = match limit.is_over() {
            true => Err(Error::TooLate),
            false => self.answer(request, limit),
        };
        for notice in self.pools.notices() {
            warn!(self.log, "{}", notice);
        }
        if let Err(error) = &outcome {
            self.tell_late(error, limit);
        }
        outcome
    }

    /// Tells why a request failed for which the host has its answer: nobody else does.
    fn tell_late(&self, error: &Error, limit: &Limit) {
        if error.is_late() {
            info!(
                self.log,
                "a request that had failed for the host by then was not carried out: {}",
                in_words(error)
            );
        } else if limit.is_given_up() && !error.is_ordinary() {
            warn!(
                self.log,
                "a request that had failed for the host by then: {}",
                in_words(error)
            );
        }
    }

    fn publish(&mut self) {
        let published = published::update(&self.config, self.pools.without_limit());
        self.unpublished = published.as_ref().err().map(|_| Instant::now());
        if let Err(error) = published {
            warn!(
                self.log,
                "cannot publish all that the configuration says, and will try again: {}",
                in_words(&error)
            );
        }
    }

    /// The host was told that the last request failed: the kernel did not take the
    /// answer.
    fn take_back(&mut self) {
        if self.configured {
            inject::rollback(&self.config, Instant::now() + INJECT_TIME, &self.log);
        }
        match self.pools.take_back() {
            Ok(false) => {}
            Ok(true) => warn!(
                self.log,
                "the kernel did not take the answer to a request, and has told the host that it \
                 failed: what it changed in a pool was changed back"
            ),
            Err(error) => warn!(
                self.log,
                "what a request changed could not be changed back, although the host was told \
                 that it failed: {}",
                in_words(&error)
            ),
        }
    }

    fn answer(&mut self, request: Request, limit: &Limit) -> Result<Reply, Error> {
        self.config.access.check(&request)?;
        let pools = self.pools.within(limit);
        match request {
            Request::Get { pool, key } => {
                let value = match pool {
                    PoolId::Auto => self.facts.get(&key),
                    _ => None,
                };
                let value = match value {
                    Some(value) => Some(value),
                    None => pools.get(pool, &key)?,
                };
                value.map(Reply::Value).ok_or(Error::NoKey)
            }
            Request::Set { pool, key, value } => {
                pools.set(pool, &key, &value)?;
                debug!(self.log, "pool {}: {:?} is now {:?}", pool, key, value);
                Ok(Reply::Done)
            }
            Request::Delete { pool, key } => {
                if !pools.delete(pool, &key)? {
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
                    _ => pools
                        .at(pool, index)?
                        .map(|record| (record.key, record.value)),
                };
                let (key, value) = item.ok_or(Error::NoItem)?;
                Ok(Reply::Item { key, value })
            }
            Request::GetIpInfo { adapter, family } => {
                let info = ip_info::get(&self.config, &adapter, family, &self.log)?;
                Ok(Reply::IpInfo(info))
            }
            Request::SetIpInfo(info) => {
                let _underway = self.activity.begin(Work::Configuring {
                    adapter: info.adapter.clone(),
                });
                if limit.left() < LEAST_INJECT_TIME {
                    return Err(Error::TooLate);
                }
                let deadline = limit.end().min(Instant::now() + INJECT_TIME);
                inject::set(&self.config, &info, deadline, &|| limit.done(), &self.log)?;
                self.configured = true;
                Ok(Reply::Done)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::executor::Executor;
    use super::super::test_log::Lines;
    use super::*;

    #[test]
    fn what_was_left_half_done_is_taken_back_at_the_start() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let new = root.path().join("new");
        fs::write(&new, "").unwrap();
        fs::create_dir(&config.state_directory).unwrap();
        let note = format!("new\0{}\nend", new.display());
        fs::write(config.state_directory.join("network-pending"), note).unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        Logic::new(config, log, Arc::default());
        assert!(!new.exists());
    }
    fn config(root: &Path) -> Config {
        Config {
            directory: root.join("pools"),
            state_directory: root.join("state"),
            root: root.to_owned(),
            ..Config::default()
        }
    }

    fn executor(config: &Config) -> Executor {
        let config = config.clone();
        Executor::start(move || {
            let log = Logger::root(slog::Discard, slog::o!());
            let mut logic = Logic::new(config, log, Arc::default());
            move |job| logic.carry_out(job)
        })
    }

    const LONG: Duration = Duration::from_secs(60);

    fn set(key: &str, value: &str) -> Request {
        Request::Set {
            pool: PoolId::External,
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }

    fn get(key: &str) -> Request {
        Request::Get {
            pool: PoolId::External,
            key: key.to_owned(),
        }
    }

    #[test]
    fn what_the_host_was_told_has_failed_is_not_done_later() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let mut executor = executor(&config);
        executor.carry_out(set("k", "old"), LONG).unwrap();
        let file = fs::File::open(config.directory.join(".kvp_pool_0")).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let late = executor.carry_out(set("k", "new"), Duration::from_millis(50));
        assert!(
            matches!(late, Err(Error::NotInTime(_) | Error::Pool(_))),
            "{late:?}"
        );
        drop(file);
        let got = executor.carry_out(get("k"), LONG).unwrap();
        assert_eq!(got, Reply::Value("old".to_owned()));
    }

    #[test]
    fn a_request_whose_time_is_over_has_no_effect() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let log = Logger::root(slog::Discard, slog::o!());
        let mut logic = Logic::new(config, log, Arc::default());
        let mut ask = |request, time| {
            logic
                .carry_out(Job::Request(request, Limit::new(time)))
                .unwrap()
        };
        ask(set("k", "new"), Duration::ZERO).unwrap_err();
        let info = super::super::request::IpInfo::default();
        let refused = ask(Request::SetIpInfo(info), LEAST_INJECT_TIME / 2);
        assert!(matches!(refused, Err(Error::TooLate)), "{refused:?}");
        let got = ask(get("k"), LONG);
        assert!(matches!(got, Err(Error::NoKey)), "{got:?}");
    }

    /// What came of it, such as a change that could not be undone, is not in the answer.
    #[test]
    fn of_a_request_that_was_given_up_it_is_told_how_it_failed() {
        let root = tempfile::tempdir().unwrap();
        let lines = Lines::default();
        let log = Logger::root(lines.clone(), slog::o!());
        let logic = Logic::new(config(root.path()), log, Arc::default());
        let busy = || Error::Inject(inject::InjectError::Busy);
        let limit = Limit::new(LONG);
        // The host is yet to be told of this one.
        logic.tell_late(&busy(), &limit);
        assert!(limit.give_up());
        logic.tell_late(&Error::NoKey, &limit);
        logic.tell_late(&busy(), &limit);
        let lines = lines.0.lock().unwrap();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines
                .iter()
                .all(|line| line.contains("still being applied"))
        );
    }

    #[test]
    fn what_the_kernel_did_not_take_the_answer_to_is_changed_back() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let mut executor = executor(&config);
        executor.carry_out(set("k", "old"), LONG).unwrap();
        executor.carry_out(set("k", "new"), LONG).unwrap();
        executor.submit(Job::TakeBack);
        let got = executor.carry_out(get("k"), LONG).unwrap();
        assert_eq!(got, Reply::Value("old".to_owned()));
        // Only the last request is meant.
        executor.submit(Job::TakeBack);
        let got = executor.carry_out(get("k"), LONG).unwrap();
        assert_eq!(got, Reply::Value("old".to_owned()));
    }

    #[test]
    fn what_could_not_be_published_is_published_later() {
        let root = tempfile::tempdir().unwrap();
        let config = Config {
            publish: [("Role".to_owned(), "web".to_owned())].into(),
            ..config(root.path())
        };
        // A directory stands in the pool's place.
        let pool = config.directory.join(".kvp_pool_1");
        fs::create_dir_all(&pool).unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        let mut logic = Logic::new(config, log, Arc::default());
        fs::remove_dir(&pool).unwrap();
        logic.unpublished = logic.unpublished.map(|tried| tried - PUBLISH_AGAIN);
        let role = Request::Get {
            pool: PoolId::Guest,
            key: "Role".to_owned(),
        };
        let job = Job::Request(role, Limit::new(LONG));
        let got = logic.carry_out(job).unwrap().unwrap();
        assert_eq!(got, Reply::Value("web".to_owned()));
        assert!(logic.unpublished.is_none());
    }
}
