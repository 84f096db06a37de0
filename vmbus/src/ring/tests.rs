//! Both ends of a ring against each other, and the reader against a hostile writer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::packet::{self, HEADER_LEN, Header, TRAILER_LEN};

/// Ring memory of one process, for one thread at a time.
#[derive(Clone)]
struct Memory(Arc<Mutex<State>>);

struct State {
    words: [u32; 17],
    data: Vec<u8>,
}

impl Memory {
    fn new(data_len: usize) -> Self {
        let mut words = [0; 17];
        words[Word::FeatureBits as usize / 4] = FEATURE_PENDING_SEND_SIZE;
        Self(Arc::new(Mutex::new(State {
            words,
            data: vec![0; data_len],
        })))
    }

    /// Memory with both indices at `start`.
    fn starting_at(data_len: usize, start: u32) -> Self {
        let memory = Self::new(data_len);
        memory.store(Word::ReadIndex, start);
        memory.store(Word::WriteIndex, start);
        memory
    }

    fn ends(&self) -> (Writer<Self>, Reader<Self>) {
        (
            Writer::new(self.clone()).unwrap(),
            Reader::new(self.clone()).unwrap(),
        )
    }
}

impl RingMemory for Memory {
    fn data_len(&self) -> u32 {
        u32::try_from(self.0.lock().unwrap().data.len()).unwrap()
    }
    fn load(&self, word: Word) -> u32 {
        self.0.lock().unwrap().words[word as usize / 4]
    }
    fn store(&self, word: Word, value: u32) {
        self.0.lock().unwrap().words[word as usize / 4] = value;
    }
    fn fence(&self) {}
    fn copy_out(&self, offset: u32, to: &mut [u8]) {
        let from = offset as usize;
        assert!(from % 8 == 0 && to.len() % 8 == 0);
        to.copy_from_slice(&self.0.lock().unwrap().data[from..from + to.len()]);
    }
    fn copy_in(&self, offset: u32, from: &[u8]) {
        let to = offset as usize;
        assert!(to % 8 == 0 && from.len() % 8 == 0);
        self.0.lock().unwrap().data[to..to + from.len()].copy_from_slice(from);
    }
}

fn payload_of(received: &Received, buffer: &[u8]) -> Vec<u8> {
    buffer[received.header.header_len..received.header.total_len].to_vec()
}

#[test]
fn a_packet_has_its_layout_in_the_ring() {
    let memory = Memory::starting_at(64, 40);
    let (mut writer, _) = memory.ends();
    let written = writer.send(7, b"payload!").unwrap();
    assert_eq!(written, Written::Done { signal: true });
    let state = memory.0.lock().unwrap();
    assert_eq!(state.words[Word::WriteIndex as usize / 4], 8);
    assert_eq!(state.data[40..56], Header::in_band(8, 7).unwrap().encode());
    assert_eq!(&state.data[56..64], b"payload!");
    assert_eq!(state.data[..8], (40u64 << 32).to_le_bytes());
}

#[test]
fn only_a_packet_into_an_empty_unmasked_ring_is_signalled() {
    let memory = Memory::new(256);
    let (mut writer, mut reader) = memory.ends();
    let mut buffer = [0; 256];
    let signalled = |written| written == Written::Done { signal: true };

    assert!(signalled(writer.send(1, &[0; 8]).unwrap()));
    assert!(!signalled(writer.send(2, &[0; 8]).unwrap()));
    while reader.recv(&mut buffer).unwrap().is_some() {}
    reader.mask();
    assert!(!signalled(writer.send(3, &[0; 8]).unwrap()));
    assert!(reader.arm(), "a packet that came while masked is seen");
    while reader.recv(&mut buffer).unwrap().is_some() {}
    assert!(!reader.arm());
    assert!(signalled(writer.send(4, &[0; 8]).unwrap()));
}

#[test]
fn the_reader_of_a_full_ring_signals_when_there_is_room() {
    let memory = Memory::new(96);
    let (mut writer, mut reader) = memory.ends();
    let mut buffer = [0; 96];
    assert!(matches!(
        writer.send(1, &[1; 8]).unwrap(),
        Written::Done { .. }
    ));
    assert!(matches!(
        writer.send(2, &[2; 8]).unwrap(),
        Written::Done { .. }
    ));
    // 32 bytes are left, and the ring is never filled to the last one.
    assert_eq!(writer.send(3, &[3; 8]).unwrap(), Written::Full);
    assert_eq!(memory.load(Word::PendingSendSize), 32);

    assert!(reader.recv(&mut buffer).unwrap().unwrap().signal);
    assert!(
        !reader.recv(&mut buffer).unwrap().unwrap().signal,
        "signalled once, when the mark was crossed"
    );
    assert!(matches!(
        writer.send(3, &[3; 8]).unwrap(),
        Written::Done { .. }
    ));
    assert_eq!(memory.load(Word::PendingSendSize), 0);
}

