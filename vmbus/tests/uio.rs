//! The UIO channel over rings in a file, against a host that has the other ends.

#![expect(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use hyperv_vmbus::mapping::{MappedRing, MappedRings};
use hyperv_vmbus::packet::{IN_BAND, Packet};
use hyperv_vmbus::ring::{FEATURE_PENDING_SEND_SIZE, Reader, RingMemory, Word, Writer, Written};
use hyperv_vmbus::uio::{Doorbell, UioChannel};
use hyperv_vmbus::{Channel, ChannelError, Message, Sent};
use nix::errno::Errno;
use proptest::prelude::*;

const KIB: usize = 1024;

/// A doorbell that counts signals, and fails with a chosen error.
#[derive(Clone)]
struct Bell {
    descriptor: Arc<File>,
    incoming: MappedRing,
    signals: Arc<AtomicU32>,
    /// Errno of every call; 0 for none.
    failure: Arc<AtomicI32>,
}

impl Bell {
    fn fail_with(&self, errno: Errno) {
        self.failure.store(errno as i32, Ordering::Relaxed);
    }
}

impl Doorbell for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
    fn acknowledge(&self) -> io::Result<()> {
        match self.failure.load(Ordering::Relaxed) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
    fn signal(&self) -> io::Result<()> {
        self.signals.fetch_add(1, Ordering::Relaxed);
        // The driver unmasks the interrupt, too.
        self.incoming.store(Word::InterruptMask, 0);
        self.acknowledge()
    }
}

struct Host {
    bell: Bell,
    reader: Reader<MappedRing>,
    writer: Writer<MappedRing>,
    incoming: MappedRing,
    outgoing: MappedRing,
}

impl Host {
    fn signals(&self) -> u32 {
        self.bell.signals.load(Ordering::Relaxed)
    }
}

fn channel(ring_len: usize, page_size: usize) -> (UioChannel<Bell>, Host) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(2 * ring_len as u64).unwrap();
    let guests = MappedRings::map(&file, ring_len, page_size).unwrap();
    let hosts = MappedRings::map(&file, ring_len, page_size).unwrap();
    // The kernel and the host both set it.
    for ring in [&hosts.outgoing, &hosts.incoming] {
        ring.store(Word::FeatureBits, FEATURE_PENDING_SEND_SIZE);
    }
    let bell = Bell {
        descriptor: Arc::new(file),
        incoming: hosts.incoming.clone(),
        signals: Arc::default(),
        failure: Arc::default(),
    };
    let host = Host {
        bell: bell.clone(),
        reader: Reader::new(hosts.outgoing.clone()).unwrap(),
        writer: Writer::new(hosts.incoming.clone()).unwrap(),
        incoming: hosts.incoming,
        outgoing: hosts.outgoing,
    };
    (UioChannel::new(bell, guests).unwrap(), host)
}

/// Rings of the usual size.
fn small() -> (UioChannel<Bell>, Host) {
    channel(16 * KIB, 4 * KIB)
}

#[test]
fn messages_cross_rings_of_every_size_and_page() {
    for page in [4 * KIB, 16 * KIB, 64 * KIB] {
        for data in [12 * KIB, 16 * KIB, 64 * KIB, 2048 * KIB] {
            let (mut channel, mut host) = channel(page + data, page);
            assert_eq!(channel.buffer_len(), data);
            let mut buffer = vec![0; channel.buffer_len()];
            let mut reply = vec![0; data];
            // Enough to wrap in the smaller rings.
            for transaction in 0..40 {
                let request = vec![transaction as u8 + 1; 6 * KIB];
                let written = host.writer.send(transaction, &request).unwrap();
                assert_eq!(written, Written::Done { signal: true });
                let packet = channel.recv_packet(&mut buffer).unwrap().unwrap();
                assert_eq!(packet.kind, IN_BAND);
                assert_eq!(packet.transaction, transaction);
                assert_eq!(packet.payload, request);
                let sent = channel.send_packet(transaction, packet.payload);
                assert_eq!(sent.unwrap(), Sent::Done);
                let received = host.reader.recv(&mut reply).unwrap().unwrap();
                assert_eq!(received.header.transaction, transaction);
                assert_eq!(reply[16..received.header.total_len], request);
                assert!(channel.recv_packet(&mut buffer).unwrap().is_none());
                assert!(!channel.arm());
            }
            assert_eq!(host.signals(), 40, "one signal a reply");
        }
    }
}

