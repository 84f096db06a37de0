//! Describes messages, for those who read captures.

use hyperv_vmbus::Encoding;
use zerocopy::{FromBytes, IntoBytes};

use super::request::{
    self, CANCEL, COMPLETE, FLAG_CREATE_PATH, FLAG_OVERWRITE, Header, START, StartFields, WRITE,
    WriteFields,
};
use crate::description::{Content, Context, Describer, Description, Side, Value};

/// The registration on a character device, and the kernel's answer.
const REGISTRATION: &[u8] = &1u32.to_le_bytes();

/// Describes the body of a message.
pub(super) fn describe(context: &Context, body: &[u8]) -> Description {
    let mut describer = Describer::new(body, context.encoding);
    match (context.encoding, context.side) {
        (Encoding::Utf8, Side::Host) if body == REGISTRATION => {
            describer.operation(body, 1, Some("REGISTERED"));
        }
        (Encoding::Utf8, Side::Guest) if context.request.is_none() && body == REGISTRATION => {
            describer.operation(body, 1, Some("REGISTER"));
        }
        (Encoding::Utf8, Side::Guest) => {
            if let Some(code) = context.request {
                describer.operation(&[], code, name(code));
            }
            describer.status_in_body();
        }
        (_, Side::Host) => {
            fields(&mut describer, body, true);
            if let Err(malformed) = request::decode(context.encoding, body) {
                describer.malformed(&malformed);
            }
        }
        // The reply is the status. Its body is that of the request.
        (_, Side::Guest) => fields(&mut describer, body, false),
    }
    describer.finish()
}

fn name(code: u32) -> Option<&'static str> {
    match code {
        START => Some("START"),
        WRITE => Some("WRITE"),
        COMPLETE => Some("COMPLETE"),
        CANCEL => Some("CANCEL"),
        _ => None,
    }
}

fn fields(describer: &mut Describer<'_>, body: &[u8], request: bool) {
    let Ok((header, rest)) = Header::ref_from_prefix(body) else {
        return;
    };
    let code = header.operation.get();
    describer.operation(header.operation.as_bytes(), code, name(code));
    match code {
        START if request => {
            if let Ok((fields, _)) = StartFields::ref_from_prefix(rest) {
                describer.text("file_name", &fields.file_name, Content::Name);
                describer.text("path_name", &fields.directory, Content::Name);
                let flags = fields.flags.get();
                let bytes = fields.flags.as_bytes();
                describer.named("flags", bytes, flags.into(), words(flags));
                describer.number("size", fields.size.as_bytes(), fields.size.get());
            }
        }
        // Its data is in the reply, too.
        WRITE => {
            if let Ok((fields, _)) = WriteFields::ref_from_prefix(rest) {
                describer.number("offset", fields.offset.as_bytes(), fields.offset.get());
                describer.number("size", fields.size.as_bytes(), fields.size.get());
            }
            if let Some(data) = request::data(body).and_then(|place| body.get(place)) {
                describer.add("data", data, Value::Bytes(data.len()), Content::Data);
            }
        }
        _ => {}
    }
}

fn words(flags: u32) -> &'static str {
    match (flags & FLAG_OVERWRITE, flags & FLAG_CREATE_PATH) {
        (0, 0) => "none",
        (_, 0) => "overwrite",
        (0, _) => "create path",
        _ => "overwrite, create path",
    }
}

#[cfg(test)]
mod tests {
    use hyperv_vmbus::ic::{Status, Version};
    use proptest::prelude::*;

    use super::super::request::tests::{header, start, write};
    use super::*;

    fn context(encoding: Encoding, side: Side, request: Option<u32>) -> Context {
        Context {
            encoding,
            side,
            version: Version::new(1, 1),
            request,
            status: None,
        }
    }

    /// Returns the operation, and the fields with their values and places.
    fn described(context: &Context, body: &[u8]) -> (String, Vec<String>) {
        let description = describe(context, body);
        let fields = description.fields.iter().map(|field| {
            let (name, place) = (field.name, &field.place);
            format!("{name} {place:?} {:?} {:?}", field.value, field.content)
        });
        (description.operation.to_string(), fields.collect())
    }

