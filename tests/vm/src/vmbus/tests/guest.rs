//! A guest without a processor: what a kernel would say, and what it hears.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use hyperv_sim::port::Rings;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::hypercall::{Host, Synic};
use crate::vmbus::message::{self, Header, Kind, Offer};
use crate::vmbus::rings::rings;
use crate::vmbus::{MESSAGES, MESSAGES_FROM_5, Version, VmBus};

const MEMORY: usize = 16 << 20;

/// A message that the host posted.
#[derive(Debug)]
pub(super) struct ReceivedMessage {
    pub(super) vp: u32,
    pub(super) sint: u8,
    pub(super) kind: Kind,
    body: Vec<u8>,
}

/// Keeps what the host says.
#[derive(Default)]
pub(super) struct ReceivedMessages {
    messages: Mutex<VecDeque<ReceivedMessage>>,
    signals: Mutex<Vec<(u32, u8, u32)>>,
}

impl Synic for ReceivedMessages {
    fn post(&self, vp: u32, sint: u8, kind: u32, payload: &[u8]) {
        assert_eq!(kind, message::SYNIC_TYPE);
        assert!(payload.len() <= message::LONGEST);
        let (kind, body) = message::split(payload).unwrap();
        let body = body.to_vec();
        self.messages.lock().unwrap().push_back(ReceivedMessage {
            vp,
            sint,
            kind,
            body,
        });
    }

    fn signal(&self, vp: u32, sint: u8, flag: u32) {
        self.signals.lock().unwrap().push((vp, sint, flag));
    }
}

impl ReceivedMessages {
    /// Event flags that were set since the last look.
    pub(super) fn signals(&self) -> Vec<(u32, u8, u32)> {
        std::mem::take(&mut self.signals.lock().unwrap())
    }
}

pub(super) struct FakeGuest {
    pub(super) bus: VmBus,
    pub(super) synic: Arc<ReceivedMessages>,
    /// Where it sends messages.
    pub(super) messages: u32,
    memory: GuestMemoryMmap,
    next_page: u64,
    next_gpadl: u32,
}

