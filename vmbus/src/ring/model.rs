//! A model of both sides of a ring, each in a thread. It checks every interleaving that
//! the memory model allows, up to a number of preemptions. A lost wake-up leaves a side
//! waiting for ever, which the model reports as a deadlock.

use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::sync::{Arc, Notify};
use loom::thread;

use super::{FEATURE_PENDING_SEND_SIZE, Reader, RingMemory, Word, Writer, Written};

/// Bytes of the data area, which has room for one packet of a word.
const DATA_LEN: u32 = 64;

/// Ring memory with header words of the model.
#[derive(Debug)]
pub(crate) struct Memory {
    write_index: AtomicU32,
    read_index: AtomicU32,
    mask: AtomicU32,
    pending: AtomicU32,
    data: std::sync::Mutex<[u8; DATA_LEN as usize]>,
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            write_index: AtomicU32::new(0),
            read_index: AtomicU32::new(0),
            mask: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            data: std::sync::Mutex::new([0; DATA_LEN as usize]),
        })
    }

    fn word(&self, word: Word) -> Option<&AtomicU32> {
        match word {
            Word::WriteIndex => Some(&self.write_index),
            Word::ReadIndex => Some(&self.read_index),
            Word::InterruptMask => Some(&self.mask),
            Word::PendingSendSize => Some(&self.pending),
            Word::FeatureBits => None,
        }
    }
}

impl RingMemory for Arc<Memory> {
    fn data_len(&self) -> u32 {
        DATA_LEN
    }
    fn load(&self, word: Word) -> u32 {
        self.word(word).map_or(FEATURE_PENDING_SEND_SIZE, |word| {
            word.load(Ordering::Acquire)
        })
    }
    fn store(&self, word: Word, value: u32) {
        if let Some(word) = self.word(word) {
            word.store(value, Ordering::Release);
        }
    }
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
    fn copy_out(&self, offset: u32, to: &mut [u8]) {
        let from = offset as usize;
        to.copy_from_slice(&self.data.lock().unwrap()[from..from + to.len()]);
    }
    fn copy_in(&self, offset: u32, from: &[u8]) {
        let to = offset as usize;
        self.data.lock().unwrap()[to..to + from.len()].copy_from_slice(from);
    }
}

/// Checks a model with up to `preemptions` preemptions.
pub(crate) fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Sends a packet as soon as there is room. Waits for `signalled` only.
pub(crate) fn send(
    writer: &mut Writer<Arc<Memory>>,
    transaction: u64,
    signalled: &Notify,
    signal: &Notify,
) {
    loop {
        match writer.send(transaction, &transaction.to_le_bytes()) {
            Ok(Written::Done { signal: needed }) => {
                if needed {
                    signal.notify();
                }
                return;
            }
            Ok(Written::Full) => signalled.wait(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Receives the packet of this transaction as soon as it is there. Waits for
/// `signalled` only.
pub(crate) fn recv(
    reader: &mut Reader<Arc<Memory>>,
    transaction: u64,
    signalled: &Notify,
    signal: &Notify,
) {
    let mut buffer = [0; DATA_LEN as usize];
    loop {
        if let Some(received) = reader.recv(&mut buffer).unwrap() {
            assert_eq!(received.header.transaction, transaction);
            assert_eq!(buffer[16..24], transaction.to_le_bytes());
            if received.signal {
                signal.notify();
            }
            return;
        }
        if !reader.arm() {
            signalled.wait();
            // As after an interrupt, which the driver masks, or busy polling.
            reader.mask();
        }
    }
}

#[test]
fn no_wake_up_is_lost_between_reader_and_writer() {
    const PACKETS: u64 = 3;
    check(3, || {
        let shared = Memory::new();
        let (to_reader, to_writer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let host = {
            let (shared, to_reader, to_writer) =
                (shared.clone(), to_reader.clone(), to_writer.clone());
            thread::spawn(move || {
                let mut writer = Writer::new(shared).unwrap();
                for transaction in 0..PACKETS {
                    send(&mut writer, transaction, &to_writer, &to_reader);
                }
            })
        };
        let mut reader = Reader::new(shared).unwrap();
        for transaction in 0..PACKETS {
            recv(&mut reader, transaction, &to_reader, &to_writer);
        }
        host.join().unwrap();
    });
}
