//! The recorder of the running agent: workers hand it what they receive and send, and a
//! thread ([`stream`](super::stream)) takes it from here to the client that captures.
//!
//! Without a capture, a message costs a worker one relaxed load. During one, the worker
//! copies the message into a queue that is limited in records and bytes, but for the data of
//! files, if the client does not want that. It waits for nobody: what finds no room is dropped,
//! counted, and recorded as dropped.

use std::collections::BTreeMap;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyperv_services::clock::clock;
use hyperv_services::service::Entry;
use hyperv_vmbus::ic::Negotiated;
use hyperv_vmbus::packet::IN_BAND;
use hyperv_vmbus::{ChannelError, Message, Reply};

use super::{Event, EventKind, Header, Interface, Kind, Level, Record, Transport};
use super::{decode, redact};
use crate::locate::DeviceNode;
use crate::status;

/// Maximum number of records in the queue, and of those that are being written.
const MAX_RECORDS: usize = 16384;

/// Their maximum length in bytes.
const MAX_BYTES: usize = 4 << 20;

/// The recorder of an agent.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// Which services are captured: a bit for each number, as in [`Header`].
    captured: AtomicU8,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The open channels, by their number.
    channels: BTreeMap<u64, OpenChannel>,
    last_channel: u64,
    capture: Option<Capture>,
}

#[derive(Debug, Clone)]
struct OpenChannel {
    interface: Arc<Interface>,
    header: Header,
}

/// A running capture.
#[derive(Debug)]
struct Capture {
    /// As in [`Recorder::captured`].
    captured: u8,
    /// What is recorded of the data of files.
    content: Level,
    status: status::Capture,
    queue: Vec<Item>,
    queued_bytes: usize,
    /// Records of each channel that were dropped since the queue was full.
    lost: BTreeMap<u64, (OpenChannel, u64)>,
    /// Wakes the thread that takes the queue.
    wake: Arc<OwnedFd>,
    /// The thread waits.
    asleep: bool,
    ending: bool,
}

/// A record and its device. The record's number of the device is not set yet.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) interface: Arc<Interface>,
    pub(super) record: Record,
}

/// What the thread takes.
#[derive(Debug)]
pub(super) enum Taken {
    Records(Vec<Item>),
    /// There is nothing yet: wait to be woken.
    Nothing,
    /// There is nothing any more: the agent ends the capture.
    Ended,
}

impl Recorder {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a capture of these services, or of all if there is none, with this of the data
    /// of files. `wake` becomes readable when there are records after [`Taken::Nothing`].
    /// Returns `false` if another capture runs.
    pub(super) fn begin(&self, services: Vec<String>, content: Level, wake: Arc<OwnedFd>) -> bool {
        let mut state = self.state();
        if state.capture.is_some() {
            return false;
        }
        let bits = services
            .iter()
            .map(|name| bit(Header::service_number(name)));
        let captured = bits.reduce(|all, bit| all | bit).unwrap_or(u8::MAX);
        let mut capture = Capture {
            captured,
            content,
            status: status::Capture {
                since: clock(SystemTime::now()),
                services,
                records: 0,
                dropped: 0,
            },
            queue: Vec::new(),
            queued_bytes: 0,
            lost: BTreeMap::new(),
            wake,
            asleep: false,
            ending: false,
        };
        for (number, channel) in &state.channels {
            capture.add(*number, channel, |_| channel.event(EventKind::Begin, ""));
        }
        state.capture = Some(capture);
        self.captured.store(captured, Ordering::Relaxed);
        true
    }

    /// Takes what was recorded since the last time.
    pub(super) fn take(&self) -> Taken {
        let mut state = self.state();
        let Some(capture) = &mut state.capture else {
            return Taken::Ended;
        };
        let mut items = mem::take(&mut capture.queue);
        capture.queued_bytes = 0;
        for (channel, count) in mem::take(&mut capture.lost).into_values() {
            let record = channel.event(EventKind::Dropped, &count.to_string());
            items.push(channel.item(record));
        }
        match items.is_empty() {
            false => Taken::Records(items),
            true if capture.ending => Taken::Ended,
            true => {
                capture.asleep = true;
                Taken::Nothing
            }
        }
    }

