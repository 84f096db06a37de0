//! The guest's connection: which versions there are, and where messages go.

use super::message::InitiateContact;

/// Connection to which a guest sends messages before version 5.0.
pub const MESSAGES: u32 = 1;

/// Connection to which it sends the contact of version 5.0 and later.
pub const MESSAGES_FROM_5: u32 = 4;

/// Connection that a guest of version 5.0 or later is sent to. Its value is the
/// host's affair: an unusual one shows that the guest uses the value of the reply.
pub const MESSAGES_AFTER: u32 = 0x74;

/// Connections of channels' events, and the first channel's.
const FIRST_EVENT: u32 = 0x2000;

/// The SINT of guests that do not name one.
const DEFAULT_SINT: u8 = 2;

/// SINTs that there are.
const SINTS: u8 = 16;

/// A version, major in the upper half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);

/// The versions that the host speaks. Older ones need interrupt pages.
const VERSIONS: [Version; 8] = [
    Version::new(2, 4),
    Version::new(3, 0),
    Version::new(4, 0),
    Version::new(4, 1),
    Version::new(5, 0),
    Version::new(5, 1),
    Version::new(5, 2),
    Version::NEWEST,
];

impl Version {
    /// The newest version that the host speaks.
    pub const NEWEST: Self = Self::new(5, 3);

    /// A version.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self((major as u32) << 16 | minor as u32)
    }

    /// Whether the contact names a SINT, and the response a connection.
    pub fn redirects(self) -> bool {
        self >= Self::new(5, 0)
    }

    /// Whether the guest waits for an answer to MODIFY.
    pub fn answers_modify(self) -> bool {
        self >= Self::new(5, 3)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// A connection that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Its version.
    pub version: Version,
    /// Where the host's messages go.
    pub vp: u32,
    /// Where messages and interrupts go.
    pub sint: u8,
}

impl Connection {
    /// What a contact asks for, whether the host speaks it or not. A SINT that
    /// there is not becomes the usual one, so that the answer arrives at all.
    pub fn asked(contact: &InitiateContact) -> Self {
        let version = Version(contact.version.get());
        let [named, ..] = contact.page_or_sint.get().to_le_bytes();
        let named = version.redirects() && (1..SINTS).contains(&named);
        Self {
            version,
            vp: match version >= Version::new(3, 0) {
                true => contact.target_vp.get(),
                false => 0,
            },
            sint: match named {
                true => contact.page_or_sint.get().to_le_bytes()[0],
                false => DEFAULT_SINT,
            },
        }
    }

    /// Whether the host speaks the version, having to go no further than
    /// `newest`.
    pub fn is_supported(&self, newest: Version) -> bool {
        self.version <= newest && VERSIONS.contains(&self.version)
    }

    /// Returns the connection to which the guest is to send its messages.
    pub fn messages(&self) -> u32 {
        match self.version.redirects() {
            true => MESSAGES_AFTER,
            false => 0,
        }
    }
}

/// The connection of a channel's events.
pub fn event_connection(relid: u32) -> u32 {
    FIRST_EVENT + relid
}

/// The channel of an event connection.
pub fn relid_of(connection: u32) -> Option<u32> {
    connection.checked_sub(FIRST_EVENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn contact(version: Version, vp: u32, word: u64) -> Connection {
        let mut contact = InitiateContact::new_zeroed();
        contact.version = version.0.into();
        contact.target_vp = vp.into();
        contact.page_or_sint = word.into();
        Connection::asked(&contact)
    }

    #[test]
    fn the_first_byte_is_a_sint_from_version_5_on() {
        assert_eq!(contact(Version::new(5, 3), 1, 0x0003).sint, 3);
        assert_eq!(contact(Version::new(5, 3), 1, 0x00ff).sint, 2);
        assert_eq!(contact(Version::new(4, 1), 1, 0x1003).sint, 2);
    }

    #[test]
    fn only_versions_that_are_known_are_taken() {
        for (version, taken) in [
            (Version::new(5, 3), true),
            (Version::new(2, 4), true),
            (Version::new(6, 0), false),
            (Version::new(5, 4), false),
            (Version::new(1, 1), false),
            (Version(u32::MAX), false),
        ] {
            let asked = contact(version, 0, 0);
            assert_eq!(asked.is_supported(Version::NEWEST), taken, "{version}");
        }
        assert!(!contact(Version::new(5, 0), 0, 0).is_supported(Version::new(4, 1)));
    }
}
