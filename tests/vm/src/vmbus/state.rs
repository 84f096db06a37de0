//! What the host knows of the guest: its connection and its channels. Messages
//! come in as bytes and go out to the SynIC; nothing here waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use hyperv_sim::port::{Bell, Ring, Rings, UioPort};
use hyperv_vmbus::Guid;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::bell::ChannelBell;
use super::connection::{Connection, Version, event_connection};
use super::gpadl::Gpadl;
use super::message::{self as wire, Kind, UNSUCCESSFUL};
use super::rings::{Lease, rings};
use crate::hypercall::Synic;

/// Event flags of a SINT, and so relids; 0 is none.
const RELIDS: u32 = 2048;

/// Lists of pages that a guest may have at a time.
const MOST_GPADLS: usize = 64;

/// A device's channel.
pub(super) struct Channel {
    class: Guid,
    instance: Guid,
    offered: bool,
    rescinded: bool,
    /// The guest closed it, or it was never open.
    pub(super) open: Option<Opened>,
    /// Opened by the guest, and not yet taken over by the host.
    pub(super) waiting: VecDeque<UioPort>,
}

/// An open channel.
pub(super) struct Opened {
    outgoing: Ring,
    incoming: Ring,
    pub(super) bell: Arc<ChannelBell>,
    lease: Arc<Lease>,
    gpadl: u32,
}

impl Opened {
    /// The host's end of it.
    pub(super) fn port(&self) -> UioPort {
        UioPort {
            rings: Rings {
                outgoing: Arc::clone(&self.outgoing),
                incoming: Arc::clone(&self.incoming),
            },
            bell: Arc::clone(&self.bell) as Arc<dyn Bell>,
        }
    }
}

/// Everything of one guest.
pub(super) struct State {
    memory: GuestMemoryMmap,
    synic: Arc<dyn Synic>,
    newest: Version,
    pub(super) connection: Option<Connection>,
    /// The guest has asked for offers: further ones go to it at once.
    offers_wanted: bool,
    pub(super) channels: BTreeMap<u32, Channel>,
    gpadls: BTreeMap<u32, Gpadl>,
    last_relid: u32,
}

impl State {
    pub(super) fn new(memory: GuestMemoryMmap, synic: Arc<dyn Synic>, newest: Version) -> Self {
        Self {
            memory,
            synic,
            newest,
            connection: None,
            offers_wanted: false,
            channels: BTreeMap::new(),
            gpadls: BTreeMap::new(),
            last_relid: 0,
        }
    }

    fn post(&self, kind: Kind, body: &(impl IntoBytes + Immutable)) {
        if let Some(to) = self.connection {
            let message = wire::encode(kind, body);
            self.synic.post(to.vp, to.sint, wire::SYNIC_TYPE, &message);
        }
    }

    /// Offers a device under a relid that was not used for long. One that the
    /// guest has yet to let go of is offered only then.
    pub(super) fn offer(&mut self, class: Guid, instance: Guid) -> Result<u32> {
        let free = (1..RELIDS)
            .map(|step| (self.last_relid + step - 1) % (RELIDS - 1) + 1)
            .find(|relid| !self.channels.contains_key(relid));
        let relid = free.context("every channel is taken")?;
        self.last_relid = relid;
        let channel = Channel {
            class,
            instance,
            offered: false,
            rescinded: false,
            open: None,
            waiting: VecDeque::new(),
        };
        self.channels.insert(relid, channel);
        self.send_offers();
        Ok(relid)
    }

    /// Sends what the guest may hear of and has not. A kernel that still has
    /// the device under its former relid would take the offer for that one's.
    fn send_offers(&mut self) {
        if !self.offers_wanted {
            return;
        }
        let held: Vec<Guid> = self
            .channels
            .values()
            .filter(|channel| channel.offered)
            .map(|channel| channel.instance)
            .collect();
        let mut offers = Vec::new();
        for (relid, channel) in &mut self.channels {
            if channel.offered || held.contains(&channel.instance) {
                continue;
            }
            channel.offered = true;
            let connection = event_connection(*relid);
            let (class, instance) = (channel.class, channel.instance);
            offers.push(wire::Offer::pipe(class, instance, *relid, connection));
        }
        for offer in offers {
            self.post(Kind::OFFER, &offer);
        }
    }

    /// Takes a device away, and says whether it was there still.
    pub(super) fn rescind(&mut self, relid: u32) -> bool {
        let Some(channel) = self.channels.get_mut(&relid) else {
            return false;
        };
        channel.waiting.clear();
        if !channel.offered {
            self.channels.remove(&relid);
        } else if !std::mem::replace(&mut channel.rescinded, true) {
            let body = wire::Channel {
                relid: relid.into(),
            };
            self.post(Kind::RESCIND, &body);
        } else {
            return false;
        }
        true
    }

