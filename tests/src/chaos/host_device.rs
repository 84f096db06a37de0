//! One device, from the host: what is offered, and the end of it that the guest has
//! opened.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hyperv_vmbus::Guid;
use hyperv_vmbus::ring::Word;

use super::action::{DEVICES, HostAction, SECOND, Spoil};
use super::messages::{Message, ServiceKind};
use crate::channel::HostChannel;
use crate::fcopy::Fcopy;
use crate::host::{Protocol, Service};
use crate::ic::{HEADER_LEN, Reply};
use crate::kvp::Kvp;
use crate::port::{Device, Event, Machine, Offer, Pipe, Port};
use crate::ring::{IN_BAND, Packet};
use crate::scenario::Transport;
use crate::vss::Vss;

/// How long a guest may take to answer what it owes an answer.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// How long a host waits that does not have to.
const PAUSE: Duration = Duration::from_millis(20);

/// Where a message has its transaction id.
const ID_AT: usize = 24;

/// Bytes of an instance's number that make the second device.
const SECOND_INSTANCE: u128 = 0x00c0_ffee;

/// A device of the host.
pub(super) struct HostDevice {
    place: usize,
    which: ServiceKind,
    device: Option<Arc<dyn Device>>,
    /// How the guest has it.
    transport: Transport,
    end: Option<End>,
    /// The guest may close whatever it opens until the end of the round.
    may_close: bool,
    /// Replies that came over what is open.
    replies: u64,
    /// Replies that came before.
    answered: u64,
}

/// What the guest has opened.
struct End {
    link: Link,
    /// The guest may close it: something was wrong with it.
    may_close: bool,
}

enum Link {
    Rings(Rings),
    Device(Char),
}

struct Rings {
    channel: HostChannel,
    next: u64,
    /// What was sent and is to be answered.
    waiting: VecDeque<(u64, Vec<u8>)>,
}

struct Char {
    pipe: Arc<dyn Pipe>,
    /// The guest has had the answer to its registration.
    registered: bool,
    /// It has a request that it has not answered.
    waiting: bool,
}

fn service(which: ServiceKind) -> Service {
    match which {
        ServiceKind::Fcopy => Fcopy::SERVICE,
        ServiceKind::Kvp => Kvp::SERVICE,
        ServiceKind::Vss => Vss::SERVICE,
    }
}

impl HostDevice {
    pub(super) fn all() -> Vec<Self> {
        let device = |(place, which): (usize, &ServiceKind)| Self {
            place,
            which: *which,
            device: None,
            transport: Transport::HvUtil,
            end: None,
            may_close: false,
            replies: 0,
            answered: 0,
        };
        DEVICES.iter().enumerate().map(device).collect()
    }

    fn offer(
        &mut self,
        machine: &mut dyn Machine,
        transport: Transport,
        number: u32,
    ) -> Result<()> {
        let mut service = service(self.which);
        if self.place >= SECOND {
            service.instance = Guid::from_u128(SECOND_INSTANCE + self.place as u128);
        }
        let number = number + 10 * u32::try_from(self.place)?;
        let offer: Offer = match transport {
            Transport::Uio(ring_len) => service.uio(number, ring_len),
            Transport::HvUtil => service.hvutil(),
        };
        self.device = Some(machine.offer(offer)?);
        self.transport = transport;
        Ok(())
    }

    /// Takes the device away, with what is open of it.
    pub(super) fn rescind(&mut self) -> Result<()> {
        self.end = None;
        match self.device.take() {
            Some(device) => device.rescind(),
            None => Ok(()),
        }
    }

    /// The guest may close what it has open by now.
    pub(super) fn allow_close(&mut self) -> Result<()> {
        self.look(Duration::ZERO)?;
        if let Some(end) = &mut self.end {
            end.may_close = true;
        }
        Ok(())
    }

    /// The guest may close what it opens, until the end of the round.
    pub(super) fn allow_close_all_round(&mut self) -> Result<()> {
        self.may_close = true;
        self.allow_close()
    }

