//! What a WRITE costs in memory: nothing.

use hyperv_services::{Config, fcopy, registry};
use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::Status;
use slog::{Discard, Logger, o};

const CHUNK: usize = 6144;
const WRITES: usize = 1000;

fn header(operation: u32) -> Vec<u8> {
    let mut message = operation.to_le_bytes().to_vec();
    message.resize(36, 0);
    message
}

fn name(message: &mut Vec<u8>, name: &str) {
    let end = message.len() + 520;
    message.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
    message.resize(end, 0);
}

#[test]
fn writes_in_order_allocate_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        fcopy: fcopy::Config {
            environment: hyperv_services::Environment {
                state_dir: directory.path().join("state"),
                ..hyperv_services::Environment::default()
            },
            ..fcopy::Config::default()
        },
        ..Config::default()
    };
    let entry = registry::by_name("fcopy").unwrap();
    let mut service = (entry.make)(&config, &Logger::root(Discard, o!()));

    let mut start = header(0);
    name(&mut start, "file");
    name(&mut start, directory.path().to_str().unwrap());
    start.extend(0u32.to_le_bytes());
    start.extend((WRITES as u64 * CHUNK as u64).to_le_bytes());
    assert_eq!(service.handle(Encoding::Utf16, &mut start), Status::OK);

    let mut write = header(1);
    write.extend([0; 4]);
    write.extend(0u64.to_le_bytes());
    write.extend(u32::try_from(CHUNK).unwrap().to_le_bytes());
    write.resize(write.len() + CHUNK, 7);
    let counted = allocation_counter::measure(|| {
        for number in 0..WRITES {
            let offset = number as u64 * CHUNK as u64;
            write
                .get_mut(40..48)
                .unwrap()
                .copy_from_slice(&offset.to_le_bytes());
            assert_eq!(service.handle(Encoding::Utf16, &mut write), Status::OK);
        }
    });
    assert_eq!(counted.count_total, 0);
    assert_eq!(service.handle(Encoding::Utf16, &mut header(2)), Status::OK);
    let size = std::fs::metadata(directory.path().join("file"))
        .unwrap()
        .len();
    assert_eq!(size, WRITES as u64 * CHUNK as u64);
}
