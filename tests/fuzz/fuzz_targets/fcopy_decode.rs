//! File-copy requests over both transports.

#![no_main]

use hyperv_services::fcopy::request::{MAX_DATA, Request};
use hyperv_services::fcopy::{hvutil, uio};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    for decoded in [uio::decode(message), hvutil::decode(message)] {
        if let Ok(Request::Write { data, .. }) = decoded {
            assert!(data.len() <= MAX_DATA && data.len() <= message.len());
        }
    }
});