    /// Forgets all that host and guest have exchanged.
    pub(super) fn reset(&mut self) {
        for channel in self.channels.values_mut() {
            channel.close();
            channel.offered = false;
        }
        self.channels.retain(|_, channel| !channel.rescinded);
        self.gpadls.clear();
        self.offers_wanted = false;
        self.connection = None;
    }

    /// Takes a message of the guest, and says what it was where that is worth
    /// a line.
    pub(super) fn message(&mut self, message: &[u8]) -> Result<Option<String>> {
        let (kind, body) = wire::split(message).context("a message without a header")?;
        if kind == Kind::INITIATE_CONTACT {
            return self.contact(&read(body)?).map(Some);
        }
        ensure!(
            self.connection.is_some(),
            "message {} before a contact",
            kind.0
        );
        match kind {
            Kind::REQUEST_OFFERS => {
                self.offers_wanted = true;
                self.send_offers();
                self.post(Kind::ALL_OFFERS_DELIVERED, &[0u8; 0]);
            }
            Kind::GPADL_HEADER => self.gpadl_header(body)?,
            Kind::GPADL_BODY => self.gpadl_body(body)?,
            Kind::GPADL_TEARDOWN => self.gpadl_teardown(&read(body)?),
            Kind::OPEN => return self.open(&read(body)?).map(Some),
            Kind::CLOSE => return self.close(&read(body)?).map(Some),
            Kind::RELID_RELEASED => return self.released(&read(body)?).map(Some),
            Kind::MODIFY => self.modify(&read(body)?),
            Kind::UNLOAD => {
                self.post(Kind::UNLOAD_RESPONSE, &[0u8; 0]);
                self.reset();
                return Ok(Some("the guest ended the connection".into()));
            }
            other => bail!("message {}, which no guest sends", other.0),
        }
        Ok(None)
    }

    fn contact(&mut self, contact: &wire::InitiateContact) -> Result<String> {
        let asked = Connection::asked(contact);
        let supported = asked.is_supported(self.newest);
        self.reset();
        self.connection = Some(asked);
        let response = wire::VersionResponse {
            supported: u8::from(supported),
            state: 0,
            reserved: 0.into(),
            connection: asked.messages().into(),
        };
        self.post(Kind::VERSION_RESPONSE, &response);
        if !supported {
            self.connection = None;
            return Ok(format!("the guest asked for version {}", asked.version));
        }
        Ok(format!(
            "connected with version {}, messages to SINT {} of processor {}",
            asked.version, asked.sint, asked.vp
        ))
    }

    fn gpadl_header(&mut self, body: &[u8]) -> Result<()> {
        let (header, rest) = wire::GpadlHeader::read_from_prefix(body)
            .map_err(|_| anyhow::anyhow!("a list of pages that is cut short"))?;
        let (relid, id) = (header.relid.get(), header.gpadl.get());
        let begun = match self.gpadls.len() < MOST_GPADLS && !self.gpadls.contains_key(&id) {
            true => Gpadl::begin(&header, rest),
            false => Err(anyhow::anyhow!("list {id:#x} is one too many")),
        };
        match begun {
            Ok(list) => {
                self.gpadls.insert(id, list);
                self.gpadl_done(id)
            }
            Err(error) => {
                self.answer_gpadl(relid, id, UNSUCCESSFUL);
                Err(error)
            }
        }
    }

    fn gpadl_body(&mut self, body: &[u8]) -> Result<()> {
        let (header, rest) = wire::GpadlBody::read_from_prefix(body)
            .map_err(|_| anyhow::anyhow!("a list of pages that is cut short"))?;
        let id = header.gpadl.get();
        let list = self.gpadls.get_mut(&id).filter(|list| !list.is_whole());
        let list = list.with_context(|| format!("more of list {id:#x}, which needs no more"))?;
        list.add(rest);
        self.gpadl_done(id)
    }

    /// Answers a list that is whole by now.
    fn gpadl_done(&mut self, id: u32) -> Result<()> {
        let Some(list) = self.gpadls.get(&id).filter(|list| list.is_whole()) else {
            return Ok(());
        };
        let (relid, pages) = (list.relid, list.pages(&self.memory));
        let known = match self.channels.contains_key(&relid) {
            true => pages.map(drop),
            false => Err(anyhow::anyhow!("a list for channel {relid}")),
        };
        match known {
            Ok(()) => self.answer_gpadl(relid, id, 0),
            Err(_) => {
                self.gpadls.remove(&id);
                self.answer_gpadl(relid, id, UNSUCCESSFUL);
            }
        }
        known
    }

