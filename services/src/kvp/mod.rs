//! Key-value pairs and IP configuration. Protocol section 7.
//!
//! [`wire`] decodes a message, in either `encoding`, into a [`request`], which is checked
//! against [`Access`]. `inline` answers what is in memory. `executor` hands the rest to a
//! separate thread, where `logic` dispatches it; a request that takes too long is cancelled
//! (`cancel`), so the host always gets a reply in time. [`wire`] encodes the reply in place
//! of the request.
//!
//! [`pool`] holds the keys that host and guest write, [`facts`] computes those of the
//! guest, and `publish` keeps the configured ones in a pool. [`network`] reads and writes the
//! IP configuration of an interface; [`interfaces`] lists those of the machine. `files` and
//! [`assignments`] read files of other programs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyperv_vmbus::hvutil::HvUtil;
use hyperv_vmbus::ic::{MessageType, Negotiated, Status, Version};
use hyperv_vmbus::message::ReplyLayout;
use hyperv_vmbus::{Encoding, classes};
use slog::{Logger, debug, warn};

pub use self::config::{Access, Config, Network};
use self::error::Error;
use self::executor::{Executor, Job};
use self::inline::Shared;
use self::logic::Logic;
pub use self::network::Backend;
use self::network::IpInfoError;
use self::pool::Pools;
use self::request::{Reply, Request};
use self::wire::describe::REGISTER;
use self::wire::{IpLayout, Malformed};
use crate::counters::{Operations, Outcomes, ServiceRecord};
use crate::error_chain::display_chain;
use crate::progress::Progress;
use crate::service::{Entry, Service};
use crate::timeouts::KVP_REPLY;

mod access;
pub mod assignments;
mod cancel;
pub mod config;
mod encoding;
mod error;
mod executor;
pub mod facts;
mod files;
mod inline;
pub mod interfaces;
mod logic;
pub mod network;
pub mod pool;
mod publish;
pub mod request;
#[cfg(test)]
mod test_log;
pub mod wire;

/// Size of every message on the character device in bytes.
const MESSAGE_LEN: usize = 7432;

/// How often to check what became of a deferred IP configuration.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How often, if the network manager still has not started after [`BOOT`].
const CHECK_INTERVAL_LATER: Duration = Duration::from_secs(30);

/// How long a boot may take.
const BOOT: Duration = Duration::from_secs(600);

/// Most MAC addresses that warnings name: some more than a machine can have adapters.
const MAX_MACS: usize = 16;

static REGISTRATION: [u8; MESSAGE_LEN] = {
    let mut message = [0; MESSAGE_LEN];
    message[0] = REGISTER;
    message
};

/// The service's entry in the registry.
pub static ENTRY: Entry = Entry {
    name: "kvp",
    summary: "key-value pairs and IP configuration",
    class: classes::KVP,
    message_type: MessageType::KVP,
    frameworks: &[Version::new(3, 0), Version::new(1, 0)],
    versions: &[
        Version::new(5, 0),
        Version::new(4, 0),
        Version::new(3, 0),
        Version::new(1, 0),
    ],
    hvutil: HvUtil {
        node: "vmbus/hv_kvp",
        registration: &REGISTRATION,
        message_len: MESSAGE_LEN,
        reply: ReplyLayout::StatusInBody,
    },
    default: true,
    mounts_wait: |_| Duration::ZERO,
    prepare: Some(|config| create_pools(&config.kvp)),
    describe: wire::describe::describe,
    data: |_| None,
    make: |config, log| Box::new(KeyValue::new(&config.kvp, log)),
};

/// Creates the pools that are missing: programs of the first boot write to them, before
/// the host offers a device.
fn create_pools(config: &Config) -> Result<(), String> {
    let pools = Pools::new(&config.directory).with_mode(config.mode);
    pools.create_missing().map_err(|error| {
        let cause = display_chain(&error);
        format!("cannot create the pools, will retry with the host's requests: {cause}")
    })
}

