//! What was written is read again, and what is no capture is refused with its place.

use std::io::Read;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::capture::packet::tests::header;
use crate::capture::{Interface, Level, Record, Section};

fn section(level: Level) -> Section {
    Section {
        hardware: "x86_64".to_owned(),
        os: "6.12.0 Debian".to_owned(),
        application: "hyperv-agent 1".to_owned(),
        level,
    }
}

fn interfaces() -> [Interface; 2] {
    [("fcopy", "/dev/uio0"), ("kvp", "/dev/vmbus/hv_kvp")].map(|(service, node)| Interface {
        service: service.to_owned(),
        node: node.into(),
    })
}

fn record() -> impl Strategy<Value = Record> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    let more = (0..100usize, proptest::option::of("[a-z ]{1,20}"));
    (header(), bytes, 0..2usize, any::<u64>(), more).prop_map(
        |(header, bytes, interface, time, (cut, comment))| Record {
            original_len: bytes.len() + cut,
            comment,
            ..Record::new(
                UNIX_EPOCH + Duration::from_nanos(time),
                interface,
                header,
                bytes,
            )
        },
    )
}

fn written(records: &[Record]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &section(Level::Hash)).unwrap();
    for (index, interface) in interfaces().iter().enumerate() {
        assert_eq!(writer.interface(interface).unwrap(), index);
    }
    for record in records {
        writer.record(record).unwrap();
    }
    writer.dropped(1, UNIX_EPOCH, 7).unwrap();
    writer.dropped(0, UNIX_EPOCH, 1).unwrap();
    let written = writer.written();
    let bytes = writer.into_inner();
    assert_eq!(written, bytes.len() as u64);
    bytes
}

/// A file of blocks with these types and bodies, after a section's header.
fn file(blocks: &[(u32, &[u8])]) -> Vec<u8> {
    let writer = Writer::new(Vec::new(), &section(Level::None)).unwrap();
    let mut bytes = writer.into_inner();
    for (kind, body) in blocks {
        let len = u32::try_from(body.len() + 12).unwrap().to_le_bytes();
        bytes.extend([&kind.to_le_bytes()[..], &len, body, &len].concat());
    }
    bytes
}

fn error(bytes: &[u8]) -> String {
    let error = Reader::new(bytes).and_then(|reader| reader.collect::<Result<Vec<_>, _>>());
    error.unwrap_err().to_string()
}

/// The description of a device with a time resolution.
const DEVICE: &[u8] = &[147, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0];

#[test]
fn what_is_no_capture() {
    assert_eq!(error(b""), "it is empty");
    for bytes in [
        &b"text"[..],
        &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0],
    ] {
        assert!(error(bytes).contains("no pcapng file"));
    }
    let mut swapped = written(&[]);
    swapped[8..12].reverse();
    assert!(error(&swapped).contains("big-endian"));
    let later = String::from_utf8_lossy(&written(&[])).replace("\"version\":1", "\"version\":2");
    assert!(Reader::new(later.as_bytes()).is_err());
}

#[test]
fn malformed_blocks_are_refused_with_their_offset() {
    let at = file(&[]).len();
    let epb = |words: [u32; 5]| words.map(u32::to_le_bytes).concat();
    for (blocks, wanted) in [
        (&[(1, &[1, 0, 0, 0, 0, 0, 0, 0][..])][..], "link type 1,"),
        (&[(1, &[147, 0, 0, 0])], "too short"),
        (&[(6, &[0; 8])], "too short"),
        (&[(5, &[0; 8])], "too short"),
        (
            &[(6, &epb([0, 0, 0, 24, 24]))],
            "its device is not described",
        ),
        (&[(SECTION_HEADER, &[0; 16])], "a second section"),
        (&[(77, &[0; (1 << 20) - 8])], "states 1048580 bytes"),
        (
            &[(1, &[147, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 90, 0, 0, 0])],
            "unsupported resolution",
        ),
    ] {
        let error = error(&file(blocks));
        assert!(error.contains(wanted), "{error}");
        assert!(error.contains(&format!("at offset {at}")), "{error}");
    }
    let at = file(&[(1, DEVICE)]).len();
    for (packet, wanted) in [
        (epb([0, 0, 0, 24, 24]), "more data than it has"),
        (epb([0, 0, 0, 0, 0]), "none of hyperv-agent"),
        (epb([1, 0, 0, 0, 0]), "its device is not described"),
    ] {
        let error = error(&file(&[(1, DEVICE), (6, &packet)]));
        assert!(error.contains(wanted), "{error}");
        assert!(error.contains(&format!("at offset {at}")), "{error}");
    }
    let mut bytes = file(&[(77, &[])]);
    let end = bytes.len() - 4;
    for (place, byte, wanted) in [(end, 0, "differ"), (end - 4, 10, "states 10 bytes")] {
        bytes[place] = byte;
        assert!(error(&bytes).contains(wanted));
    }
}

