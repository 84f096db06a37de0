//! The host's side of one service, over rings or over the character device: it connects,
//! negotiates versions, sends requests and matches their replies. [`crate::fcopy`],
//! [`crate::kvp`] and [`crate::vss`] have the messages.

use std::collections::VecDeque;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::{Status, Version};

use crate::channel::HostChannel;
use crate::ic::{Reply, Request};
use crate::port::{Offer, Pipe, Port};
use crate::ring::{IN_BAND, Packet};
use crate::wait::until;

/// How long a guest may take for a reply. The kernel waits 30 seconds; the
/// end of a file copy waits for a disk.
pub const REPLY_TIME: Duration = Duration::from_secs(60);

/// The framework versions that a host offers.
pub const FRAMEWORKS: [Version; 2] = [Version::new(1, 0), Version::new(3, 0)];

/// The framework version that a guest is to choose.
pub const FRAMEWORK: Version = Version::new(3, 0);

/// Between two looks whether a program has registered.
const REGISTER_PAUSE: Duration = Duration::from_millis(100);

/// Hosts that spoke through a driver so far, and one.
static HOSTS: AtomicU64 = AtomicU64::new(1);

/// Where a message has its transaction id.
const ID_AT: usize = 24;

/// The packet transaction of a program that does not give the request's back,
/// as the stock UIO daemon does not; hosts go by the message's id then.
const NO_TRANSACTION: u64 = u64::MAX;

/// The devices of a service. Protocol section 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// Its name, as in the agent's flags.
    pub name: &'static str,
    /// Class of its VMBus device.
    pub class: Guid,
    /// Instance of its VMBus device, the same on every host.
    pub instance: Guid,
    /// Its character device, below `/dev`.
    pub node: &'static str,
}

impl Service {
    /// Its device, bound to `uio_hv_generic` as `/dev/uioN`.
    pub fn uio(&self, number: u32, ring_len: usize) -> Offer {
        Offer::Uio {
            class: self.class,
            instance: self.instance,
            number,
            ring_len,
        }
    }

    /// Its device, held by `hv_utils`.
    pub fn hvutil(&self) -> Offer {
        Offer::HvUtil {
            class: self.class,
            instance: self.instance,
            node: self.node,
        }
    }
}

/// What a host says to a service, and how.
pub trait Protocol {
    /// The service.
    const SERVICE: Service;

    /// Type of its messages.
    const KIND: u16;

    /// The message versions that a host offers.
    const VERSIONS: &'static [Version];

    /// The message version that the agent is to choose.
    const VERSION: Version;

    /// The message version that the guest's kernel is to choose.
    const KERNEL_VERSION: Version = Self::VERSION;

    /// Bytes of a reply over the char device. The first four are the status.
    const REPLY_LEN: usize;

    /// What the host asks.
    type Operation;

    /// A request that harms nothing, for seeing whether a program answers.
    const HARMLESS: Self::Operation;

    /// A request's body as it travels over rings in this version.
    fn encode_utf16(operation: &Self::Operation, version: Version) -> Vec<u8>;

    /// A request as the kernel hands it to the char device.
    fn encode_utf8(operation: &Self::Operation) -> Vec<u8>;

    /// What the kernel answers to this registration.
    ///
    /// # Errors
    ///
    /// If it is none.
    fn register(registration: &[u8]) -> Result<Vec<u8>>;
}

/// A host that speaks with a service, from when the guest has opened its device.
pub struct ServiceHost<P> {
    link: Link,
    /// The other end of the rings is the guest's driver, not the program.
    kernel: bool,
    /// The message version of the last negotiation over rings.
    version: Version,
    next: u64,
    waiting: VecDeque<Waiting>,
    messages: u64,
    /// Requests are sent without a look at replies, however long room is waited
    /// for.
    pub alone: bool,
    protocol: PhantomData<P>,
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

/// Where each message is kept that a host sends, for fuzzing.
static KEPT: OnceLock<PathBuf> = OnceLock::new();

/// Keeps each message that a host sends from now on in a file of this directory.
pub fn keep_messages(directory: PathBuf) {
    let _ = KEPT.set(directory);
}

/// Keeps a message, in a directory for its service and the way it goes.
fn keep(service: &str, link: &Link, message: &[u8]) -> Result<()> {
    let Some(directory) = KEPT.get() else {
        return Ok(());
    };
    let way = match link {
        Link::Rings(_) => "rings",
        Link::Device(_) => "device",
    };
    let directory = directory.join(format!("{service}-{way}"));
    let mut name = DefaultHasher::new();
    message.hash(&mut name);
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(directory.join(format!("{:016x}", name.finish())), message))
        .with_context(|| format!("keeping messages in {}", directory.display()))
}

