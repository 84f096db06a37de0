//! The one list of services. Flags, configuration keys, discovery, help and
//! status derive from it.

use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::{MessageType, Version};
use slog::Logger;

use crate::service::Service;
use crate::{fcopy, kvp, vss};

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
    /// Its character device.
    pub hvutil: HvUtil,
    /// Whether it runs unless switched off.
    pub default: bool,
    /// Makes the service for a newly opened device.
    pub make: fn(&crate::Config, &Logger) -> Box<dyn Service>,
}

/// The character device that carries a service where the kernel's `hv_utils`
/// has the VMBus device. Protocol sections 1 and 6.
#[derive(Debug)]
pub struct HvUtil {
    /// Name under `/dev`.
    pub node: &'static str,
    /// What is written to register.
    pub registration: &'static [u8],
    /// Bytes of the longest message the kernel sends.
    pub message_len: usize,
}

/// Every service there is.
pub static SERVICES: [&Entry; 3] = [&fcopy::ENTRY, &kvp::ENTRY, &vss::ENTRY];

/// The service of that name.
pub fn by_name(name: &str) -> Option<&'static Entry> {
    SERVICES.into_iter().find(|entry| entry.name == name)
}

/// The service that a device of this class carries.
pub fn by_class(class: Guid) -> Option<&'static Entry> {
    SERVICES.into_iter().find(|entry| entry.class == class)
}