    #[test]
    fn a_start() {
        let message = start(b"a.txt\0old", b"/srv\0", 3, 99);
        let context = context(Encoding::Utf8, Side::Host, None);
        let (operation, fields) = described(&context, &message);
        assert_eq!(operation, "START");
        assert_eq!(
            fields,
            [
                r#"operation 0..4 Named(0, "START") Protocol"#,
                r#"file_name 36..41 Text("a.txt") Name"#,
                r#"path_name 556..560 Text("/srv") Name"#,
                r#"flags 1076..1080 Named(3, "overwrite, create path") Protocol"#,
                "size 1080..1088 Number(99) Protocol",
            ]
        );
        let utf16 = Context {
            encoding: Encoding::Utf16,
            ..context
        };
        let message = start(b"a\0b\0\0\0", b"/\0\0\0", 0, 0);
        let (_, fields) = described(&utf16, &message);
        assert_eq!(fields[1], r#"file_name 36..40 Text("ab") Name"#);
        assert_eq!(fields[3], r#"flags 1076..1080 Named(0, "none") Protocol"#);
        // The names in a reply are the request's.
        let reply = Context {
            side: Side::Guest,
            ..utf16
        };
        assert_eq!(described(&reply, &message).1.len(), 1);
    }

    #[test]
    fn a_write_and_its_reply() {
        let message = write(7, 3, b"abc-padding");
        for side in [Side::Host, Side::Guest] {
            let (operation, fields) = described(&context(Encoding::Utf16, side, None), &message);
            assert_eq!(operation, "WRITE");
            assert_eq!(
                fields[1..],
                [
                    "offset 40..48 Number(7) Protocol",
                    "size 48..52 Number(3) Protocol",
                    "data 52..55 Bytes(3) Data",
                ]
            );
        }
    }

    #[test]
    fn messages_of_the_character_device() {
        let failed = Status::FAIL.0.to_le_bytes();
        for (side, request, message, wanted, fields) in [
            (Side::Guest, None, REGISTRATION, "REGISTER", 1),
            (Side::Host, None, REGISTRATION, "REGISTERED", 1),
            (Side::Guest, Some(2), &failed, "COMPLETE", 1),
            (Side::Guest, Some(9), &failed, "unknown", 1),
            (Side::Guest, None, &failed, "unknown", 1),
            (Side::Guest, Some(0), &[], "START", 0),
        ] {
            let context = context(Encoding::Utf8, side, request);
            let (operation, found) = described(&context, message);
            assert_eq!((operation.as_str(), found.len()), (wanted, fields));
        }
        let context = context(Encoding::Utf8, Side::Guest, Some(3));
        let (operation, fields) = described(&context, &failed);
        assert_eq!(operation, "CANCEL");
        assert_eq!(
            fields,
            [r#"status 0..4 Named(2147500037, "fail") Protocol"#]
        );
    }

    #[test]
    fn what_is_malformed_says_why() {
        let context = context(Encoding::Utf16, Side::Host, None);
        for (message, wanted) in [
            (header(9), "unknown operation 9"),
            (write(0, 6145, &[1; 6145]), "6145 bytes of data"),
            (write(0, 4, b"abc"), "carries 3"),
            (start(&[0, 0xd8], b"", 0, 0), "not valid Unicode"),
            (vec![0; 35], "has 35 bytes"),
        ] {
            let description = describe(&context, &message);
            let Some(Value::Text(why)) = description.field("malformed").map(|it| &it.value) else {
                panic!("not malformed: {message:?}");
            };
            assert!(why.contains(wanted), "{why}");
        }
    }

    proptest! {
        /// What the service would refuse, and nothing else, is malformed.
        #[test]
        fn any_message_is_described(operation in 0..5u32, bytes: Vec<u8>, len in 0..8000usize, wide: bool, guest: bool) {
            let mut message = operation.to_le_bytes().to_vec();
            message.extend(bytes);
            message.resize(len, 0x41);
            let encoding = if wide { Encoding::Utf16 } else { Encoding::Utf8 };
            let side = if guest { Side::Guest } else { Side::Host };
            let description = describe(&context(encoding, side, None), &message);
            prop_assert!(description.fields.iter().all(|field| field.place.end <= len));
            let malformed = description.field("malformed").is_some();
            let refused = request::decode(encoding, &message).is_err();
            let registered = !wide && message == REGISTRATION;
            prop_assert_eq!(malformed, refused && !guest && !registered);
            if wide || !guest {
                let data = description.field("data").map(|field| field.place.clone());
                let found = request::data(&message);
                prop_assert_eq!(data, found);
            }
        }
    }
}
