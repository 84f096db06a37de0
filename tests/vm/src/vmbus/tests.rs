//! The protocol against a guest that behaves as a kernel does, over plain
//! memory: no processor is needed.

#![expect(clippy::cast_possible_truncation)]

mod guest;

use std::time::Duration;

use hyperv_sim::port::{Device, Event, Port};
use hyperv_sim::ring::{FromGuest, Packet, ToGuest, Wrote};
use hyperv_vmbus::ring::{Reader, Writer, Written};
use proptest::prelude::*;

use super::message::Kind;
use super::*;
use guest::{FakeGuest, ReceivedMessage};

const CLASS: Guid = Guid::from_u128(0x34d14be3_dee4_41c8_9ae7_6b174977c192);
const INSTANCE: Guid = Guid::from_u128(0xeb765408_105f_49b6_b4aa_c123b64d17d4);
const SOON: Duration = Duration::from_millis(20);

fn uio(port: Port) -> hyperv_sim::port::UioPort {
    match port {
        Port::Uio(port) | Port::Kernel(port) => port,
        Port::HvUtil(_) => panic!("a device with rings has a port of rings"),
    }
}

#[test]
fn a_guest_goes_down_to_a_version_that_the_host_speaks() {
    let mut guest = FakeGuest::new(Version::new(4, 1));
    assert!(!guest.contact(Version::new(5, 3), MESSAGES_FROM_5, 1));
    assert_eq!(guest.bus.version(), None);
    assert!(!guest.contact(Version::new(5, 0), MESSAGES_FROM_5, 1));
    assert!(guest.contact(Version::new(4, 1), MESSAGES, 1));
    assert_eq!(guest.bus.version(), Some(Version::new(4, 1)));
    assert_eq!(guest.messages, MESSAGES);
}

#[test]
fn a_guest_of_version_5_is_told_where_to_send_and_hears_at_its_processor() {
    let mut guest = FakeGuest::new(Version::NEWEST);
    assert!(guest.contact(Version::NEWEST, MESSAGES_FROM_5, 3));
    assert_eq!(guest.messages, MESSAGES_AFTER);
    guest.send(Kind::REQUEST_OFFERS, &[]);
    let message = guest.next();
    assert_eq!(
        (message.vp, message.sint, message.kind),
        (3, 2, Kind::ALL_OFFERS_DELIVERED)
    );
}

#[test]
fn other_connections_and_types_are_refused() {
    let guest = FakeGuest::connected();
    assert_eq!(guest.bus.post_message(2, 1, &[0; 8]), INVALID_CONNECTION);
    assert_eq!(guest.bus.post_message(4, 7, &[0; 8]), INVALID_PARAMETER);
    assert_eq!(guest.bus.post_message(4, 1, &[0; 241]), INVALID_PARAMETER);
    assert_eq!(guest.bus.signal_event(1, 0), INVALID_CONNECTION);
    assert_eq!(guest.bus.signal_event(0x2001, 0), INVALID_CONNECTION);
    assert_eq!(guest.bus.signal_event(u32::MAX, 0), INVALID_CONNECTION);
}

#[test]
fn offers_before_and_after_the_request_arrive() {
    let mut guest = FakeGuest::new(Version::NEWEST);
    let _early = guest.bus.offer(CLASS, INSTANCE, false).unwrap();
    assert!(guest.contact(Version::NEWEST, MESSAGES_FROM_5, 0));
    assert!(guest.try_next().is_none());
    guest.send(Kind::REQUEST_OFFERS, &[]);
    let early = guest.offered();
    assert_eq!(guest.next().kind, Kind::ALL_OFFERS_DELIVERED);
    let _late = guest.bus.offer(CLASS, Guid::from_u128(7), false).unwrap();
    let late = guest.offered();
    assert_ne!(early.relid, late.relid);
    assert_ne!(early.connection, late.connection);
    assert_eq!((early.dedicated.get(), early.monitored), (1, 0));
    assert_eq!(early.instance, message::wire_guid(INSTANCE));
}