#[test]
fn a_writer_without_flow_control_is_not_signalled() {
    let memory = Memory::new(64);
    memory.store(Word::FeatureBits, 0);
    let (mut writer, mut reader) = memory.ends();
    assert!(!reader.writer_signals_room());
    assert!(matches!(
        writer.send(1, &[1; 8]).unwrap(),
        Written::Done { .. }
    ));
    assert_eq!(writer.send(2, &[2; 8]).unwrap(), Written::Full);
    assert!(!reader.recv(&mut [0; 64]).unwrap().unwrap().signal);
}

/// Linux always waits for a fixed part of the ring, others for a quarter of it or for an
/// empty ring.
#[test]
fn a_writer_that_waits_for_more_than_it_needs_is_signalled_once() {
    for (asked, signalled) in [(32, 2), (40, 2), (56, 3), (95, 4), (96, 4), (u32::MAX, 4)] {
        // Four packets of 24 bytes would fill 96.
        let memory = Memory::new(104);
        let (mut writer, mut reader) = memory.ends();
        for transaction in 0..4 {
            let written = writer.send(transaction, &[]).unwrap();
            assert!(matches!(written, Written::Done { .. }));
        }
        assert_eq!(writer.send(4, &[0; 8]).unwrap(), Written::Full);
        memory.store(Word::PendingSendSize, asked);
        let mut buffer = [0; 104];
        let signals: Vec<bool> = (0..4)
            .map(|_| reader.recv(&mut buffer).unwrap().unwrap().signal)
            .collect();
        let expected: Vec<bool> = (1..=4).map(|packet| packet == signalled).collect();
        assert_eq!(signals, expected, "for {asked} bytes");
    }
}

#[test]
fn a_writer_that_changes_what_it_asks_for_is_signalled_for_the_last() {
    let memory = Memory::new(104);
    let (mut writer, mut reader) = memory.ends();
    for transaction in 0..4 {
        let written = writer.send(transaction, &[]).unwrap();
        assert!(matches!(written, Written::Done { .. }));
    }
    let mut buffer = [0; 104];
    let mut read = || reader.recv(&mut buffer).unwrap().unwrap().signal;
    assert_eq!(writer.send(4, &[0; 48]).unwrap(), Written::Full);
    assert!(!read());
    // It does not wait for the long one any more.
    assert_eq!(writer.send(4, &[0; 8]).unwrap(), Written::Full);
    assert!(read());
    assert_eq!(writer.send(4, &[0; 40]).unwrap(), Written::Full);
    assert!(read());
    assert!(!read(), "it had its room before");
}

#[test]
fn what_can_never_fit_is_refused() {
    let memory = Memory::new(64);
    let (mut writer, _) = memory.ends();
    assert!(matches!(
        writer.send(1, &[0; 32]).unwrap(),
        Written::Done { .. }
    ));
    for len in [33, 40, 64, 1 << 20] {
        assert_eq!(
            writer.send(1, &vec![0; len]),
            Err(RingError::TooLarge { len, data_len: 64 })
        );
    }
}

/// A ring in which the host has written `head` and published `write`.
fn hostile(data_len: usize, read: u32, write: u32, head: [u8; HEADER_LEN]) -> Memory {
    let memory = Memory::starting_at(data_len, read);
    let first = head.len().min(data_len - read as usize);
    memory.copy_in(read, &head[..first]);
    memory.copy_in(0, &head[first..]);
    memory.store(Word::WriteIndex, write);
    memory
}

#[test]
fn each_malformed_ring_is_reported() {
    let header = |header_words: u16, total_words: u16| {
        let mut head = [0; HEADER_LEN];
        head[0] = 6;
        head[2..4].copy_from_slice(&header_words.to_le_bytes());
        head[4..6].copy_from_slice(&total_words.to_le_bytes());
        head
    };
    let mut buffer = [0; 128];
    let mut recv = |memory: Memory| Reader::new(memory).unwrap().recv(&mut buffer);
    let index = |value| {
        Err(RingError::Index {
            word: Word::WriteIndex,
            value,
            data_len: 128,
        })
    };
    assert_eq!(recv(hostile(128, 0, 128, header(2, 3))), index(128));
    assert_eq!(recv(hostile(128, 0, 44, header(2, 3))), index(44));
    assert_eq!(
        recv(hostile(128, 0, u32::MAX, header(2, 3))),
        index(u32::MAX)
    );
    assert_eq!(
        recv(hostile(128, 120, 8, header(2, 3))),
        Err(RingError::Truncated {
            needed: 24,
            available: 16
        })
    );
    for (header_words, total_words) in [(1, 3), (0, 0), (4, 3), (2, 1), (0xffff, 2)] {
        assert!(matches!(
            recv(hostile(128, 0, 64, header(header_words, total_words))),
            Err(RingError::Packet(_))
        ));
    }
    assert_eq!(
        recv(hostile(128, 0, 32, header(2, 4))),
        Err(RingError::Truncated {
            needed: 40,
            available: 32
        })
    );
    let memory = hostile(128, 0, 64, header(2, 7));
    assert_eq!(
        Reader::new(memory).unwrap().recv(&mut [0; 48]),
        Err(RingError::BeyondBuffer {
            len: 56,
            buffer: 48
        })
    );
    let memory = Memory::starting_at(128, 0);
    memory.store(Word::ReadIndex, 4);
    assert!(Reader::new(memory.clone()).is_err());
    let memory = Memory::new(128);
    let (mut writer, _) = memory.ends();
    memory.store(Word::ReadIndex, 1 << 31);
    assert!(matches!(
        writer.send(1, &[0; 8]),
        Err(RingError::Index {
            word: Word::ReadIndex,
            ..
        })
    ));
}