    /// Ends the capture: nothing is recorded from now on. Returns what it has recorded.
    pub(super) fn finish(&self) -> Option<status::Capture> {
        let mut state = self.state();
        self.captured.store(0, Ordering::Relaxed);
        let capture = state.capture.take();
        drop(state);
        self.ended.notify_all();
        capture.map(|capture| capture.status)
    }

    /// Whether the agent ends the capture.
    pub(super) fn is_ending(&self) -> bool {
        self.state().capture.as_ref().is_none_or(|it| it.ending)
    }

    /// Ends the capture that runs, and waits for the client to receive the rest, but not
    /// longer than `limit`.
    pub(crate) fn stop(&self, limit: Duration) {
        let mut state = self.state();
        if let Some(capture) = &mut state.capture {
            capture.ending = true;
            wake(&capture.wake);
            let runs = |state: &mut State| state.capture.is_some();
            drop(self.ended.wait_timeout_while(state, limit, runs));
        }
    }

    /// Returns the capture that runs.
    pub(crate) fn status(&self) -> Option<status::Capture> {
        let state = self.state();
        state.capture.as_ref().map(|it| it.status.clone())
    }
}

impl Capture {
    /// Queues a record of a channel that is captured, or counts it as dropped.
    fn add(&mut self, number: u64, channel: &OpenChannel, record: impl FnOnce(Level) -> Record) {
        if self.captured & bit(channel.header.service) == 0 {
            return;
        }
        // Once a record is dropped, all are until the queue is taken: so the dropped ones are
        // recorded at their place.
        let has_room = self.lost.is_empty() && self.queue.len() < MAX_RECORDS;
        let record = has_room.then(|| record(self.content));
        let left = MAX_BYTES.saturating_sub(self.queued_bytes);
        let Some(record) = record.filter(|record| record.bytes.len() <= left) else {
            self.status.dropped += 1;
            let lost = self.lost.entry(number);
            lost.or_insert_with(|| (channel.clone(), 0)).1 += 1;
            return;
        };
        self.status.records += 1;
        self.queued_bytes += record.bytes.len();
        self.queue.push(channel.item(record));
        if mem::take(&mut self.asleep) {
            wake(&self.wake);
        }
    }
}

impl OpenChannel {
    fn item(&self, record: Record) -> Item {
        Item {
            interface: Arc::clone(&self.interface),
            record,
        }
    }

    fn event(&self, kind: EventKind, text: &str) -> Record {
        let text = text.to_owned();
        let header = Header {
            kind: Kind::Event,
            ..self.header
        };
        Record::new(SystemTime::now(), 0, header, Event { kind, text }.encode())
    }
}

/// Records what happens on one open channel. Its worker has it.
#[derive(Debug)]
pub(crate) struct Tap {
    recorder: Arc<Recorder>,
    number: u64,
    channel: OpenChannel,
    /// Why the channel is closed, if that is an error.
    failure: String,
}

impl Tap {
    /// Records that a device was opened, and how it was registered with the kernel.
    pub(crate) fn open(recorder: &Arc<Recorder>, entry: &Entry, device: &DeviceNode) -> Self {
        let transport = match device {
            DeviceNode::Uio { .. } => Transport::Ring,
            DeviceNode::HvUtil { .. } => Transport::Device,
        };
        let channel = OpenChannel {
            interface: Arc::new(Interface {
                service: entry.name.to_owned(),
                node: device.node().to_owned(),
            }),
            header: Header {
                kind: Kind::Event,
                service: Header::service_number(entry.name),
                transport,
                packet_type: 0,
                packet_flags: 0,
                transaction: 0,
                negotiated: None,
            },
        };
        let mut state = recorder.state();
        state.last_channel += 1;
        let number = state.last_channel;
        state.channels.insert(number, channel.clone());
        if let Some(capture) = &mut state.capture {
            capture.add(number, &channel, |_| channel.event(EventKind::Opened, ""));
        }
        drop(state);
        let tap = Self {
            recorder: Arc::clone(recorder),
            number,
            channel,
            failure: String::new(),
        };
        if transport == Transport::Device {
            tap.sent(Reply {
                transaction: 0,
                payload: entry.hvutil.registration,
            });
        }
        tap
    }

