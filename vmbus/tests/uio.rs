//! The UIO channel over rings in a file, against a host that holds the other
//! ends.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use hyperv_vmbus::mapping::{MappedRing, MappedRings};
use hyperv_vmbus::ring::{FEATURE_PENDING_SEND_SIZE, Reader, RingMemory, Word, Writer, Written};
use hyperv_vmbus::uio::{Doorbell, UioChannel};
use hyperv_vmbus::{Channel, ChannelError, MessageKind, Sent, Transport};
use nix::errno::Errno;

const KIB: usize = 1024;

/// A doorbell that counts, and fails as it is told.
#[derive(Clone)]
struct Bell {
    descriptor: Arc<File>,
    signals: Arc<AtomicU32>,
    /// Errno that every use gives; 0 for none.
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
    for ring in [&hosts.outgoing, &hosts.incoming] {
        ring.store(Word::FeatureBits, FEATURE_PENDING_SEND_SIZE);
    }
    let bell = Bell {
        descriptor: Arc::new(file),
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

/// The ring and page size that most tests are content with.
fn small() -> (UioChannel<Bell>, Host) {
    channel(16 * KIB, 4 * KIB)
}

#[test]
fn messages_cross_rings_of_every_size_and_page() {
    for page in [4 * KIB, 16 * KIB, 64 * KIB] {
        for data in [12 * KIB, 16 * KIB, 64 * KIB, 2048 * KIB] {
            let (mut channel, mut host) = channel(page + data, page);
            assert_eq!(channel.transport(), Transport::Uio);
            assert_eq!(channel.buffer_len(), data);
            let mut buffer = vec![0; channel.buffer_len()];
            let mut reply = vec![0; data];
            // More than once round the smaller rings.
            for transaction in 0..40 {
                let request = vec![transaction as u8 + 1; 6 * KIB];
                let written = host.writer.send(transaction, &request).unwrap();
                assert_eq!(written, Written::Done { signal: true });
                let message = channel.recv(&mut buffer).unwrap().unwrap();
                assert_eq!(message.kind, MessageKind::Request);
                assert_eq!(message.transaction, transaction);
                let body = &buffer[message.start..message.start + message.len];
                assert_eq!(body, request);
                assert_eq!(channel.send(transaction, body).unwrap(), Sent::Done);
                let received = host.reader.recv(&mut reply).unwrap().unwrap();
                assert_eq!(received.header.transaction, transaction);
                assert_eq!(reply[16..received.header.total_len], request);
                assert!(channel.recv(&mut buffer).unwrap().is_none());
                assert!(!channel.arm());
            }
            assert_eq!(host.signals(), 40, "one signal a reply");
        }
    }
}

#[test]
fn a_host_that_still_reads_or_masks_is_not_signalled() {
    let (mut channel, host) = small();
    assert_eq!(channel.send(1, &[0; 64]).unwrap(), Sent::Done);
    assert_eq!(channel.send(2, &[0; 64]).unwrap(), Sent::Done);
    assert_eq!(host.signals(), 1, "the ring was not empty the second time");

    let (mut channel, host) = small();
    host.outgoing.store(Word::InterruptMask, 1);
    assert_eq!(channel.send(1, &[0; 64]).unwrap(), Sent::Done);
    assert_eq!(host.signals(), 0);
}

#[test]
fn interrupts_are_masked_at_work_and_unmasked_before_waiting() {
    let (mut channel, mut host) = small();
    assert_eq!(channel.send(1, &[0; 64]).unwrap(), Sent::Done);
    assert_eq!(host.incoming.load(Word::InterruptMask), 1);
    let written = host.writer.send(2, &[0; 64]).unwrap();
    assert_eq!(written, Written::Done { signal: false });
    assert!(channel.pending());
    assert!(channel.arm(), "what came while masked is seen");
    assert_eq!(host.incoming.load(Word::InterruptMask), 0);
}

#[test]
fn a_full_outgoing_ring_is_back_pressure() {
    let (mut channel, mut host) = small();
    let reply = [7; 6 * KIB];
    assert_eq!(channel.send(1, &reply).unwrap(), Sent::Done);
    assert_eq!(channel.send(2, &reply).unwrap(), Sent::Full);
    assert_ne!(host.outgoing.load(Word::PendingSendSize), 0);
    let mut buffer = vec![0; 12 * KIB];
    let received = host.reader.recv(&mut buffer).unwrap().unwrap();
    assert!(received.signal, "the host has to say that there is room");
    assert_eq!(channel.send(2, &reply).unwrap(), Sent::Done);
}

#[test]
fn a_host_that_waits_for_room_is_signalled_with_the_reply_or_without_one() {
    for answered in [true, false] {
        let (mut channel, mut host) = small();
        let mut buffer = vec![0; channel.buffer_len()];
        // A host that looks for replies by itself: only room is signalled.
        host.outgoing.store(Word::InterruptMask, 1);
        let _ = host.writer.send(1, &[0; 6 * KIB]).unwrap();
        let full = host.writer.send(2, &[0; 6 * KIB]).unwrap();
        assert_eq!(full, Written::Full { announced: true });
        let message = channel.recv(&mut buffer).unwrap().unwrap();
        if answered {
            let sent = channel.send(message.transaction, &buffer[..64]).unwrap();
            assert_eq!(sent, Sent::Done);
            assert_eq!(host.signals(), 1);
        }
        assert!(channel.recv(&mut buffer).unwrap().is_none());
        assert_eq!(host.signals(), 1);
    }
}

#[test]
fn packets_of_other_types_are_told_apart() {
    let (mut channel, mut host) = small();
    let _ = host.writer.send(1, &[0; 16]).unwrap();
    let mut first = [0; 8];
    host.incoming.copy_out(0, &mut first);
    first[0] = 11;
    host.incoming.copy_in(0, &first);
    let mut buffer = vec![0; channel.buffer_len()];
    let message = channel.recv(&mut buffer).unwrap().unwrap();
    assert_eq!(message.kind, MessageKind::Other(11));
}

#[test]
fn a_device_that_went_away_is_told_from_other_failures() {
    let (mut channel, host) = small();
    for errno in [Errno::EAGAIN, Errno::EINTR] {
        host.bell.fail_with(errno);
        channel.acknowledge().unwrap();
    }
    for errno in [Errno::EIO, Errno::ENODEV, Errno::EBADF] {
        host.bell.fail_with(errno);
        assert!(matches!(channel.acknowledge(), Err(ChannelError::Gone)));
    }
    assert!(matches!(channel.send(1, &[0; 64]), Err(ChannelError::Gone)));
    host.bell.fail_with(Errno::EPERM);
    let error = channel.acknowledge().unwrap_err();
    assert!(matches!(error, ChannelError::Io { .. }), "{error}");
}

#[test]
fn a_corrupt_ring_is_reported() {
    let (mut channel, host) = small();
    host.incoming.store(Word::WriteIndex, 12 * 1024);
    let mut buffer = vec![0; channel.buffer_len()];
    assert!(channel.arm(), "an index out of range is worth a look");
    let error = channel.recv(&mut buffer).unwrap_err();
    assert!(matches!(error, ChannelError::Corrupt(_)), "{error}");
}

#[test]
fn rings_that_cannot_be_are_not_mapped() {
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
            let message = channel.recv(&mut buffer).unwrap().unwrap();
            let body = &buffer[message.start..message.start + message.len];
            assert_eq!(channel.send(transaction, body).unwrap(), Sent::Done);
            assert!(!channel.arm());
            host.reader.recv(&mut reply).unwrap().unwrap();
        }
    });
    assert_eq!(counted.count_total, 0);
}
