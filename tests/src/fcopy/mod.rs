//! The host's side of a file copy, over rings and over the char device.
//! Protocol section 5.

mod message;

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyperv_vmbus::ic::{Status, Version};

use crate::channel::HostChannel;
use crate::ic::{FILE_COPY, Reply, Request};
use crate::port::{Pipe, Port};
use crate::ring::{IN_BAND, Packet};
use crate::wait::until;
pub use message::{CHUNK, CREATE_PATH, OVERWRITE, Operation, Start};

/// How long a guest may take for a reply. The kernel gives it 30 seconds; a
/// COMPLETE waits for a disk.
pub const REPLY_TIME: Duration = Duration::from_secs(60);

/// Between two looks whether a program has registered.
const REGISTER_PAUSE: Duration = Duration::from_millis(100);

/// Hosts that spoke through a driver so far, and one.
static HOSTS: AtomicU64 = AtomicU64::new(1);

/// Where a message has its transaction id.
const ID_AT: usize = 24;

/// The packet transaction of a program that does not give the request's back,
/// as the stock UIO daemon does not; hosts go by the message's id then.
const NO_TRANSACTION: u64 = u64::MAX;

/// A host that copies files to a guest, from when the guest has opened its
/// device.
pub struct FcopyHost {
    link: Link,
    /// The other end of the rings is the guest's driver, not the program.
    kernel: bool,
    next: u64,
    waiting: VecDeque<Waiting>,
    messages: u64,
}

enum Link {
    Rings(HostChannel),
    Device(Arc<dyn Pipe>),
}

/// A request whose reply has not come.
struct Waiting {
    transaction: u64,
    message: Vec<u8>,
}

impl Waiting {
    fn is_answered_by(&self, packet: &Packet) -> bool {
        match packet.transaction {
            NO_TRANSACTION => self.message.get(ID_AT) == packet.payload.get(ID_AT),
            transaction => transaction == self.transaction,
        }
    }
}

impl FcopyHost {
    /// Takes over an opened device without a word to the guest.
    pub fn new(port: Port) -> Self {
        let kernel = matches!(port, Port::Kernel(_));
        Self {
            link: match port {
                Port::Uio(port) | Port::Kernel(port) => Link::Rings(HostChannel::new(port)),
                Port::HvUtil(pipe) => Link::Device(pipe),
            },
            kernel,
            // A driver's channel outlives the program, and may still answer
            // what another host asked: no two hosts use the same numbers.
            next: match kernel {
                true => HOSTS.fetch_add(1, Ordering::Relaxed) << 32,
                false => 1,
            },
            waiting: VecDeque::new(),
            messages: 0,
        }
    }

    /// Takes over an opened device and settles the versions, or lets the guest
    /// register.
    ///
    /// # Errors
    ///
    /// Where the guest does not take part as it should.
    pub fn connect(port: Port) -> Result<Self> {
        let mut host = Self::new(port);
        match &host.link {
            Link::Rings(_) => {
                let settled = host.negotiate(&FRAMEWORKS, &MESSAGES)?;
                let expected = (Version::new(3, 0), Version::new(1, 1));
                ensure!(
                    settled == Some(expected),
                    "expected the guest to settle on framework 3.0 and messages 1.1; it chose {settled:?}"
                );
                if host.kernel {
                    host.wait_for_program()?;
                }
            }
            Link::Device(pipe) => {
                let registration = pipe
                    .recv(REPLY_TIME)?
                    .context("expected the guest to register; it wrote nothing")?;
                ensure!(
                    registration == 1u32.to_le_bytes(),
                    "expected the registration [1, 0, 0, 0]; the guest wrote {registration:?}"
                );
                pipe.send(&1u32.to_le_bytes())?;
            }
        }
        Ok(host)
    }

    /// Waits until the program has registered with the guest's driver, which
    /// fails every request until then. A CANCEL of nothing harms nothing.
    fn wait_for_program(&mut self) -> Result<()> {
        until(REPLY_TIME, "the program to register", || {
            let status = self.request(&Operation::Cancel)?;
            if status == Status::FAIL {
                std::thread::sleep(REGISTER_PAUSE);
                return Ok(None);
            }
            Ok(Some(()))
        })
    }

    /// Offers versions, and gives what the guest chose.
    ///
    /// # Errors
    ///
    /// Where the guest does not answer, not with a negotiation's reply, or with
    /// a failure.
    pub fn negotiate(
        &mut self,
        frameworks: &[Version],
        messages: &[Version],
    ) -> Result<Option<(Version, Version)>> {
        let request = Request::negotiation(self.id(), frameworks, messages)?;
        self.submit(request.encode())?;
        self.reply()?.settled()
    }

    /// The channel beneath.
    ///
    /// # Errors
    ///
    /// Where there is a char device instead.
    pub fn channel(&mut self) -> Result<&mut HostChannel> {
        match &mut self.link {
            Link::Rings(channel) => Ok(channel),
            Link::Device(_) => bail!("a char device has no rings"),
        }
    }

    /// The char device beneath.
    ///
    /// # Errors
    ///
    /// Where there are rings instead.
    pub fn pipe(&self) -> Result<&Arc<dyn Pipe>> {
        match &self.link {
            Link::Device(pipe) => Ok(pipe),
            Link::Rings(_) => bail!("a channel with rings has no char device"),
        }
    }