#[test]
fn a_time_beyond_64_bits_of_nanoseconds_is_refused() {
    // A device that counts seconds.
    let device = [147, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0, 0];
    let at = |low: u32| {
        let words = [0, 4, low, 24, 24].map(u32::to_le_bytes);
        // A header: version 1, of the host, a ring.
        let header = [&[1, 1, 0, 1][..], &[0; 20]].concat();
        file(&[(1, &device), (6, &[words.concat(), header].concat())])
    };
    let bytes = at(1_266_874_889);
    let record = Reader::new(&bytes[..]).unwrap().next().unwrap().unwrap();
    let text = humantime::format_rfc3339_seconds(record.time).to_string();
    assert_eq!(text, "2554-07-21T23:34:33Z");
    assert!(error(&at(1_266_874_890)).contains("its time is out of range"));
}

#[test]
fn a_text_that_was_cut_is_read_again() {
    let mut bytes = file(&[]);
    let mut comment = vec![0xff; 1500];
    comment.splice(0..0, [3, 0, 0xdc, 5]);
    // The system, which is no UTF-8, in place of the one that is there.
    let body = [&bytes[8..24], &comment[..], &[0; 4]].concat();
    let len = u32::try_from(body.len() + 12).unwrap().to_le_bytes();
    bytes = [&SECTION_HEADER.to_le_bytes()[..], &len, &body, &len].concat();
    let read = Reader::new(&bytes[..]).unwrap().section().clone();
    assert_eq!(read.os.len(), 1023);
    let written = Writer::new(Vec::new(), &read).unwrap().into_inner();
    assert_eq!(Reader::new(&written[..]).unwrap().section(), &read);
}

#[test]
fn a_length_is_no_reason_to_allocate() {
    /// Fails the test where more than a block is read.
    struct Endless(usize);
    impl Read for Endless {
        fn read(&mut self, place: &mut [u8]) -> std::io::Result<usize> {
            self.0 += place.len();
            assert!(self.0 <= 2 << 20);
            place.fill(0xff);
            Ok(place.len())
        }
    }
    let bytes = file(&[]);
    let mut reader = Reader::new((&bytes[..]).chain(Endless(0))).unwrap();
    assert!(matches!(
        reader.next(),
        Some(Err(ReadError::BlockLength { len: u32::MAX, .. }))
    ));
    assert!(reader.next().is_none());
}

#[test]
fn unknown_blocks_and_options_are_skipped() {
    let bytes = written(&[]);
    let start = file(&[]).len();
    let unknown = file(&[(77, &[1; 32])]).split_off(start);
    let mut reader = Reader::new((&bytes[..start]).chain(&unknown[..]).chain(&bytes[start..]));
    assert!(reader.as_mut().unwrap().next().is_none());
    let reader = reader.unwrap();
    assert!(reader.interfaces().eq(&interfaces()));
    assert_eq!(reader.dropped(), 8);
}

proptest! {
    #[test]
    fn what_was_written_is_read(records in proptest::collection::vec(record(), 0..8)) {
        let bytes = written(&records);
        let mut reader = Reader::new(&bytes[..]).unwrap();
        prop_assert_eq!(reader.section(), &section(Level::Hash));
        let read: Result<Vec<_>, _> = reader.by_ref().collect();
        prop_assert_eq!(read.unwrap(), records);
        let second = &interfaces()[1];
        prop_assert_eq!(reader.interface(1), Some(second));
    }

    /// Wherever it is cut, what is whole is read, and then it says so.
    #[test]
    fn a_file_that_is_cut_off(records in proptest::collection::vec(record(), 1..4), cut: u16) {
        let bytes = written(&records);
        let cut = usize::from(cut) % bytes.len();
        let Ok(reader) = Reader::new(&bytes[..cut]) else {
            return Ok(());
        };
        let read: Vec<_> = reader.collect();
        let whole: Vec<_> = read.iter().flatten().collect();
        prop_assert!(records.iter().zip(&whole).all(|(wanted, read)| wanted == *read));
        match read.last() {
            Some(Err(ReadError::CutOff { .. })) => prop_assert_eq!(whole.len() + 1, read.len()),
            Some(Err(error)) => prop_assert!(false, "{}", error),
            Some(Ok(_)) | None => {}
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, place: usize, byte: u8, after_header: bool) {
        let mut damaged = written(&[]);
        let place = place % damaged.len();
        damaged[place] = byte;
        let bytes = if after_header { [damaged, bytes].concat() } else { bytes };
        if let Ok(reader) = Reader::new(&bytes[..]) {
            prop_assert!(reader.count() <= bytes.len());
        }
    }
}
