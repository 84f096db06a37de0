//! Messages between guest and host on the VMBus connection: layouts only. Each
//! is a header and, for most types, a body; all are packed and little-endian.

use hyperv_vmbus::Guid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes that a message has at most.
pub const LONGEST: usize = 240;

/// The SynIC's type of every message on this connection.
pub const SYNIC_TYPE: u32 = 1;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Kind(pub u32);

#[expect(missing_docs)]
impl Kind {
    pub const OFFER: Self = Self(1);
    pub const RESCIND: Self = Self(2);
    pub const REQUEST_OFFERS: Self = Self(3);
    pub const ALL_OFFERS_DELIVERED: Self = Self(4);
    pub const OPEN: Self = Self(5);
    pub const OPEN_RESULT: Self = Self(6);
    pub const CLOSE: Self = Self(7);
    pub const GPADL_HEADER: Self = Self(8);
    pub const GPADL_BODY: Self = Self(9);
    pub const GPADL_CREATED: Self = Self(10);
    pub const GPADL_TEARDOWN: Self = Self(11);
    pub const GPADL_TORN_DOWN: Self = Self(12);
    pub const RELID_RELEASED: Self = Self(13);
    pub const INITIATE_CONTACT: Self = Self(14);
    pub const VERSION_RESPONSE: Self = Self(15);
    pub const UNLOAD: Self = Self(16);
    pub const UNLOAD_RESPONSE: Self = Self(17);
    pub const MODIFY: Self = Self(22);
    pub const MODIFY_RESPONSE: Self = Self(24);
}