impl<P: Protocol> ServiceHost<P> {
    /// Takes over an opened device without a word to the guest.
    pub fn new(port: Port) -> Self {
        let kernel = matches!(port, Port::Kernel(_));
        Self {
            link: match port {
                Port::Uio(port) | Port::Kernel(port) => Link::Rings(HostChannel::new(port)),
                Port::HvUtil(pipe) => Link::Device(pipe),
            },
            kernel,
            version: P::VERSION,
            // A driver's channel outlives the program, and may still answer
            // what another host asked: no two hosts use the same numbers.
            next: match kernel {
                true => HOSTS.fetch_add(1, Ordering::Relaxed) << 32,
                false => 1,
            },
            waiting: VecDeque::new(),
            messages: 0,
            alone: false,
            protocol: PhantomData,
        }
    }

    /// Takes over an opened device and negotiates the versions, or lets the guest
    /// register.
    ///
    /// # Errors
    ///
    /// If the guest does not take part as it should.
    pub fn connect(port: Port) -> Result<Self> {
        Self::connect_with(port, &P::HARMLESS)
    }

    /// The same, where a program with a driver of the guest's kernel in between is sent
    /// this request until it has registered: not every program survives
    /// [`Protocol::HARMLESS`].
    ///
    /// # Errors
    ///
    /// As [`ServiceHost::connect`].
    pub fn connect_with(port: Port, harmless: &P::Operation) -> Result<Self> {
        let mut host = Self::new(port);
        match &host.link {
            Link::Rings(_) => {
                let chosen = host.negotiate(&FRAMEWORKS, P::VERSIONS)?;
                let expected = match host.kernel {
                    true => (FRAMEWORK, P::KERNEL_VERSION),
                    false => (FRAMEWORK, P::VERSION),
                };
                ensure!(
                    chosen == Some(expected),
                    "expected the guest to choose framework and messages {expected:?}; it chose {chosen:?}"
                );
                if host.kernel {
                    host.wait_for_program(harmless)?;
                }
            }
            Link::Device(pipe) => {
                let registration = pipe
                    .recv(REPLY_TIME)?
                    .context("expected the guest to register; it wrote nothing")?;
                pipe.send(&P::register(&registration)?)?;
            }
        }
        Ok(host)
    }

    /// Waits until the program has registered with the guest's driver, which
    /// fails every request until then, or leaves it in the ring. Protocol section
    /// 6.3.
    fn wait_for_program(&mut self, harmless: &P::Operation) -> Result<()> {
        until(REPLY_TIME, "the program to register", || {
            let status = self.request(harmless)?;
            if status == Status::FAIL {
                std::thread::sleep(REGISTER_PAUSE);
                return Ok(None);
            }
            Ok(Some(()))
        })
    }

    /// Offers versions, and returns what the guest chose, in which the requests are from now
    /// on.
    ///
    /// # Errors
    ///
    /// If the guest does not answer, not with a negotiation's reply, or with
    /// a failure.
    pub fn negotiate(
        &mut self,
        frameworks: &[Version],
        messages: &[Version],
    ) -> Result<Option<(Version, Version)>> {
        let request = Request::negotiation(self.id(), frameworks, messages)?;
        self.submit(request.encode())?;
        let chosen = self.reply()?.settled()?;
        if let Some((_, version)) = chosen {
            self.version = version;
        }
        Ok(chosen)
    }

    /// The channel beneath.
    ///
    /// # Errors
    ///
    /// If there is a char device instead.
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
    /// If there are rings instead.
    pub fn pipe(&self) -> Result<&Arc<dyn Pipe>> {
        match &self.link {
            Link::Device(pipe) => Ok(pipe),
            Link::Rings(_) => bail!("a channel with rings has no char device"),
        }
    }

    /// Whether the program itself has the other end of rings.
    pub fn has_rings(&self) -> bool {
        matches!(self.link, Link::Rings(_)) && !self.kernel
    }

    /// Whether what goes over the link is UTF-16.
    pub(crate) fn speaks_utf16(&self) -> bool {
        matches!(self.link, Link::Rings(_))
    }

