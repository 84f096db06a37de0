//! What host and guest said to each other, in the order of the capture: which reply belongs
//! to which request, and when devices were opened and closed.

use std::collections::BTreeMap;
use std::time::SystemTime;

use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::Version;

use crate::ic::HEADER_LEN;

/// Operation of a START; the others of a copy are greater.
const START: u32 = 0;

/// A message of the capture.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// Number of its record in the file, from 1.
    pub(super) number: usize,
    /// When it was recorded.
    pub(super) time: SystemTime,
    /// VMBus packet type, flags and transaction id; zeros on a character device.
    pub(super) packet: (u16, u16, u64),
    /// Framework and message version at that moment.
    pub(super) versions: Option<(Version, Version)>,
    /// The bytes behind the packet's header, those of a file's data that were cut off
    /// replaced by a pattern.
    pub(super) bytes: Vec<u8>,
}

/// What a record of the capture is.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// A message of the host.
    Host(Message),
    /// A message of the guest.
    Guest(Message),
    /// The guest has opened the device; or it was open when the capture began.
    Opened {
        /// It was opened now.
        now: bool,
    },
    /// The guest has closed the device, or it went away.
    Closed,
    /// Records are missing here.
    Dropped,
}

/// A device of the capture.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    /// Name of its service.
    pub(super) service: String,
    /// How texts in its messages are encoded, which says what its transport was.
    pub(super) encoding: Encoding,
}

/// A request, and the reply that the capture has to it.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) channel: usize,
    pub(super) request: Message,
    pub(super) reply: Option<Message>,
    /// Records are missing on this channel: there may have been a reply.
    pub(super) lost: bool,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The guest opens the device of this channel. If it was open `before` the capture, or
    /// before what the capture has of it, the capture does not show how it was negotiated.
    Open {
        /// Index of the channel.
        channel: usize,
        /// Whether it was open already.
        before: bool,
    },
    /// The device goes.
    Close(usize),
    /// The host sends the request of this exchange.
    Send(usize),
    /// The guest replies to it.
    Receive(usize),
}

/// A capture as a sequence of steps.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    pub(super) channels: Vec<Channel>,
    pub(super) exchanges: Vec<Exchange>,
    pub(super) steps: Vec<(SystemTime, Step)>,
    /// What is left out, by reason: numbers of records.
    pub(super) left_out: BTreeMap<&'static str, Vec<usize>>,
}

/// What is known of a channel while its records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Registration {
    /// Done, or there is none.
    Done,
    /// The program is about to register.
    Expected,
    /// The kernel is about to answer.
    Sent,
}

#[derive(Debug, Clone)]
struct State {
    open: bool,
    registration: Registration,
    /// Exchanges without a reply.
    waiting: Vec<usize>,
    /// Transactions of requests that are left out.
    left_out: Vec<u64>,
    /// A file copy may have begun that the capture does not show from its START.
    copy_unknown: bool,
    lost: bool,
}

/// Requests without their START.
const BEGUN_BEFORE: &str = "part of a file copy whose START is not in the capture";

/// Replies without their request.
const NO_REQUEST: &str = "a reply whose request is not in the capture";

impl Conversation {
    /// Puts the records of a capture together, each with the index of its channel.
    pub(super) fn new(
        channels: Vec<Channel>,
        records: impl IntoIterator<Item = (SystemTime, usize, What)>,
    ) -> Self {
        let closed = State {
            open: false,
            registration: Registration::Done,
            waiting: Vec::new(),
            left_out: Vec::new(),
            copy_unknown: false,
            lost: false,
        };
        let mut states = vec![closed; channels.len()];
        let mut all = Self {
            channels,
            ..Self::default()
        };
        for (time, channel, what) in records {
            if let Some(state) = states.get_mut(channel) {
                all.add(time, channel, what, state);
            }
        }
        all
    }