    /// Replies that came.
    pub(super) fn replies(&self) -> u64 {
        self.answered + self.replies
    }

    /// Whether it is offered as a character device.
    pub(super) fn is_character_device(&self) -> bool {
        self.device.is_some() && self.transport == Transport::HvUtil
    }

    /// A new round begins.
    pub(super) fn forbid_close(&mut self) {
        self.may_close = false;
    }

    /// Takes over what the guest has opened since the last look.
    fn look(&mut self, time: Duration) -> Result<()> {
        let Some(device) = &self.device else {
            return Ok(());
        };
        let mut time = time;
        while let Ok(port) = device.accept(time) {
            time = Duration::ZERO;
            let link = match port {
                Port::Uio(port) | Port::Kernel(port) => Link::Rings(Rings {
                    channel: HostChannel::new(port),
                    next: 1,
                    waiting: VecDeque::new(),
                }),
                Port::HvUtil(pipe) => Link::Device(Char {
                    pipe,
                    registered: false,
                    waiting: false,
                }),
            };
            let may_close = self.may_close;
            // A worker that is to end because the previous device was rescinded may open
            // this one, answer nothing, and close it.
            let answers = mem::replace(&mut self.replies, 0);
            self.answered += answers;
            let before = self.end.replace(End { link, may_close });
            ensure!(
                before.is_none_or(|end| end.may_close || answers == 0),
                "the guest opened the device again although nothing was wrong"
            );
        }
        Ok(())
    }

    /// Does this, where it can be done.
    pub(super) fn play(&mut self, machine: &mut dyn Machine, what: &HostAction) -> Result<()> {
        match what {
            HostAction::Offer(transport, number) if self.device.is_none() => {
                return self.offer(machine, *transport, *number);
            }
            HostAction::Offer(..) => return Ok(()),
            HostAction::Rescind => return self.rescind(),
            HostAction::Await if self.end.is_none() => return self.look(PAUSE),
            _ => self.look(Duration::ZERO)?,
        }
        let Some(end) = &mut self.end else {
            return Ok(());
        };
        match &mut end.link {
            Link::Rings(rings) => rings.play(what, &mut end.may_close, &mut self.replies),
            Link::Device(char) => {
                char.play(what, &mut end.may_close, &mut self.replies, self.which)
            }
        }
    }

    /// Expects the answers that the guest still owes.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.look(Duration::ZERO)?;
        let which = self.which;
        let Some(end) = self.end.as_mut().filter(|end| !end.may_close) else {
            return Ok(());
        };
        match &mut end.link {
            Link::Rings(rings) => rings.settle(&mut self.replies),
            Link::Device(char) if char.waiting => char.read(ANSWER_TIME, &mut self.replies),
            Link::Device(_) => Ok(()),
        }
        .with_context(|| format!("{which:?}, device {}", self.place))
    }
}

impl Rings {
    fn is_closed(&self) -> bool {
        self.channel.bell().wait(Duration::ZERO) == Event::Closed
    }

    /// Whether the host can write at the place that it has stated last.
    fn is_writable(&self) -> bool {
        let (at, ring) = (
            self.channel.to_guest.position(),
            self.channel.to_guest.raw(),
        );
        at < ring.data_len() && at % 8 == 0
    }