#[test]
fn a_host_that_still_reads_or_masks_is_not_signalled() {
    let (mut channel, host) = small();
    assert_eq!(channel.send_packet(1, &[0; 64]).unwrap(), Sent::Done);
    assert_eq!(channel.send_packet(2, &[0; 64]).unwrap(), Sent::Done);
    assert_eq!(host.signals(), 1, "the ring was not empty the second time");

    let (mut channel, host) = small();
    host.outgoing.store(Word::InterruptMask, 1);
    assert_eq!(channel.send_packet(1, &[0; 64]).unwrap(), Sent::Done);
    assert_eq!(host.signals(), 0);
}

#[test]
fn interrupts_are_masked_except_while_waiting() {
    let (mut channel, mut host) = small();
    assert_eq!(channel.send_packet(1, &[0; 64]).unwrap(), Sent::Done);
    assert_eq!(host.incoming.load(Word::InterruptMask), 1);
    let written = host.writer.send(2, &[0; 64]).unwrap();
    assert_eq!(written, Written::Done { signal: false });
    assert_eq!(channel.pending(), Some(true));
    assert!(channel.arm(), "a packet that came while masked");
    assert_eq!(host.incoming.load(Word::InterruptMask), 0);
}

#[test]
fn a_full_outgoing_ring_asks_for_a_signal() {
    let (mut channel, mut host) = small();
    let reply = [7; 6 * KIB];
    assert_eq!(channel.send_packet(1, &reply).unwrap(), Sent::Done);
    host.incoming.store(Word::InterruptMask, 1);
    let full = Sent::Full {
        host_signals_room: true,
    };
    assert_eq!(channel.send_packet(2, &reply).unwrap(), full);
    assert_ne!(host.outgoing.load(Word::PendingSendSize), 0);
    assert_eq!(
        host.incoming.load(Word::InterruptMask),
        0,
        "the host can signal room"
    );
    let mut buffer = vec![0; 12 * KIB];
    let received = host.reader.recv(&mut buffer).unwrap().unwrap();
    assert!(received.signal, "the host has to signal room");
    assert_eq!(channel.send_packet(2, &reply).unwrap(), Sent::Done);
}

#[test]
fn the_incoming_ring_says_whether_the_host_signals_room() {
    for (incoming, outgoing, host_signals_room) in [(1, 0, true), (0, 1, false)] {
        let (mut channel, host) = small();
        host.incoming.store(Word::FeatureBits, incoming);
        host.outgoing.store(Word::FeatureBits, outgoing);
        assert_eq!(channel.send_packet(1, &[0; 6 * KIB]).unwrap(), Sent::Done);
        let full = channel.send_packet(2, &[0; 6 * KIB]).unwrap();
        assert_eq!(full, Sent::Full { host_signals_room });
    }
}

#[test]
fn a_host_that_waits_for_room_is_signalled_before_the_reply() {
    let (mut channel, mut host) = small();
    let mut buffer = vec![0; channel.buffer_len()];
    let _ = host.writer.send(1, &[0; 6 * KIB]).unwrap();
    assert_eq!(host.writer.send(2, &[0; 6 * KIB]).unwrap(), Written::Full);
    let packet = channel.recv_packet(&mut buffer).unwrap().unwrap();
    assert_eq!(host.signals(), 1);
    assert_eq!(
        host.incoming.load(Word::InterruptMask),
        1,
        "the driver unmasks on the way"
    );
    let sent = channel.send_packet(packet.transaction, &packet.payload[..64]);
    assert_eq!(sent.unwrap(), Sent::Done);
    assert_eq!(host.signals(), 2, "the reply is signalled, too");
    assert!(channel.recv_packet(&mut buffer).unwrap().is_none());
    assert_eq!(host.signals(), 2);
}

