//! The host's end of one device: bytes of requests go out, replies come back with what
//! carried them.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::Version;

use crate::channel::HostChannel;
use crate::fcopy::Fcopy;
use crate::host::{FRAMEWORK, Protocol, REPLY_TIME, Service};
use crate::ic::{Reply, Request};
use crate::kvp::Kvp;
use crate::port::{Pipe, Port};
use crate::ring::{IN_BAND, Packet};
use crate::vss::Vss;

/// What a host knows of a service.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// Its devices.
    pub(super) service: Service,
    /// Type of its messages.
    pub(super) kind: u16,
    /// The message version for requests that a kernel has passed on.
    pub(super) kernel_version: Version,
    /// Bytes of a reply on the character device.
    pub(super) reply_len: usize,
    register: fn(&[u8]) -> Result<Vec<u8>>,
}

impl Terms {
    /// Those of the service with this name.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(super) fn of(name: &str) -> Result<Self> {
        fn of<P: Protocol>() -> Terms {
            Terms {
                service: P::SERVICE,
                kind: P::KIND,
                kernel_version: P::KERNEL_VERSION,
                reply_len: P::REPLY_LEN,
                register: P::register,
            }
        }
        let all = [of::<Fcopy>(), of::<Kvp>(), of::<Vss>()];
        let found = all.into_iter().find(|terms| terms.service.name == name);
        found.with_context(|| format!("the capture has a service {name:?}, which is not known"))
    }
}

/// The packet of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) transaction: u64,
}

/// An open device.
pub(super) struct Link {
    pub(super) terms: Terms,
    line: Line,
    /// The versions in use; over a character device they are the kernel's affair.
    pub(super) versions: Option<(Version, Version)>,
    /// Of the last request that the capture does not have.
    transaction: u64,
}

enum Line {
    Rings(HostChannel),
    Device(Arc<dyn Pipe>),
}

/// Transactions of requests that the capture does not have.
const OWN_TRANSACTIONS: u64 = 1 << 63;

impl Link {
    /// Takes over a device that the guest has opened, and lets it register on a character
    /// device.
    ///
    /// # Errors
    ///
    /// If the guest does not register as it should.
    pub(super) fn new(terms: Terms, port: Port) -> Result<Self> {
        let line = match port {
            Port::Uio(port) | Port::Kernel(port) => Line::Rings(HostChannel::new(port)),
            Port::HvUtil(pipe) => {
                let registration = pipe.recv(REPLY_TIME)?;
                let registration =
                    registration.context("expected the guest to register; it wrote nothing")?;
                pipe.send(&(terms.register)(&registration)?)?;
                Line::Device(pipe)
            }
        };
        Ok(Self {
            terms,
            line,
            versions: None,
            transaction: OWN_TRANSACTIONS,
        })
    }

    /// How texts are encoded in its messages.
    pub(super) fn encoding(&self) -> Encoding {
        match self.line {
            Line::Rings(_) => Encoding::Utf16,
            Line::Device(_) => Encoding::Utf8,
        }
    }

    /// Whether it has rings.
    pub(super) fn has_rings(&self) -> bool {
        matches!(self.line, Line::Rings(_))
    }

    /// The message version that requests are in.
    pub(super) fn version(&self) -> Version {
        self.versions
            .map_or(self.terms.kernel_version, |(_, version)| version)
    }

    /// Over rings, lets the guest choose these versions of framework and messages, those
    /// of the kernel's driver if there are none.
    ///
    /// # Errors
    ///
    /// If it does not choose them.
    pub(super) fn negotiate(&mut self, versions: Option<(Version, Version)>) -> Result<()> {
        if self.encoding() == Encoding::Utf8 {
            return Ok(());
        }
        let (framework, version) = versions.unwrap_or((FRAMEWORK, self.terms.kernel_version));
        let request = Request::negotiation(0, &[framework], &[version])?.encode();
        let header = self.own_header();
        self.send(header, &request)?;
        let (transaction, reply) = self.receive()?;
        ensure!(
            transaction == header.transaction,
            "expected the reply to a negotiation; the one to transaction {transaction} came"
        );
        self.versions = Reply::to(&request, &reply)?.settled()?;
        ensure!(
            self.versions == Some((framework, version)),
            "the guest speaks no framework {framework} with messages {version}, as the capture has them"
        );
        Ok(())
    }

    /// The header of a request that the capture has none for.
    pub(super) fn own_header(&mut self) -> Header {
        self.transaction += 1;
        Header {
            kind: IN_BAND,
            flags: 1,
            transaction: self.transaction,
        }
    }

    /// Puts the body of a request into a message.
    ///
    /// # Errors
    ///
    /// If it is too long for one.
    pub(super) fn message(&self, body: Vec<u8>) -> Result<Vec<u8>> {
        if self.encoding() == Encoding::Utf8 {
            return Ok(body);
        }
        let id = self.transaction.to_le_bytes()[0];
        let mut request = Request::new(self.terms.kind, id, body)?;
        if let Some((framework, version)) = self.versions {
            (request.framework, request.version) = (framework, version);
        }
        Ok(request.encode())
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// If the guest does not take it in time.
    pub(super) fn send(&mut self, header: Header, message: &[u8]) -> Result<()> {
        match &mut self.line {
            Line::Rings(channel) => {
                let packet = Packet {
                    kind: header.kind,
                    flags: header.flags,
                    ..Packet::in_band(header.transaction, message)
                };
                channel.send(&packet, REPLY_TIME)
            }
            Line::Device(pipe) => pipe.send(message),
        }
    }

    /// Waits for a reply, and returns it with its transaction, which is 0 on a character
    /// device.
    ///
    /// # Errors
    ///
    /// If none comes in time.
    pub(super) fn receive(&mut self) -> Result<(u64, Vec<u8>)> {
        let received = match &mut self.line {
            Line::Rings(channel) => {
                let packet = channel.recv(REPLY_TIME)?;
                packet.map(|packet| (packet.transaction, packet.payload))
            }
            Line::Device(pipe) => pipe.recv(REPLY_TIME)?.map(|reply| (0, reply)),
        };
        match received {
            Some(received) => Ok(received),
            None => bail!("expected a reply within {REPLY_TIME:?}; none came"),
        }
    }
}
