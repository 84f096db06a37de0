#![expect(clippy::cast_possible_truncation)]

use std::sync::Arc;

use hyperv_vmbus::mapping::MappedRings;
use hyperv_vmbus::ring::{FEATURE_PENDING_SEND_SIZE, Reader, Writer, Written};
use proptest::prelude::*;

use super::*;

const PAGE: usize = 4096;

fn rings(ring_len: usize) -> MappedRings {
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 * ring_len as u64).unwrap();
    let rings = MappedRings::map(&file, ring_len, PAGE).unwrap();
    for ring in [&rings.outgoing, &rings.incoming] {
        ring.store(Word::FeatureBits, FEATURE_PENDING_SEND_SIZE);
    }
    rings
}

#[test]
fn a_packet_has_the_layout_of_the_wire() {
    let rings = rings(2 * PAGE);
    let mut host = ToGuest::new(Arc::new(rings.incoming.clone()));
    assert_eq!(
        host.try_send(&Packet::in_band(0x0102, &[1, 2, 3])).unwrap(),
        Wrote::Yes { interrupt: true }
    );
    let mut bytes = [0; 32];
    rings.incoming.copy_out(0, &mut bytes);
    assert_eq!(
        bytes,
        [
            6, 0, 2, 0, 3, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0
        ]
    );
    assert_eq!(rings.incoming.load(Word::WriteIndex), 32);
}

#[test]
fn the_guest_is_interrupted_only_for_the_first_packet_and_never_when_masked() {
    let rings = rings(2 * PAGE);
    let mut host = ToGuest::new(Arc::new(rings.incoming.clone()));
    let packet = Packet::in_band(1, &[0; 8]);
    assert_eq!(
        host.try_send(&packet).unwrap(),
        Wrote::Yes { interrupt: true }
    );
    assert_eq!(
        host.try_send(&packet).unwrap(),
        Wrote::Yes { interrupt: false }
    );
    rings.incoming.store(Word::ReadIndex, host.position());
    rings.incoming.store(Word::InterruptMask, 1);
    assert_eq!(
        host.try_send(&packet).unwrap(),
        Wrote::Yes { interrupt: false }
    );
}

#[test]
fn a_full_ring_announces_what_the_host_waits_for_and_the_guest_signals_once() {
    let rings = rings(2 * PAGE);
    let mut host = ToGuest::new(Arc::new(rings.incoming.clone()));
    let mut guest = Reader::new(rings.incoming.clone()).unwrap();
    let packet = Packet::in_band(1, &[0; 1000]);
    let mut sent = 0;
    while host.try_send(&packet).unwrap() != Wrote::Full {
        sent += 1;
    }
    assert_eq!(sent, 3);
    assert_eq!(rings.incoming.load(Word::PendingSendSize), 1024);
    let mut buffer = vec![0; PAGE];
    let signals: Vec<bool> = (0..3)
        .map(|_| guest.recv(&mut buffer).unwrap().unwrap().signal)
        .collect();
    assert_eq!(signals.iter().filter(|signal| **signal).count(), 1);
    assert!(matches!(host.try_send(&packet).unwrap(), Wrote::Yes { .. }));
    assert_eq!(rings.incoming.load(Word::PendingSendSize), 0);
}

#[test]
fn a_guest_that_waits_for_room_is_to_be_interrupted() {
    let rings = rings(2 * PAGE);
    let mut host = FromGuest::new(Arc::new(rings.outgoing.clone()));
    let mut guest = Writer::new(rings.outgoing.clone()).unwrap();
    while guest.send(1, &[0; 1000]).unwrap() != Written::Full {}
    assert_eq!(host.guest_waits_for(), 1024);
    let (_, interrupt) = host.try_recv().unwrap().unwrap();
    assert!(interrupt);
    assert!(matches!(
        guest.send(1, &[0; 1000]).unwrap(),
        Written::Done { .. }
    ));
    let (_, interrupt) = host.try_recv().unwrap().unwrap();
    assert!(!interrupt);
}

#[test]
fn what_a_guest_must_not_write_is_an_error() {
    let rings = rings(2 * PAGE);
    for (index, header) in [
        (4096, 0x0003_0002_0006),
        (12, 0x0003_0002_0006),
        (8, 0x0003_0002_0006),
        (32, 0x0003_0001_0006),
        (32, 0x0009_0002_0006),
    ] {
        rings.outgoing.copy_in(0, &u64::to_le_bytes(header));
        rings.outgoing.store(Word::WriteIndex, index);
        assert!(
            FromGuest::new(Arc::new(rings.outgoing.clone()))
                .try_recv()
                .is_err()
        );
    }
}

proptest! {
    #[test]
    fn every_packet_reaches_the_guest_as_it_was(lens in prop::collection::vec(0usize..1500, 1..60)) {
        let rings = rings(2 * PAGE);
        let mut host = ToGuest::new(Arc::new(rings.incoming.clone()));
        let mut guest = Reader::new(rings.incoming.clone()).unwrap();
        let mut buffer = vec![0; PAGE];
        for (number, len) in lens.into_iter().enumerate() {
            let packet = Packet::in_band(number as u64, &vec![number as u8; len]);
            prop_assert_eq!(host.try_send(&packet).unwrap(), Wrote::Yes { interrupt: true });
            let received = guest.recv(&mut buffer).unwrap().unwrap();
            prop_assert_eq!(received.header.transaction, number as u64);
            prop_assert_eq!(&buffer[16..received.header.total_len], &packet.payload[..]);
            prop_assert!(host.is_drained());
        }
    }

    #[test]
    fn every_packet_of_the_guest_reaches_the_host(lens in prop::collection::vec(0usize..1500, 1..60)) {
        let rings = rings(2 * PAGE);
        let mut host = FromGuest::new(Arc::new(rings.outgoing.clone()));
        let mut guest = Writer::new(rings.outgoing.clone()).unwrap();
        for (number, len) in lens.into_iter().enumerate() {
            let payload = vec![number as u8; len];
            prop_assert_eq!(guest.send(number as u64, &payload).unwrap(), Written::Done { signal: true });
            let (packet, _) = host.try_recv().unwrap().unwrap();
            prop_assert_eq!(packet, Packet::in_band(number as u64, &payload));
        }
        prop_assert!(host.try_recv().unwrap().is_none());
    }

    #[test]
    fn no_memory_makes_the_host_panic(words: Vec<u64>, write: u32) {
        let rings = rings(2 * PAGE);
        for (at, word) in words.iter().enumerate().take(512) {
            rings.outgoing.copy_in(8 * at as u32, &word.to_le_bytes());
        }
        rings.outgoing.store(Word::WriteIndex, write);
        let _ = FromGuest::new(Arc::new(rings.outgoing.clone())).try_recv();
    }
}