    fn answer_gpadl(&self, relid: u32, gpadl: u32, status: u32) {
        let body = wire::GpadlCreated {
            relid: relid.into(),
            gpadl: gpadl.into(),
            status: status.into(),
        };
        self.post(Kind::GPADL_CREATED, &body);
    }

    fn gpadl_teardown(&mut self, teardown: &wire::GpadlTeardown) {
        let gpadl = teardown.gpadl;
        self.gpadls.remove(&gpadl.get());
        // What lies in these pages is the guest's own from here on.
        for channel in self.channels.values_mut() {
            let uses = |open: &Opened| open.gpadl == gpadl.get();
            if channel.open.as_ref().is_some_and(uses) {
                channel.close();
            }
        }
        self.post(Kind::GPADL_TORN_DOWN, &wire::GpadlTornDown { gpadl });
    }

    fn open(&mut self, open: &wire::Open) -> Result<String> {
        let relid = open.relid.get();
        let opened = self.try_open(open);
        let status = if opened.is_ok() { 0 } else { UNSUCCESSFUL };
        let body = wire::OpenResult {
            relid: open.relid,
            id: open.id,
            status: status.into(),
        };
        self.post(Kind::OPEN_RESULT, &body);
        let ring_len = opened.with_context(|| format!("opening channel {relid}"))?;
        Ok(format!(
            "channel {relid} is open, with rings of {ring_len} bytes for the host, interrupts to processor {}",
            open.target_vp
        ))
    }

    fn try_open(&mut self, open: &wire::Open) -> Result<u32> {
        let (relid, gpadl) = (open.relid.get(), open.gpadl.get());
        let connection = self.connection.context("not connected")?;
        let list = self.gpadls.get(&gpadl);
        let list = list.filter(|list| list.is_whole() && list.relid == relid);
        let pages: Vec<GuestAddress> = list
            .with_context(|| format!("it has no list {gpadl:#x}"))?
            .pages(&self.memory)?;
        let lease = Arc::default();
        let rings = rings(&self.memory, &pages, open.incoming_page.get(), &lease)?;
        let channel = self.channels.get_mut(&relid).context("there is none")?;
        ensure!(channel.open.is_none(), "it is open already");
        ensure!(!channel.rescinded, "it was taken away");
        let vp = open.target_vp.get();
        let synic = Arc::clone(&self.synic);
        let opened = Opened {
            outgoing: rings.outgoing,
            incoming: rings.incoming,
            bell: Arc::new(ChannelBell::new(synic, vp, connection.sint, relid)),
            lease,
            gpadl,
        };
        let ring_len = opened.outgoing.data_len();
        channel.waiting.push_back(opened.port());
        channel.open = Some(opened);
        Ok(ring_len)
    }

    fn close(&mut self, close: &wire::Channel) -> Result<String> {
        let relid = close.relid.get();
        let channel = self.channels.get_mut(&relid).context("no such channel")?;
        ensure!(channel.open.is_some(), "channel {relid} is not open");
        channel.close();
        Ok(format!("channel {relid} is closed"))
    }

    fn released(&mut self, released: &wire::Channel) -> Result<String> {
        let relid = released.relid.get();
        let channel = self.channels.get_mut(&relid).context("no such channel")?;
        ensure!(
            channel.rescinded,
            "the guest lets go of channel {relid}, which it may keep"
        );
        channel.close();
        self.channels.remove(&relid);
        self.gpadls.retain(|_, list| list.relid != relid);
        self.send_offers();
        Ok(format!("channel {relid} is released"))
    }

    fn modify(&mut self, modify: &wire::Modify) {
        let channel = self.channels.get(&modify.relid.get());
        let open = channel.and_then(|channel| channel.open.as_ref());
        let status = match open {
            Some(open) => {
                open.bell.move_to(modify.target_vp.get());
                0
            }
            None => UNSUCCESSFUL,
        };
        let answers = |connection: Connection| connection.version.answers_modify();
        if self.connection.is_some_and(answers) {
            let body = wire::ModifyResponse {
                relid: modify.relid,
                status: status.into(),
            };
            self.post(Kind::MODIFY_RESPONSE, &body);
        }
    }
}

impl Channel {
    /// The guest has its pages back.
    fn close(&mut self) {
        self.waiting.clear();
        if let Some(open) = self.open.take() {
            open.lease.end();
            open.bell.close();
        }
    }
}

/// The body of a message; what is behind it is nothing.
fn read<T: FromBytes>(body: &[u8]) -> Result<T> {
    let read = T::read_from_prefix(body).ok();
    Ok(read.context("a message that is cut short")?.0)
}