struct KeyValue {
    executor: Executor,
    shared: Shared,
    access: Access,
    record: Arc<ServiceRecord>,
    log: Logger,
    /// That of the last negotiation.
    ip_layout: IpLayout,
    /// The timeout of the current request was logged; those of requests that wait for it
    /// are not.
    timeout_logged: bool,
    /// The executor got the last message.
    executed: bool,
    /// When to check what became of a deferred IP configuration.
    next_check: Instant,
    /// When the service was created.
    created: Instant,
    /// MAC addresses that no interface has, and that a warning has named.
    unknown_macs: Vec<String>,
}

impl KeyValue {
    fn new(config: &Config, log: &Logger) -> Self {
        let shared = Shared::new(config);
        let args = (config.clone(), log.clone(), shared.clone());
        let executor = Executor::start(move || {
            let mut logic = Logic::new(args.0, args.1, args.2);
            move |job| logic.execute(job)
        });
        Self {
            executor,
            shared,
            access: config.access.clone(),
            log: log.clone(),
            record: Arc::default(),
            ip_layout: IpLayout::default(),
            timeout_logged: false,
            executed: false,
            next_check: Instant::now(),
            created: Instant::now(),
            unknown_macs: Vec::new(),
        }
    }

    fn execute(&mut self, request: Result<Request, Malformed>) -> Result<Reply, Error> {
        self.executed = false;
        let request = request?;
        self.access.check(&request)?;
        if let Some(answer) = self.shared.answer(&request, self.executor.is_idle()) {
            return answer;
        }
        self.executed = true;
        self.executor.execute(request, KVP_REPLY)
    }

    /// Logs why a request failed: a warning, unless that was said before.
    fn log_failure(&mut self, error: &Error) {
        let timed_out = matches!(error, Error::TimedOut(_));
        let repeated = timed_out && self.timeout_logged;
        self.timeout_logged |= timed_out;
        if error.is_expected() || repeated || self.is_known_mac(error) {
            debug!(self.log, "request refused: {}", display_chain(error));
        } else {
            warn!(self.log, "request refused: {}", display_chain(error));
        }
    }

    /// Returns whether the failure is about a MAC address that a warning has named, or about one
    /// too many: hosts ask again and again for an adapter that the guest does not have.
    fn is_known_mac(&mut self, error: &Error) -> bool {
        let Error::IpInfo(IpInfoError::NoInterface(mac)) = error else {
            return false;
        };
        let is_known = self.unknown_macs.contains(mac) || self.unknown_macs.len() >= MAX_MACS;
        if !is_known {
            self.unknown_macs.push(mac.clone());
        }
        is_known
    }
}

/// Returns where a request is counted.
fn counted<'a>(operations: &'a Operations, request: &Result<Request, Malformed>) -> &'a Outcomes {
    match request {
        Ok(Request::Get { .. }) => &operations.get,
        Ok(Request::Set { .. }) => &operations.set,
        Ok(Request::Delete { .. }) => &operations.delete,
        Ok(Request::Enumerate { .. }) => &operations.enumerate,
        Ok(Request::GetIpInfo { .. }) => &operations.get_ip_info,
        Ok(Request::SetIpInfo(_)) => &operations.set_ip_info,
        Err(_) => &operations.malformed,
    }
}

impl Service for KeyValue {
    fn handle(&mut self, encoding: Encoding, body: &mut [u8]) -> Status {
        let layout = self.ip_layout;
        let record = Arc::clone(&self.record);
        let request = wire::decode(encoding, layout, body);
        let counted = counted(&record.counters.kvp, &request);
        let outcome = self.execute(request);
        if self.executor.is_idle() {
            self.timeout_logged = false;
        }
        let encode = |reply| Ok(wire::encode(encoding, layout, body, &reply)?);
        match outcome.and_then(encode) {
            Ok(()) => {
                counted.succeeded.add(1);
                Status::OK
            }
            Err(error) => {
                match error.is_expected() {
                    true => counted.missing.add(1),
                    false => counted.failed.add(1),
                }
                self.log_failure(&error);
                error.status()
            }
        }
    }

    fn progress(&self) -> Option<Arc<Progress>> {
        Some(Arc::clone(&self.shared.progress))
    }