    /// Records a message before it is handled, which changes it in place.
    pub(crate) fn received(&self, message: &Message<'_>) {
        if self.is_recorded() {
            let raw = message.raw();
            self.message(Kind::Host, raw.kind, raw.flags, raw.transaction, raw.bytes);
        }
    }

    /// Records a reply that is about to be sent.
    pub(crate) fn sent(&self, reply: Reply<'_>) {
        if self.is_recorded() {
            let packet_type = match self.channel.header.transport {
                Transport::Ring => IN_BAND,
                Transport::Device => 0,
            };
            self.message(
                Kind::Guest,
                packet_type,
                0,
                reply.transaction,
                reply.payload,
            );
        }
    }

    /// Records an event.
    pub(crate) fn event(&self, kind: EventKind) {
        if self.is_recorded() {
            self.add(|_| self.channel.event(kind, ""));
        }
    }

    /// Records why the channel is unusable.
    pub(crate) fn failed(&mut self, error: &ChannelError) {
        match error {
            ChannelError::Gone => self.event(EventKind::Gone),
            ChannelError::ReplyRefused => self.event(EventKind::Refused),
            ChannelError::Corrupt(_) | ChannelError::Io { .. } => self.failure = error.to_string(),
        }
    }

    /// Sets the versions that further records have.
    pub(crate) fn negotiated(&mut self, versions: Negotiated) {
        self.channel.header.negotiated = Some(versions);
        let mut state = self.recorder.state();
        state.channels.insert(self.number, self.channel.clone());
    }

    fn is_recorded(&self) -> bool {
        self.recorder.captured.load(Ordering::Relaxed) & bit(self.channel.header.service) != 0
    }

    #[cold]
    fn message(&self, kind: Kind, packet_type: u16, flags: u16, transaction: u64, bytes: &[u8]) {
        let header = Header {
            kind,
            packet_type,
            packet_flags: flags,
            transaction,
            ..self.channel.header
        };
        self.add(|content| record(content, header, bytes));
    }

    #[cold]
    fn add(&self, record: impl FnOnce(Level) -> Record) {
        if let Some(capture) = &mut self.recorder.state().capture {
            capture.add(self.number, &self.channel, record);
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let closed = |_| self.channel.event(EventKind::Closed, &self.failure);
        let mut state = self.recorder.state();
        state.channels.remove(&self.number);
        if let Some(capture) = &mut state.capture {
            capture.add(self.number, &self.channel, closed);
        }
    }
}

/// Returns the record of a message, with this of the data of a file.
fn record(content: Level, header: Header, bytes: &[u8]) -> Record {
    let data = match content {
        Level::Full => None,
        Level::None | Level::Hash => decode::data(&header, bytes),
    };
    let end = data.as_ref().map_or(bytes.len(), |data| data.start);
    let kept = bytes.get(..end).unwrap_or(bytes);
    let data = data.and_then(|data| bytes.get(data));
    Record {
        original_len: bytes.len(),
        comment: data.and_then(|data| redact::comment(content, data)),
        ..Record::new(SystemTime::now(), 0, header, kept.to_vec())
    }
}

/// Returns the bit of a service in [`Recorder::captured`].
fn bit(service: u8) -> u8 {
    1_u8.checked_shl(service.into()).unwrap_or_default()
}

fn wake(wake: &OwnedFd) {
    // Fails only if the counter overflows, and then the descriptor is readable already.
    let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use hyperv_services::{fcopy, kvp};
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;
    use crate::capture::redact::Redactor;

    fn tap(recorder: &Arc<Recorder>, entry: &Entry) -> Tap {
        let device = DeviceNode::Uio {
            node: "/dev/uio0".into(),
            ring_len: 4096,
        };
        Tap::open(recorder, entry, &device)
    }

    fn begin(recorder: &Recorder, services: &[&str]) -> bool {
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let services = services.iter().map(|&name| name.to_owned()).collect();
        recorder.begin(services, Level::None, wake)
    }

    fn reply(payload: &[u8]) -> Reply<'_> {
        Reply {
            transaction: 7,
            payload,
        }
    }

