//! The note of what is frozen, which an agent finds that is started after another.

#![no_main]

use hyperv_services::vss::state_file::{encode, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let note = parse(text);
    assert_eq!(parse(&encode(&note)), note);
});
