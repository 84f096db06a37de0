//! What the guest answers, as the host sees it in the end. Protocol section 7.
//!
//! Over the char device these stand for the kernel, which copies the program's
//! reply into the host's own message. It looks for the value of a GET where an
//! ENUMERATE has it, four bytes behind its offset in the layout
//! of the message.

use anyhow::{Context, Result, ensure};

use super::ip_info::{ADAPTER_UNITS, IpInfo};
use super::message::{
    ADDRESS_UNITS, GATEWAY_UNITS, HEADER, IP_HEADER, KEY_BYTES, TEXT, VALUE_BYTES,
};
use super::text::{from_utf8, from_utf16, from_utf16_field};
use super::{DEVICE_KEY_UNITS, DEVICE_VALUE_UNITS, KEY_UNITS, VALUE_UNITS};

/// Bytes of type and sizes.
const SIZES: usize = 12;

/// Bytes of an index.
const INDEX: usize = 4;

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// The body of a reply.
pub(super) enum Body<'b> {
    /// Behind the component header.
    Rings(&'b [u8]),
    /// Behind the status.
    Device(&'b [u8]),
}

fn part(body: &[u8], at: usize, len: usize) -> Result<&[u8]> {
    body.get(at..at + len)
        .with_context(|| format!("the reply has no bytes {at} to {}", at + len))
}

fn number(body: &[u8], at: usize) -> Result<usize> {
    let bytes = part(body, at, 4)?;
    Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
}

/// A value over rings, whose type, sizes and fields begin at `at`.
fn ring_value(body: &[u8], at: usize) -> Result<String> {
    let kind = number(body, at)?;
    ensure!(
        kind == TEXT as usize,
        "expected a value of type {TEXT}; its type is {kind}"
    );
    let len = number(body, at + 8)?;
    ensure!(
        len <= 2 * (VALUE_UNITS + 1),
        "expected a value of at most {VALUE_UNITS} units and a NUL; it has {len} bytes"
    );
    from_utf16(part(body, at + SIZES + KEY_BYTES, VALUE_BYTES)?, len).context("a value")
}

/// A value over the char device.
fn device_value(body: &[u8]) -> Result<String> {
    let field = part(body, INDEX + SIZES + KEY_BYTES, VALUE_BYTES)?;
    from_utf8(field, DEVICE_VALUE_UNITS).context("a value")
}

/// What a GET brings.
pub(super) fn value(body: &Body<'_>) -> Result<String> {
    match body {
        Body::Rings(body) => ring_value(body, HEADER),
        Body::Device(body) => device_value(body),
    }
}

/// What an ENUMERATE brings.
pub(super) fn item(body: &Body<'_>) -> Result<Item> {
    match body {
        Body::Rings(body) => {
            let at = HEADER + INDEX;
            let len = number(body, at + 4)?;
            ensure!(
                len <= 2 * (KEY_UNITS + 1),
                "expected a key of at most {KEY_UNITS} units and a NUL; it has {len} bytes"
            );
            let key = from_utf16(part(body, at + SIZES, KEY_BYTES)?, len).context("a key")?;
            let value = ring_value(body, at)?;
            Ok(Item { key, value })
        }
        Body::Device(body) => {
            let field = part(body, INDEX + SIZES, KEY_BYTES)?;
            let key = from_utf8(field, DEVICE_KEY_UNITS).context("a key")?;
            let value = device_value(body)?;
            Ok(Item { key, value })
        }
    }
}

/// What a GET_IP_INFO brings.
pub(super) fn ip_info(body: &Body<'_>) -> Result<IpInfo> {
    let (body, mut at) = match body {
        Body::Rings(body) => (*body, IP_HEADER),
        Body::Device(body) => (*body, 0),
    };
    let rings = at == IP_HEADER;
    let mut next = |units: usize| -> Result<String> {
        let field = part(body, at, 2 * units)?;
        at += 2 * units;
        if units == ADAPTER_UNITS {
            // Family and DHCP.
            at += 2;
        }
        match rings {
            true => from_utf16_field(field),
            false => from_utf8(field, units),
        }
    };
    let adapter = next(ADAPTER_UNITS).context("an adapter")?;
    let addresses = next(ADDRESS_UNITS).context("addresses")?;
    let subnets = next(ADDRESS_UNITS).context("subnets")?;
    let gateways = next(GATEWAY_UNITS).context("gateways")?;
    let dns = next(ADDRESS_UNITS).context("name servers")?;
    let flags = if rings { IP_HEADER } else { 0 } + 2 * ADAPTER_UNITS;
    let flags = part(body, flags, 2)?;
    Ok(IpInfo {
        adapter,
        family: flags.first().copied().unwrap_or_default(),
        dhcp: flags.last().is_some_and(|dhcp| *dhcp != 0),
        addresses,
        subnets,
        gateways,
        dns,
        origins: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use hyperv_vmbus::ic::Version;

    use super::super::{Operation, Value};
    use super::*;

    const TEXT_VERSION: Version = Version::new(4, 0);

    #[test]
    fn values_are_read_from_where_the_wire_has_them() {
        let body = Operation::set(1, "k", Value::text("välue")).encode_utf16(TEXT_VERSION);
        assert_eq!(value(&Body::Rings(&body)).unwrap(), "välue");
        let body = Operation::set(1, "k", Value::U32(1)).encode_utf16(TEXT_VERSION);
        assert!(value(&Body::Rings(&body)).is_err());
        let mut body = vec![0; 7428];
        body[16..19].copy_from_slice(b"key");
        body[528..533].copy_from_slice(b"value");
        assert_eq!(value(&Body::Device(&body)).unwrap(), "value");
        let item = item(&Body::Device(&body)).unwrap();
        assert_eq!((&*item.key, &*item.value), ("key", "value"));
    }

    #[test]
    fn an_ip_configuration_is_read_as_it_was_written() {
        let info = IpInfo {
            adapter: "00:15".into(),
            family: 3,
            dhcp: true,
            addresses: "10.0.0.1;fe80::1".into(),
            subnets: "255.0.0.0;/64".into(),
            gateways: "10.0.0.2".into(),
            dns: "10.0.0.3".into(),
            origins: Vec::new(),
        };
        let utf16 = Operation::SetIpInfo(info.clone()).encode_utf16(TEXT_VERSION);
        assert_eq!(ip_info(&Body::Rings(&utf16)).unwrap(), info);
        let utf8 = Operation::SetIpInfo(info.clone()).encode_utf8();
        assert_eq!(ip_info(&Body::Device(&utf8[4..])).unwrap(), info);
    }
}
