//! Key-value pairs and IP configuration. Protocol section 7.
//!
//! The way of a request: [`wire`] decodes it, in either `encoding`, into a [`request`];
//! `executor` carries it to the `logic` on a thread of its own and answers in
//! time whatever that thread waits for, and [`wire`] encodes the reply over the
//! request. [`Access`] refuses what the host may not ask for. [`pool`] has the files that the host
//! and the guest write to, [`facts`] what is computed for the host, [`net`] the
//! kernel's interfaces, [`ip_info`] what the host is told of one of them, and
//! [`inject`] writes what the host wants of it. `files` reads what belongs to
//! other programs; [`assignments`] is the form that several of them have in
//! common.

use std::sync::Arc;

use hyperv_vmbus::hvutil::HvUtil;
use hyperv_vmbus::ic::{MessageType, Status, Version};
use hyperv_vmbus::message::ReplyLayout;
use hyperv_vmbus::{Encoding, classes};
use slog::{Logger, debug, warn};

pub use self::config::{Access, Backend, Config, Network};
use self::error::Error;
use self::executor::{Executor, Job};
use self::logic::Logic;
use self::request::{Reply, Request};
use self::wire::Malformed;
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
pub mod inject;
pub mod ip_info;
mod logic;
pub mod net;
pub mod pool;
mod publish;
pub mod request;
mod scripts;
#[cfg(test)]
mod test_log;
pub mod wire;

/// Bytes of every message on the character device.
const MESSAGE_LEN: usize = 7432;

const OP_REGISTER: u8 = 100;

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
    versions: &[Version::new(4, 0), Version::new(3, 0), Version::new(1, 0)],
    hvutil: HvUtil {
        node: "vmbus/hv_kvp",
        registration: &REGISTRATION,
        message_len: MESSAGE_LEN,
        reply: ReplyLayout::StatusInBody,
    },
    default: true,
    make: |config, log| Box::new(KeyValue::new(&config.kvp, log)),
};

struct KeyValue {
    executor: Executor,
    progress: Arc<Progress>,
    log: Logger,
    /// A request is late, and that was said: those that have to wait for it do
    /// not fill the log.
    timeout_logged: bool,
    /// The last message was a request, and went to the executor.
    executed: bool,
}

impl KeyValue {
    fn new(config: &Config, log: &Logger) -> Self {
        let progress = Arc::<Progress>::default();
        let (its_config, its_log, its_progress) =
            (config.clone(), log.clone(), Arc::clone(&progress));
        let executor = Executor::start(move || {
            let mut logic = Logic::new(its_config, its_log, its_progress);
            move |job| logic.execute(job)
        });
        Self {
            executor,
            progress,
            log: log.clone(),
            timeout_logged: false,
            executed: false,
        }
    }

    fn execute(&mut self, request: Result<Request, Malformed>) -> Result<Reply, Error> {
        self.executed = request.is_ok();
        self.executor.execute(request?, KVP_REPLY)
    }
}

impl Service for KeyValue {
    fn handle(&mut self, encoding: Encoding, body: &mut [u8]) -> Status {
        let outcome = self.execute(wire::decode(encoding, body));
        let error = match outcome.and_then(|reply| Ok(wire::encode(encoding, body, &reply)?)) {
            Ok(()) => {
                self.timeout_logged = false;
                return Status::OK;
            }
            Err(error) => error,
        };
        let late = matches!(error, Error::TimedOut(_));
        if error.is_expected() || late && self.timeout_logged {
            debug!(self.log, "request refused: {}", display_chain(&error));
        } else {
            warn!(self.log, "request refused: {}", display_chain(&error));
        }
        self.timeout_logged = late;
        error.status()
    }

    fn progress(&self) -> Option<Arc<Progress>> {
        Some(Arc::clone(&self.progress))
    }

    fn unanswered(&mut self) {
        // Else the one before was the last, and the host has its answer.
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
    use super::*;
    use crate::kvp::request::PoolId;

    #[test]
    fn a_message_that_was_no_request_has_nothing_taken_back() {
        let root = tempfile::tempdir().unwrap();
        let config = Config {
            directory: root.path().join("pools"),
            environment: crate::Environment {
                root: root.path().to_owned(),
                state_dir: root.path().join("state"),
                ..crate::Environment::default()
            },
            ..Config::default()
        };
        let mut service = KeyValue::new(&config, &Logger::root(slog::Discard, slog::o!()));
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
