//! Key-value pairs and IP configuration. Protocol section 7.
//!
//! The agent knows the service's devices and negotiates its versions; its
//! requests are declined as not supported.

use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::{MessageType, Version};

use crate::registry::{Entry, HvUtil};
use crate::unsupported::Unsupported;

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
    summary: "key-value pairs and IP configuration (negotiation only so far)",
    class: Guid::from_u128(0xa9a0f4e7_5a45_4d96_b827_8a841e8c03e6),
    message_type: MessageType::KVP,
    frameworks: &[Version::new(3, 0), Version::new(1, 0)],
    versions: &[Version::new(4, 0), Version::new(3, 0), Version::new(1, 0)],
    hvutil: HvUtil {
        node: "vmbus/hv_kvp",
        registration: &REGISTRATION,
        message_len: MESSAGE_LEN,
    },
    default: false,
    make: |_, _| Box::new(Unsupported),
};
