//! A channel over `/dev/uioN`: rings mapped into the process, with the file as
//! the doorbell. Protocol sections 2 and 3.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

use crate::channel::{Channel, ChannelError, Sent, io_error};
use crate::mapping::{MappedRing, MappedRings};
use crate::message::{Message, Reply};
use crate::packet::Packet;
use crate::ring::{Reader, RingMemory, Writer, Written};

/// How a channel is told of the host's doings, and tells the host of its own.
pub trait Doorbell: Send {
    /// Becomes readable, edge-triggered, when the host interrupts.
    fn as_fd(&self) -> BorrowedFd<'_>;

    /// Consumes the interrupts so far.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] where there were none; anything else where
    /// the device is not usable.
    fn acknowledge(&self) -> io::Result<()>;

    /// Unmasks the interrupt and signals the host.
    ///
    /// # Errors
    ///
    /// What the system call says.
    fn signal(&self) -> io::Result<()>;
}

/// The doorbell of a UIO device: its file.
#[derive(Debug)]
pub struct UioFile(File);

impl UioFile {
    /// Opens the device, which opens its channel: the host starts to negotiate.
    ///
    /// # Errors
    ///
    /// What `open` says.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map(Self)
    }
}

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
/// It owes the host nothing between two calls: a receive that makes the room
/// that the host waits for signals it at once. So the caller may wait for
/// whatever it likes, and the two sides never wait for each other.
#[derive(Debug)]
pub struct UioChannel<D, M = MappedRing> {
    doorbell: D,
    reader: Reader<M>,
    writer: Writer<M>,
    buffer_len: usize,
}

impl UioChannel<UioFile> {
    /// Opens `/dev/uioN` and maps its rings of `ring_len` bytes each, header
    /// page included.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Io`] where a system call fails, [`ChannelError::Corrupt`]
    /// where the rings are not in order.
    pub fn open(path: &Path, ring_len: usize) -> Result<Self, ChannelError> {
        let file = UioFile::open(path).map_err(io_error("open"))?;
        let rings = MappedRings::map(file.as_fd(), ring_len, page_size()?)
            .map_err(io_error("mapping the rings"))?;
        Self::new(file, rings)
    }
}

impl<D: Doorbell> UioChannel<D> {
    /// A channel over rings that are mapped already.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Corrupt`] where the rings' indices are not in order.
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

    /// Takes the next packet into `buffer`, which has at least
    /// [`buffer_len`](Channel::buffer_len) bytes; `None` where there is none.
    ///
    /// This is for devices that are no integration services: the payload is
    /// whatever the host sent. [`Channel::recv`] reads it as a message.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Corrupt`] where the ring is not in order, otherwise what
    /// signalling the host gives.
    pub fn recv_packet<'a>(
        &mut self,
        buffer: &'a mut [u8],
    ) -> Result<Option<Packet<'a>>, ChannelError> {
        let Some(received) = self.reader.recv(buffer)? else {
            return Ok(None);
        };
        // Not with the reply: what answers the message may wait, and a reply that
        // finds no room waits until the host reads, which the host does not as
        // long as it waits for room itself.
        if received.signal {
            self.signal()?;
        }
        let header = received.header;
        Ok(Some(Packet {
            kind: header.kind,
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
    /// [`ChannelError::Corrupt`] where the ring is not in order or could never
    /// hold the packet, otherwise what signalling the host gives.
    pub fn send_packet(&mut self, transaction: u64, payload: &[u8]) -> Result<Sent, ChannelError> {
        let mut written = self.writer.send(transaction, payload)?;
        if written == Written::Full {
            // The host may signal room as it signals packets: unmasked only.
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

    /// Signals the host. The device unmasks the interrupt on the way; it is
    /// masked again, for the channel says itself when it wants one.
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

    fn send(&mut self, reply: Reply<'_>) -> Result<Sent, ChannelError> {
        self.send_packet(reply.transaction, reply.payload)
    }

    fn arm(&mut self) -> bool {
        self.reader.arm()
    }

    fn pending(&mut self) -> bool {
        self.reader.pending()
    }

    fn acknowledge(&mut self) -> Result<(), ChannelError> {
        match self.doorbell.acknowledge() {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(io_error("reading the interrupt count")(error)),
        }
    }
}

/// Bytes of a system page, which is what a ring's header takes.
fn page_size() -> Result<usize, ChannelError> {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .map_err(|errno| io_error("sysconf")(errno.into()))?;
    usize::try_from(size.unwrap_or_default()).map_err(|_| {
        io_error("sysconf")(io::Error::other("the system states a negative page size"))
    })
}

#[cfg(test)]
mod tests;
