//! Describes messages, for those who read captures.

use std::net::{Ipv4Addr, Ipv6Addr};

use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::Status;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::binary_ip::{BINARY_IP_AT, BinaryIpFields, V4, V6};
use super::fields::fields;
use super::pairs::{
    DeleteFields, EnumerateFields, REG_EXPAND_SZ, REG_QWORD, REG_SZ, REG_U32, REG_U64, ValueFields,
};
use super::text_ip::TextIpFields;
use super::{
    DELETE, ENUMERATE, GET, GET_IP_INFO, HEADER_LEN, IpLayout, Malformed, SET, SET_IP_INFO, decode,
    decode_ip,
};
use crate::description::{Content, Context, Describer, Description, Side, Value};
use crate::kvp::encoding::{Form, Utf8, Utf16};
use crate::kvp::request::{Family, PoolId};

/// The operation of a registration on a character device, and of the kernel's answer.
pub(in crate::kvp) const REGISTER: u8 = 100;

/// Describes the body of a message.
pub(in crate::kvp) fn describe(context: &Context, body: &[u8]) -> Description {
    let mut message = Message {
        describer: Describer::new(body, context.encoding),
        body,
        layout: match context.encoding {
            Encoding::Utf16 => IpLayout::of(context.version),
            Encoding::Utf8 => IpLayout::Text,
        },
    };
    match context.encoding {
        Encoding::Utf16 => message.describe::<Utf16>(context),
        Encoding::Utf8 => message.describe::<Utf8>(context),
    };
    message.describer.finish()
}

fn name(code: u8) -> Option<&'static str> {
    Some(match code {
        GET => "GET",
        SET => "SET",
        DELETE => "DELETE",
        ENUMERATE => "ENUMERATE",
        GET_IP_INFO => "GET_IP_INFO",
        SET_IP_INFO => "SET_IP_INFO",
        _ => return None,
    })
}

/// A message that is being described.
struct Message<'a> {
    describer: Describer<'a>,
    body: &'a [u8],
    layout: IpLayout,
}

