//! The one list of services. Flags, configuration keys, discovery, help and
//! status derive from it.

use hyperv_vmbus::Guid;

use crate::service::Entry;
use crate::{fcopy, kvp, vss};

/// All services.
pub static SERVICES: [&Entry; 3] = [&fcopy::ENTRY, &kvp::ENTRY, &vss::ENTRY];

/// Finds a service by its name.
pub fn by_name(name: &str) -> Option<&'static Entry> {
    SERVICES.into_iter().find(|entry| entry.name == name)
}

/// Finds the service that devices of this class carry.
pub fn by_class(class: Guid) -> Option<&'static Entry> {
    SERVICES.into_iter().find(|entry| entry.class == class)
}