impl FakeGuest {
    pub(super) fn new(newest: Version) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let synic = Arc::new(ReceivedMessages::default());
        Self {
            bus: VmBus::new(memory.clone(), Arc::clone(&synic) as _, newest),
            synic,
            messages: MESSAGES,
            memory,
            next_page: 16,
            next_gpadl: 0xe1e10,
        }
    }

    /// One that is connected and has asked for offers, of which there are none.
    pub(super) fn connected() -> Self {
        let mut guest = Self::new(Version::NEWEST);
        guest.connect();
        assert_eq!(guest.next().kind, Kind::ALL_OFFERS_DELIVERED);
        guest
    }

    /// Connects and asks for offers.
    pub(super) fn connect(&mut self) {
        assert!(self.contact(Version::NEWEST, MESSAGES_FROM_5, 0));
        self.send(Kind::REQUEST_OFFERS, &[]);
    }

    /// Asks for a version, and says whether the host took it.
    pub(super) fn contact(&mut self, version: Version, connection: u32, vp: u32) -> bool {
        let mut contact = message::InitiateContact::new_zeroed();
        contact.version = version.0.into();
        contact.target_vp = vp.into();
        if version.redirects() {
            contact.page_or_sint = 2.into();
        }
        self.messages = connection;
        self.send(Kind::INITIATE_CONTACT, contact.as_bytes());
        let response: message::VersionResponse = self.expect(Kind::VERSION_RESPONSE);
        let taken = response.supported == 1;
        if taken && version.redirects() {
            self.messages = response.connection.get();
        }
        taken
    }

    pub(super) fn send(&self, kind: Kind, body: &[u8]) {
        let header = Header {
            kind: kind.0.into(),
            reserved: 0.into(),
        };
        let message = [header.as_bytes(), body].concat();
        assert_eq!(self.bus.post_message(self.messages, 1, &message), 0);
    }

    pub(super) fn try_next(&self) -> Option<ReceivedMessage> {
        self.synic.messages.lock().unwrap().pop_front()
    }

    #[track_caller]
    pub(super) fn next(&self) -> ReceivedMessage {
        self.try_next().expect("the host says something")
    }

    #[track_caller]
    fn expect<T: FromBytes>(&self, kind: Kind) -> T {
        let message = self.next();
        assert_eq!(message.kind, kind);
        T::read_from_bytes(&message.body).unwrap()
    }

    #[track_caller]
    pub(super) fn offered(&self) -> Offer {
        self.expect(Kind::OFFER)
    }

    /// Hands over a list of pages as a kernel does, in as many messages as it
    /// takes, and gives the host's status.
    pub(super) fn gpadl(&self, relid: u32, gpadl: u32, pages: &[u64]) -> u32 {
        let range = message::Range {
            len: (pages.len() as u32 * 4096).into(),
            offset: 0.into(),
        };
        let mut list = range.as_bytes().to_vec();
        list.extend(pages.iter().flat_map(|page| page.to_le_bytes()));
        let header = message::GpadlHeader {
            relid: relid.into(),
            gpadl: gpadl.into(),
            len: (list.len() as u16).into(),
            ranges: 1.into(),
        };
        let (first, rest) = list.split_at(list.len().min(216));
        self.send(Kind::GPADL_HEADER, &[header.as_bytes(), first].concat());
        // A host that declined at once has no use for the rest.
        let declined = self.synic.messages.lock().unwrap().len();
        for (number, part) in rest.chunks(224).enumerate().filter(|_| declined == 0) {
            let body = message::GpadlBody {
                number: (number as u32 + 1).into(),
                gpadl: gpadl.into(),
            };
            self.send(Kind::GPADL_BODY, &[body.as_bytes(), part].concat());
        }
        let created: message::GpadlCreated = self.expect(Kind::GPADL_CREATED);
        assert_eq!((created.relid.get(), created.gpadl.get()), (relid, gpadl));
        created.status.get()
    }

    pub(super) fn open_with(&self, relid: u32, gpadl: u32, page: u32, vp: u32) -> u32 {
        let mut open = message::Open::new_zeroed();
        open.relid = relid.into();
        open.id = 4711.into();
        open.gpadl = gpadl.into();
        open.target_vp = vp.into();
        open.incoming_page = page.into();
        self.send(Kind::OPEN, open.as_bytes());
        let result: message::OpenResult = self.expect(Kind::OPEN_RESULT);
        assert_eq!((result.relid.get(), result.id.get()), (relid, 4711));
        result.status.get()
    }

    /// Opens a channel with rings of so many pages, none beside its neighbour,
    /// and gives the guest's view of them.
    pub(super) fn open(&mut self, offer: &Offer, pages: u64, vp: u32) -> Result<Rings, u32> {
        let numbers: Vec<u64> = (0..2 * pages)
            .map(|page| self.next_page + 2 * (2 * pages - page))
            .collect();
        self.next_page += 4 * pages + 2;
        self.next_gpadl += 1;
        let (relid, gpadl) = (offer.relid.get(), self.next_gpadl);
        assert_eq!(self.gpadl(relid, gpadl, &numbers), 0);
        match self.open_with(relid, gpadl, pages as u32, vp) {
            0 => {}
            status => return Err(status),
        }
        let addresses: Vec<GuestAddress> = numbers
            .iter()
            .map(|number| GuestAddress(number << 12))
            .collect();
        Ok(rings(&self.memory, &addresses, pages as u32, &Arc::default()).unwrap())
    }

    /// Closes a channel and takes its pages back.
    pub(super) fn close(&self, offer: &Offer) {
        let relid = offer.relid;
        self.send(Kind::CLOSE, message::Channel { relid }.as_bytes());
        let gpadl = self.next_gpadl.into();
        let teardown = message::GpadlTeardown { relid, gpadl };
        self.send(Kind::GPADL_TEARDOWN, teardown.as_bytes());
        let down: message::GpadlTornDown = self.expect(Kind::GPADL_TORN_DOWN);
        assert_eq!(down.gpadl, gpadl);
    }

    /// Lets go of a channel that was taken away.
    pub(super) fn release(&self, offer: &Offer) {
        let relid = offer.relid;
        self.send(Kind::RELID_RELEASED, message::Channel { relid }.as_bytes());
    }

    pub(super) fn modify(&self, relid: u32, vp: u32) -> u32 {
        let modify = message::Modify {
            relid: relid.into(),
            target_vp: vp.into(),
        };
        self.send(Kind::MODIFY, modify.as_bytes());
        let response: message::ModifyResponse = self.expect(Kind::MODIFY_RESPONSE);
        response.status.get()
    }

    pub(super) fn signal(&self, offer: &Offer) -> u16 {
        self.bus.signal_event(offer.connection.get(), 0)
    }
}
