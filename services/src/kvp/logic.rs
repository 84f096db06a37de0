//! Dispatches requests to the pools, the facts and the network.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use slog::{Logger, debug, info, warn};

use super::cancel::CancelToken;
use super::config::Config;
use super::error::Error;
use super::executor::Job;
use super::inline::Shared;
use super::pool::{Pools, Record, Stamp};
use super::request::{PoolId, Reply, Request};
use super::{interfaces, network, publish};
use crate::error_chain::display_chain;
use crate::progress::Operation;
use crate::timeouts::{IP_CONFIGURATION, IP_CONFIGURATION_MIN};

/// When to retry creating the pools, or publishing the configured keys.
const RETRY: Duration = Duration::from_secs(60);

pub(super) struct Logic {
    config: Config,
    pools: Pools,
    shared: Shared,
    /// When creating the missing pools failed.
    create_failed: Option<Instant>,
    /// When publishing the configured keys failed.
    publish_failed: Option<Instant>,
    /// The state of pool 1 in which all configured keys are there.
    published: Option<Stamp>,
    /// The last request changed the IP configuration.
    network_changed: bool,
    checks: network::Checks,
    log: Logger,
}

impl Logic {
    /// Creates the missing pools, publishes the configured keys, and rolls back an IP
    /// configuration that a killed program left half applied.
    pub(super) fn new(config: Config, log: Logger, shared: Shared) -> Self {
        let pools = Pools::new(&config.directory)
            .with_mode(config.mode)
            .with_memory(&shared.memory);
        if config.mode.is_some() {
            if let Err(error) = pools.apply_mode() {
                warn!(log, "{}", display_chain(&error));
            }
        }
        let mut logic = Self {
            pools,
            shared,
            create_failed: None,
            publish_failed: None,
            published: None,
            network_changed: false,
            checks: network::Checks::default(),
            log,
            config,
        };
        logic.create_pools();
        logic.publish();
        network::recover(&logic.config, Instant::now() + IP_CONFIGURATION, &logic.log);
        logic
    }

    /// Executes a job; returns the outcome of a request.
    pub(super) fn execute(&mut self, job: Job) -> Option<Result<Reply, Error>> {
        match job {
            Job::Request(request, token) => Some(self.execute_request(request, &token)),
            Job::Rollback => {
                self.rollback();
                None
            }
            Job::CheckDeferred => {
                self.check_deferred();
                None
            }
        }
    }

    fn execute_request(&mut self, request: Request, token: &CancelToken) -> Result<Reply, Error> {
        self.network_changed = false;
        self.pools.for_request(token);
        let due = |tried: Option<Instant>| tried.is_some_and(|tried| tried.elapsed() >= RETRY);
        if due(self.create_failed) && self.create_pools() {
            info!(self.log, "created the pools");
        }
        let is_published = request.pool() != Some(PoolId::Guest) || !self.lost_published_keys();
        if due(self.publish_failed) || !is_published {
            self.publish();
        }
        let pool = request.pool();
        let changes = matches!(request, Request::Set { .. } | Request::Delete { .. });
        let outcome = match token.is_expired() {
            true => Err(Error::Cancelled),
            false => self.dispatch(request, token),
        };
        if pool == Some(PoolId::Guest) {
            // What the host does to a published key stays until the next start.
            if changes {
                self.published = self.pools.stamp(PoolId::Guest);
            }
            // The next request is to look whether it is time to publish.
            if self.publish_failed.is_some() || self.lost_published_keys() {
                self.shared.memory(PoolId::Guest).forget();
            }
        }
        for warning in self.pools.take_warnings() {
            warn!(self.log, "{}", warning);
        }
        if let Err(error) = &outcome {
            self.log_failure_after_timeout(error, token);
        }
        outcome
    }

    /// Logs why a request failed after the host got its reply: nobody else does.
    fn log_failure_after_timeout(&self, error: &Error, token: &CancelToken) {
        let cause = display_chain(error);
        if error.is_cancelled() {
            info!(
                self.log,
                "a request timed out and was not executed: {cause}"
            );
        } else if token.is_cancelled() && !error.is_expected() {
            warn!(self.log, "a request failed after it had timed out: {cause}");
        }
    }

    /// Creates the pools that are missing; returns whether all are there. The supervisor
    /// does the same at its start, and logs why it fails.
    fn create_pools(&mut self) -> bool {
        let created = self.pools.create_missing();
        self.create_failed = created.is_err().then(Instant::now);
        if let Err(error) = &created {
            debug!(
                self.log,
                "cannot create the pools: {}",
                display_chain(error)
            );
        }
        created.is_ok()
    }

