//! Key-value pairs and IP configuration. Protocol section 7.
//!
//! [`wire`] decodes a message, in either `encoding`, into a [`request`]. `executor` hands
//! it to a separate thread, where `logic` checks it against [`Access`] and dispatches it;
//! a request that takes too long is cancelled (`cancel`), so the host always gets a reply
//! in time. [`wire`] encodes the reply in place of the request.
//!
//! [`pool`] holds the keys that host and guest write, [`facts`] computes those of the
//! guest, and `publish` keeps the configured ones in a pool. [`network`] reads and writes the
//! IP configuration of an interface; [`interfaces`] lists those of the machine. `files` and
//! [`assignments`] read files of other programs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyperv_vmbus::hvutil::HvUtil;
use hyperv_vmbus::ic::{MessageType, Negotiated, Status, Version};
use hyperv_vmbus::message::ReplyLayout;
use hyperv_vmbus::{Encoding, classes};
use slog::{Logger, debug, warn};

pub use self::config::{Access, Config, Network};
use self::error::Error;
use self::executor::{Executor, Job};
use self::logic::Logic;
pub use self::network::Backend;
use self::network::IpInfoError;
use self::pool::Pools;
use self::request::{Reply, Request};
use self::wire::{IpLayout, Malformed};
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

const OP_REGISTER: u8 = 100;

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
    message[0] = OP_REGISTER;
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
    after_mounts: false,
    prepare: Some(|config| create_pools(&config.kvp)),
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
    progress: Arc<Progress>,
    log: Logger,
    /// That of the last negotiation.
    ip_layout: IpLayout,
    /// The timeout of the current request was logged; those of requests that wait for it
    /// are not.
    timeout_logged: bool,
    /// The last message was a valid request, which the executor got.
    executed: bool,
    /// An IP configuration is in force when its network manager starts. The executor's thread sets
    /// and clears it.
    deferred: Arc<AtomicBool>,
    /// When to check what became of it.
    next_check: Instant,
    /// When the service was created.
    created: Instant,
    /// MAC addresses that no interface has, and that a warning has named.
    unknown_macs: Vec<String>,
}

impl KeyValue {
    fn new(config: &Config, log: &Logger) -> Self {
        let progress = Arc::<Progress>::default();
        let log = log.clone();
        let deferred = Arc::new(AtomicBool::new(network::is_deferred(config)));
        let args = (config.clone(), log.clone());
        let shared = (Arc::clone(&progress), Arc::clone(&deferred));
        let executor = Executor::start(move || {
            let mut logic = Logic::new(args.0, args.1, shared.0, shared.1);
            move |job| logic.execute(job)
        });
        Self {
            executor,
            progress,
            log,
            ip_layout: IpLayout::default(),
            timeout_logged: false,
            executed: false,
            deferred,
            next_check: Instant::now(),
            created: Instant::now(),
            unknown_macs: Vec::new(),
        }
    }

    fn execute(&mut self, request: Result<Request, Malformed>) -> Result<Reply, Error> {
        self.executed = request.is_ok();
        self.executor.execute(request?, KVP_REPLY)
    }

    /// Logs why a request failed: a warning, unless that was said before.
    fn log_failure(&mut self, error: &Error) {
        let timed_out = matches!(error, Error::TimedOut(_));
        let repeated = timed_out && self.timeout_logged;
        self.timeout_logged = timed_out;
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

impl Service for KeyValue {
    fn handle(&mut self, encoding: Encoding, body: &mut [u8]) -> Status {
        let layout = self.ip_layout;
        let outcome = self.execute(wire::decode(encoding, layout, body));
        let encode = |reply| Ok(wire::encode(encoding, layout, body, &reply)?);
        let error = match outcome.and_then(encode) {
            Ok(()) => {
                self.timeout_logged = false;
                return Status::OK;
            }
            Err(error) => error,
        };
        self.log_failure(&error);
        error.status()
    }

    fn progress(&self) -> Option<Arc<Progress>> {
        Some(Arc::clone(&self.progress))
    }

    fn negotiated(&mut self, versions: Negotiated) {
        self.ip_layout = IpLayout::of(versions.message);
    }

    fn deadline(&self) -> Option<Instant> {
        let deferred = self.deferred.load(Ordering::Relaxed);
        deferred.then_some(self.next_check)
    }

    fn woken(&mut self) {
        let now = Instant::now();
        if !self.deferred.load(Ordering::Relaxed) || now < self.next_check {
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
            self.executor.submit(Job::DriverVersion(version));
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