#[test]
fn packets_of_other_types_carry_no_message() {
    let (mut channel, mut host) = small();
    let _ = host.writer.send(1, &[0; 16]).unwrap();
    let mut first = [0; 8];
    host.incoming.copy_out(0, &mut first);
    first[0] = 11;
    host.incoming.copy_in(0, &first);
    let mut buffer = vec![0; channel.buffer_len()];
    let message = channel.recv(&mut buffer).unwrap().unwrap();
    assert!(matches!(message, Message::Other(Packet { kind: 11, .. })));
}

#[test]
fn a_device_that_went_away_differs_from_other_failures() {
    let (mut channel, host) = small();
    for errno in [Errno::EAGAIN, Errno::EINTR] {
        host.bell.fail_with(errno);
        channel.acknowledge().unwrap();
    }
    for errno in [Errno::EIO, Errno::ENODEV, Errno::EBADF] {
        host.bell.fail_with(errno);
        assert!(matches!(channel.acknowledge(), Err(ChannelError::Gone)));
    }
    assert!(matches!(
        channel.send_packet(1, &[0; 64]),
        Err(ChannelError::Gone)
    ));
    host.bell.fail_with(Errno::EPERM);
    let error = channel.acknowledge().unwrap_err();
    assert!(matches!(error, ChannelError::Io { .. }), "{error}");
}

#[test]
fn a_corrupt_ring_is_reported() {
    let (mut channel, host) = small();
    host.incoming.store(Word::WriteIndex, 12 * 1024);
    let mut buffer = vec![0; channel.buffer_len()];
    assert!(channel.arm(), "an index out of range has to be received");
    let error = channel.recv_packet(&mut buffer).unwrap_err();
    assert!(matches!(error, ChannelError::Corrupt(_)), "{error}");
}

#[test]
fn rings_of_an_invalid_size_are_not_mapped() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 * KIB as u64).unwrap();
    for (ring_len, page_size) in [
        (0, 4 * KIB),
        (4 * KIB, 4 * KIB),
        (4 * KIB + 4, 4 * KIB),
        (16 * KIB, 64 * KIB),
        (16 * KIB, 64),
        (16 * KIB, 4 * KIB + 4),
        (usize::MAX, 4 * KIB),
        (usize::MAX & !7, 4 * KIB),
    ] {
        assert!(
            MappedRings::map(&file, ring_len, page_size).is_err(),
            "{ring_len} bytes with pages of {page_size} were mapped"
        );
    }
}

#[test]
fn no_message_allocates() {
    let (mut channel, mut host) = small();
    let mut buffer = vec![0; channel.buffer_len()];
    let mut reply = vec![0; channel.buffer_len()];
    let request = [1; 6 * KIB];
    let counted = allocation_counter::measure(|| {
        for transaction in 0..1000 {
            let _ = host.writer.send(transaction, &request).unwrap();
            let packet = channel.recv_packet(&mut buffer).unwrap().unwrap();
            let sent = channel.send_packet(transaction, packet.payload);
            assert_eq!(sent.unwrap(), Sent::Done);
            assert!(!channel.arm());
            host.reader.recv(&mut reply).unwrap().unwrap();
        }
    });
    assert_eq!(counted.count_total, 0);
}

/// A thread of the guest or the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Turn {
    Guest,
    /// The host's sender, or all of a host with one thread.
    Sender,
    Receiver,
}

/// The behaviour of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Sends all requests before it receives a reply.
    SendsFirst,
    /// Has at most this many requests in flight.
    KeepsInFlight(usize),
    /// Sends and receives in two threads.
    TwoThreads,
}

/// A guest and a host that sleep until the other signals. One step of one thread is made
/// at a time.
struct World {
    channel: UioChannel<Bell>,
    host: Host,
    kind: Kind,
    /// Bytes of a request, and of its reply.
    len: usize,
    requests: usize,
    sent: usize,
    received: usize,
    /// Transaction of the request that the guest answers.
    in_hand: Option<u64>,
    asleep: Vec<Turn>,
    signals_seen: u32,
}

