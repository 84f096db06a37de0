//! Describes messages, for those who read captures.

use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::Status;

use super::OP_REGISTER;
use super::wire::{self, FLAGS_AT};
use crate::description::{Context, Describer, Description, Side};

// Operations with more than flags, or with flags in the reply.
const HOT_BACKUP: u32 = 2;
const GET_DM_INFO: u32 = 3;
const FREEZE: u32 = 5;

/// Describes the body of a message.
pub(super) fn describe(context: &Context, body: &[u8]) -> Description {
    let mut describer = Describer::new(body, context.encoding);
    let first = body.get(..1).unwrap_or_default();
    let code = first.first().map(|&code| u32::from(code));
    let registers = context.encoding == Encoding::Utf8 && code == Some(OP_REGISTER.into());
    match (context.encoding, context.side) {
        (_, Side::Host) if registers => {
            describer.operation(first, OP_REGISTER.into(), Some("REGISTERED"));
        }
        (_, Side::Guest) if registers && context.request.is_none() => {
            describer.operation(first, OP_REGISTER.into(), Some("REGISTER"));
        }
        (_, Side::Host) => {
            if let Some(code) = code {
                describer.operation(first, code, name(code));
                request(&mut describer, code, body);
            }
            if let Err(malformed) = wire::decode(body) {
                describer.malformed(&malformed);
            }
        }
        (Encoding::Utf8, Side::Guest) => {
            if let Some(code) = context.request {
                describer.operation(&[], code, name(code));
            }
            let status = describer.status_in_body();
            reply(&mut describer, context.request, status, body);
        }
        (Encoding::Utf16, Side::Guest) => {
            if let Some(code) = code {
                describer.operation(first, code, name(code));
            }
            reply(&mut describer, code, context.status, body);
        }
    }
    describer.finish()
}

fn name(code: u32) -> Option<&'static str> {
    Some(match code {
        0 => "CREATE",
        1 => "DELETE",
        HOT_BACKUP => "HOT_BACKUP",
        GET_DM_INFO => "GET_DM_INFO",
        4 => "BACKUP_COMPLETE",
        FREEZE => "FREEZE",
        6 => "THAW",
        7 => "AUTO_RECOVER",
        8 => "QUERY_GUEST_CLUSTER_INFORMATION",
        _ => return None,
    })
}

fn request(describer: &mut Describer<'_>, code: u32, body: &[u8]) {
    let (names, at): (&[_], _) = match code {
        FREEZE => (&["backup_kind", "flags", "disk_count"], FLAGS_AT),
        HOT_BACKUP | GET_DM_INFO | 4 | 6 => (&["flags"], FLAGS_AT),
        _ => return,
    };
    numbers(describer, names, body.get(at..).unwrap_or_default());
}

fn reply(describer: &mut Describer<'_>, code: Option<u32>, status: Option<Status>, body: &[u8]) {
    if matches!(code, Some(HOT_BACKUP | GET_DM_INFO)) && status == Some(Status::OK) {
        numbers(
            describer,
            &["flags"],
            body.get(FLAGS_AT..).unwrap_or_default(),
        );
    }
}

fn numbers(describer: &mut Describer<'_>, names: &[&'static str], bytes: &[u8]) {
    for (name, bytes) in names.iter().zip(bytes.chunks_exact(4)) {
        let number = bytes.try_into().map_or(0, u32::from_le_bytes);
        describer.number(name, bytes, number);
    }
}

#[cfg(test)]
mod tests {
    use hyperv_vmbus::ic::Version;
    use proptest::prelude::*;

    use super::*;
    use crate::description::Value;

    fn described(
        encoding: Encoding,
        side: Side,
        request: Option<u32>,
        body: &[u8],
    ) -> (String, Vec<(&'static str, Value, usize)>) {
        let context = Context {
            encoding,
            side,
            version: Version::new(5, 0),
            request,
            status: body.get(12).map(|_| Status::OK),
        };
        let description = describe(&context, body);
        let fields = description.fields.into_iter();
        let fields = fields.map(|field| (field.name, field.value, field.place.start));
        (description.operation.into_owned(), fields.collect())
    }

    #[test]
    fn a_freeze_over_a_ring() {
        let mut message = vec![0; 6260];
        message[0] = 5;
        message[8] = 1;
        message[12] = 2;
        message[16] = 3;
        let (operation, fields) = described(Encoding::Utf16, Side::Host, None, &message);
        assert_eq!(operation, "FREEZE");
        assert_eq!(
            fields[1..],
            [
                ("backup_kind", Value::Number(1), 8),
                ("flags", Value::Number(2), 12),
                ("disk_count", Value::Number(3), 16),
            ]
        );
        let (_, fields) = described(Encoding::Utf16, Side::Guest, None, &message);
        assert_eq!(fields.len(), 1, "a reply has no data");
    }

    #[test]
    fn replies_with_flags() {
        let reply = [2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0];
        let (operation, fields) = described(Encoding::Utf16, Side::Guest, None, &reply);
        assert_eq!(operation, "HOT_BACKUP");
        assert_eq!(fields[1], ("flags", Value::Number(5), 8));
        let reply = [0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0];
        let (operation, fields) = described(Encoding::Utf8, Side::Guest, Some(2), &reply);
        assert_eq!(operation, "HOT_BACKUP");
        assert_eq!(fields[0], ("status", Value::Named(0, "ok".into()), 0));
        assert_eq!(fields[1], ("flags", Value::Number(5), 8));
        let (operation, fields) = described(Encoding::Utf8, Side::Guest, Some(6), &reply);
        assert_eq!((operation.as_str(), fields.len()), ("THAW", 1));
    }

    #[test]
    fn registrations() {
        let message = [129, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let named = |encoding, side, request| described(encoding, side, request, &message).0;
        assert_eq!(named(Encoding::Utf8, Side::Guest, None), "REGISTER");
        assert_eq!(named(Encoding::Utf8, Side::Host, None), "REGISTERED");
        assert_eq!(named(Encoding::Utf8, Side::Guest, Some(5)), "FREEZE");
        assert_eq!(named(Encoding::Utf16, Side::Host, None), "unknown");
    }

    proptest! {
        /// What the service would refuse, and nothing else, is malformed.
        #[test]
        fn any_message_is_described(mut body: Vec<u8>, operation in 0..10u8, wide: bool, guest: bool) {
            if let Some(first) = body.first_mut() {
                *first = operation;
            }
            let encoding = if wide { Encoding::Utf16 } else { Encoding::Utf8 };
            let side = if guest { Side::Guest } else { Side::Host };
            let (_, fields) = described(encoding, side, None, &body);
            let malformed = fields.iter().any(|(name, _, _)| *name == "malformed");
            prop_assert_eq!(malformed, !guest && wire::decode(&body).is_err());
        }
    }
}
