//! An IP configuration in binary, as the host writes and reads it. Protocol section 7.2.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};

use super::ip_info::{ADAPTER_UNITS, IpInfo};
use super::text::from_utf16_field;

/// Bytes before the counts: operation, pool and padding.
const HEADER: usize = 4;

/// Addresses and name servers of one family that there is room for.
const MANY: usize = 64;

/// Gateways of one family that there is room for.
const FEW: usize = 5;

/// The addresses of one family, and the bytes of one.
struct Family {
    number: u8,
    len: usize,
    parse: fn(&str) -> Option<Vec<u8>>,
}

const V4: Family = Family {
    number: 1,
    len: 4,
    parse: |text| Some(text.parse::<Ipv4Addr>().ok()?.octets().to_vec()),
};

const V6: Family = Family {
    number: 2,
    len: 16,
    parse: |text| Some(text.parse::<Ipv6Addr>().ok()?.octets().to_vec()),
};

/// The elements of a list that are of this family; an element that is no address is one of
/// IPv4 without a value.
fn of<'l>(family: &Family, list: &'l str) -> Vec<&'l str> {
    let is_v6 = |text: &str| (V6.parse)(text).is_some();
    let elements = list.split(';').filter(|element| !element.is_empty());
    elements
        .filter(|element| is_v6(element) == (family.number == V6.number))
        .collect()
}

/// An array with these elements, of which as many are cut off as there is no room for.
fn array(elements: impl Iterator<Item = Vec<u8>>, element_len: usize, places: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = elements.take(places).flatten().collect();
    bytes.resize(element_len * places, 0);
    bytes
}

fn addresses(family: &Family, list: &str, places: usize) -> Vec<u8> {
    let octets = |text: &str| (family.parse)(text).unwrap_or_else(|| vec![0; family.len]);
    array(of(family, list).into_iter().map(octets), family.len, places)
}

/// Puts counts before the adapter, and all else behind it. A count is true even where the
/// array is too short.
pub(super) fn insert(body: &mut Vec<u8>, info: &IpInfo) {
    let mut counts = Vec::new();
    for list in [&info.addresses, &info.gateways, &info.dns] {
        for family in [V4, V6] {
            let count = u32::try_from(of(&family, list).len()).unwrap_or(u32::MAX);
            counts.extend(count.to_le_bytes());
        }
    }
    body.splice(HEADER..HEADER, counts);
    body.extend([info.family, u8::from(info.dhcp), 0, 0]);
    body.extend(addresses(&V4, &info.addresses, MANY));
    body.extend(addresses(&V6, &info.addresses, MANY));
    let subnets = |family: &Family| {
        let pairs = info.addresses.split(';').zip(info.subnets.split(';'));
        let wanted = of(family, &info.addresses);
        let pairs = pairs.filter(|(address, _)| wanted.contains(address));
        pairs
            .map(|(_, subnet)| subnet.to_owned())
            .collect::<Vec<_>>()
    };
    let masks = subnets(&V4).into_iter();
    let masks = masks.map(|mask| (V4.parse)(&mask).unwrap_or_else(|| vec![0; V4.len]));
    body.extend(array(masks, V4.len, MANY));
    let prefixes = subnets(&V6).into_iter();
    let prefixes = prefixes.map(|prefix| {
        let number = prefix.trim_start_matches('/').parse::<u32>();
        number.unwrap_or(0).to_le_bytes().to_vec()
    });
    body.extend(array(prefixes, 4, MANY));
    body.extend(addresses(&V4, &info.gateways, FEW));
    body.extend(addresses(&V6, &info.gateways, FEW));
    body.extend(addresses(&V4, &info.dns, MANY));
    body.extend(addresses(&V6, &info.dns, MANY));
    let origins = info.origins.iter();
    let origins = origins.map(|origin| origin.to_le_bytes().to_vec());
    body.extend(array(origins, 2, 2 * MANY));
}

