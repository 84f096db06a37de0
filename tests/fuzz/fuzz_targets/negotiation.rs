//! Integration-component messages and negotiation, with every service's
//! versions.

#![no_main]

use hyperv_services::registry::SERVICES;
use hyperv_vmbus::ic::{self, Status};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    let _ = ic::decode(message);
    for entry in SERVICES {
        let mut reply = message.to_vec();
        match ic::negotiate(&mut reply, entry.frameworks, entry.versions) {
            Ok(Some(settled)) => {
                assert!(entry.frameworks.contains(&settled.framework));
                assert!(entry.versions.contains(&settled.message));
            }
            Ok(None) => {}
            Err(_) => assert_eq!(reply, message),
        }
        ic::encode_reply(&mut reply, Status::FAIL);
        assert_eq!(reply.len(), message.len());
        if reply.len() >= ic::HEADER_LEN {
            let piped = u32::from_le_bytes([reply[4], reply[5], reply[6], reply[7]]);
            let size = u16::from_le_bytes([reply[18], reply[19]]);
            assert!((20..=reply.len() - 8).contains(&(piped as usize)));
            assert!(usize::from(size) <= reply.len() - ic::HEADER_LEN);
        }
    }
});
