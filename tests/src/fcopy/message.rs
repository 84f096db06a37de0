//! What the host says in a file copy, for rings and for the char device.
//! Protocol section 5.

/// Flag of a START: replace what is there.
pub const OVERWRITE: u32 = 1;

/// Flag of a START: make the directories on the way.
pub const CREATE_PATH: u32 = 2;

/// Bytes of data that one WRITE carries at most.
pub const CHUNK: usize = 6144;

const HEADER_LEN: usize = 36;
const NAME_BYTES: usize = 520;

/// Units of a name's field, its NUL included.
pub const NAME_UNITS: usize = NAME_BYTES / 2;

/// What begins a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The directory, in UTF-16.
    pub path: Vec<u16>,
    /// The file's name, in UTF-16.
    pub name: Vec<u16>,
    /// [`OVERWRITE`] and [`CREATE_PATH`].
    pub flags: u32,
    /// Bytes that the file will have.
    pub size: u64,
}

impl Start {
    /// A copy to this directory under this name.
    pub fn new(path: &str, name: &str, flags: u32, size: u64) -> Self {
        Self {
            path: path.encode_utf16().collect(),
            name: name.encode_utf16().collect(),
            flags,
            size,
        }
    }
}

/// What the host asks the guest to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Begin a file.
    Start(Start),
    /// Bytes of it.
    Write {
        /// Where in the file they go.
        offset: u64,
        /// The number that the size field states.
        size: u32,
        /// The bytes, at most [`CHUNK`].
        data: Vec<u8>,
    },
    /// The file is complete.
    Complete,
    /// The copy is called off.
    Cancel,
}

impl Operation {
    /// Bytes of the file, with their true size.
    pub fn write(offset: u64, data: &[u8]) -> Self {
        Self::Write {
            offset,
            size: u32::try_from(data.len()).unwrap_or(u32::MAX),
            data: data.to_vec(),
        }
    }

    /// The message's body, names as `names` puts them.
    fn encode(&self, names: fn(&[u16]) -> Vec<u8>) -> Vec<u8> {
        let number: u32 = match self {
            Self::Start(_) => 0,
            Self::Write { .. } => 1,
            Self::Complete => 2,
            Self::Cancel => 3,
        };
        let mut body = number.to_le_bytes().to_vec();
        body.resize(HEADER_LEN, 0);
        match self {
            Self::Start(start) => {
                for name in [&start.name, &start.path] {
                    let mut name = names(name);
                    name.resize(NAME_BYTES, 0);
                    body.extend(name);
                }
                body.extend(start.flags.to_le_bytes());
                body.extend(start.size.to_le_bytes());
            }
            Self::Write { offset, size, data } => {
                body.extend([0; 4]);
                body.extend(offset.to_le_bytes());
                body.extend(size.to_le_bytes());
                let mut data = data.clone();
                data.resize(CHUNK, 0);
                body.extend(data);
            }
            Self::Complete | Self::Cancel => {}
        }
        body
    }

    /// The body as it travels over rings.
    pub fn encode_utf16(&self) -> Vec<u8> {
        self.encode(|name| name.iter().flat_map(|unit| unit.to_le_bytes()).collect())
    }

    /// The message as the kernel hands it to the char device. Like the kernel
    /// it cuts names after 259 bytes.
    pub fn encode_utf8(&self) -> Vec<u8> {
        self.encode(|name| {
            let text = String::from_utf16_lossy(name);
            let end = (0..=text.len().min(259))
                .rev()
                .find(|end| text.is_char_boundary(*end))
                .unwrap_or(0);
            text.as_bytes().get(..end).unwrap_or_default().to_vec()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_lengths_of_the_wire() {
        let start = Operation::Start(Start::new("/tmp", "a", 0, 1));
        for body in [start.encode_utf16(), start.encode_utf8()] {
            assert_eq!(body.len(), 1088);
        }
        assert_eq!(Operation::write(0, b"x").encode_utf16().len(), 6196);
        assert_eq!(Operation::Complete.encode_utf8().len(), 36);
    }

    #[test]
    fn names_stand_where_each_transport_has_them() {
        let start = Operation::Start(Start::new("/ü", "a😀", 3, 0x0102));
        let utf16 = start.encode_utf16();
        assert_eq!(&utf16[36..44], [b'a', 0, 0x3d, 0xd8, 0x00, 0xde, 0, 0]);
        assert_eq!(&utf16[556..562], [b'/', 0, 0xfc, 0, 0, 0]);
        assert_eq!(&utf16[1076..], [3, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        let utf8 = start.encode_utf8();
        assert_eq!(&utf8[36..42], "a😀\0".as_bytes());
        assert_eq!(&utf8[556..560], "/ü\0".as_bytes());
    }

    #[test]
    fn the_char_device_cuts_names_between_letters() {
        let long = "ü".repeat(140);
        let utf8 = Operation::Start(Start::new("/", &long, 0, 0)).encode_utf8();
        assert_eq!(&utf8[36..36 + 258], "ü".repeat(129).as_bytes());
        assert_eq!(utf8[36 + 258], 0);
    }
}