    fn add(&mut self, time: SystemTime, channel: usize, what: What, state: &mut State) {
        match what {
            What::Opened { now } => self.open(time, channel, !now, state),
            What::Closed => {
                if state.open {
                    self.steps.push((time, Step::Close(channel)));
                }
                state.open = false;
            }
            What::Dropped => {
                state.lost = true;
                state.copy_unknown = true;
                for exchange in state.waiting.drain(..) {
                    if let Some(exchange) = self.exchanges.get_mut(exchange) {
                        exchange.lost = true;
                    }
                }
            }
            What::Host(message) => self.request(time, channel, message, state),
            What::Guest(message) => self.reply(time, message, state),
        }
    }

    fn open(&mut self, time: SystemTime, channel: usize, before: bool, state: &mut State) {
        if state.open {
            self.steps.push((time, Step::Close(channel)));
        }
        self.steps.push((time, Step::Open { channel, before }));
        let device = self.encoding(channel) == Encoding::Utf8;
        *state = State {
            open: true,
            registration: match device && !before {
                true => Registration::Expected,
                false => Registration::Done,
            },
            waiting: Vec::new(),
            left_out: Vec::new(),
            copy_unknown: before,
            lost: state.lost,
        };
    }

    fn encoding(&self, channel: usize) -> Encoding {
        let channel = self.channels.get(channel);
        channel.map_or(Encoding::Utf16, |channel| channel.encoding)
    }

    fn request(&mut self, time: SystemTime, channel: usize, message: Message, state: &mut State) {
        if !state.open {
            self.open(time, channel, true, state);
        }
        if state.registration == Registration::Sent {
            state.registration = Registration::Done;
            return;
        }
        let copies = self.channels.get(channel);
        let copies = copies.is_some_and(|channel| channel.service == "fcopy");
        if copies && state.copy_unknown {
            match operation(self.encoding(channel), &message.bytes) {
                Some(START) => state.copy_unknown = false,
                Some(_) => {
                    state.left_out.push(message.packet.2);
                    let left_out = self.left_out.entry(BEGUN_BEFORE).or_default();
                    left_out.push(message.number);
                    return;
                }
                None => {}
            }
        }
        let place = self.exchanges.len();
        self.exchanges.push(Exchange {
            channel,
            request: message,
            reply: None,
            lost: state.lost,
        });
        state.waiting.push(place);
        self.steps.push((time, Step::Send(place)));
    }

    fn reply(&mut self, time: SystemTime, message: Message, state: &mut State) {
        if state.registration == Registration::Expected {
            state.registration = Registration::Sent;
            return;
        }
        let transaction = message.packet.2;
        let is_request = |place: &usize| {
            let exchange = self.exchanges.get(*place);
            exchange.is_some_and(|exchange| exchange.request.packet.2 == transaction)
        };
        if let Some(place) = state.waiting.iter().position(is_request) {
            let place = state.waiting.remove(place);
            if let Some(exchange) = self.exchanges.get_mut(place) {
                exchange.reply = Some(message);
            }
            self.steps.push((time, Step::Receive(place)));
            return;
        }
        let requests = &mut state.left_out;
        match requests.iter().position(|request| *request == transaction) {
            Some(request) => drop(requests.remove(request)),
            None => {
                let left_out = self.left_out.entry(NO_REQUEST).or_default();
                left_out.push(message.number);
            }
        }
    }
}

/// The operation of a message of file copy; `None` for a negotiation.
fn operation(encoding: Encoding, message: &[u8]) -> Option<u32> {
    let body = match encoding {
        Encoding::Utf16 if is_negotiation(message) => return None,
        Encoding::Utf16 => message.get(HEADER_LEN..)?,
        Encoding::Utf8 => message,
    };
    Some(u32::from_le_bytes(*body.first_chunk()?))
}

