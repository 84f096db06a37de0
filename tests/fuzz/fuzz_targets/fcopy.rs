//! The file-copy service as a whole, with any sequence of requests, on a
//! directory of its own: it must neither panic nor touch anything outside.

#![no_main]

use std::fs;

use arbitrary::Arbitrary;
use hyperv_services::{Config, fcopy, registry};
use hyperv_vmbus::Encoding;
use libfuzzer_sys::fuzz_target;
use slog::{Discard, Logger, o};

#[derive(Arbitrary, Debug)]
enum Step {
    Start {
        file_name: String,
        directory: String,
        inside: bool,
        flags: u8,
        size: u32,
    },
    Write {
        offset: u16,
        data: Vec<u8>,
    },
    Complete,
    Cancel,
    Raw(Vec<u8>),
}

fn header(operation: u32) -> Vec<u8> {
    let mut message = operation.to_le_bytes().to_vec();
    message.resize(36, 0);
    message
}

fn utf16(message: &mut Vec<u8>, name: &str, end: usize) {
    message.extend(name.encode_utf16().take(259).flat_map(u16::to_le_bytes));
    message.resize(end, 0);
}

fuzz_target!(|steps: Vec<Step>| {
    let scratch = tempfile::tempdir().unwrap();
    let allowed = scratch.path().join("allowed");
    let outside = scratch.path().join("outside");
    let state = scratch.path().join("state");
    for directory in [&allowed, &outside, &state] {
        fs::create_dir(directory).unwrap();
    }
    std::os::unix::fs::symlink(&outside, allowed.join("link")).unwrap();

    let config = Config {
        fcopy: fcopy::Config {
            directories: vec![allowed.clone()],
            max_size: Some(64 << 10),
            sync: false,
            environment: hyperv_services::Environment {
                state_dir: state,
                ..hyperv_services::Environment::default()
            },
            ..fcopy::Config::default()
        },
        ..Config::default()
    };
    let entry = registry::by_name("fcopy").unwrap();
    let mut service = (entry.make)(&config, &Logger::root(Discard, o!()));
    for step in steps {
        let mut message = match step {
            Step::Start {
                file_name,
                directory,
                inside,
                flags,
                size,
            } => {
                let mut message = header(0);
                utf16(&mut message, &file_name, 36 + 520);
                let directory = match inside {
                    true => format!("{}/{directory}", allowed.display()),
                    false => directory,
                };
                utf16(&mut message, &directory, 36 + 1040);
                message.extend(u32::from(flags).to_le_bytes());
                message.extend(u64::from(size).to_le_bytes());
                message
            }
            Step::Write { offset, data } => {
                let mut message = header(1);
                message.extend([0; 4]);
                message.extend(u64::from(offset).to_le_bytes());
                message.extend((data.len() as u32).to_le_bytes());
                message.extend(data);
                message
            }
            Step::Complete => header(2),
            Step::Cancel => header(3),
            Step::Raw(message) => message,
        };
        service.handle(Encoding::Utf16, &mut message);
    }
    drop(service);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
});
