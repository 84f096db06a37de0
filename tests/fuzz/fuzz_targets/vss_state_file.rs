//! The record of frozen file systems that an earlier agent left.

#![no_main]

use hyperv_services::vss::state_file::{encode, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let note = parse(text);
    assert_eq!(parse(&encode(&note)), note);
});