    fn record_in(&mut self, record: &Arc<ServiceRecord>) {
        self.record = Arc::clone(record);
    }

    fn negotiated(&mut self, versions: Negotiated) {
        self.ip_layout = IpLayout::of(versions.message);
    }

    fn deadline(&self) -> Option<Instant> {
        let deferred = self.shared.deferred.load(Ordering::Relaxed);
        deferred.then_some(self.next_check)
    }

    fn woken(&mut self) {
        let now = Instant::now();
        if !self.shared.deferred.load(Ordering::Relaxed) || now < self.next_check {
            return;
        }
        self.executor.submit(Job::CheckDeferred);
        self.next_check = now
            + match self.created.elapsed() < BOOT {
                true => CHECK_INTERVAL,
                false => CHECK_INTERVAL_LATER,
            };
    }

    fn unanswered(&mut self) {
        // Otherwise the last request is an earlier one, and the host got its reply.
        if self.executed {
            self.executor.submit(Job::Rollback);
        }
    }

    fn registered(&mut self, answer: &[u8]) {
        if let Some(version) = wire::driver_version(answer) {
            self.shared.facts.set_driver_version(&version);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::test_log::Lines;
    use super::*;
    use crate::kvp::request::PoolId;

    /// An idle service makes no wake-ups.
    #[test]
    fn only_a_deferred_ip_configuration_wakes_the_service() {
        let root = tempfile::tempdir().unwrap();
        let config = Config {
            directory: root.path().join("pools"),
            environment: crate::Environment {
                root: root.path().to_owned(),
                state_dir: root.path().join("state"),
                runtime_dir: root.path().join("runtime"),
            },
            ..Config::default()
        };
        let new = || KeyValue::new(&config, &Logger::root(slog::Discard, slog::o!()));
        assert_eq!(new().deadline(), None);
        let record = root.path().join("runtime/ip-configurations/eth0");
        std::fs::create_dir_all(record.parent().unwrap()).unwrap();
        std::fs::write(record, "deferred\0").unwrap();
        let mut service = new();
        assert!(service.deadline().is_some_and(|at| at <= Instant::now()));
        service.woken();
        assert!(service.deadline().is_none_or(|at| at > Instant::now()));
    }

    fn service(root: &Path, log: &Logger) -> KeyValue {
        let config = Config {
            directory: root.join("pools"),
            environment: crate::Environment {
                root: root.to_owned(),
                state_dir: root.join("state"),
                ..crate::Environment::default()
            },
            ..Config::default()
        };
        KeyValue::new(&config, log)
    }

    #[test]
    fn an_unknown_mac_address_is_a_warning_once() {
        let root = tempfile::tempdir().unwrap();
        let lines = Lines::default();
        let mut service = service(root.path(), &Logger::root(lines.clone(), slog::o!()));
        let mut fail = |mac: &str| {
            service.log_failure(&Error::IpInfo(IpInfoError::NoInterface(mac.to_owned())));
            lines.0.lock().unwrap().pop().unwrap()
        };
        for mac in ["00:15:5D:00:00:01", "00:15:5D:00:00:02"] {
            assert!(fail(mac).starts_with("WARN"), "{mac}");
            for _ in 0..3 {
                assert!(fail(mac).starts_with("DEBUG"), "{mac}");
            }
        }
        // However many adapters the host asks for.
        let warnings = (0..1000).filter(|number| fail(&number.to_string()).starts_with("WARN"));
        assert_eq!(warnings.count(), MAX_MACS - 2);
    }

    #[test]
    fn the_last_negotiation_chooses_the_layout_of_ip_configurations() {
        let root = tempfile::tempdir().unwrap();
        let mut service = service(root.path(), &Logger::root(slog::Discard, slog::o!()));
        let record = Arc::<ServiceRecord>::default();
        service.record_in(&record);
        // Of no adapter, and too short for the text layout.
        let get_ip_info = |service: &mut KeyValue| {
            let mut message = [0; 3716];
            message[0] = 4;
            service.handle(Encoding::Utf16, &mut message)
        };
        assert_eq!(get_ip_info(&mut service), Status::INVALID_ARGUMENT);
        for (major, status) in [
            (5, Status::GUID_NOT_FOUND),
            (4, Status::INVALID_ARGUMENT),
            (5, Status::GUID_NOT_FOUND),
        ] {
            service.negotiated(Negotiated {
                framework: Version::new(3, 0),
                message: Version::new(major, 0),
            });
            assert_eq!(get_ip_info(&mut service), status);
        }
        let counted = &record.counters.kvp;
        assert_eq!(
            (
                counted.malformed.failed.get(),
                counted.get_ip_info.failed.get()
            ),
            (2, 2)
        );
    }

    fn enumerate(service: &mut KeyValue, pool: PoolId) -> Vec<Reply> {
        let ask = |index| service.execute(Ok(Request::Enumerate { pool, index }));
        (0..).map(ask).map_while(Result::ok).collect()
    }

    #[test]
    fn what_is_in_memory_is_answered_without_another_thread() {
        let Some(root) = pool::testing::directory() else {
            return;
        };
        let mut service = service(root.path(), &Logger::root(slog::Discard, slog::o!()));
        let pool = PoolId::External;
        let set = Request::Set {
            pool,
            key: "key".to_owned(),
            value: "value".to_owned(),
        };
        service.execute(Ok(set)).unwrap();
        let get = |key: &str| {
            let key = key.to_owned();
            Ok(Request::Get { pool, key })
        };
        // Until every later change would show in the stamp of the file.
        let begun = Instant::now();
        while service.shared.memory(pool).value("key").is_none() {
            assert!(begun.elapsed() < KVP_REPLY, "it is never in memory");
            service.execute(get("key")).unwrap();
        }
        service.executor = Executor::start(|| |_| panic!("not in memory"));
        let value = service.execute(get("key")).unwrap();
        assert_eq!(value, Reply::Value("value".to_owned()));
        let missing = service.execute(get("no key"));
        assert!(matches!(missing, Err(Error::NoKey)), "{missing:?}");
        assert_eq!(enumerate(&mut service, pool).len(), 1);
        // None of this can be undone.
        service.unanswered();
        assert_eq!(enumerate(&mut service, pool).len(), 1);
    }

    #[test]
    fn a_fact_does_not_wait_for_the_executor() {
        let root = tempfile::tempdir().unwrap();
        let mut service = service(root.path(), &Logger::root(slog::Discard, slog::o!()));
        let all = enumerate(&mut service, PoolId::Auto);
        assert_eq!(all.len(), facts::KEYS.len());
        let (go_on, gate) = std::sync::mpsc::channel::<()>();
        service.executor = Executor::start(move || {
            move |_| {
                let _ = gate.recv();
                None
            }
        });
        service.executor.submit(Job::Rollback);
        for (index, expected) in (0..).zip(&all) {
            let pool = PoolId::Auto;
            let got = service.execute(Ok(Request::Enumerate { pool, index }));
            assert_eq!(got.unwrap(), *expected);
        }
        // A pool does.
        let pool = PoolId::External;
        let request = Request::Enumerate { pool, index: 0 };
        assert!(
            service
                .shared
                .answer(&request, service.executor.is_idle())
                .is_none()
        );
        drop(go_on);
    }

    #[test]
    fn an_invalid_message_rolls_nothing_back() {
        let root = tempfile::tempdir().unwrap();
        let mut service = service(root.path(), &Logger::root(slog::Discard, slog::o!()));
        let pool = PoolId::External;
        let key = || "key".to_owned();
        let set = |value: &str| {
            let value = value.to_owned();
            Ok(Request::Set {
                pool,
                key: key(),
                value,
            })
        };
        let get = || Ok(Request::Get { pool, key: key() });
        let first = Reply::Value("first".to_owned());
        service.execute(set("first")).unwrap();
        service.handle(Encoding::Utf8, &mut [0xff; 8]);
        service.unanswered();
        assert_eq!(service.execute(get()).unwrap(), first);

        service.execute(set("second")).unwrap();
        service.unanswered();
        assert_eq!(service.execute(get()).unwrap(), first);
    }
}