macro_rules! wire {
    ($($(#[$doc:meta])* $name:ident $size:literal { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
        #[repr(C)]
        pub struct $name {
            $($(#[$fdoc])* pub $field: $type,)*
        }
        const _: () = assert!(size_of::<$name>() == $size);
    )*};
}

wire! {
    /// In front of every message.
    Header 8 {
        /// A [`Kind`].
        kind: U32,
        /// Nothing.
        reserved: U32,
    }
    /// The guest asks for a version.
    InitiateContact 32 {
        /// Major version in the upper half.
        version: U32,
        /// Where the host's messages are to go.
        target_vp: U32,
        /// Before 5.0 the address of the interrupt page; from then on the
        /// SINT, the virtual trust level and features, from the lowest byte.
        page_or_sint: U64,
        /// Address of the monitor page that the host writes.
        host_monitor: U64,
        /// Address of the monitor page that the guest writes.
        guest_monitor: U64,
    }
    /// The host takes the version or does not.
    VersionResponse 8 {
        /// 1 where it does.
        supported: u8,
        /// 0 where the connection stands.
        state: u8,
        /// Nothing.
        reserved: U16,
        /// From 5.0 on, where the guest is to send its messages.
        connection: U32,
    }
    /// A device.
    Offer 188 {
        /// Its class.
        class: [u8; 16],
        /// Its instance.
        instance: [u8; 16],
        /// Nothing.
        reserved: [u8; 16],
        /// See [`PIPE_FLAGS`].
        flags: U16,
        /// Megabytes of memory-mapped I/O.
        mmio: U16,
        /// How a pipe carries its messages; see [`PIPE_MESSAGES`].
        pipe_mode: U32,
        /// What the device's kind defines.
        user: [u8; 116],
        /// Which channel of the device it is.
        sub_channel: U16,
        /// Nothing.
        reserved2: U16,
        /// How the channel is named from now on.
        relid: U32,
        /// Which monitor is its.
        monitor: u8,
        /// Whether it has one.
        monitored: u8,
        /// Whether events go to `connection`.
        dedicated: U16,
        /// Where the guest signals.
        connection: U32,
    }
    /// Only the channel: of RESCIND, RELID_RELEASED and CLOSE.
    Channel 4 {
        /// The channel.
        relid: U32,
    }
    /// Begins a list of pages; ranges and page numbers follow.
    GpadlHeader 12 {
        /// The channel.
        relid: U32,
        /// How the list is named from now on.
        gpadl: U32,
        /// Bytes of ranges and page numbers in all.
        len: U16,
        /// Ranges.
        ranges: U16,
    }
    /// A range of bytes; page numbers follow.
    Range 8 {
        /// Bytes.
        len: U32,
        /// Where it begins in its first page.
        offset: U32,
    }
    /// Goes on with a list of pages; page numbers follow.
    GpadlBody 8 {
        /// Counts from 1.
        number: U32,
        /// The list.
        gpadl: U32,
    }
    /// The list of pages is taken or not.
    GpadlCreated 12 {
        /// The channel.
        relid: U32,
        /// The list.
        gpadl: U32,
        /// 0, or why not.
        status: U32,
    }
    /// The guest takes a list back.
    GpadlTeardown 8 {
        /// The channel.
        relid: U32,
        /// The list.
        gpadl: U32,
    }
    /// The host has forgotten a list.
    GpadlTornDown 4 {
        /// The list.
        gpadl: U32,
    }
    /// The guest opens a channel.
    Open 140 {
        /// The channel.
        relid: U32,
        /// Ties the answer to the request.
        id: U32,
        /// The rings' pages.
        gpadl: U32,
        /// Where the host's interrupts are to go.
        target_vp: U32,
        /// At which page the ring to the guest begins.
        incoming_page: U32,
        /// What the device's kind defines.
        user: [u8; 120],
    }
    /// The channel is open or not.
    OpenResult 12 {
        /// The channel.
        relid: U32,
        /// That of the request.
        id: U32,
        /// 0, or why not.
        status: U32,
    }
    /// The guest wants a channel's interrupts elsewhere.
    Modify 8 {
        /// The channel.
        relid: U32,
        /// Where they are to go.
        target_vp: U32,
    }
    /// They go there now, or not.
    ModifyResponse 8 {
        /// The channel.
        relid: U32,
        /// 0, or why not.
        status: U32,
    }
}

/// Flags of the offer of a pipe: its class is enumerated, it is a named pipe.
pub const PIPE_FLAGS: u16 = 0x11;

/// A pipe that keeps messages apart.
pub const PIPE_MESSAGES: u32 = 4;

/// Status of what the host does not do.
pub const UNSUCCESSFUL: u32 = 0xc000_0001;

impl Offer {
    /// The first channel of a pipe with a dedicated event connection and
    /// without a monitor.
    pub fn pipe(class: Guid, instance: Guid, relid: u32, connection: u32) -> Self {
        let mut offer = Self::new_zeroed();
        offer.class = wire_guid(class);
        offer.instance = wire_guid(instance);
        offer.flags = PIPE_FLAGS.into();
        offer.pipe_mode = PIPE_MESSAGES.into();
        offer.relid = relid.into();
        offer.dedicated = 1.into();
        offer.connection = connection.into();
        offer
    }
}

/// A GUID as messages have it: its first three groups are little-endian.
pub fn wire_guid(guid: Guid) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = guid.to_u128().to_be_bytes();
    let mut bytes = [d, c, b, a, f, e, h, g, 0, 0, 0, 0, 0, 0, 0, 0];
    for (to, from) in bytes.iter_mut().skip(8).zip(rest) {
        *to = from;
    }
    bytes
}

/// A message with a body.
pub fn encode(kind: Kind, body: &(impl IntoBytes + Immutable)) -> Vec<u8> {
    let header = Header {
        kind: kind.0.into(),
        reserved: 0.into(),
    };
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(body.as_bytes());
    bytes
}

/// What a message is, and what follows its header; `None` if it is shorter.
pub fn split(message: &[u8]) -> Option<(Kind, &[u8])> {
    let (header, rest) = Header::read_from_prefix(message).ok()?;
    Some((Kind(header.kind.get()), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_turned_in_its_first_groups() {
        let guid = Guid::from_u128(0x34d14be3_dee4_41c8_9ae7_6b174977c192);
        assert_eq!(
            wire_guid(guid),
            [
                0xe3, 0x4b, 0xd1, 0x34, 0xe4, 0xde, 0xc8, 0x41, 0x9a, 0xe7, 0x6b, 0x17, 0x49, 0x77,
                0xc1, 0x92
            ]
        );
    }

    #[test]
    fn every_message_fits() {
        assert_eq!(encode(Kind::OFFER, &Offer::new_zeroed()).len(), 196);
        assert_eq!(encode(Kind::OPEN, &Open::new_zeroed()).len(), 148);
        assert!(split(&[14, 0, 0, 0, 0, 0, 0]).is_none());
    }
}