    /// Returns whether pool 1 was changed since the configured keys were published. cloud-init
    /// and azure-init empty it in the first minute of a boot, to get rid of their records of
    /// the last one.
    fn lost_published_keys(&self) -> bool {
        !self.config.publish.is_empty() && self.published != self.pools.stamp(PoolId::Guest)
    }

    fn publish(&mut self) {
        let published = publish::update(&self.config, self.pools.without_token());
        self.published = self.pools.stamp(PoolId::Guest);
        self.publish_failed = published.as_ref().err().map(|_| Instant::now());
        if let Err(error) = published {
            // The next request is to look whether it is time to publish.
            self.shared.memory(PoolId::Guest).forget();
            let cause = display_chain(&error);
            warn!(
                self.log,
                "cannot publish all configured keys, will retry: {cause}"
            );
        }
    }

    fn check_deferred(&mut self) {
        let interfaces = || interfaces::list(&self.config.environment.root);
        let deferred = network::check(&self.config, &interfaces, &mut self.checks, &self.log);
        self.shared.deferred.store(deferred, Ordering::Relaxed);
    }

    /// Undoes the last request: the kernel did not accept the reply, and reported a
    /// failure to the host.
    fn rollback(&mut self) {
        if self.network_changed {
            network::rollback(&self.config, Instant::now() + IP_CONFIGURATION, &self.log);
        }
        match self.pools.rollback() {
            Ok(false) => {}
            Ok(true) => warn!(
                self.log,
                "the kernel refused the reply to a request and reported a failure to the host: \
                 the change to a pool was rolled back"
            ),
            Err(error) => warn!(
                self.log,
                "cannot roll back a change to a pool, although the host got a failure: {}",
                display_chain(&error)
            ),
        }
    }