    fn play(&mut self, what: &HostAction, may_close: &mut bool, replies: &mut u64) -> Result<()> {
        if !self.is_writable() {
            // Spoiled before.
            self.channel.bell().interrupt();
            return Ok(());
        }
        match what {
            HostAction::Send(message, times) => {
                for _ in 0..*times {
                    if !self.send(message, *may_close, true)? {
                        break;
                    }
                }
            }
            HostAction::SendQuietly(message) => {
                self.send(message, *may_close, false)?;
            }
            HostAction::Read(most) => {
                for read in 0..*most {
                    let time = match read == 0 && !self.waiting.is_empty() {
                        true => PAUSE,
                        false => Duration::ZERO,
                    };
                    if !self.read(time, *may_close, replies)? {
                        break;
                    }
                }
            }
            HostAction::Packet(kind, payload) => {
                let mut packet = Packet::in_band(self.next, payload);
                packet.kind = *kind;
                self.next += 1;
                let is_message = *kind == IN_BAND && payload.len() >= HEADER_LEN;
                if self.channel.try_send(&packet).unwrap_or(false) && is_message {
                    self.waiting.push_back((packet.transaction, packet.payload));
                }
            }
            HostAction::Interrupt => self.channel.bell().interrupt(),
            HostAction::Mask(masked) => self.channel.from_guest.mask(*masked),
            HostAction::NoFlowControl => self.channel.without_flow_control(),
            HostAction::AwaitRoom(bytes) => {
                let ring = self.channel.to_guest.raw();
                ring.store(Word::PendingSendSize, *bytes);
            }
            HostAction::Spoil(spoil) => {
                *may_close = true;
                self.spoil(spoil);
            }
            HostAction::Offer(..)
            | HostAction::Rescind
            | HostAction::Await
            | HostAction::Refuse => {}
        }
        Ok(())
    }

    /// Sends a message, if there is room, and says whether there was.
    fn send(&mut self, message: &Message, may_close: bool, interrupt: bool) -> Result<bool> {
        let mut packet = message.packet.clone();
        if let Some(id) = packet.get_mut(ID_AT) {
            *id = self.next.to_le_bytes()[0];
        }
        let packet = Packet::in_band(self.next, &packet);
        if packet.encode()?.len() + 8 >= self.channel.to_guest.raw().data_len() as usize {
            return Ok(false);
        }
        let sent = match interrupt {
            true => self.channel.try_send(&packet),
            false => {
                let wrote = self.channel.to_guest.try_send(&packet);
                wrote.map(|wrote| wrote != crate::ring::Wrote::Full)
            }
        };
        let sent = match sent {
            Ok(sent) => sent,
            // It is the host who spoiled the ring.
            Err(_) if may_close => false,
            Err(error) => return Err(error),
        };
        if sent {
            self.next += 1;
            if packet.payload.len() >= HEADER_LEN {
                self.waiting.push_back((packet.transaction, packet.payload));
            }
        }
        Ok(sent)
    }

    /// Takes a reply, if one comes in time, and says whether one came.
    fn read(&mut self, time: Duration, may_close: bool, replies: &mut u64) -> Result<bool> {
        let packet = match self.channel.recv(time) {
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(false),
            Err(_) if may_close => return Ok(false),
            // Another check covers who opens the device again, and why.
            Err(_) if time <= PAUSE && self.is_closed() => return Ok(false),
            Err(error) => return Err(error),
        };
        if may_close {
            return Ok(true);
        }
        *replies += 1;
        let place = self
            .waiting
            .iter()
            .position(|it| it.0 == packet.transaction);
        let place = place.with_context(|| {
            let transaction = packet.transaction;
            format!("a reply to transaction {transaction}, which waits for none")
        })?;
        ensure!(
            place == 0,
            "a reply that overtook {place} others, of transaction {}",
            packet.transaction
        );
        let request = self.waiting.pop_front().context("it was just found")?.1;
        Reply::to(&request, &packet.payload)?;
        Ok(true)
    }

    fn settle(&mut self, replies: &mut u64) -> Result<()> {
        self.channel.from_guest.mask(false);
        // What the host forgot before.
        self.channel.bell().interrupt();
        let deadline = Instant::now() + ANSWER_TIME;
        while let Some((transaction, request)) = self.waiting.front() {
            let (transaction, len) = (*transaction, request.len());
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.read(left, false, replies)? {
                bail!(
                    "the guest owes {} replies, the first to transaction {transaction} of {len} bytes, and none came in {ANSWER_TIME:?}",
                    self.waiting.len()
                );
            }
        }
        Ok(())
    }

