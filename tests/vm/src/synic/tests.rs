//! A guest that is nothing but its pages.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::*;

const MESSAGES: u64 = 0x2000;
const EVENTS: u64 = 0x3000;
const SINT: u8 = 2;
/// The slot of that SINT.
const AT: u64 = MESSAGES + 2 * SLOT as u64;
const SOON: Duration = Duration::from_secs(5);

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap()
}

fn controllers() -> Controllers {
    let controllers = Controllers::unwired(memory(), 2).unwrap();
    controllers.set(1, ENABLED, EVENTS | ENABLED, MESSAGES | ENABLED);
    controllers
}

impl Controllers {
    fn kind(&self) -> u32 {
        self.memory
            .load(GuestAddress(AT), Ordering::Acquire)
            .unwrap()
    }

    fn flags(&self) -> u8 {
        self.memory
            .read_obj(GuestAddress(AT + FLAGS as u64))
            .unwrap()
    }

    /// How often SINT 2 of processor 1 was raised since the last time.
    fn raised(&self) -> u64 {
        self.processors[1].sints[2].raise.read().unwrap_or(0)
    }

    /// The guest empties the slot, and confirms that if the host requested it.
    fn take(&self) {
        self.memory
            .store(NONE, GuestAddress(AT), Ordering::SeqCst)
            .unwrap();
        if self.flags() & PENDING != 0 {
            self.processors[1].sints[2].taken.write(1).unwrap();
        }
    }
}

#[test]
fn a_message_has_its_type_size_and_payload() {
    let controllers = controllers();
    controllers.post(1, SINT, 7, b"hello");
    assert_eq!((controllers.kind(), controllers.flags()), (7, 0));
    let size: u8 = controllers
        .memory
        .read_obj(GuestAddress(AT + SIZE))
        .unwrap();
    let mut payload = [0; 5];
    controllers
        .memory
        .read_slice(&mut payload, GuestAddress(AT + PAYLOAD))
        .unwrap();
    assert_eq!((size, &payload), (5, b"hello"));
    assert_eq!(controllers.raised(), 1);
}

#[test]
fn messages_wait_for_the_slot_and_come_in_order() {
    let controllers = Arc::new(controllers());
    let stop = EventFd::new(EFD_NONBLOCK).unwrap();
    let delivery = thread::spawn({
        let (controllers, stop) = (Arc::clone(&controllers), stop.try_clone().unwrap());
        move || controllers.run(&stop)
    });
    for kind in 1..=50 {
        controllers.post(1, SINT, kind, &[]);
    }
    assert_eq!((controllers.kind(), controllers.flags()), (1, PENDING));
    for kind in 1..=50 {
        let begun = std::time::Instant::now();
        while controllers.kind() == NONE && begun.elapsed() < SOON {
            thread::yield_now();
        }
        assert_eq!(controllers.kind(), kind);
        controllers.take();
    }
    stop.write(1).unwrap();
    delivery.join().unwrap().unwrap();
    assert_eq!(controllers.kind(), NONE);
}

#[test]
fn what_is_posted_before_there_is_a_page_comes_with_it() {
    let controllers = Controllers::unwired(memory(), 2).unwrap();
    controllers.post(1, SINT, 9, &[]);
    assert_eq!((controllers.kind(), controllers.raised()), (NONE, 0));
    controllers.set(1, ENABLED, 0, MESSAGES | ENABLED);
    assert_eq!((controllers.kind(), controllers.raised()), (9, 1));
}

#[test]
fn a_flag_interrupts_when_it_was_clear() {
    let controllers = controllers();
    controllers.signal(1, SINT, 65);
    controllers.signal(1, SINT, 65);
    assert_eq!(controllers.raised(), 1);
    let word = GuestAddress(EVENTS + 2 * SLOT as u64 + 8);
    assert_eq!(controllers.memory.read_obj::<u64>(word).unwrap(), 2);
    controllers.memory.write_obj(0u64, word).unwrap();
    controllers.signal(1, SINT, 65);
    assert_eq!(controllers.raised(), 1);
}

#[test]
fn nothing_outside_the_guest_is_touched() {
    let controllers = controllers();
    // No such processor, SINT, flag, type; too long.
    controllers.post(2, SINT, 1, &[]);
    controllers.post(1, 16, 1, &[]);
    controllers.post(1, SINT, NONE, &[]);
    controllers.post(1, SINT, 1, &[0; PAYLOAD_MAX + 1]);
    controllers.signal(2, SINT, 1);
    controllers.signal(1, 16, 1);
    controllers.signal(1, SINT, 2048);
    controllers.signal(1, SINT, u32::MAX);
    // Pages that are nowhere.
    controllers.set(1, u64::MAX, u64::MAX, u64::MAX);
    controllers.post(1, SINT, 1, &[]);
    controllers.signal(1, SINT, 1);
    controllers.set(7, ENABLED, ENABLED, ENABLED);
    assert_eq!((controllers.kind(), controllers.raised()), (NONE, 1));
}
