//! An open channel, from the host: packets with deadlines over the rings and
//! the doorbell.
//!
//! A host waits for the guest's signal and looks at no ring meanwhile: a signal
//! that the guest owes shows as a wait that does not end. There are several
//! kinds, and a guest has to live with each: one that takes replies while it
//! waits for room ([`HostChannel::send`]), one that does not
//! ([`HostChannel::send_alone`]), one whose sender and receiver know nothing of
//! each other ([`HostChannel::exchange`]), one that looks again by itself
//! ([`HostChannel::without_flow_control`]), and one that does nothing but look
//! ([`HostChannel::polling`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::port::{Bell, Event, UioPort};
use crate::ring::{FromGuest, Packet, ToGuest, Wrote};

/// The host's end of a channel.
pub struct HostChannel {
    /// The ring to the guest, for what [`HostChannel::send`] would not do.
    pub to_guest: ToGuest,
    /// The ring from the guest.
    pub from_guest: FromGuest,
    line: Line,
    /// What came in while the host was waiting for room.
    inbox: VecDeque<Packet>,
}

/// The doorbell, for one that waits at it.
#[derive(Clone)]
struct Line {
    bell: Arc<dyn Bell>,
    /// Signals of the guest after which the rings were looked at.
    seen: u64,
    look: Look,
}

/// When a host that waits looks at the rings.
#[derive(Clone, Copy)]
enum Look {
    /// When the guest has signalled.
    AtSignals,
    /// Every [`LOOK_PAUSE`] too.
    Often,
    /// All the time; it has looked so often.
    Always(u32),
}

/// How often a host without flow control looks at the rings.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// Looks at the rings after which a host that polls looks at the clock and for a closed
/// channel.
const LOOKS: u32 = 1024;

