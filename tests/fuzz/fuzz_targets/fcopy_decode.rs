//! File-copy requests in both encodings.

#![no_main]

use hyperv_services::fcopy::request::{MAX_DATA, Request, decode};
use hyperv_vmbus::Encoding;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    for encoding in [Encoding::Utf16, Encoding::Utf8] {
        if let Ok(Request::Write { data, .. }) = decode(encoding, message) {
            assert!(data.len() <= MAX_DATA && data.len() <= message.len());
        }
    }
});
