//! The host's side of key-value pairs, over rings and over the char device.
//! Protocol section 7.
//!
//! Nothing here is shared with the guest's decoder, so that a mistake on one
//! side shows on the other. Over the char device the host stands for the kernel
//! as well: it turns UTF-16 into UTF-8 and back as `hv_utils` does.

mod binary;
mod ip_info;
mod message;
pub mod pool;
mod reply;
mod text;

use anyhow::{Result, ensure};
use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::{Status, Version};

use crate::host::{Protocol, Service, ServiceHost};
use crate::ic::KEY_VALUE;
pub use ip_info::IpInfo;
pub use message::{BINARY, DEVICE_LEN, Operation, Value};
pub use reply::Item;

/// Units of the longest key over rings, without its NUL.
pub const KEY_UNITS: usize = 255;

/// Units of the longest value over rings, without its NUL.
pub const VALUE_UNITS: usize = 1023;

/// Units of the longest key over the char device, without its NUL.
pub const DEVICE_KEY_UNITS: usize = 254;

/// Units of the longest value over the char device, without its NUL.
pub const DEVICE_VALUE_UNITS: usize = 1022;

/// Items of the guest's facts, in pool 2.
pub const FACTS: [&str; 10] = [
    "FullyQualifiedDomainName",
    "IntegrationServicesVersion",
    "NetworkAddressIPv4",
    "NetworkAddressIPv6",
    "OSBuildNumber",
    "OSName",
    "OSMajorVersion",
    "OSMinorVersion",
    "OSVersion",
    "ProcessorArchitecture",
];

/// The pool of the guest's facts.
pub const FACT_POOL: u8 = 2;

/// Pools that are files.
pub const POOLS: [u8; 5] = [0, 1, 2, 3, 4];

/// What the kernel's driver says of its version.
pub const DRIVER_VERSION: &str = "3.1";

/// How a program registers: the first byte of its message.
const REGISTER: u8 = 100;

/// The protocol of key-value pairs.
#[derive(Debug, Clone, Copy)]
pub struct Kvp;

impl Protocol for Kvp {
    const SERVICE: Service = Service {
        name: "kvp",
        class: Guid::from_u128(0xa9a0f4e7_5a45_4d96_b827_8a841e8c03e6),
        instance: Guid::from_u128(0x242ff919_07db_4180_9c2e_b86cb68c8c55),
        node: "vmbus/hv_kvp",
    };
    const KIND: u16 = KEY_VALUE;
    const VERSIONS: &'static [Version] =
        &[Version::new(3, 0), Version::new(4, 0), Version::new(5, 0)];
    const VERSION: Version = Version::new(5, 0);
    const KERNEL_VERSION: Version = Version::new(4, 0);
    const REPLY_LEN: usize = DEVICE_LEN;

    type Operation = Operation;

    /// There are not so many.
    const HARMLESS: Operation = Operation::Enumerate {
        pool: 0,
        index: 1 << 24,
    };

    fn encode_utf16(operation: &Operation, version: Version) -> Vec<u8> {
        operation.encode_utf16(version)
    }

    fn encode_utf8(operation: &Operation) -> Vec<u8> {
        operation.encode_utf8()
    }

    fn register(registration: &[u8]) -> Result<Vec<u8>> {
        ensure!(
            registration.len() == DEVICE_LEN && registration.first() == Some(&REGISTER),
            "expected a registration of {DEVICE_LEN} bytes that begins with {REGISTER}; the guest wrote {} bytes that begin with {:?}",
            registration.len(),
            registration.first()
        );
        Ok(message::registered(REGISTER, DRIVER_VERSION))
    }
}

/// A host that reads and writes a guest's keys and values, from when the guest
/// has opened its device.
pub type KvpHost = ServiceHost<Kvp>;

/// What the guest answered, or the status with which it declined.
pub type Answer<T> = std::result::Result<T, Status>;

/// Every call fails where the guest does not answer as it should; that it
/// declines is an answer.
#[expect(clippy::missing_errors_doc)]
impl ServiceHost<Kvp> {
    /// The value of a key.
    pub fn get(&mut self, pool: u8, key: &str) -> Result<Answer<String>> {
        let reply = self.call(&Operation::get(pool, key))?;
        self.answer(reply, value)
    }

    /// Gives a key a value.
    pub fn set(&mut self, pool: u8, key: &str, value: &str) -> Result<Status> {
        self.request(&Operation::set(pool, key, Value::text(value)))
    }

    /// Takes a key away.
    pub fn delete(&mut self, pool: u8, key: &str) -> Result<Status> {
        self.request(&Operation::delete(pool, key))
    }

    /// The key and value at a place.
    pub fn enumerate(&mut self, pool: u8, index: u32) -> Result<Answer<Item>> {
        let reply = self.call(&Operation::Enumerate { pool, index })?;
        self.answer(reply, item)
    }

    /// Every key and value, up to where the guest says that there are no more.
    pub fn list(&mut self, pool: u8) -> Result<Vec<(String, String)>> {
        let mut items = Vec::new();
        loop {
            match self.enumerate(pool, u32::try_from(items.len())?)? {
                Ok(Item { key, value }) => items.push((key, value)),
                Err(Status::NO_MORE_ITEMS) => return Ok(items),
                Err(other) => anyhow::bail!(
                    "expected item {} of pool {pool}, or no more items; the guest answered {other:?}",
                    items.len()
                ),
            }
        }
    }

    /// The IP configuration of the interface with this MAC address.
    pub fn get_ip_info(&mut self, mac: &str, family: u8) -> Result<Answer<IpInfo>> {
        let reply = self.call(&Operation::get_ip_info(mac, family))?;
        let version = self.version();
        self.answer(reply, |utf16, body| ip_info(utf16, version, body))
    }

    /// Gives an interface an IP configuration.
    pub fn set_ip_info(&mut self, info: &IpInfo) -> Result<Status> {
        self.request(&Operation::SetIpInfo(info.clone()))
    }

    fn answer<T>(
        &self,
        reply: crate::ic::Reply,
        read: impl Fn(bool, &[u8]) -> Result<T>,
    ) -> Result<Answer<T>> {
        if reply.status != Status::OK {
            return Ok(Err(reply.status));
        }
        read(self.speaks_utf16(), &reply.body).map(Ok)
    }
}

fn body(utf16: bool, body: &[u8]) -> reply::Body<'_> {
    match utf16 {
        true => reply::Body::Rings(body),
        false => reply::Body::Device(body),
    }
}

/// The value in the body of the reply to a GET, which came over rings if it is `utf16`.
pub(crate) fn value(utf16: bool, reply: &[u8]) -> Result<String> {
    reply::value(&body(utf16, reply))
}

/// The key and value in the body of the reply to an ENUMERATE.
pub(crate) fn item(utf16: bool, reply: &[u8]) -> Result<Item> {
    reply::item(&body(utf16, reply))
}

/// The IP configuration in the body of the reply to a GET_IP_INFO of this version.
pub(crate) fn ip_info(utf16: bool, version: Version, reply: &[u8]) -> Result<IpInfo> {
    match utf16 && version == BINARY {
        true => binary::ip_info(reply),
        false => reply::ip_info(&body(utf16, reply)),
    }
}