impl Line {
    /// Waits for a signal that came since the last wait.
    fn wait(&mut self, deadline: Instant) -> Event {
        if let Look::Always(looks) = &mut self.look {
            *looks = (*looks + 1) % LOOKS;
            if *looks != 0 {
                // The guest, and what serves its device, may have no other processor.
                thread::yield_now();
                return Event::Signalled;
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let pause = match self.look {
            Look::AtSignals => left,
            Look::Often => left.min(LOOK_PAUSE),
            Look::Always(_) => Duration::ZERO,
        };
        let event = self.bell.wait_beyond(self.seen, pause);
        self.seen = self.bell.signals();
        match event {
            Event::TimedOut if pause < left => Event::Signalled,
            event => event,
        }
    }

    fn interrupt_if(&self, needed: bool) {
        if needed {
            self.bell.interrupt();
        }
    }

    /// Sends where there is room, and says whether there was.
    fn try_send(&self, to_guest: &mut ToGuest, packet: &Packet) -> Result<bool> {
        Ok(match to_guest.try_send(packet)? {
            Wrote::Yes { interrupt } => {
                self.interrupt_if(interrupt);
                true
            }
            Wrote::Full => false,
        })
    }

    /// Takes a packet out of the ring, and signals a guest that waits for room.
    fn take(&self, from_guest: &mut FromGuest) -> Result<Option<Packet>> {
        let Some((packet, interrupt)) = from_guest.try_recv()? else {
            return Ok(None);
        };
        self.interrupt_if(interrupt);
        Ok(Some(packet))
    }

    /// Waits for room in the ring.
    fn wait_for_room(&mut self, deadline: Instant) -> Result<()> {
        match self.wait(deadline) {
            Event::Signalled => Ok(()),
            Event::TimedOut => {
                bail!("the host asked for room in the ring and got none in time")
            }
            Event::Closed => bail!("the guest closed the channel while the host waited for room"),
        }
    }

    fn send(&mut self, to_guest: &mut ToGuest, packet: &Packet, deadline: Instant) -> Result<()> {
        while !self.try_send(to_guest, packet)? {
            self.wait_for_room(deadline)?;
        }
        Ok(())
    }

    fn recv(&mut self, from_guest: &mut FromGuest, deadline: Instant) -> Result<Option<Packet>> {
        loop {
            if let Some(packet) = self.take(from_guest)? {
                return Ok(Some(packet));
            }
            match self.wait(deadline) {
                Event::Signalled => {}
                Event::TimedOut => return Ok(None),
                // A guest may well answer and close: what it sent counts first.
                Event::Closed if from_guest.pending() => {}
                Event::Closed => bail!("the guest closed the channel where a reply was expected"),
            }
        }
    }
}

impl HostChannel {
    /// Takes over an opened device.
    pub fn new(port: UioPort) -> Self {
        Self {
            to_guest: ToGuest::new(port.rings.incoming),
            from_guest: FromGuest::new(port.rings.outgoing),
            line: Line {
                bell: port.bell,
                seen: 0,
                look: Look::AtSignals,
            },
            inbox: VecDeque::new(),
        }
    }

    /// Makes it a host that neither requests nor sends signals about room, and polls
    /// both rings.
    pub fn without_flow_control(&mut self) {
        self.to_guest.without_flow_control();
        self.from_guest.without_flow_control();
        self.line.look = Look::Often;
    }

    /// Makes it a host that looks at the rings all the time, and wants no signals.
    pub fn polling(&mut self) {
        self.from_guest.mask(true);
        self.line.look = Look::Always(0);
    }

    /// The channel's doorbell.
    pub fn bell(&self) -> &Arc<dyn Bell> {
        &self.line.bell
    }

    /// Sends a packet, waiting for room where there is none. Replies that come
    /// meanwhile are kept: a guest that cannot send does not receive either.
    ///
    /// # Errors
    ///
    /// If the guest makes no room in time, or closes the channel.
    pub fn send(&mut self, packet: &Packet, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !self.try_send(packet)? {
            match self.line.take(&mut self.from_guest)? {
                Some(reply) => self.inbox.push_back(reply),
                None => self.line.wait_for_room(deadline)?,
            }
        }
        Ok(())
    }

    /// Sends a packet, waiting for room where there is none, and looks at no
    /// reply before.
    ///
    /// # Errors
    ///
    /// As for [`HostChannel::send`].
    pub fn send_alone(&mut self, packet: &Packet, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        self.line.send(&mut self.to_guest, packet, deadline)
    }

    /// Sends packets and receives as many, with a sender and a receiver that know
    /// nothing of each other.
    ///
    /// # Errors
    ///
    /// If one of them gets no further in time, or the guest closes the
    /// channel.
    pub fn exchange(&mut self, packets: &[Packet], timeout: Duration) -> Result<Vec<Packet>> {
        let deadline = Instant::now() + timeout;
        let (mut sending, mut receiving) = (self.line.clone(), self.line.clone());
        let (to_guest, from_guest) = (&mut self.to_guest, &mut self.from_guest);
        thread::scope(|scope| {
            let sender = scope.spawn(move || {
                packets
                    .iter()
                    .try_for_each(|packet| sending.send(to_guest, packet, deadline))
            });
            let received = (0..packets.len())
                .map(|_| {
                    let packet = receiving.recv(from_guest, deadline)?;
                    packet.context("expected a reply for each request; one did not come in time")
                })
                .collect();
            sender
                .join()
                .map_err(|_| anyhow!("the sender panicked"))??;
            received
        })
    }

    /// Sends a packet where there is room, and says whether there was.
    ///
    /// # Errors
    ///
    /// If the guest spoiled the ring.
    pub fn try_send(&mut self, packet: &Packet) -> Result<bool> {
        self.line.try_send(&mut self.to_guest, packet)
    }

    /// Sends the bytes of a packet, whatever they say.
    ///
    /// # Errors
    ///
    /// If there is no room, or the guest spoiled the ring.
    pub fn send_bytes(&mut self, packet: &[u8]) -> Result<()> {
        match self.to_guest.try_send_bytes(packet)? {
            Wrote::Yes { interrupt } => {
                self.line.interrupt_if(interrupt);
                Ok(())
            }
            Wrote::Full => bail!(
                "no room for {} bytes in the ring to the guest",
                packet.len()
            ),
        }
    }

    /// The next packet from the guest; `None` if none came in time.
    ///
    /// # Errors
    ///
    /// If the guest closes the channel or sends what cannot be.
    pub fn recv(&mut self, timeout: Duration) -> Result<Option<Packet>> {
        if let Some(packet) = self.inbox.pop_front() {
            return Ok(Some(packet));
        }
        let deadline = Instant::now() + timeout;
        self.line.recv(&mut self.from_guest, deadline)
    }

    /// Waits for the guest to close the channel.
    ///
    /// # Errors
    ///
    /// If it does not in time.
    pub fn wait_closed(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            match self
                .bell()
                .wait(deadline.saturating_duration_since(Instant::now()))
            {
                Event::Closed => return Ok(()),
                Event::Signalled => {}
                Event::TimedOut => {
                    bail!("expected the guest to close the channel within {timeout:?}; it did not")
                }
            }
        }
    }
}
