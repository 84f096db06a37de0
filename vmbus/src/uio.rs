//! A channel over `/dev/uioN`: the rings are mapped into the process, and the file is
//! the doorbell. Protocol sections 2 and 3.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use crate::channel::{Channel, ChannelError, Sent, io_error, open_device};
use crate::mapping::{MappedRing, MappedRings};
use crate::message::{Message, Reply};
use crate::packet::Packet;
use crate::ring::{Reader, RingMemory, Writer, Written};

/// The interrupts of a channel, in both directions.
pub trait Doorbell: Send {
    /// Returns a descriptor that becomes readable, edge-triggered, when the host
    /// interrupts.
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// Consumes the interrupts so far.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if there were none; anything else if the device is
    /// unusable.
    fn acknowledge(&self) -> io::Result<()>;

    /// Unmasks the interrupt and signals the host.
    ///
    /// # Errors
    ///
    /// The error of the system call.
    fn signal(&self) -> io::Result<()>;
}

/// The doorbell of a UIO device: its file.
#[derive(Debug)]
pub struct UioFile(File);

impl Doorbell for UioFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn acknowledge(&self) -> io::Result<()> {
        let mut count = [0; 4];
        (&self.0).read(&mut count).map(drop)
    }

    fn signal(&self) -> io::Result<()> {
        (&self.0).write(&1u32.to_ne_bytes()).map(drop)
    }
}

/// An open channel whose rings are mapped into this process.
///
/// Whatever makes the room that the host waits for signals it before it returns. So the
/// caller may wait for anything, and the two sides never wait for each other.
#[derive(Debug)]
pub struct UioChannel<D, M = MappedRing> {
    doorbell: D,
    reader: Reader<M>,
    writer: Writer<M>,
    buffer_len: usize,
}

impl UioChannel<UioFile> {
    /// Opens `/dev/uioN` and maps its rings, of `ring_len` bytes each with their header
    /// page.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Gone`] or [`ChannelError::Io`] if a system call fails,
    /// [`ChannelError::Corrupt`] if an index of a ring is invalid.
    pub fn open(path: &Path, ring_len: usize) -> Result<Self, ChannelError> {
        let file = UioFile(open_device(path)?);
        let rings = MappedRings::map(file.as_fd(), ring_len, page_size()?)
            .map_err(io_error("mapping the rings"))?;
        Self::new(file, rings)
    }
}

impl<D: Doorbell> UioChannel<D> {
    /// Makes a channel of rings that are mapped already.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Corrupt`] if an index of a ring is invalid.
    pub fn new(doorbell: D, rings: MappedRings) -> Result<Self, ChannelError> {
        Self::over(doorbell, rings.incoming, rings.outgoing)
    }
}

impl<D: Doorbell, M: RingMemory> UioChannel<D, M> {
    fn over(doorbell: D, incoming: M, outgoing: M) -> Result<Self, ChannelError> {
        let buffer_len = incoming.data_len() as usize;
        Ok(Self {
            doorbell,
            reader: Reader::new(incoming)?,
            writer: Writer::new(outgoing)?,
            buffer_len,
        })
    }

    /// Receives the next packet into `buffer`, which has at least
    /// [`buffer_len`](Channel::buffer_len) bytes. Returns `None` if there is none.
    ///
    /// This is for devices that are not integration services. [`Channel::recv`] decodes
    /// the payload as a message.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Corrupt`] if an index or a packet is invalid,
    /// [`ChannelError::Gone`] or [`ChannelError::Io`] if the host cannot be signalled.
    pub fn recv_packet<'a>(
        &mut self,
        buffer: &'a mut [u8],
    ) -> Result<Option<Packet<'a>>, ChannelError> {
        let Some(received) = self.reader.recv(buffer)? else {
            return Ok(None);
        };
        // Not later, with the reply: the handler may wait, and a reply to a full ring
        // waits until the host reads, which a host that waits for room does not.
        if received.signal {
            self.signal()?;
        }
        let header = received.header;
        Ok(Some(Packet {
            kind: header.kind,
            flags: header.flags,
            transaction: header.transaction,
            payload: buffer
                .get_mut(header.header_len..header.total_len)
                .unwrap_or_default(),
        }))
    }

    /// Sends an in-band packet.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Corrupt`] if an index is invalid or the packet is longer than the
    /// ring, [`ChannelError::Gone`] or [`ChannelError::Io`] if the host cannot be
    /// signalled.
    pub fn send_packet(&mut self, transaction: u64, payload: &[u8]) -> Result<Sent, ChannelError> {
        let mut written = self.writer.send(transaction, payload)?;
        if written == Written::Full {
            // A host may signal room only while packets are unmasked.
            self.reader.arm();
            written = self.writer.send(transaction, payload)?;
        }
        match written {
            Written::Done { signal } => {
                if signal {
                    self.signal()?;
                }
                Ok(Sent::Done)
            }
            Written::Full => Ok(Sent::Full {
                host_signals_room: self.reader.writer_signals_room(),
            }),
        }
    }

    /// Signals the host. The driver unmasks the interrupt meanwhile; mask it again, as
    /// only [`Channel::arm`] requests one.
    fn signal(&mut self) -> Result<(), ChannelError> {
        self.doorbell
            .signal()
            .map_err(io_error("signalling the host"))?;
        self.reader.mask();
        Ok(())
    }
}

impl<D: Doorbell, M: RingMemory + Send> Channel for UioChannel<D, M> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }

    fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    fn recv<'a>(&mut self, buffer: &'a mut [u8]) -> Result<Option<Message<'a>>, ChannelError> {
        Ok(self.recv_packet(buffer)?.map(Message::from_packet))
    }

    fn readable(&mut self) {}

    fn send(&mut self, reply: Reply<'_>) -> Result<Sent, ChannelError> {
        self.send_packet(reply.transaction, reply.payload)
    }

    fn arm(&mut self) -> bool {
        self.reader.arm()
    }

    fn pending(&mut self) -> Option<bool> {
        Some(self.reader.pending())
    }

    fn acknowledge(&mut self) -> Result<(), ChannelError> {
        match self.doorbell.acknowledge() {
            Err(error)
                if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Err(io_error("reading the interrupt count")(error))
            }
            _ => Ok(()),
        }
    }
}

/// Returns the bytes of a system page, which are those of a ring's header.
fn page_size() -> Result<usize, ChannelError> {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .map_err(|errno| io_error("sysconf")(errno.into()))?;
    usize::try_from(size.unwrap_or_default())
        .map_err(|_| io_error("sysconf")(io::Error::other("negative page size")))
}

#[cfg(test)]
mod tests;
