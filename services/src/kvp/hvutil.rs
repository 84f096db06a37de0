//! Messages as they come over `/dev/vmbus/hv_kvp`: strings in UTF-8, and the
//! status in the reply's first four bytes. Protocol sections 6 and 7.

use hyperv_vmbus::ic::Status;

use super::request::{Reply, Request};
use super::wire::{self, Encoding, Malformed, NotUnicode, TooLong};

struct Utf8;

impl Encoding for Utf8 {
    const IP_INFO_AT: usize = 4;
    /// The kernel writes them out in decimal, and leaves the type away.
    const HAS_NUMBERS: bool = false;
    /// The kernel takes the value of every answer from where an ENUMERATE has
    /// it, four bytes behind where it asked for it.
    const GET_VALUE_AT: usize = 8;

    fn is_valid_size(_: usize) -> bool {
        true
    }

    fn read(field: &[u8]) -> Result<String, NotUnicode> {
        let text = field.split(|&byte| byte == 0).next().unwrap_or_default();
        std::str::from_utf8(text)
            .map(str::to_owned)
            .map_err(|_| NotUnicode)
    }

    fn write(text: &str, field: &mut [u8]) -> Option<u32> {
        field.fill(0);
        let (last, places) = field.split_last_mut()?;
        *last = 0;
        places
            .get_mut(..text.len())?
            .copy_from_slice(text.as_bytes());
        u32::try_from(text.len() + 1).ok()
    }
}

/// Decodes one message.
///
/// # Errors
///
/// Any [`Malformed`].
pub fn decode(message: &[u8]) -> Result<Request, Malformed> {
    wire::decode::<Utf8>(message)
}

/// Writes a reply over the request that it answers.
///
/// # Errors
///
/// Where the reply has no room in there.
pub fn encode(message: &mut [u8], reply: &Reply) -> Result<(), TooLong> {
    wire::encode::<Utf8>(message, reply)
}

/// Writes the status over the request's first four bytes.
pub fn encode_status(message: &mut [u8], status: Status) {
    if let Some(first) = message.first_chunk_mut() {
        *first = status.0.to_le_bytes();
    }
}

/// The version of the kernel's driver, out of its answer to the registration.
pub fn driver_version(answer: &[u8]) -> Option<String> {
    let version = Utf8::read(answer.get(4..)?).ok()?;
    let plain = |letter: char| letter.is_ascii_graphic() || letter == ' ';
    (!version.is_empty() && version.chars().all(plain)).then_some(version)
}