    /// The message version of the last negotiation over rings.
    pub fn version(&self) -> Version {
        self.version
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
    /// If the guest does not take it.
    pub fn send(&mut self, operation: &P::Operation) -> Result<()> {
        match &self.link {
            Link::Rings(_) => self.send_body(P::encode_utf16(operation, self.version)),
            Link::Device(_) => self.submit(P::encode_utf8(operation)),
        }
    }

    /// Sends the body of a request over rings, whatever it says.
    ///
    /// # Errors
    ///
    /// If the guest does not take it.
    pub fn send_body(&mut self, body: Vec<u8>) -> Result<()> {
        let mut request = Request::new(P::KIND, self.id(), body)?;
        request.version = self.version;
        self.submit(request.encode())
    }

    /// Sends a message as it is; its reply will be waited for.
    ///
    /// # Errors
    ///
    /// If the guest does not take it.
    pub fn submit(&mut self, message: Vec<u8>) -> Result<()> {
        let transaction = self.next;
        keep(P::SERVICE.name, &self.link, &message)?;
        match &mut self.link {
            Link::Rings(channel) => {
                let packet = Packet::in_band(transaction, &message);
                match self.alone {
                    true => channel.send_alone(&packet, REPLY_TIME)?,
                    false => channel.send(&packet, REPLY_TIME)?,
                }
            }
            Link::Device(pipe) => {
                ensure!(
                    self.waiting.is_empty(),
                    "a char device carries one request at a time"
                );
                pipe.send(&message)?;
            }
        }
        self.expect(message);
        Ok(())
    }

    /// Notes that this request is in flight.
    fn expect(&mut self, message: Vec<u8>) {
        self.waiting.push_back(Waiting {
            transaction: self.next,
            message,
        });
        self.next += 1;
        self.messages += 1;
    }

    /// Sends requests and waits for their replies, with a sender and a receiver
    /// that know nothing of each other.
    ///
    /// # Errors
    ///
    /// If the guest does not answer each, or there are no rings.
    pub fn exchange(&mut self, operations: &[P::Operation]) -> Result<Vec<Reply>> {
        let mut packets = Vec::new();
        for operation in operations {
            let body = P::encode_utf16(operation, self.version);
            let mut request = Request::new(P::KIND, self.id(), body)?;
            request.version = self.version;
            packets.push(Packet::in_band(self.next, &request.encode()));
            self.expect(request.encode());
        }
        let replies = self.channel()?.exchange(&packets, REPLY_TIME)?;
        replies
            .iter()
            .map(|packet| {
                let request = self.waiting.pop_front().context("a reply too many")?;
                ensure!(
                    request.is_answered_by(packet),
                    "expected the reply to transaction {}; that to {} came",
                    request.transaction,
                    packet.transaction
                );
                Reply::to(&request.message, &packet.payload)
            })
            .collect()
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    ///
    /// If none comes in time, or what comes is none.
    pub fn reply(&mut self) -> Result<Reply> {
        let reply = self.reply_within(REPLY_TIME)?;
        reply.with_context(|| format!("expected a reply within {REPLY_TIME:?}; none came"))
    }

    /// The next reply, if one comes in this time.
    ///
    /// # Errors
    ///
    /// If what comes is none, or no request is in flight.
    pub fn reply_within(&mut self, time: Duration) -> Result<Option<Reply>> {
        ensure!(!self.waiting.is_empty(), "no request is in flight");
        match &mut self.link {
            Link::Rings(channel) => loop {
                let Some(packet) = channel.recv(time)? else {
                    break Ok(None);
                };
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
                break Reply::to(&request.message, &packet.payload).map(Some);
            },
            Link::Device(pipe) => {
                let Some(reply) = pipe.recv(time)? else {
                    return Ok(None);
                };
                self.waiting.pop_front();
                ensure!(
                    reply.len() == P::REPLY_LEN,
                    "expected a reply of {} bytes; it has {}",
                    P::REPLY_LEN,
                    reply.len()
                );
                let (status, body) = reply.split_first_chunk().context("a reply has a status")?;
                Ok(Some(Reply {
                    status: Status(u32::from_le_bytes(*status)),
                    body: body.to_vec(),
                }))
            }
        }
    }

    /// Sends a request and waits for the reply.
    ///
    /// # Errors
    ///
    /// If the guest does not answer as it should; a failure that it states
    /// is not an error.
    pub fn call(&mut self, operation: &P::Operation) -> Result<Reply> {
        self.send(operation)?;
        self.reply()
    }

    /// Sends a request and waits for how it went.
    ///
    /// # Errors
    ///
    /// As for [`ServiceHost::call`].
    pub fn request(&mut self, operation: &P::Operation) -> Result<Status> {
        Ok(self.call(operation)?.status)
    }
}
