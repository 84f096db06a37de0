//! What a service is to the agent.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use hyperv_vmbus::hvutil::HvUtil;
use hyperv_vmbus::ic::{MessageType, Negotiated, Status, Version};
use hyperv_vmbus::{Encoding, Guid};
use slog::Logger;

use crate::backup::LastBackup;
use crate::command::{Client, Command};
use crate::config::Config;
use crate::progress::Progress;
use crate::stop::Stop;

/// One service: what it is called, which devices carry it, and how it is made.
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
    /// Makes the service for a newly opened device.
    pub make: fn(&Config, &Logger) -> Box<dyn Service>,
}

/// An integration service behind one open device.
///
/// A service is straight-line, blocking code, owned by the device's worker
/// thread: it may wait for a disk or a network file system. It is made anew
/// each time its device is opened; dropping it abandons what was under way.
///
/// It knows nothing of how a message travels: `hyperv_vmbus` takes the headers off,
/// and puts the status where the host, or the kernel, reads it.
pub trait Service: Send {
    /// Handles one request. `body` is what follows the integration-component header
    /// on a ring, and the whole message on a character device; it is the body of
    /// the reply afterwards.
    fn handle(&mut self, encoding: Encoding, body: &mut [u8]) -> Status;

    /// The kernel did not take the reply to the last request over a character device:
    /// by then it had told the host that the request failed, or the device is gone.
    fn unanswered(&mut self) {}

    /// The host and the agent settled on these versions; told at each
    /// negotiation over a ring, which may come at any time.
    fn negotiated(&mut self, _versions: Negotiated) {}

    /// What the kernel answered to the registration on a character device.
    fn registered(&mut self, _answer: &[u8]) {}

    /// Whether more requests are expected at once, as during a file transfer:
    /// then the worker keeps the device to itself and looks for the next
    /// request for a moment before it sleeps.
    fn busy(&self) -> bool {
        false
    }

    /// A descriptor that the service is to be [woken](Service::woken) by when it
    /// is readable, as its device is; asked for before each wait.
    fn watched(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// When the service is to be [woken](Service::woken) at the latest; asked for
    /// around each wait.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// What is [watched](Service::watched) may be readable, or the
    /// [deadline](Service::deadline) has come.
    fn woken(&mut self) {}

    /// Takes over a new configuration in the middle of what it is at; `false` where
    /// it cannot. Then it is made anew once it is not [busy](Service::busy).
    fn reconfigure(&mut self, _config: &Config) -> bool {
        false
    }

    /// How the service is told to end while it works on a request, if that can take
    /// long; asked for once, when it was made.
    fn stop(&self) -> Option<Arc<Stop>> {
        None
    }

    /// Where the service says what it is doing, if it does anything that lasts;
    /// asked for once, when it was made.
    fn progress(&self) -> Option<Arc<Progress>> {
        None
    }

    /// Where the service keeps how its last backup went, if it makes any; told
    /// once, when it was made.
    fn keep_in(&mut self, _last: &Arc<LastBackup>) {}

    /// Carries out what a local user asks; `host` becomes readable when the host says
    /// something meanwhile. It may leave the service [busy](Service::busy), with
    /// the end of it left to [`Service::woken`].
    fn command(
        &mut self,
        _command: Command,
        client: Box<dyn Client>,
        _host: Option<BorrowedFd<'_>>,
    ) {
        client.end(Err("this service cannot be asked for anything".to_owned()));
    }
}