#[test]
fn packets_go_both_ways_over_scattered_pages() {
    let mut guest = FakeGuest::connected();
    let device = guest.bus.offer(CLASS, INSTANCE, false).unwrap();
    let offer = guest.offered();
    // Two rings of 40 pages take more than one message to describe.
    let rings = guest.open(&offer, 40, 1).unwrap();
    let port = uio(device.accept(SOON).unwrap());
    let bell = port.bell;
    let mut to_guest = ToGuest::new(port.rings.incoming);
    let mut from_guest = FromGuest::new(port.rings.outgoing);
    let mut reader = Reader::new(rings.incoming).unwrap();
    let mut writer = Writer::new(rings.outgoing).unwrap();
    let mut buffer = vec![0; 40 * 4096];
    for number in 0..200u64 {
        let payload: Vec<u8> = (0..6200u64).map(|at| (at * number) as u8).collect();
        let wrote = to_guest.try_send(&Packet::in_band(number, &payload));
        assert_eq!(wrote.unwrap(), Wrote::Yes { interrupt: true });
        bell.interrupt();
        assert_eq!(guest.synic.signals(), [(1, 2, offer.relid.get())]);
        let received = reader.recv(&mut buffer).unwrap().unwrap();
        assert_eq!(buffer[16..received.header.total_len], payload);
        let sent = writer.send(number, &payload).unwrap();
        assert_eq!(sent, Written::Done { signal: true });
        assert_eq!(guest.signal(&offer), SUCCESS);
        assert_eq!(bell.wait(SOON), Event::Signalled);
        let (packet, _) = from_guest.try_recv().unwrap().unwrap();
        assert_eq!(packet, Packet::in_band(number, &payload));
    }
    assert_eq!((bell.signals(), bell.interrupts()), (200, 200));
    assert_eq!(bell.wait(SOON), Event::TimedOut);
}

#[test]
fn a_closed_channel_is_not_written_any_more_and_can_be_opened_again() {
    let mut guest = FakeGuest::connected();
    let device = guest.bus.offer(CLASS, INSTANCE, false).unwrap();
    let offer = guest.offered();
    guest.open(&offer, 4, 0).unwrap();
    let port = uio(device.accept(SOON).unwrap());
    guest.close(&offer);
    assert_eq!(port.bell.wait(SOON), Event::Closed);
    let mut to_guest = ToGuest::new(std::sync::Arc::clone(&port.rings.incoming));
    let _ = to_guest.try_send(&Packet::in_band(1, &[1; 8])).unwrap();
    assert_eq!(
        port.rings
            .incoming
            .load(hyperv_vmbus::ring::Word::WriteIndex),
        0
    );
    port.bell.interrupt();
    assert!(guest.synic.signals().is_empty());
    assert!(device.accept(SOON).is_err());
    guest.open(&offer, 4, 0).unwrap();
    uio(device.accept(SOON).unwrap());
}

#[test]
fn interrupts_follow_the_guest_to_another_processor() {
    let mut guest = FakeGuest::connected();
    let device = guest.bus.offer(CLASS, INSTANCE, false).unwrap();
    let offer = guest.offered();
    guest.open(&offer, 4, 0).unwrap();
    let port = uio(device.accept(SOON).unwrap());
    assert_eq!(guest.modify(offer.relid.get(), 1), 0);
    port.bell.interrupt();
    assert_eq!(guest.synic.signals(), [(1, 2, offer.relid.get())]);
    assert_ne!(guest.modify(77, 1), 0);
}

#[test]
fn a_device_that_returns_is_offered_once_the_guest_let_go_of_the_former() {
    let mut guest = FakeGuest::connected();
    let first = guest.bus.offer(CLASS, INSTANCE, false).unwrap();
    let former = guest.offered();
    guest.open(&former, 4, 0).unwrap();
    let port = uio(first.accept(SOON).unwrap());
    first.rescind_at_once();
    assert_eq!(guest.next().kind, Kind::RESCIND);
    let second = guest.bus.offer(CLASS, INSTANCE, false).unwrap();
    assert!(guest.try_next().is_none());
    assert!(!first.is_released());
    guest.release(&former);
    assert!(first.is_released());
    first.rescind().unwrap();
    assert_eq!(port.bell.wait(SOON), Event::Closed);
    let latter = guest.offered();
    assert_ne!(former.relid, latter.relid);
    guest.open(&latter, 4, 0).unwrap();
    uio(second.accept(SOON).unwrap());
}