    /// Takes what was recorded, as the service and the event or the length.
    fn taken(recorder: &Recorder) -> Vec<(String, String)> {
        let items = match recorder.take() {
            Taken::Records(items) => items,
            Taken::Nothing | Taken::Ended => Vec::new(),
        };
        let what = |item: Item| {
            let event = item.record.event();
            let what = event.map(|event| format!("{:?} {}", event.kind, event.text));
            let len = item.record.bytes.len();
            (
                item.interface.service.clone(),
                what.unwrap_or_else(|| len.to_string()),
            )
        };
        items.into_iter().map(what).collect()
    }

    #[test]
    fn only_the_wanted_services_are_recorded_and_only_meanwhile() {
        let recorder = Arc::default();
        let (one, other) = (tap(&recorder, &kvp::ENTRY), tap(&recorder, &fcopy::ENTRY));
        one.sent(reply(b"before"));
        assert!(begin(&recorder, &["kvp"]));
        assert!(!begin(&recorder, &[]));
        one.sent(reply(b"reply"));
        other.sent(reply(b"reply"));
        drop(other);
        drop(one);
        let wanted = ["Begin ", "5", "Closed "].map(|what| ("kvp".to_owned(), what.to_owned()));
        assert_eq!(taken(&recorder), wanted);
        assert!(matches!(recorder.take(), Taken::Nothing));
        assert_eq!(recorder.finish().unwrap().records, 3);
        assert!(matches!(recorder.take(), Taken::Ended));
        assert!(begin(&recorder, &[]));
        tap(&recorder, &kvp::ENTRY).sent(reply(b"after"));
        let wanted = ["Opened ", "5", "Closed "].map(|what| ("kvp".to_owned(), what.to_owned()));
        assert_eq!(taken(&recorder), wanted);
    }

    #[test]
    fn the_data_of_a_file_is_left_out_as_the_redactor_does() {
        // WRITE of 3 bytes with padding: 36 bytes of header, the offset and the length.
        let mut body = vec![1, 0, 0, 0];
        body.resize(48, 0);
        body.extend([3, 0, 0, 0]);
        body.extend(b"abc, old memory");
        let mut ring = vec![0; 28];
        ring[12..14].copy_from_slice(&fcopy::ENTRY.message_type.0.to_le_bytes());
        ring.extend(&body);
        for (transport, bytes) in [(Transport::Device, &body), (Transport::Ring, &ring)] {
            let header = Header {
                kind: Kind::Host,
                service: Header::service_number("fcopy"),
                transport,
                packet_type: IN_BAND,
                packet_flags: 0,
                transaction: 0,
                negotiated: None,
            };
            for content in Level::ALL {
                let cut = record(content, header, bytes);
                let left_out = if content == Level::Full { 0 } else { 15 };
                assert_eq!(cut.bytes, bytes[..bytes.len() - left_out]);
                let whole = Record {
                    time: cut.time,
                    ..record(Level::Full, header, bytes)
                };
                let mut redactor = Redactor::new(content);
                let wanted = redactor.redact(whole);
                assert_eq!(wanted.comment.is_some(), content == Level::Hash);
                assert_eq!(redactor.redact(cut), wanted);
            }
        }
    }

    #[test]
    fn the_queue_is_limited_and_what_is_dropped_is_recorded_at_its_place() {
        let recorder = Arc::default();
        let (one, other) = (tap(&recorder, &kvp::ENTRY), tap(&recorder, &fcopy::ENTRY));
        for (payload, fit) in [(0, MAX_RECORDS), (1 << 20, 4)] {
            assert!(begin(&recorder, &["kvp", "fcopy"]));
            taken(&recorder);
            let payload = vec![0; payload];
            for _ in 0..fit {
                one.sent(reply(&payload));
            }
            one.sent(reply(b"dropped"));
            // It would fit, but not at its place.
            one.sent(reply(b""));
            other.event(EventKind::Full);
            let taken = taken(&recorder);
            assert_eq!(taken.len(), fit + 2);
            let mut dropped = taken[fit..].to_vec();
            dropped.sort();
            assert_eq!(
                dropped,
                [
                    ("fcopy".to_owned(), "Dropped 1".to_owned()),
                    ("kvp".to_owned(), "Dropped 2".to_owned())
                ]
            );
            one.sent(reply(b"again"));
            assert_eq!(self::taken(&recorder).len(), 1);
            assert_eq!(recorder.finish().unwrap().dropped, 3);
        }
    }
}
