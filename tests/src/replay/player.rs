//! Plays the host's side of a capture, and compares what the guest replies.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use hyperv_agent::capture::{Header as RecordHeader, Kind as RecordKind, Record, Transport};
use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::{Negotiated, Version};

use super::capture::Capture;
use super::conversation::{Exchange, Step, is_negotiation};
use super::link::{Link, Terms};
use super::meaning::{self, Answer, Meaning};
use super::operation::Operation;
use super::translate::{self, Translator};
use super::{Difference, Options, Outcome, prepare};
use crate::ic::Reply;
use crate::port::{Device, Machine};
use crate::ring::IN_BAND;
use crate::scenario::OPEN_TIME;

/// Bytes of a ring, for the longest message of every service.
const RING_LEN: usize = 68 << 10;

/// Why a reply is not compared.
const INTERFACES: &str = "whether there is such an interface depends on the machine";

/// Plays a capture on a machine.
pub(super) struct Player<'m> {
    capture: &'m Capture,
    machine: &'m mut dyn Machine,
    options: Options,
    started: bool,
    number: u32,
    open: BTreeMap<usize, Open>,
    outcome: Outcome,
}

/// A device that the guest has opened.
struct Open {
    device: Arc<dyn Device>,
    link: Link,
    translator: Translator,
    /// Requests whose replies have not come.
    waiting: Vec<Waiting>,
    /// Replies, by exchange, that the capture does not have yet.
    early: BTreeMap<usize, (Waiting, Vec<u8>)>,
}

struct Waiting {
    exchange: usize,
    transaction: u64,
    message: Vec<u8>,
}

impl<'m> Player<'m> {
    pub(super) fn new(
        capture: &'m Capture,
        machine: &'m mut dyn Machine,
        options: Options,
    ) -> Self {
        let left_out = &capture.conversation.left_out;
        let left_out = left_out
            .iter()
            .map(|(why, numbers)| (*why, numbers.clone()));
        Self {
            capture,
            machine,
            options,
            started: false,
            number: 0,
            open: BTreeMap::new(),
            outcome: Outcome {
                left_out: left_out.collect(),
                ..Outcome::default()
            },
        }
    }