    fn dispatch(&mut self, request: Request, token: &CancelToken) -> Result<Reply, Error> {
        let pools = self.pools.for_request(token);
        match request {
            Request::Get { pool, key } => {
                let fact = (pool == PoolId::Auto).then(|| self.shared.facts.get(&key));
                let value = match fact.flatten() {
                    None => pools.get(pool, &key)?,
                    fact => fact,
                };
                value.map(Reply::Value).ok_or(Error::NoKey)
            }
            Request::Set { pool, key, value } => {
                pools.set(pool, &key, &value)?;
                debug!(self.log, "pool {}: set {:?} to {:?}", pool, key, value);
                Ok(Reply::Done)
            }
            Request::Delete { pool, key } => {
                if !pools.delete(pool, &key)? {
                    return Err(Error::NoKey);
                }
                debug!(self.log, "pool {}: deleted {:?}", pool, key);
                Ok(Reply::Done)
            }
            Request::Enumerate { pool, index } => {
                if pool == PoolId::Auto {
                    let (key, value) = self.shared.facts.at(index).ok_or(Error::NoItem)?;
                    let key = key.to_owned();
                    return Ok(Reply::Item { key, value });
                }
                let Record { key, value } = pools.at(pool, index)?.ok_or(Error::NoItem)?;
                Ok(Reply::Item { key, value })
            }
            Request::GetIpInfo { adapter, family } => {
                let info = network::get(
                    &self.config,
                    &self.shared.interfaces,
                    &adapter,
                    family,
                    &self.log,
                )?;
                Ok(Reply::IpInfo(info))
            }
            Request::SetIpInfo(info) => {
                let adapter = info.adapter.clone();
                let _operation = self
                    .shared
                    .progress
                    .begin(Operation::Configuring { adapter });
                if token.remaining() < IP_CONFIGURATION_MIN {
                    return Err(Error::Cancelled);
                }
                let deadline = token.deadline().min(Instant::now() + IP_CONFIGURATION);
                network::set(&self.config, &info, deadline, &|| token.commit(), &self.log)?;
                self.network_changed = true;
                let deferred = network::is_deferred(&self.config);
                self.shared.deferred.store(deferred, Ordering::Relaxed);
                Ok(Reply::Done)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::executor::Executor;
    use super::super::pool;
    use super::super::test_log::Lines;
    use super::*;

    #[test]
    fn a_half_applied_ip_configuration_is_rolled_back_at_the_start() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let new = root.path().join("new");
        fs::write(&new, "").unwrap();
        fs::create_dir(&config.environment.state_dir).unwrap();
        let note = format!("new\0{}\nend", new.display());
        fs::write(config.environment.state_dir.join("network-pending"), note).unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        logic(config, log);
        assert!(!new.exists());
    }

    fn config(root: &Path) -> Config {
        Config {
            directory: root.join("pools"),
            environment: crate::Environment {
                root: root.to_owned(),
                state_dir: root.join("state"),
                ..crate::Environment::default()
            },
            ..Config::default()
        }
    }

    fn logic(config: Config, log: Logger) -> Logic {
        let shared = Shared::new(&config);
        Logic::new(config, log, shared)
    }

    fn executor(config: &Config) -> Executor {
        let config = config.clone();
        Executor::start(move || {
            let log = Logger::root(slog::Discard, slog::o!());
            let mut logic = logic(config, log);
            move |job| logic.execute(job)
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
    fn a_request_that_timed_out_is_not_executed_later() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let mut executor = executor(&config);
        executor.execute(set("k", "old"), LONG).unwrap();
        let file = fs::File::open(config.directory.join(".kvp_pool_0")).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let late = executor.execute(set("k", "new"), Duration::from_millis(50));
        assert!(
            matches!(late, Err(Error::TimedOut(_) | Error::Pool(_))),
            "{late:?}"
        );
        drop(file);
        let got = executor.execute(get("k"), LONG).unwrap();
        assert_eq!(got, Reply::Value("old".to_owned()));
    }

    #[test]
    fn a_request_past_its_deadline_has_no_effect() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let log = Logger::root(slog::Discard, slog::o!());
        let mut logic = logic(config, log);
        let mut ask = |request, time| {
            logic
                .execute(Job::Request(request, CancelToken::new(time)))
                .unwrap()
        };
        ask(set("k", "new"), Duration::ZERO).unwrap_err();
        let info = super::super::request::IpInfo::default();
        let refused = ask(Request::SetIpInfo(info), IP_CONFIGURATION_MIN / 2);
        assert!(matches!(refused, Err(Error::Cancelled)), "{refused:?}");
        let got = ask(get("k"), LONG);
        assert!(matches!(got, Err(Error::NoKey)), "{got:?}");
    }

    /// Its outcome, such as a failed rollback, is not in the reply.
    #[test]
    fn the_failure_of_a_cancelled_request_is_logged() {
        let root = tempfile::tempdir().unwrap();
        let lines = Lines::default();
        let log = Logger::root(lines.clone(), slog::o!());
        let logic = logic(config(root.path()), log);
        let busy = || Error::Inject(network::InjectError::Busy);
        let token = CancelToken::new(LONG);
        // The host gets this failure itself.
        logic.log_failure_after_timeout(&busy(), &token);
        assert!(token.cancel());
        logic.log_failure_after_timeout(&Error::NoKey, &token);
        logic.log_failure_after_timeout(&busy(), &token);
        let lines = lines.0.lock().unwrap();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines
                .iter()
                .all(|line| line.contains("still being applied"))
        );
    }

    #[test]
    fn a_request_whose_reply_was_refused_is_rolled_back() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        let mut executor = executor(&config);
        executor.execute(set("k", "old"), LONG).unwrap();
        executor.execute(set("k", "new"), LONG).unwrap();
        executor.submit(Job::Rollback);
        let got = executor.execute(get("k"), LONG).unwrap();
        assert_eq!(got, Reply::Value("old".to_owned()));
        // Only the last request is rolled back.
        executor.submit(Job::Rollback);
        let got = executor.execute(get("k"), LONG).unwrap();
        assert_eq!(got, Reply::Value("old".to_owned()));
    }

    #[test]
    fn published_keys_are_back_after_another_program_has_emptied_the_pool() {
        let root = tempfile::tempdir().unwrap();
        let config = Config {
            publish: [("Role".to_owned(), "web".to_owned())].into(),
            ..config(root.path())
        };
        let pool = config.directory.join(".kvp_pool_1");
        let mut executor = executor(&config);
        let get = |executor: &mut Executor| {
            let pool = PoolId::Guest;
            let key = "Role".to_owned();
            executor.execute(Request::Get { pool, key }, LONG)
        };
        let web = Reply::Value("web".to_owned());
        assert_eq!(get(&mut executor).unwrap(), web);
        // As cloud-init does, with a record of its own.
        fs::File::create(&pool).unwrap();
        let mut other = Pools::new(&config.directory);
        other.set(PoolId::Guest, "CLOUD_INIT", "x").unwrap();
        for (index, expected) in [(0, "CLOUD_INIT"), (1, "Role")] {
            let pool = PoolId::Guest;
            let got = executor.execute(Request::Enumerate { pool, index }, LONG);
            match got.unwrap() {
                Reply::Item { key, .. } => assert_eq!(key, expected),
                reply => panic!("{reply:?}"),
            }
        }
        fs::remove_file(&pool).unwrap();
        assert_eq!(get(&mut executor).unwrap(), web);
        // What the host deletes stays deleted.
        let (pool, key) = (PoolId::Guest, "Role".to_owned());
        executor
            .execute(Request::Delete { pool, key }, LONG)
            .unwrap();
        let got = get(&mut executor);
        assert!(matches!(got, Err(Error::NoKey)), "{got:?}");
    }

    #[test]
    fn missing_pools_are_created_again_after_a_failure() {
        let root = tempfile::tempdir().unwrap();
        let config = config(root.path());
        fs::write(&config.directory, "a file in the directory's place").unwrap();
        let lines = Lines::default();
        let log = Logger::root(lines.clone(), slog::o!());
        let mut logic = logic(config.clone(), log);
        let ask = |logic: &mut Logic| {
            let _ = logic.execute(Job::Request(get("k"), CancelToken::new(LONG)));
        };
        fs::remove_file(&config.directory).unwrap();
        ask(&mut logic);
        assert!(!config.directory.exists());
        logic.create_failed = logic.create_failed.map(|tried| tried - RETRY);
        ask(&mut logic);
        assert_eq!(fs::read_dir(&config.directory).unwrap().count(), 5);
        let lines = lines.0.lock().unwrap();
        let told = lines
            .iter()
            .filter(|line| line.contains("created the pools"));
        assert_eq!(told.count(), 1, "{lines:?}");
    }

    #[test]
    fn a_pool_in_which_keys_are_yet_to_be_published_is_not_kept_in_memory() {
        let Some(root) = pool::testing::directory() else {
            return;
        };
        let config = Config {
            publish: [("Role".to_owned(), "web".to_owned())].into(),
            ..config(root.path())
        };
        fs::write(&config.environment.state_dir, "a file in its place").unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        let mut logic = logic(config, log);
        assert!(logic.publish_failed.is_some());
        let is_kept = |logic: &mut Logic, pool| {
            let key = "Role".to_owned();
            let job = Job::Request(Request::Get { pool, key }, CancelToken::new(LONG));
            let _ = logic.execute(job).unwrap();
            logic.shared.memory(pool).value("Role").is_some()
        };
        let begun = Instant::now();
        while !is_kept(&mut logic, PoolId::External) {
            assert!(begun.elapsed() < LONG, "no pool is kept in memory");
        }
        assert!(!is_kept(&mut logic, PoolId::Guest));
        logic.publish_failed = None;
        assert!(is_kept(&mut logic, PoolId::Guest));
        // Another program has changed the pool, and publishing fails again.
        logic.published = None;
        assert!(!is_kept(&mut logic, PoolId::Guest));
    }

    #[test]
    fn a_pool_in_which_only_some_keys_are_published_is_not_kept_in_memory() {
        let Some(root) = pool::testing::directory() else {
            return;
        };
        let config = Config {
            publish: [("A".to_owned(), "a".to_owned())].into(),
            ..config(root.path())
        };
        let log = || Logger::root(slog::Discard, slog::o!());
        drop(logic(config.clone(), log()));
        let kept = |config: &Config| {
            let logic = logic(config.clone(), log());
            (
                logic.publish_failed.is_some(),
                logic.shared.memory(PoolId::Guest).value("A").is_some(),
            )
        };
        let begun = Instant::now();
        while kept(&config) != (false, true) {
            assert!(begun.elapsed() < LONG, "the pool is not kept in memory");
        }
        let publish = [("A", "a".to_owned()), ("B", "too long".repeat(1000))];
        let config = Config {
            publish: publish.map(|(key, value)| (key.to_owned(), value)).into(),
            ..config
        };
        assert_eq!(kept(&config), (true, false));
    }

    #[test]
    fn publishing_is_retried_after_a_failure() {
        let root = tempfile::tempdir().unwrap();
        let config = Config {
            publish: [("Role".to_owned(), "web".to_owned())].into(),
            ..config(root.path())
        };
        // A directory stands in the pool's place.
        let pool = config.directory.join(".kvp_pool_1");
        fs::create_dir_all(&pool).unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        let mut logic = logic(config, log);
        fs::remove_dir(&pool).unwrap();
        logic.publish_failed = logic.publish_failed.map(|tried| tried - RETRY);
        let role = Request::Get {
            pool: PoolId::Guest,
            key: "Role".to_owned(),
        };
        let job = Job::Request(role, CancelToken::new(LONG));
        let got = logic.execute(job).unwrap().unwrap();
        assert_eq!(got, Reply::Value("web".to_owned()));
        assert!(logic.publish_failed.is_none());
    }
}