impl World {
    fn turns(&self) -> &'static [Turn] {
        match self.kind {
            Kind::TwoThreads => &[Turn::Guest, Turn::Sender, Turn::Receiver],
            _ => &[Turn::Guest, Turn::Sender],
        }
    }

    fn step(&mut self, turn: Turn) {
        let waits = match turn {
            Turn::Guest => self.guest(),
            Turn::Sender => {
                let limit = match self.kind {
                    Kind::KeepsInFlight(limit) => limit,
                    _ => self.requests,
                };
                let sends = self.sent < self.requests && self.sent - self.received < limit;
                if sends || self.kind == Kind::TwoThreads {
                    self.send()
                } else {
                    self.receive()
                }
            }
            Turn::Receiver => self.receive(),
        };
        if waits {
            self.asleep.push(turn);
        }
        if self.host.signals() != self.signals_seen {
            self.signals_seen = self.host.signals();
            self.asleep.retain(|turn| *turn == Turn::Guest);
        }
    }

    fn interrupt(&mut self) {
        self.host.incoming.store(Word::InterruptMask, 1);
        self.asleep.retain(|turn| *turn != Turn::Guest);
    }

    /// Makes a step. Returns whether the guest has to wait; so do `send` and `receive`.
    fn guest(&mut self) -> bool {
        let mut buffer = vec![0; self.channel.buffer_len()];
        let Some(transaction) = self.in_hand else {
            let packet = self.channel.recv_packet(&mut buffer).unwrap();
            self.in_hand = packet.map(|packet| packet.transaction);
            return self.in_hand.is_none() && !self.channel.arm();
        };
        let reply = vec![0; self.len];
        let sent = self.channel.send_packet(transaction, &reply).unwrap();
        if sent == Sent::Done {
            self.in_hand = None;
        }
        sent != Sent::Done
    }

    fn send(&mut self) -> bool {
        if self.sent == self.requests {
            return true;
        }
        let request = vec![0; self.len];
        match self.host.writer.send(self.sent as u64, &request).unwrap() {
            Written::Done { signal } => {
                self.sent += 1;
                if signal {
                    self.interrupt();
                }
                false
            }
            Written::Full => true,
        }
    }

    fn receive(&mut self) -> bool {
        let mut buffer = vec![0; self.channel.buffer_len()];
        let Some(received) = self.host.reader.recv(&mut buffer).unwrap() else {
            return !self.host.reader.arm();
        };
        assert_eq!(received.header.transaction, self.received as u64);
        self.received += 1;
        if received.signal {
            self.interrupt();
        }
        false
    }
}

proptest! {
    /// In whatever order the host sends and receives, whichever side is faster, whatever the
    /// sizes: if the host sends no more than both rings and the guest hold, it gets every
    /// reply, and each thread runs only after a signal.
    #[test]
    fn no_order_of_sends_and_receives_deadlocks(
        pages in prop_oneof![Just(3usize), Just(4), Just(15), Just(16), Just(511)],
        len in prop_oneof![Just(6220usize), 0usize..6220],
        kind in prop_oneof![
            Just(Kind::SendsFirst),
            (1usize..40).prop_map(Kind::KeepsInFlight),
            Just(Kind::TwoThreads),
        ],
        turns in prop::collection::vec(0usize..3, 1..300),
    ) {
        let (channel, host) = channel((pages + 1) * 4 * KIB, 4 * KIB);
        // Of the largest ring, enough to see it full.
        let len = len.max(pages * 40);
        let fit = (pages * 4 * KIB - 1) / (16 + len.next_multiple_of(8) + 8);
        let most = 2 * fit + 1;
        let kind = match kind {
            Kind::KeepsInFlight(limit) => Kind::KeepsInFlight(limit.min(most)),
            kind => kind,
        };
        let requests = if kind == Kind::SendsFirst { most } else { most + 10 };
        let mut world = World {
            channel, host, kind, len, requests,
            sent: 0, received: 0, in_hand: None, asleep: Vec::new(), signals_seen: 0,
        };
        for turn in turns.into_iter().cycle() {
            if world.received == requests {
                break;
            }
            let mut awake = world.turns().iter().copied().filter(|turn| !world.asleep.contains(turn));
            let count = awake.clone().count();
            prop_assert_ne!(count, 0, "all wait: {} sent, {} received", world.sent, world.received);
            let turn = awake.nth(turn % count).unwrap();
            world.step(turn);
        }
    }
}