impl Message<'_> {
    fn describe<E: Form>(&mut self, context: &Context) {
        let on_device = context.encoding == Encoding::Utf8;
        let first = self.body.get(..1).unwrap_or_default();
        let code = first.first().copied();
        let registers = on_device && code == Some(REGISTER);
        match context.side {
            Side::Host if registers => {
                self.describer
                    .operation(first, REGISTER.into(), Some("REGISTERED"));
                let version = self.body.get(HEADER_LEN..).unwrap_or_default();
                self.describer
                    .text("driver_version", version, Content::Protocol);
            }
            Side::Guest if registers && context.request.is_none() => {
                self.describer
                    .operation(first, REGISTER.into(), Some("REGISTER"));
            }
            Side::Host => {
                if let Some(code) = code {
                    self.describer.operation(first, code.into(), name(code));
                    // What is too short is malformed.
                    let _ = self.request::<E>(code);
                }
                if let Err(malformed) = decode(context.encoding, self.layout, self.body) {
                    self.describer.malformed(&malformed);
                }
            }
            Side::Guest => {
                let (code, status) = if on_device {
                    if let Some(code) = context.request {
                        let name = u8::try_from(code).ok().and_then(name);
                        self.describer.operation(&[], code, name);
                    }
                    let code = context.request.and_then(|code| u8::try_from(code).ok());
                    (code, self.describer.status_in_body())
                } else {
                    if let Some(code) = code {
                        self.describer.operation(first, code.into(), name(code));
                    }
                    (code, context.status)
                };
                // With a failure nothing else is looked at.
                if let (Some(code), Some(Status::OK)) = (code, status) {
                    if let Err(malformed) = self.reply::<E>(code, on_device) {
                        self.describer.malformed(&malformed);
                    }
                }
            }
        }
    }

    fn request<E: Form>(&mut self, code: u8) -> Result<(), Malformed> {
        let body = self.body;
        match code {
            GET => {
                self.pool();
                let fields: &ValueFields = fields(body, HEADER_LEN)?;
                self.size("key_size", &fields.key_size);
                self.sized::<E>("key", &fields.key, &fields.key_size, Content::Name);
            }
            SET => {
                self.pool();
                let fields: &ValueFields = fields(body, HEADER_LEN)?;
                self.pair::<E>(fields);
            }
            DELETE => {
                self.pool();
                let fields: &DeleteFields = fields(body, HEADER_LEN)?;
                self.size("key_size", &fields.key_size);
                self.sized::<E>("key", &fields.key, &fields.key_size, Content::Name);
            }
            ENUMERATE => {
                self.pool();
                let fields: &EnumerateFields = fields(body, HEADER_LEN)?;
                self.size("index", &fields.index);
            }
            GET_IP_INFO => match self.layout {
                IpLayout::Text => {
                    let fields: &TextIpFields = fields(body, E::IP_INFO_AT)?;
                    self.adapter(&fields.adapter, &fields.family);
                }
                IpLayout::Binary => {
                    let fields: &BinaryIpFields = fields(body, BINARY_IP_AT)?;
                    self.adapter(&fields.adapter, &fields.family);
                }
            },
            SET_IP_INFO => self.ip_info::<E>()?,
            _ => {}
        }
        Ok(())
    }

    fn reply<E: Form>(&mut self, code: u8, on_device: bool) -> Result<(), Malformed> {
        let body = self.body;
        match code {
            GET => {
                let at = E::GET_VALUE_AT;
                let fields: &ValueFields = fields(body, at)?;
                if on_device {
                    // The key is the request's, and elsewhere.
                    self.value::<E>(fields);
                } else {
                    self.pool();
                    self.pair::<E>(fields);
                    fields.key::<E>()?;
                }
                fields.value::<E>()?;
            }
            ENUMERATE => {
                if !on_device {
                    self.pool();
                }
                let fields: &EnumerateFields = fields(body, HEADER_LEN)?;
                self.size("index", &fields.index);
                self.pair::<E>(&fields.item);
                fields.item.key::<E>()?;
                fields.item.value::<E>()?;
            }
            GET_IP_INFO => {
                self.ip_info::<E>()?;
                // What a SET_IP_INFO could not have.
                decode_ip::<E>(self.layout, body)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn pool(&mut self) {
        let Some(bytes @ [number]) = self.body.get(1..2) else {
            return;
        };
        let words = PoolId::new(*number).map_or("unknown", PoolId::name);
        self.describer.named("pool", bytes, (*number).into(), words);
    }

    fn size(&mut self, name: &'static str, number: &U32) {
        self.describer.number(name, number.as_bytes(), number.get());
    }

    /// The string whose size is in the message, if it can have that size.
    fn sized<E: Form>(&mut self, name: &'static str, field: &[u8], size: &U32, content: Content) {
        let size = usize::try_from(size.get()).ok();
        let size = size.filter(|size| E::is_valid_size(*size));
        if let Some(bytes) = size.and_then(|size| field.get(..size)) {
            self.describer.text(name, bytes, content);
        }
    }

    fn pair<E: Form>(&mut self, fields: &ValueFields) {
        self.size("key_size", &fields.key_size);
        self.sized::<E>("key", &fields.key, &fields.key_size, Content::Name);
        self.value::<E>(fields);
    }

    fn value<E: Form>(&mut self, fields: &ValueFields) {
        let kind = fields.kind.get();
        let words = match kind {
            REG_SZ => "string",
            REG_EXPAND_SZ => "expandable string",
            REG_U32 => "32-bit number",
            REG_U64 | REG_QWORD => "64-bit number",
            _ => "unknown",
        };
        self.describer
            .named("value_type", fields.kind.as_bytes(), kind.into(), words);
        self.size("value_size", &fields.value_size);
        let number = match kind {
            REG_U32 => U32::ref_from_prefix(&fields.value)
                .ok()
                .map(|(number, _)| (number.as_bytes(), u64::from(number.get()))),
            REG_U64 | REG_QWORD => U64::ref_from_prefix(&fields.value)
                .ok()
                .map(|(number, _)| (number.as_bytes(), number.get())),
            _ => None,
        };
        match number {
            Some((bytes, number)) if E::HAS_NUMBERS => {
                let number = Value::Number(number);
                self.describer.add("value", bytes, number, Content::Value);
            }
            _ if E::HAS_NUMBERS && !matches!(kind, REG_SZ | REG_EXPAND_SZ) => {}
            _ => self.sized::<E>("value", &fields.value, &fields.value_size, Content::Value),
        }
    }

    fn adapter(&mut self, adapter: &[u8], family: &u8) {
        self.describer.text("adapter_id", adapter, Content::Name);
        let words = match Family(family & Family::BOTH.0) {
            Family::BOTH => "IPv4 and IPv6",
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
            Family(_) => "none",
        };
        let bytes = family.as_bytes();
        self.describer
            .named("address_family", bytes, (*family).into(), words);
    }

    fn dhcp(&mut self, dhcp: &u8) {
        self.describer
            .number("dhcp_enabled", dhcp.as_bytes(), *dhcp);
    }

    fn ip_info<E: Form>(&mut self) -> Result<(), Malformed> {
        let body = self.body;
        match self.layout {
            IpLayout::Text => self.text_ip(fields(body, E::IP_INFO_AT)?),
            IpLayout::Binary => self.binary_ip(fields(body, BINARY_IP_AT)?),
        }
        Ok(())
    }

    fn text_ip(&mut self, fields: &TextIpFields) {
        self.adapter(&fields.adapter, &fields.family);
        self.dhcp(&fields.dhcp);
        let lists: [(_, &[u8]); 4] = [
            ("addresses", &fields.addresses),
            ("subnets", &fields.subnets),
            ("gateways", &fields.gateways),
            ("name_servers", &fields.dns),
        ];
        for (name, list) in lists {
            self.describer.text(name, list, Content::Address);
        }
    }

    fn binary_ip(&mut self, fields: &BinaryIpFields) {
        for (name, count) in [
            ("ipv4_address_count", &fields.v4_count),
            ("ipv6_address_count", &fields.v6_count),
            ("ipv4_gateway_count", &fields.v4_gateway_count),
            ("ipv6_gateway_count", &fields.v6_gateway_count),
            ("ipv4_name_server_count", &fields.v4_dns_count),
            ("ipv6_name_server_count", &fields.v6_dns_count),
        ] {
            self.size(name, count);
        }
        self.adapter(&fields.adapter, &fields.family);
        self.dhcp(&fields.dhcp);
        let (v4, v6) = (fields.v4_count, fields.v6_count);
        self.v4("ipv4_addresses", counted(&fields.v4, v4));
        self.v6("ipv6_addresses", counted(&fields.v6, v6));
        self.v4("ipv4_masks", counted(&fields.v4_masks, v4));
        let prefixes = counted(&fields.v6_prefixes, v6);
        let numbers = prefixes.iter().map(|prefix| prefix.get().into()).collect();
        self.numbers("ipv6_prefixes", prefixes.as_bytes(), numbers);
        let (v4_gateways, v6_gateways) = (fields.v4_gateway_count, fields.v6_gateway_count);
        self.v4("ipv4_gateways", counted(&fields.v4_gateways, v4_gateways));
        self.v6("ipv6_gateways", counted(&fields.v6_gateways, v6_gateways));
        self.v4(
            "ipv4_name_servers",
            counted(&fields.v4_dns, fields.v4_dns_count),
        );
        self.v6(
            "ipv6_name_servers",
            counted(&fields.v6_dns, fields.v6_dns_count),
        );
        let origins = counted::<U16>(&fields.origins, v4.get().saturating_add(v6.get()).into());
        let numbers = origins.iter().map(|origin| origin.get().into()).collect();
        self.numbers("origins", origins.as_bytes(), numbers);
    }

    fn v4(&mut self, name: &'static str, list: &[V4]) {
        let addresses = list.iter().map(|octets| Ipv4Addr::from(*octets)).collect();
        let value = Value::V4(addresses);
        self.describer
            .add(name, list.as_bytes(), value, Content::Address);
    }

    fn v6(&mut self, name: &'static str, list: &[V6]) {
        let addresses = list.iter().map(|octets| Ipv6Addr::from(*octets)).collect();
        let value = Value::V6(addresses);
        self.describer
            .add(name, list.as_bytes(), value, Content::Address);
    }

    fn numbers(&mut self, name: &'static str, bytes: &[u8], numbers: Vec<u64>) {
        self.describer
            .add(name, bytes, Value::Numbers(numbers), Content::Protocol);
    }
}

/// Returns the elements of an array that count; none if there are not so many.
fn counted<T>(array: &[T], count: U32) -> &[T] {
    let count = usize::try_from(count.get()).unwrap_or(usize::MAX);
    array.get(..count).unwrap_or_default()
}