#[test]
fn a_driver_of_the_kernel_opens_once_for_all_programs() {
    let mut guest = FakeGuest::connected();
    let device = guest.bus.offer(CLASS, INSTANCE, true).unwrap();
    let offer = guest.offered();
    guest.open(&offer, 4, 0).unwrap();
    for _ in 0..2 {
        let port = device.accept(SOON).unwrap();
        assert!(matches!(port, Port::Kernel(_)));
    }
    guest.close(&offer);
    assert!(device.accept(SOON).is_err());
}

#[test]
fn a_guest_that_unloads_or_resets_can_connect_again() {
    let mut guest = FakeGuest::connected();
    let device = guest.bus.offer(CLASS, INSTANCE, false).unwrap();
    let offer = guest.offered();
    guest.open(&offer, 4, 0).unwrap();
    let port = uio(device.accept(SOON).unwrap());
    guest.send(Kind::UNLOAD, &[]);
    assert_eq!(guest.next().kind, Kind::UNLOAD_RESPONSE);
    assert_eq!(guest.bus.version(), None);
    assert_eq!(port.bell.wait(SOON), Event::Closed);
    guest.connect();
    let offer = guest.offered();
    assert_eq!(guest.next().kind, Kind::ALL_OFFERS_DELIVERED);
    guest.open(&offer, 4, 0).unwrap();
    guest.bus.gone();
    device.rescind().unwrap();
    assert!(guest.try_next().is_none());
}

#[test]
fn what_a_guest_must_not_ask_for_fails() {
    let mut guest = FakeGuest::connected();
    let _device = guest.bus.offer(CLASS, INSTANCE, false).unwrap();
    let offer = guest.offered();
    let relid = offer.relid.get();
    let beyond = u64::MAX >> 12;
    for pages in [vec![], vec![beyond], vec![beyond << 8], vec![0; 8191]] {
        assert_ne!(guest.gpadl(relid, 9, &pages), 0, "{} pages", pages.len());
    }
    assert_ne!(guest.gpadl(relid + 1, 9, &[1, 2, 3, 4]), 0);
    assert_eq!(guest.gpadl(relid, 9, &[1, 2, 3, 4]), 0);
    assert_ne!(guest.gpadl(relid, 9, &[1, 2, 3, 4]), 0);
    for (relid, gpadl, page) in [
        (relid, 8, 2),
        (relid + 1, 9, 2),
        (relid, 9, 0),
        (relid, 9, 1),
        (relid, 9, 3),
        (relid, 9, 4),
        (relid, 9, u32::MAX),
    ] {
        let status = guest.open_with(relid, gpadl, page, 0);
        assert_ne!(status, 0, "list {gpadl} at page {page}");
    }
    assert_eq!(guest.open_with(relid, 9, 2, 0), 0);
    assert_ne!(guest.open_with(relid, 9, 2, 0), 0);
    // Nothing of it ended the connection.
    guest.close(&offer);
    guest.open(&offer, 4, 0).unwrap();
}

proptest! {
    #[test]
    fn nothing_that_a_guest_sends_makes_the_host_panic(
        sent in prop::collection::vec((0u32..26, prop::collection::vec(0u32..20, 0..58)), 1..40),
        cut in 0usize..4,
    ) {
        let mut guest = FakeGuest::connected();
        let device = guest.bus.offer(CLASS, INSTANCE, false).unwrap();
        for (kind, words) in sent {
            let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            body.truncate(body.len().saturating_sub(cut));
            guest.send(Kind(kind), &body);
        }
        let _ = device.accept(Duration::ZERO).map(uio).map(|port| {
            let _ = FromGuest::new(port.rings.outgoing).try_recv();
        });
        device.rescind_at_once();
        while let Some(ReceivedMessage { .. }) = guest.try_next() {}
        guest.connect();
    }
}
