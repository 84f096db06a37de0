//! Packet headers.

#![no_main]

use hyperv_vmbus::packet::{HEADER_LEN, Header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: [u8; HEADER_LEN]| {
    if let Ok(header) = Header::decode(&bytes) {
        assert!(HEADER_LEN <= header.header_len && header.header_len <= header.total_len);
        assert_eq!(header.encode(), bytes);
    }
});
