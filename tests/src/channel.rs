//! An open channel, from the host: packets with deadlines over the rings and
//! the doorbell.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hyperv_vmbus::ring::{FEATURE_PENDING_SEND_SIZE, RingMemory, Word};

use crate::port::{Bell, Event, UioPort};
use crate::ring::{FromGuest, Packet, ToGuest, Wrote};

/// The host's end of a channel.
pub struct HostChannel {
    /// The ring to the guest, for what [`HostChannel::send`] would not do.
    pub to_guest: ToGuest,
    /// The ring from the guest.
    pub from_guest: FromGuest,
    bell: Arc<dyn Bell>,
    /// What came in while the host was waiting for room.
    inbox: VecDeque<Packet>,
}

impl HostChannel {
    /// Takes over an opened device.
    pub fn new(port: UioPort) -> Self {
        for ring in [&port.rings.outgoing, &port.rings.incoming] {
            ring.store(Word::FeatureBits, FEATURE_PENDING_SEND_SIZE);
        }
        Self {
            to_guest: ToGuest::new(port.rings.incoming),
            from_guest: FromGuest::new(port.rings.outgoing),
            bell: port.bell,
            inbox: VecDeque::new(),
        }
    }

    /// The channel's doorbell.
    pub fn bell(&self) -> &Arc<dyn Bell> {
        &self.bell
    }

    /// Sends a packet, waiting for room where there is none. Replies that come
    /// meanwhile are kept: a guest that cannot send does not receive either.
    ///
    /// # Errors
    ///
    /// Where the guest makes no room in time, or closes the channel.
    pub fn send(&mut self, packet: &Packet, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        while !self.try_send(packet)? {
            if let Some(reply) = self.take()? {
                self.inbox.push_back(reply);
                continue;
            }
            match self.wait_until(deadline)? {
                Event::Signalled => {}
                Event::TimedOut => {
                    bail!("the host asked for room in the ring and got none within {timeout:?}")
                }
                Event::Closed => {
                    bail!("the guest closed the channel while the host waited for room")
                }
            }
        }
        Ok(())
    }

    /// Sends a packet where there is room, and says whether there was.
    ///
    /// # Errors
    ///
    /// Where the guest spoiled the ring.
    pub fn try_send(&mut self, packet: &Packet) -> Result<bool> {
        let wrote = self.to_guest.try_send(packet)?;
        Ok(self.ring_for(wrote))
    }

    /// Sends the bytes of a packet, whatever they say.
    ///
    /// # Errors
    ///
    /// Where there is no room, or the guest spoiled the ring.
    pub fn send_bytes(&mut self, packet: &[u8]) -> Result<()> {
        let wrote = self.to_guest.try_send_bytes(packet)?;
        if !self.ring_for(wrote) {
            bail!(
                "no room for {} bytes in the ring to the guest",
                packet.len()
            );
        }
        Ok(())
    }

    fn ring_for(&self, wrote: Wrote) -> bool {
        match wrote {
            Wrote::Yes { interrupt } => {
                if interrupt {
                    self.bell.interrupt();
                }
                true
            }
            Wrote::Full => false,
        }
    }

    /// The next packet from the guest; `None` where none came in time.
    ///
    /// # Errors
    ///
    /// Where the guest closes the channel or sends what cannot be.
    pub fn recv(&mut self, timeout: Duration) -> Result<Option<Packet>> {
        if let Some(packet) = self.inbox.pop_front() {
            return Ok(Some(packet));
        }
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(packet) = self.take()? {
                return Ok(Some(packet));
            }
            match self.wait_until(deadline)? {
                Event::Signalled => {}
                Event::TimedOut => return Ok(None),
                Event::Closed => bail!("the guest closed the channel where a reply was expected"),
            }
        }
    }

    /// Takes a packet out of the ring, and tells a guest that waited for room.
    fn take(&mut self) -> Result<Option<Packet>> {
        let Some((packet, interrupt)) = self.from_guest.try_recv()? else {
            return Ok(None);
        };
        if interrupt {
            self.bell.interrupt();
        }
        Ok(Some(packet))
    }

    /// Waits for the guest's signal, unless a packet came in meanwhile.
    fn wait_until(&self, deadline: Instant) -> Result<Event> {
        let left = deadline.saturating_duration_since(Instant::now());
        let event = self.bell.wait(left);
        // A guest may well answer and close: what it sent counts first.
        if event == Event::Closed && self.from_guest.pending() {
            return Ok(Event::Signalled);
        }
        Ok(event)
    }

    /// Waits for the guest to close the channel.
    ///
    /// # Errors
    ///
    /// Where it does not in time.
    pub fn wait_closed(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            match self
                .bell
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