/// Takes one field after the other.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn take(&mut self, len: usize) -> Result<&'b [u8]> {
        let (field, rest) = self
            .0
            .split_at_checked(len)
            .context("the reply is too short for a binary IP configuration")?;
        self.0 = rest;
        Ok(field)
    }

    fn number(&mut self) -> Result<usize> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into()?) as usize)
    }

    /// The elements of an array that count. The others are to be zero.
    fn elements(&mut self, count: usize, len: usize, places: usize) -> Result<Vec<&'b [u8]>> {
        ensure!(
            count <= places,
            "expected at most {places} elements; the guest counts {count}"
        );
        let (elements, rest) = self.take(places * len)?.split_at(count * len);
        ensure!(
            rest.iter().all(|byte| *byte == 0),
            "expected zeros behind {count} elements of {len} bytes; the guest left {rest:x?}"
        );
        Ok(elements.chunks_exact(len).collect())
    }

    fn v4(&mut self, count: usize, places: usize) -> Result<Vec<String>> {
        let elements = self.elements(count, V4.len, places)?.into_iter();
        elements
            .map(|octets| Ok(Ipv4Addr::from(<[u8; 4]>::try_from(octets)?).to_string()))
            .collect()
    }

    fn v6(&mut self, count: usize, places: usize) -> Result<Vec<String>> {
        let elements = self.elements(count, V6.len, places)?.into_iter();
        elements
            .map(|octets| Ok(Ipv6Addr::from(<[u8; 16]>::try_from(octets)?).to_string()))
            .collect()
    }
}

/// What a GET_IP_INFO brings.
pub(super) fn ip_info(body: &[u8]) -> Result<IpInfo> {
    let mut fields = Fields(body);
    fields.take(HEADER)?;
    let mut count = || fields.number();
    let (v4, v6, v4_gateways) = (count()?, count()?, count()?);
    let (v6_gateways, v4_dns, v6_dns) = (count()?, count()?, count()?);
    let adapter = from_utf16_field(fields.take(2 * ADAPTER_UNITS)?).context("an adapter")?;
    let (family, dhcp) = (fields.take(1)?, fields.take(1)?);
    ensure!(
        fields.take(2)? == [0, 0],
        "expected zeros in the padding behind DHCP"
    );
    let addresses = [fields.v4(v4, MANY)?, fields.v6(v6, MANY)?].concat();
    let masks = fields.v4(v4, MANY)?;
    let prefixes = fields.elements(v6, 4, MANY)?.into_iter();
    let prefixes = prefixes.map(|prefix| Ok(u32::from_le_bytes(prefix.try_into()?)));
    let prefixes: Vec<String> = prefixes
        .map(|prefix| prefix.map(|prefix| format!("/{prefix}")))
        .collect::<Result<_>>()?;
    let gateways = [fields.v4(v4_gateways, FEW)?, fields.v6(v6_gateways, FEW)?].concat();
    let dns = [fields.v4(v4_dns, MANY)?, fields.v6(v6_dns, MANY)?].concat();
    let origins = fields.elements(v4 + v6, 2, 2 * MANY)?.into_iter();
    let origins = origins.map(|origin| Ok(u16::from_le_bytes(origin.try_into()?)));
    Ok(IpInfo {
        adapter,
        family: family.first().copied().unwrap_or_default(),
        dhcp: dhcp != [0],
        addresses: addresses.join(";"),
        subnets: [masks, prefixes].concat().join(";"),
        gateways: gateways.join(";"),
        dns: dns.join(";"),
        origins: origins.collect::<Result<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{BINARY, Operation};
    use super::*;

    #[test]
    fn a_configuration_is_read_as_it_was_written() {
        let info = IpInfo {
            adapter: "{g}".into(),
            family: 3,
            dhcp: true,
            addresses: "10.0.0.1;192.0.2.1;fd00::1".into(),
            subnets: "255.0.0.0;255.255.255.0;/64".into(),
            gateways: "10.0.0.2;fd00::2".into(),
            dns: "10.0.0.3;fd00::3;fd00::4".into(),
            origins: vec![1, 2, 2],
        };
        let body = Operation::SetIpInfo(info.clone()).encode_utf16(BINARY);
        assert_eq!(ip_info(&body).unwrap(), info);
        // The bytes by hand.
        assert_eq!(&body[..12], [5, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(&body[28..34], b"{\0g\0}\0");
        assert_eq!(&body[284..296], [3, 1, 0, 0, 10, 0, 0, 1, 192, 0, 2, 1]);
        assert_eq!(&body[1568..1576], [255, 0, 0, 0, 255, 255, 255, 0]);
        assert_eq!(&body[1824..1828], [64, 0, 0, 0]);
        assert_eq!(&body[3460..3466], [1, 0, 2, 0, 2, 0]);
        assert!(body[3466..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let info = IpInfo {
            gateways: ["10.0.0.2"; 6].join(";"),
            ..IpInfo::default()
        };
        let body = Operation::SetIpInfo(info).encode_utf16(BINARY);
        assert_eq!(&body[12..16], [6, 0, 0, 0]);
        assert!(ip_info(&body).is_err());
    }
}
