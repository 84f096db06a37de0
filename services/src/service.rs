//! What the agent knows of a service: its registry entry and the [`Service`] trait.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyperv_vmbus::hvutil::HvUtil;
use hyperv_vmbus::ic::{MessageType, Negotiated, Status, Version};
use hyperv_vmbus::{Encoding, Guid};
use slog::Logger;

use crate::command::{Client, Command};
use crate::config::Config;
use crate::counters::ServiceRecord;
use crate::description::Describe;
use crate::progress::Progress;
use crate::stop::Stop;

/// Creates what other programs expect of a service. An error says what is missing.
pub type Prepare = fn(&Config) -> Result<(), String>;

/// One service: its name, the devices that carry it, and how to create it.
#[derive(Debug)]
pub struct Entry {
    /// Name in flags, configuration and log lines.
    pub name: &'static str,
    /// What it does, for help and listings.
    pub summary: &'static str,
    /// Class of its VMBus devices. Protocol section 1.
    pub class: Guid,
    /// Type of its messages over a ring. Protocol section 4.
    pub message_type: MessageType,
    /// Framework versions it speaks, preferred first.
    pub frameworks: &'static [Version],
    /// Message versions it speaks, preferred first.
    pub versions: &'static [Version],
    /// The character device that carries it where the kernel's `hv_utils` has the
    /// VMBus device.
    pub hvutil: HvUtil,
    /// Whether it runs unless switched off.
    pub default: bool,
    /// How long its devices stay closed at most while systemd mounts local file systems.
    /// Called once, when the agent starts.
    pub mounts_wait: fn(&Config) -> Duration,
    /// Creates what other programs expect of the service as soon as it is switched on,
    /// with or without a device. It may wait for a disk. An error is logged as it is.
    pub prepare: Option<Prepare>,
    /// Describes its messages.
    pub describe: Describe,
    /// Returns where the data of a file is in the body of a message, if there is some: the
    /// end of the body, or padding follows.
    pub data: fn(&[u8]) -> Option<Range<usize>>,
    /// Creates the service for a newly opened device.
    pub make: fn(&Config, &Logger) -> Box<dyn Service>,
}

/// An integration service behind one open device.
///
/// A service is straight-line, blocking code, owned by the device's worker
/// thread: it may wait for a disk or a network file system. A new one is created
/// each time the device is opened; dropping it abandons its operation.
///
/// It knows nothing of how a message travels: `hyperv_vmbus` takes the headers off,
/// and puts the status where the host, or the kernel, reads it.
pub trait Service: Send {
    /// Handles one request. `body` is what follows the integration-component header
    /// on a ring, and the whole message on a character device; it is the body of
    /// the reply afterwards.
    fn handle(&mut self, encoding: Encoding, body: &mut [u8]) -> Status;

    /// Handles the refusal of the last reply on a character device: the kernel had
    /// already reported a failure to the host, or the device is gone.
    fn unanswered(&mut self) {}

    /// Handles the result of a negotiation over a ring, which may come at any time.
    fn negotiated(&mut self, _versions: Negotiated) {}

    /// Handles the kernel's reply to the registration on a character device.
    fn registered(&mut self, _answer: &[u8]) {}

    /// Whether the service has an operation in progress. More requests are then
    /// expected at once, as during a file transfer: the worker polls busily where
    /// that pays, and does not replace the service.
    fn busy(&self) -> bool {
        false
    }

    /// Returns a descriptor beside the device whose readability
    /// [wakes](Service::woken) the service. Called before each wait.
    fn watched(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Returns when the service is [woken](Service::woken) at the latest. Called
    /// around each wait.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Runs when the [watched](Service::watched) descriptor may be readable, or the
    /// [deadline](Service::deadline) has passed.
    fn woken(&mut self) {}

    /// Applies a new configuration to the operation in progress; `false` if the
    /// service must be replaced by a new one once it is not [busy](Service::busy).
    fn reconfigure(&mut self, _config: &Config) -> bool {
        false
    }

    /// Returns what stops the service while it handles a request, if that can take
    /// long. Called once, after creation.
    fn stop(&self) -> Option<Arc<Stop>> {
        None
    }

    /// Returns where the service publishes its operations, if it has any. Called once,
    /// after creation.
    fn progress(&self) -> Option<Arc<Progress>> {
        None
    }

    /// Sets where the service counts what it does. Called once, after creation.
    fn record_in(&mut self, _record: &Arc<ServiceRecord>) {}

    /// Executes a command of a local user; `host` becomes readable when the host sends
    /// a message meanwhile. The service may stay [busy](Service::busy) and finish the
    /// command in [`Service::woken`].
    fn command(
        &mut self,
        _command: Command,
        client: Box<dyn Client>,
        _host: Option<BorrowedFd<'_>>,
    ) {
        client.end(Err("this service has no commands".to_owned()));
    }
}