    pub(super) fn play(mut self) -> Result<Outcome> {
        let (begun, first) = (Instant::now(), self.capture.conversation.steps.first());
        let first = first.map_or(SystemTime::UNIX_EPOCH, |(time, _)| *time);
        for (place, (time, step)) in self.capture.conversation.steps.iter().enumerate() {
            if self.options.recorded_pace {
                let due = time.duration_since(first).unwrap_or(Duration::ZERO);
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            match *step {
                Step::Open { channel, before } => self.open(place, channel, before)?,
                Step::Close(channel) => self.close(channel)?,
                Step::Send(exchange) => self.act(exchange, Self::send)?,
                Step::Receive(exchange) => self.act(exchange, Self::receive)?,
            }
            if self.outcome.difference.is_some() {
                return Ok(self.outcome);
            }
        }
        ensure!(
            !self.started || self.machine.is_running(),
            "the program ended by itself"
        );
        if self.started {
            self.machine.stop()?;
        }
        for open in std::mem::take(&mut self.open).into_values() {
            open.device.rescind()?;
        }
        Ok(self.outcome)
    }

    /// Sends or receives, with the record in the error.
    fn act(
        &mut self,
        place: usize,
        act: fn(&mut Self, usize, &'m Exchange) -> Result<()>,
    ) -> Result<()> {
        let capture = self.capture;
        let exchange = capture.conversation.exchanges.get(place);
        let exchange = exchange.context("a step has no request")?;
        act(self, place, exchange).with_context(|| {
            let number = exchange.request.number;
            format!("the request of record {number}: {}", capture.text(number))
        })
    }

    fn open(&mut self, place: usize, channel: usize, before: bool) -> Result<()> {
        let captured = self.capture.conversation.channels.get(channel);
        let captured = captured.context("a step has no channel")?;
        let terms = Terms::of(&captured.service)?;
        let same = |other: &Link| other.terms.service == terms.service;
        let others = self.open.iter().filter(|(_, open)| same(&open.link));
        let others: Vec<usize> = others.map(|(channel, _)| *channel).collect();
        for other in others {
            self.close(other)?;
        }
        self.number += 1;
        let offer = match self.options.transport.unwrap_or(captured.encoding) {
            Encoding::Utf16 => terms.service.uio(self.number, RING_LEN),
            Encoding::Utf8 => terms.service.hvutil(),
        };
        let device = self.machine.offer(offer).context("offering the device")?;
        if !self.started {
            self.machine.start().context("starting the program")?;
            self.started = true;
        }
        let port = device.accept(OPEN_TIME)?;
        let mut link = Link::new(terms, port)?;
        match captured.encoding {
            // The kernel has negotiated.
            Encoding::Utf8 => link.negotiate(None)?,
            Encoding::Utf16 if before => {
                if let Some(versions) = self.versions_after(place, channel) {
                    link.negotiate(Some(versions))?;
                }
            }
            Encoding::Utf16 => {}
        }
        let open = Open {
            device,
            link,
            translator: Translator::new(captured.encoding),
            waiting: Vec::new(),
            early: BTreeMap::new(),
        };
        self.open.insert(channel, open);
        Ok(())
    }

    /// The versions of the first request on a channel after a step.
    fn versions_after(&self, place: usize, channel: usize) -> Option<(Version, Version)> {
        let conversation = &self.capture.conversation;
        let mut requests = conversation
            .steps
            .iter()
            .skip(place)
            .filter_map(|(_, step)| {
                let Step::Send(exchange) = step else {
                    return None;
                };
                let exchange = conversation.exchanges.get(*exchange)?;
                (exchange.channel == channel).then_some(&exchange.request)
            });
        requests.next()?.versions
    }

    fn close(&mut self, channel: usize) -> Result<()> {
        match self.open.remove(&channel) {
            Some(open) => open.device.rescind().context("taking the device away"),
            None => Ok(()),
        }
    }

    fn send(&mut self, place: usize, exchange: &'m Exchange) -> Result<()> {
        let operation = self.capture.operation(exchange).ok();
        let reply = exchange.reply.as_ref();
        let status = reply.and_then(|reply| self.capture.expected(exchange, reply).ok());
        let status = status.map(|meaning| meaning.status);
        prepare::before(
            self.capture,
            self.machine,
            place,
            operation.as_ref(),
            status,
        )?;
        let open = self.open.get_mut(&exchange.channel);
        let open = open.context("the device is not open")?;
        let root = self.machine.directory();
        let message = match operation.is_none() && self.capture.is_blanked(exchange) {
            true => Err(translate::BLANKED),
            false => open
                .translator
                .message(&mut open.link, exchange, operation, root)?,
        };
        let (header, message) = match message {
            Ok(message) => message,
            Err(why) => {
                let numbers = self.outcome.left_out.entry(why).or_default();
                numbers.push(exchange.request.number);
                return Ok(());
            }
        };
        open.link.send(header, &message)?;
        open.waiting.push(Waiting {
            exchange: place,
            transaction: header.transaction,
            message,
        });
        self.outcome.sent += 1;
        Ok(())
    }

    fn receive(&mut self, place: usize, exchange: &'m Exchange) -> Result<()> {
        let open = self.open.get_mut(&exchange.channel);
        let open = open.context("the device is not open")?;
        while !open.early.contains_key(&place) {
            if open.waiting.iter().all(|waiting| waiting.exchange != place) {
                // The request was not sent.
                return Ok(());
            }
            let (transaction, reply) = open.link.receive()?;
            let rings = open.link.encoding() == Encoding::Utf16;
            let mut waiting = open.waiting.iter();
            let answered = waiting.position(|it| !rings || it.transaction == transaction);
            let answered = answered.map(|answered| open.waiting.remove(answered));
            let answered = answered.with_context(|| {
                format!("the guest replied to transaction {transaction}, which is not in flight")
            })?;
            let other = self.capture.conversation.exchanges.get(answered.exchange);
            if let Some(other) = other.filter(|other| other.reply.is_none() && !other.lost) {
                self.outcome.difference = Some(Difference {
                    request: other.request.number,
                    reply: None,
                    what: "the capture has no reply to it, the guest replied".to_owned(),
                    sent: record(&open.link, other, RecordKind::Host, answered.message),
                    came: record(&open.link, other, RecordKind::Guest, reply),
                });
                return Ok(());
            }
            open.early.insert(answered.exchange, (answered, reply));
        }
        match open.early.remove(&place) {
            Some((waiting, reply)) => self.compare(exchange, waiting, reply),
            None => Ok(()),
        }
    }

    fn compare(&mut self, exchange: &Exchange, waiting: Waiting, reply: Vec<u8>) -> Result<()> {
        let Some(captured) = &exchange.reply else {
            return Ok(());
        };
        let open = self.open.get_mut(&exchange.channel);
        let open = open.context("the device is not open")?;
        let operation = self.capture.operation(exchange).ok();
        let what = match meaning_of(open, operation.as_ref(), &waiting.message, &reply) {
            Err(error) => Some(format!("the guest's reply is malformed: {error:#}")),
            Ok(came) => {
                if let Answer::Versions(versions) = came.answer {
                    open.link.versions = versions.or(open.link.versions);
                }
                let expected = self.capture.expected(exchange, captured);
                let expected = expected.with_context(|| {
                    format!("the capture's reply in record {}", captured.number)
                })?;
                if expected.depends_on_interfaces(&came, operation.as_ref()) {
                    let numbers = self.outcome.left_out.entry(INTERFACES).or_default();
                    numbers.push(captured.number);
                    return Ok(());
                }
                let facts = operation.is_some_and(|operation| operation.is_for_facts());
                expected.difference(&came, facts)
            }
        };
        self.outcome.compared += 1;
        self.outcome.difference = what.map(|what| Difference {
            request: exchange.request.number,
            reply: Some(captured.number),
            what,
            sent: record(&open.link, exchange, RecordKind::Host, waiting.message),
            came: record(&open.link, exchange, RecordKind::Guest, reply),
        });
        Ok(())
    }
}

/// What a reply of the guest means that answers this message.
fn meaning_of(
    open: &Open,
    operation: Option<&Operation>,
    message: &[u8],
    reply: &[u8],
) -> Result<Meaning> {
    let encoding = open.link.encoding();
    let reply = match encoding {
        Encoding::Utf16 => Reply::to(message, reply)?,
        Encoding::Utf8 => meaning::on_device(open.link.terms.reply_len, reply)?,
    };
    match encoding == Encoding::Utf16 && is_negotiation(message) {
        true => meaning::of_negotiation(&reply),
        false => meaning::of(operation, encoding, open.link.version(), &reply),
    }
}

/// A message of this replay as a capture would have it. Its time is that of the request in
/// the capture.
fn record(link: &Link, exchange: &Exchange, kind: RecordKind, bytes: Vec<u8>) -> Record {
    let rings = link.has_rings();
    let header = RecordHeader {
        kind,
        service: RecordHeader::service_number(link.terms.service.name),
        transport: match rings {
            true => Transport::Ring,
            false => Transport::Device,
        },
        packet_type: if rings { IN_BAND } else { 0 },
        packet_flags: 0,
        transaction: exchange.request.packet.2,
        negotiated: link
            .versions
            .map(|(framework, message)| Negotiated { framework, message }),
    };
    Record::new(exchange.request.time, exchange.channel, header, bytes)
}