/// Whether a message over rings is a negotiation.
pub(super) fn is_negotiation(message: &[u8]) -> bool {
    message.get(12..14) == Some(&[0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: usize, transaction: u64, operation: u32) -> Message {
        let mut bytes = vec![0; HEADER_LEN];
        bytes[12] = 7;
        bytes.extend(operation.to_le_bytes());
        Message {
            number,
            time: SystemTime::UNIX_EPOCH,
            packet: (6, 1, transaction),
            versions: None,
            bytes,
        }
    }

    fn rings(records: Vec<What>) -> Conversation {
        let channel = Channel {
            service: "fcopy".into(),
            encoding: Encoding::Utf16,
        };
        let records = records.into_iter();
        let records = records.map(|what| (SystemTime::UNIX_EPOCH, 0, what));
        Conversation::new(vec![channel], records)
    }

    fn steps(conversation: &Conversation) -> Vec<Step> {
        conversation.steps.iter().map(|(_, step)| *step).collect()
    }

    const NOW: Step = Step::Open {
        channel: 0,
        before: false,
    };
    const BEFORE: Step = Step::Open {
        channel: 0,
        before: true,
    };

    #[test]
    fn replies_belong_to_the_request_of_their_transaction() {
        let all = rings(vec![
            What::Opened { now: true },
            What::Host(message(2, 7, 0)),
            What::Host(message(3, 8, 1)),
            What::Guest(message(4, 8, 1)),
            What::Guest(message(5, 7, 0)),
            What::Guest(message(6, 9, 0)),
        ]);
        let expected = [
            NOW,
            Step::Send(0),
            Step::Send(1),
            Step::Receive(1),
            Step::Receive(0),
        ];
        assert_eq!(steps(&all), expected);
        assert_eq!(all.exchanges[0].reply.as_ref().unwrap().number, 5);
        assert_eq!(all.left_out, [(NO_REQUEST, vec![6])].into());
    }

    #[test]
    fn a_copy_without_its_start_is_left_out() {
        for first in [vec![], vec![What::Opened { now: false }]] {
            let mut records = first;
            records.extend([
                What::Host(message(1, 1, 1)),
                What::Guest(message(2, 1, 1)),
                What::Host(message(3, 2, 0)),
                What::Guest(message(4, 2, 0)),
                What::Dropped,
                What::Host(message(6, 4, 2)),
                What::Guest(message(7, 4, 2)),
            ]);
            let all = rings(records);
            let open = steps(&all)[0];
            assert_eq!(open, BEFORE);
            assert_eq!(steps(&all)[1..], [Step::Send(0), Step::Receive(0)]);
            assert_eq!(all.left_out, [(BEGUN_BEFORE, vec![1, 6])].into());
        }
        // Where the capture has the whole connection, the host has said so.
        let all = rings(vec![
            What::Opened { now: true },
            What::Host(message(2, 1, 1)),
        ]);
        assert_eq!(steps(&all), [NOW, Step::Send(0)]);
    }

    #[test]
    fn a_device_that_is_opened_again_was_closed() {
        let all = rings(vec![
            What::Opened { now: true },
            What::Host(message(2, 1, 0)),
            What::Opened { now: true },
            What::Closed,
            What::Closed,
            What::Guest(message(6, 1, 0)),
        ]);
        let expected = [NOW, Step::Send(0), Step::Close(0), NOW, Step::Close(0)];
        assert_eq!(steps(&all), expected);
        assert!(all.exchanges[0].reply.is_none());
    }

    #[test]
    fn a_registration_is_no_exchange() {
        let channel = Channel {
            service: "kvp".into(),
            encoding: Encoding::Utf8,
        };
        let raw = |number| Message {
            bytes: vec![3, 0],
            packet: (0, 0, 0),
            ..message(number, 0, 0)
        };
        let records = [
            What::Opened { now: true },
            What::Guest(raw(2)),
            What::Host(raw(3)),
            What::Host(raw(4)),
            What::Guest(raw(5)),
        ];
        let records = records.into_iter();
        let records = records.map(|what| (SystemTime::UNIX_EPOCH, 0, what));
        let all = Conversation::new(vec![channel], records);
        assert_eq!(steps(&all), [NOW, Step::Send(0), Step::Receive(0)]);
        assert_eq!(all.exchanges[0].request.number, 4);
    }
}