    /// Spoils the rings. That something cannot be done in rings that are spoiled
    /// already does not matter.
    fn spoil(&mut self, spoil: &Spoil) {
        self.waiting.clear();
        let channel = &mut self.channel;
        match spoil {
            Spoil::WriteIndex(index) => channel.to_guest.publish(*index),
            Spoil::ReadIndex(index) => {
                channel.from_guest.raw().store(Word::ReadIndex, *index);
                let _ = channel.try_send(&Packet::in_band(1, &[0; 64]));
            }
            Spoil::Lengths(header, total) => {
                let mut packet = Packet::in_band(1, &[0xaa; 48]).encode().unwrap_or_default();
                let lengths = header.to_le_bytes().into_iter().chain(total.to_le_bytes());
                packet.splice(2..6, lengths);
                let _ = channel.send_bytes(&packet);
            }
            Spoil::Part(len) => {
                let packet = Packet::in_band(1, &[0xaa; 256])
                    .encode()
                    .unwrap_or_default();
                let part = packet.get(..*len).unwrap_or_default();
                let end = channel.to_guest.place(channel.to_guest.position(), part);
                channel.to_guest.publish(end);
            }
            Spoil::Garbage(bytes, index) => {
                channel.to_guest.place(0, bytes);
                channel.to_guest.publish(*index);
            }
            Spoil::Headers(words) => {
                let places = [
                    Word::WriteIndex,
                    Word::ReadIndex,
                    Word::InterruptMask,
                    Word::PendingSendSize,
                    Word::FeatureBits,
                ];
                let rings = [channel.to_guest.raw(), channel.from_guest.raw()];
                let all = rings
                    .iter()
                    .flat_map(|ring| places.map(|word| (ring, word)));
                for ((ring, word), value) in all.zip(words) {
                    ring.store(word, *value);
                }
            }
        }
        channel.bell().interrupt();
    }
}

impl Char {
    fn play(
        &mut self,
        what: &HostAction,
        may_close: &mut bool,
        replies: &mut u64,
        which: ServiceKind,
    ) -> Result<()> {
        match what {
            HostAction::Send(message, _) | HostAction::SendQuietly(message) => {
                self.send(message, replies, which, *may_close)
            }
            HostAction::Read(_) if self.waiting => self.read(PAUSE, replies).or(Ok(())),
            HostAction::Refuse => {
                self.pipe.refuse_writes();
                *may_close = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn send(
        &mut self,
        message: &Message,
        replies: &mut u64,
        which: ServiceKind,
        may_close: bool,
    ) -> Result<()> {
        if self.waiting {
            // It may have been closed: that is noticed when it is opened again.
            let _ = self.read(Duration::ZERO, replies);
        }
        if self.waiting || message.device.is_empty() {
            return Ok(());
        }
        let first = !self.registered;
        let answer = match first {
            true => {
                let came = self.pipe.recv(ANSWER_TIME);
                let registration = match came {
                    Ok(Some(registration)) => registration,
                    Ok(None) => bail!("the guest opened the device and did not register"),
                    Err(_) => return Ok(()),
                };
                match which {
                    ServiceKind::Fcopy => Fcopy::register(&registration),
                    ServiceKind::Kvp => Kvp::register(&registration),
                    ServiceKind::Vss => Vss::register(&registration),
                }?
            }
            false => message.device.clone(),
        };
        match self.pipe.send(&answer) {
            Ok(()) => {
                self.registered = true;
                self.waiting = !first && !may_close;
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    /// Takes the reply, if it comes in time.
    fn read(&mut self, time: Duration, replies: &mut u64) -> Result<()> {
        match self.pipe.recv(time)? {
            Some(_) => {
                *replies += 1;
                self.waiting = false;
                Ok(())
            }
            None if time <= PAUSE => Ok(()),
            None => bail!("the guest owes a reply, and none came in {time:?}"),
        }
    }
}
