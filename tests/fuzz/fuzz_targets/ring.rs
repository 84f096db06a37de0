//! Both ends of a ring against a host whose shared memory is different at each
//! look: every load and every copy gives the next bytes of the input.

#![no_main]

use std::cell::RefCell;

use hyperv_vmbus::packet::TRAILER_LEN;
use hyperv_vmbus::ring::{Reader, RingMemory, Word, Writer};
use libfuzzer_sys::fuzz_target;

struct Hostile<'a> {
    data_len: u32,
    input: RefCell<&'a [u8]>,
}

impl Hostile<'_> {
    fn fill(&self, to: &mut [u8]) {
        let mut input = self.input.borrow_mut();
        let len = to.len().min(input.len());
        let (now, later) = input.split_at(len);
        to[..len].copy_from_slice(now);
        *input = later;
    }

    fn exhausted(&self) -> bool {
        self.input.borrow().is_empty()
    }
}

impl RingMemory for &Hostile<'_> {
    fn data_len(&self) -> u32 {
        self.data_len
    }
    fn load(&self, word: Word) -> u32 {
        let mut bytes = [0; 2];
        self.fill(&mut bytes);
        let value = u32::from(u16::from_le_bytes(bytes));
        match word {
            // Mostly in order, so that what lies behind the check is reached.
            Word::WriteIndex | Word::ReadIndex if value % 7 != 0 => value * 8 % self.data_len,
            _ => value,
        }
    }
    fn store(&self, word: Word, value: u32) {
        if matches!(word, Word::WriteIndex | Word::ReadIndex) {
            assert!(value < self.data_len && value % 8 == 0);
        }
    }
    fn fence(&self) {}
    fn copy_out(&self, offset: u32, to: &mut [u8]) {
        self.within(offset, to.len());
        self.fill(to);
    }
    fn copy_in(&self, offset: u32, from: &[u8]) {
        self.within(offset, from.len());
    }
}

impl Hostile<'_> {
    fn within(&self, offset: u32, len: usize) {
        assert!(offset % 8 == 0 && len % 8 == 0);
        assert!(offset as usize + len <= self.data_len as usize);
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (words, input) = input;
    let memory = Hostile {
        data_len: (u32::from(words) + 4) * 8,
        input: RefCell::new(input),
    };
    let mut buffer = vec![0; memory.data_len as usize];
    if let Ok(mut reader) = Reader::new(&memory) {
        while !memory.exhausted() {
            let Ok(Some(received)) = reader.recv(&mut buffer) else {
                break;
            };
            let header = received.header;
            assert!(header.header_len <= header.total_len);
            assert!(header.total_len + TRAILER_LEN < memory.data_len as usize);
            reader.arm();
        }
    }
    if let Ok(mut writer) = Writer::new(&memory) {
        while !memory.exhausted() {
            let len = buffer.len() / 3;
            if writer.send(1, &buffer[..len]).is_err() {
                break;
            }
        }
    }
});