    /// Requests that were sent so far.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Requests whose reply has not been taken.
    pub fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    /// The message id of the next request.
    pub fn id(&self) -> u8 {
        self.next.to_le_bytes()[0]
    }

    /// Sends a request without waiting for its reply.
    ///
    /// # Errors
    ///
    /// Where the guest does not take it.
    pub fn send(&mut self, operation: &Operation) -> Result<()> {
        let message = match &self.link {
            Link::Rings(_) => {
                Request::new(FILE_COPY, self.id(), operation.encode_utf16())?.encode()
            }
            Link::Device(_) => operation.encode_utf8(),
        };
        self.submit(message)
    }

    /// Sends a message as it is; its reply will be waited for.
    ///
    /// # Errors
    ///
    /// Where the guest does not take it.
    pub fn submit(&mut self, message: Vec<u8>) -> Result<()> {
        let transaction = self.next;
        match &mut self.link {
            Link::Rings(channel) => {
                channel.send(&Packet::in_band(transaction, &message), REPLY_TIME)?;
            }
            Link::Device(pipe) => {
                ensure!(
                    self.waiting.is_empty(),
                    "a char device carries one request at a time"
                );
                pipe.send(&message)?;
            }
        }
        self.next += 1;
        self.messages += 1;
        self.waiting.push_back(Waiting {
            transaction,
            message,
        });
        Ok(())
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    ///
    /// Where none comes in time, or what comes is none.
    pub fn reply(&mut self) -> Result<Reply> {
        ensure!(!self.waiting.is_empty(), "no request is in flight");
        match &mut self.link {
            Link::Rings(channel) => loop {
                let packet = channel.recv(REPLY_TIME)?.with_context(|| {
                    format!("expected a reply within {REPLY_TIME:?}; none came")
                })?;
                ensure!(
                    packet.kind == IN_BAND,
                    "expected an in-band packet; its type is {}",
                    packet.kind
                );
                let place = self
                    .waiting
                    .iter()
                    .position(|waiting| waiting.is_answered_by(&packet));
                if place.is_none() && self.kernel {
                    continue;
                }
                let place = place.with_context(|| {
                    format!(
                        "a reply to transaction {}, which is not in flight",
                        packet.transaction
                    )
                })?;
                let request = self.waiting.remove(place).context("it was just found")?;
                break Reply::to(&request.message, &packet.payload);
            },
            Link::Device(pipe) => {
                let reply = pipe.recv(REPLY_TIME)?.with_context(|| {
                    format!("expected a reply within {REPLY_TIME:?}; none came")
                })?;
                self.waiting.pop_front();
                let status: [u8; 4] = reply.as_slice().try_into().with_context(|| {
                    format!("expected a reply of 4 bytes; it has {}", reply.len())
                })?;
                Ok(Reply {
                    status: Status(u32::from_le_bytes(status)),
                    body: Vec::new(),
                })
            }
        }
    }

    /// Sends a request and waits for how it went.
    ///
    /// # Errors
    ///
    /// Where the guest does not answer as it should; a failure that it states
    /// is not an error.
    pub fn request(&mut self, operation: &Operation) -> Result<Status> {
        self.send(operation)?;
        Ok(self.reply()?.status)
    }

    /// Copies what `source` gives, with up to `in_flight` requests at a time,
    /// telling `progress` how many bytes the guest has taken. A request that
    /// the guest declines ends the copy with a CANCEL. A char device has one
    /// request at a time, and so has the kernel's driver: it drops a reply that
    /// finds no room in the ring.
    ///
    /// # Errors
    ///
    /// Where the guest does not answer as it should, or `source` fails.
    pub fn copy(
        &mut self,
        start: &Start,
        source: &mut dyn Read,
        in_flight: usize,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Status> {
        let status = self.request(&Operation::Start(start.clone()))?;
        if status != Status::OK {
            return Ok(status);
        }
        let in_flight = match self.link {
            Link::Rings(_) if !self.kernel => in_flight.max(1),
            Link::Rings(_) | Link::Device(_) => 1,
        };
        let (mut offset, mut at_end) = (0u64, false);
        let mut sizes = VecDeque::new();
        let mut taken = 0u64;
        let mut declined = Status::OK;
        let mut chunk = vec![0; CHUNK];
        while !at_end || self.in_flight() > 0 {
            if !at_end && declined == Status::OK && self.in_flight() < in_flight {
                let len = fill(source, &mut chunk)?;
                at_end = len < CHUNK;
                if len > 0 {
                    let data = chunk.get(..len).unwrap_or_default();
                    self.send(&Operation::write(offset, data))?;
                    offset += len as u64;
                    sizes.push_back(len as u64);
                }
                continue;
            }
            if self.in_flight() == 0 {
                break;
            }
            let status = self.reply()?.status;
            taken += sizes.pop_front().unwrap_or_default();
            if status == Status::OK {
                progress(taken);
            } else if declined == Status::OK {
                declined = status;
            }
        }
        if declined != Status::OK {
            self.request(&Operation::Cancel)?;
            return Ok(declined);
        }
        self.request(&Operation::Complete)
    }
}

/// The framework versions that a host offers.
pub const FRAMEWORKS: [Version; 2] = [Version::new(1, 0), Version::new(3, 0)];

/// The message versions that a host offers for file copies.
pub const MESSAGES: [Version; 1] = [Version::new(1, 1)];

/// Reads until the buffer is full or the source at its end.
fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("reading what is to be copied"),
        }
    }
    Ok(filled)
}
