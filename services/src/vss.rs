//! Freezing file systems for backups. Protocol section 8.
//!
//! The agent knows the service's devices and negotiates its versions; its
//! requests are declined as not supported.

use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::{MessageType, Version};

use crate::registry::{Entry, HvUtil};
use crate::unsupported::Unsupported;

/// Bytes of every message on the character device.
const MESSAGE_LEN: usize = 12;

const OP_REGISTER: u8 = 129;

/// The service's entry in the registry.
pub static ENTRY: Entry = Entry {
    name: "vss",
    summary: "freezing file systems for backups (negotiation only so far)",
    class: Guid::from_u128(0x35fa2e29_ea23_4236_96ae_3a6ebacba440),
    message_type: MessageType::VSS,
    frameworks: &[Version::new(3, 0)],
    versions: &[Version::new(5, 0)],
    hvutil: HvUtil {
        node: "vmbus/hv_vss",
        registration: &[OP_REGISTER, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        message_len: MESSAGE_LEN,
    },
    default: false,
    make: |_, _| Box::new(Unsupported),
};
