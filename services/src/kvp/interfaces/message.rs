//! Messages of rtnetlink as raw bytes: a header for each kind, and attributes, of which the decoder
//! reads the few that matter.

use netlink_packet_core::{
    DecodeError, NLA_HEADER_SIZE, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
    NlasIterator,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A message without the netlink header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// The message type, such as `RTM_NEWLINK`.
    pub(super) kind: u16,
    pub(super) body: Vec<u8>,
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            kind: header.message_type,
            body: payload.to_vec(),
        })
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

/// `ifinfomsg`: an interface.
#[derive(Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct LinkHeader {
    family: u8,
    padding: u8,
    /// The hardware type, such as `ARPHRD_ETHER`.
    pub(super) hardware: u16,
    pub(super) index: u32,
    pub(super) flags: u32,
    change: u32,
}

/// `ifaddrmsg`: an address.
#[derive(Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct AddressHeader {
    family: u8,
    pub(super) prefix: u8,
    pub(super) flags: u8,
    scope: u8,
    pub(super) index: u32,
}

/// `rtmsg`: a route.
#[derive(Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RouteHeader {
    pub(super) family: u8,
    pub(super) destination_prefix: u8,
    pub(super) source_prefix: u8,
    service: u8,
    pub(super) table: u8,
    protocol: u8,
    scope: u8,
    /// The route type, such as `RTN_UNICAST`.
    pub(super) kind: u8,
    pub(super) flags: u32,
}

/// `rtnexthop`: a next hop of a multipath route.
#[derive(Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct NextHopHeader {
    /// Length of this header and its attributes, in bytes.
    pub(super) length: u16,
    flags: u8,
    hops: u8,
    pub(super) index: u32,
}

/// Returns the kind and value of each attribute, up to the first that is truncated.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        let (kind, end) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(NLA_HEADER_SIZE..end)?))
    })
}
