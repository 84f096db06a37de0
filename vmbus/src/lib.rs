//! VMBus devices from user space, for programs in a Linux guest of Hyper-V.
//!
//! The host offers *devices*, each with a class and an instance GUID. A device that is
//! open is a *channel*: two rings in memory shared with the host, and an interrupt in
//! each direction. The kernel lends a channel to a program in two ways, which are both a
//! [`Channel`] here:
//!
//! - [`uio`]: the driver `uio_hv_generic` maps the rings into the process (`/dev/uioN`).
//!   This works for any device that no other driver needs. Packets carry what the host
//!   sent, and the program negotiates versions.
//! - [`hvutil`]: the driver `hv_utils` passes on the messages of an integration service
//!   (`/dev/vmbus/hv_*`), one at a time. The kernel negotiates versions.
//!
//! [`discovery`] lists the devices in sysfs, and binds one to `uio_hv_generic`. [`message`]
//! and [`ic`] decode and answer the messages of integration services. For a device that
//! speaks another protocol, use [`UioChannel::recv_packet`](uio::UioChannel::recv_packet)
//! and [`UioChannel::send_packet`](uio::UioChannel::send_packet). The crate does not log,
//! starts no threads, and allocates nothing for a message.
//!
//! # Opening a channel
//!
//! Opening `/dev/uioN` as root opens the channel, and closing the last descriptor closes
//! it. The kernel lets several programs open one device, although two readers of a ring
//! corrupt it: look at [`discovery::is_open`] before.
//!
//! ```no_run
//! use hyperv_vmbus::discovery::{self, Roots};
//! use hyperv_vmbus::uio::UioChannel;
//! use hyperv_vmbus::classes;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let roots = Roots::default();
//! let devices = discovery::devices(&roots)?;
//! let device = devices.iter().find(|device| device.class == classes::FILE_COPY);
//! let device = device.ok_or("the host offers no such device")?;
//! // After `bind_to_uio` the device has a `uio`, and its `ring_len` shortly after.
//! discovery::bind_to_uio(&roots, device)?;
//! let uio = device.uio.as_ref().ok_or("not bound to uio_hv_generic yet")?;
//! let ring_len = uio.ring_len.ok_or("not set up yet")?;
//! let channel = UioChannel::open(&roots.dev.join(&uio.name), ring_len)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Answering a message
//!
//! This example runs without Hyper-V. A file stands for the shared memory, a pair of
//! sockets for the interrupts, and [`ring`] makes the host's ends.
//!
//! ```
//! use std::io;
//! use std::os::fd::{AsFd, BorrowedFd};
//! use std::os::unix::net::UnixDatagram;
//!
//! use hyperv_vmbus::ic::{HEADER_LEN, MessageType, Status, Version};
//! use hyperv_vmbus::mapping::MappedRings;
//! use hyperv_vmbus::ring::{Reader, Writer};
//! use hyperv_vmbus::uio::{Doorbell, UioChannel};
//! use hyperv_vmbus::{Channel, Message, Sent};
//!
//! /// Stands for the file `/dev/uio0`.
//! struct Bell(UnixDatagram);
//!
//! impl Doorbell for Bell {
//!     fn as_fd(&self) -> BorrowedFd<'_> {
//!         self.0.as_fd()
//!     }
//!     fn acknowledge(&self) -> io::Result<()> {
//!         self.0.recv(&mut [0; 4]).map(drop)
//!     }
//!     fn signal(&self) -> io::Result<()> {
//!         self.0.send(&[1]).map(drop)
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Two rings of 16 KiB, each with a header page of 4 KiB.
//! let (ring_len, page) = (16 << 10, 4 << 10);
//! let memory = tempfile::tempfile()?;
//! memory.set_len(2 * ring_len as u64)?;
//! let (bell, host_bell) = UnixDatagram::pair()?;
//! bell.set_nonblocking(true)?;
//! let mut channel = UioChannel::new(Bell(bell), MappedRings::map(&memory, ring_len, page)?)?;
//!
//! // The host sends a request. Its header has the type and the size of the body.
//! let host = MappedRings::map(&memory, ring_len, page)?;
//! let mut request = vec![0; HEADER_LEN];
//! request[12..14].copy_from_slice(&MessageType::FILE_COPY.0.to_le_bytes());
//! request[18] = 12;
//! request.extend(b"a body of 12");
//! let _ = Writer::new(host.incoming)?.send(77, &request)?;
//! host_bell.send(&[1])?;
//!
//! // The guest answers what it finds.
//! let mut buffer = vec![0; channel.buffer_len()];
//! loop {
//!     while let Some(message) = channel.recv(&mut buffer)? {
//!         let reply = match message {
//!             Message::Request(mut request) => {
//!                 assert_eq!(request.body(), b"a body of 12");
//!                 request.body()[..6].copy_from_slice(b"answer");
//!                 request.reply(Status::OK)
//!             }
//!             Message::Negotiation(offer) => {
//!                 let (_outcome, reply) = offer.answer(&[Version::new(3, 0)], &[Version::new(1, 1)]);
//!                 reply
//!             }
//!             Message::Malformed(message) => match message.refuse() {
//!                 Some(reply) => reply,
//!                 None => continue,
//!             },
//!             _ => continue,
//!         };
//!         // `Sent::Full` asks to wait until the host has read, and to send again.
//!         assert_eq!(channel.send(reply)?, Sent::Done);
//!     }
//!     if !channel.arm() {
//!         // A driver waits for `channel.as_fd()` here.
//!         break;
//!     }
//! }
//!
//! // The host was signalled, and reads the reply.
//! host_bell.recv(&mut [0])?;
//! let received = Reader::new(host.outgoing)?.recv(&mut buffer)?.ok_or("no reply")?;
//! assert_eq!(received.header.transaction, 77);
//! let reply = &buffer[received.header.header_len..received.header.total_len];
//! assert_eq!(reply[20..24], Status::OK.0.to_le_bytes());
//! assert_eq!(reply[HEADER_LEN..], *b"answer of 12");
//! # Ok(())
//! # }
//! ```
//!
//! # What can fail
//!
//! The host's bytes are not trusted: each is copied out of shared memory once, and only
//! the copy is checked and used. A message that is malformed is
//! [`Message::Malformed`], and the channel lives. Any [`ChannelError`] ends a channel:
//! the host took the device away, an index or a packet in a ring is invalid, the kernel
//! refused a reply, or a system call failed. Drop the channel then, and open the device
//! again, with a backoff, if it still exists.
//!
//! Offsets, sizes and the differences between kernels are in `docs/protocol.md` of the
//! source tree; comments cite its sections.

pub mod channel;
pub mod classes;
pub mod discovery;
pub mod guid;
pub mod hvutil;
pub mod ic;
pub mod mapping;
pub mod message;
pub mod packet;
pub mod ring;
pub mod uio;

pub use channel::{Channel, ChannelError, Sent};
pub use guid::Guid;
pub use message::{Encoding, Message, Reply, Request};