#[test]
fn a_host_that_changes_the_guests_index_has_no_effect() {
    let memory = Memory::new(128);
    let (mut writer, mut reader) = memory.ends();
    let _ = writer.send(1, b"first...").unwrap();
    let _ = writer.send(2, b"second..").unwrap();
    let mut buffer = [0; 128];
    let first = reader.recv(&mut buffer).unwrap().unwrap();
    assert_eq!(payload_of(&first, &buffer), b"first...");
    memory.store(Word::ReadIndex, 96);
    let second = reader.recv(&mut buffer).unwrap().unwrap();
    assert_eq!(payload_of(&second, &buffer), b"second..");
}

proptest! {
    /// In any sequence of sends and receives, from any start, packets come out in order and
    /// padded to words.
    #[test]
    fn packets_survive_every_wrap(
        words in 8u32..64,
        start in 0u32..64,
        steps in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..200)), 1..100),
    ) {
        let data_len = words * 8;
        let memory = Memory::starting_at(data_len as usize, (start * 8) % data_len);
        let (mut writer, mut reader) = memory.ends();
        let mut buffer = vec![0; data_len as usize];
        let mut expected: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
        let mut used = 0;
        let mut transaction = 0;
        for (send, payload) in steps {
            if send {
                transaction += 1;
                let needed = HEADER_LEN + payload.len().next_multiple_of(8) + TRAILER_LEN;
                match writer.send(transaction, &payload) {
                    Ok(Written::Done { signal }) => {
                        prop_assert_eq!(signal, expected.is_empty());
                        prop_assert!(used + needed < data_len as usize);
                        used += needed;
                        let mut padded = payload;
                        padded.resize(needed - HEADER_LEN - TRAILER_LEN, 0);
                        expected.push_back((transaction, padded));
                    }
                    Ok(Written::Full) => prop_assert!(used + needed >= data_len as usize),
                    Err(error) => prop_assert!(needed >= data_len as usize, "{}", error),
                }
            } else {
                match (reader.recv(&mut buffer).unwrap(), expected.pop_front()) {
                    (Some(received), Some((transaction, payload))) => {
                        prop_assert_eq!(received.header.kind, packet::IN_BAND);
                        prop_assert_eq!(received.header.transaction, transaction);
                        prop_assert_eq!(payload_of(&received, &buffer), payload);
                        used -= received.header.total_len + TRAILER_LEN;
                    }
                    (None, None) => {}
                    (received, expected) => prop_assert!(false, "{:?} for {:?}", received, expected),
                }
            }
        }
    }

    /// Whatever is in shared memory, the reader returns packets that lie within it, or an
    /// error, and never receives more than the indices allow.
    #[test]
    fn the_reader_survives_any_content_and_any_indices(
        words in 4u32..64,
        read in any::<u32>(),
        write in any::<u32>(),
        near in any::<bool>(),
        pending in any::<u32>(),
        content in prop::collection::vec(prop_oneof![Just(0u8), Just(2), Just(6), any::<u8>()], 512),
    ) {
        let data_len = words * 8;
        // Half of the cases have valid indices, so that packets are reached.
        let place = |index: u32| if near { index % words * 8 } else { index };
        let memory = Memory::new(data_len as usize);
        memory.copy_in(0, &content[..data_len as usize]);
        memory.store(Word::ReadIndex, place(read));
        memory.store(Word::WriteIndex, place(write));
        memory.store(Word::PendingSendSize, pending);
        let Ok(mut reader) = Reader::new(memory) else { return Ok(()) };
        let mut buffer = vec![0; data_len as usize];
        let mut total = 0;
        while let Ok(Some(received)) = reader.recv(&mut buffer) {
            prop_assert!(received.header.total_len <= buffer.len());
            total += received.header.total_len + TRAILER_LEN;
            prop_assert!(total < data_len as usize);
        }
    }
}
