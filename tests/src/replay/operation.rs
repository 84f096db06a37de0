//! What the host asks in a captured request, for sending it over another transport or to
//! another directory.

use std::path::Path;

use anyhow::{Context, Result};
use hyperv_services::fcopy::request as fcopy_request;
use hyperv_services::kvp::request::{self as kvp_request, Family};
use hyperv_services::kvp::wire::{self as kvp_wire, IpLayout};
use hyperv_services::vss::wire as vss_wire;
use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::Version;

use crate::{fcopy, kvp, vss};

/// What the host asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Fcopy(fcopy::Operation),
    Kvp(kvp::Operation),
    Vss(vss::Operation),
}

impl Operation {
    /// Decodes the body of a request as the agent does.
    ///
    /// # Errors
    ///
    /// If the agent does not take it for a valid request.
    pub(super) fn decode(
        service: &str,
        encoding: Encoding,
        version: Version,
        body: &[u8],
    ) -> Result<Self> {
        Ok(match service {
            "fcopy" => Self::Fcopy(copy(fcopy_request::decode(encoding, body)?)),
            "kvp" => {
                let layout = IpLayout::of(version);
                Self::Kvp(pair(kvp_wire::decode(encoding, layout, body)?))
            }
            _ => {
                vss_wire::decode(body)?;
                let number = body.first().context("the request is empty")?;
                Self::Vss(backup(*number))
            }
        })
    }

    /// The body as it is sent with this encoding.
    pub(super) fn encode(&self, encoding: Encoding, version: Version) -> Vec<u8> {
        match (self, encoding) {
            (Self::Fcopy(operation), Encoding::Utf16) => operation.encode_utf16(),
            (Self::Fcopy(operation), Encoding::Utf8) => operation.encode_utf8(),
            (Self::Kvp(operation), Encoding::Utf16) => operation.encode_utf16(version),
            (Self::Kvp(operation), Encoding::Utf8) => operation.encode_utf8(),
            (Self::Vss(operation), _) => operation.encode(vss::BODY_LEN),
        }
    }

    /// The directory, the name and the flags of a START.
    pub(super) fn start(&self) -> Option<&fcopy::Start> {
        match self {
            Self::Fcopy(fcopy::Operation::Start(start)) => Some(start),
            _ => None,
        }
    }

    /// Whether it is about the guest's facts, which depend on the machine.
    pub(super) fn is_for_facts(&self) -> bool {
        use kvp::Operation::{Enumerate, Get};

        let Self::Kvp(Get { pool, .. } | Enumerate { pool, .. }) = self else {
            return false;
        };
        *pool == kvp::FACT_POOL
    }

    /// The request with the directory of a START moved below `root`; `None` if that is too
    /// long for a message. A Windows path stays what it is: the guest refuses it.
    pub(super) fn moved_below(mut self, root: &Path) -> Option<Self> {
        if let Self::Fcopy(fcopy::Operation::Start(start)) = &mut self {
            if let Some(directory) = directory(start) {
                let path = format!("{}/{directory}", root.to_str()?);
                start.path = path.encode_utf16().collect();
            }
            if start.path.len() >= fcopy::NAME_UNITS {
                return None;
            }
        }
        Some(self)
    }
}

/// The directory of a START below the root, where a path begins also without a slash; `None`
/// if it is a Windows path.
pub(super) fn directory(start: &fcopy::Start) -> Option<String> {
    let directory = String::from_utf16_lossy(&start.path);
    let name = String::from_utf16_lossy(&start.name);
    let whole = match directory.as_str() {
        "" => name,
        directory => format!("{directory}/{name}"),
    };
    let drive = matches!(whole.as_bytes(), [letter, b':', ..] if letter.is_ascii_alphabetic());
    let windows = drive || whole.contains('\\');
    (!windows).then(|| directory.trim_start_matches('/').to_owned())
}

fn copy(request: fcopy_request::Request<'_>) -> fcopy::Operation {
    match request {
        fcopy_request::Request::Start(start) => {
            let overwrite = u32::from(start.overwrite) * fcopy::OVERWRITE;
            let create_path = u32::from(start.create_path) * fcopy::CREATE_PATH;
            let flags = overwrite | create_path;
            let start = fcopy::Start::new(&start.directory, &start.file_name, flags, start.size);
            fcopy::Operation::Start(start)
        }
        fcopy_request::Request::Write { offset, data } => fcopy::Operation::write(offset, data),
        fcopy_request::Request::Complete => fcopy::Operation::Complete,
        fcopy_request::Request::Cancel => fcopy::Operation::Cancel,
    }
}

fn pair(request: kvp_request::Request) -> kvp::Operation {
    use kvp_request::Request;

    match request {
        Request::Get { pool, key } => kvp::Operation::get(pool.number(), &key),
        Request::Set { pool, key, value } => {
            kvp::Operation::set(pool.number(), &key, kvp::Value::text(&value))
        }
        Request::Delete { pool, key } => kvp::Operation::delete(pool.number(), &key),
        Request::Enumerate { pool, index } => kvp::Operation::Enumerate {
            pool: pool.number(),
            index,
        },
        Request::GetIpInfo { adapter, family } => {
            let Family(family) = family;
            kvp::Operation::get_ip_info(&adapter, family)
        }
        Request::SetIpInfo(info) => {
            let Family(family) = info.family;
            kvp::Operation::SetIpInfo(kvp::IpInfo {
                adapter: info.adapter,
                family,
                dhcp: info.dhcp,
                addresses: info.addresses,
                subnets: info.subnets,
                gateways: info.gateways,
                dns: info.dns,
                origins: Vec::new(),
            })
        }
    }
}

fn backup(number: u8) -> vss::Operation {
    match number {
        2 => vss::Operation::HotBackup,
        3 => vss::Operation::GetDmInfo,
        5 => vss::Operation::Freeze,
        6 => vss::Operation::Thaw,
        7 => vss::Operation::AutoRecover,
        number => vss::Operation::Other(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSIONS: [Version; 2] = [Version::new(4, 0), Version::new(5, 0)];

    fn all() -> Vec<(&'static str, Operation)> {
        let start = fcopy::Start::new("/srv/ü", "a😀", fcopy::CREATE_PATH, 7);
        let info = kvp::IpInfo {
            adapter: "{g}".into(),
            family: 3,
            dhcp: false,
            addresses: "10.0.0.1;fd00::1".into(),
            subnets: "255.0.0.0;/64".into(),
            gateways: "10.0.0.2".into(),
            dns: "10.0.0.3".into(),
            origins: Vec::new(),
        };
        let fcopy = [
            fcopy::Operation::Start(start),
            fcopy::Operation::write(6144, b"data"),
            fcopy::Operation::Complete,
            fcopy::Operation::Cancel,
        ];
        let kvp = [
            kvp::Operation::get(1, "key"),
            kvp::Operation::set(0, "key", kvp::Value::text("välue")),
            kvp::Operation::delete(3, "key"),
            kvp::Operation::Enumerate { pool: 2, index: 9 },
            kvp::Operation::get_ip_info("00:15:5D:01:02:0A", 1),
            kvp::Operation::SetIpInfo(info),
        ];
        let vss = [2, 3, 4, 5, 6, 7].map(backup);
        let fcopy = fcopy.map(|operation| ("fcopy", Operation::Fcopy(operation)));
        let kvp = kvp.map(|operation| ("kvp", Operation::Kvp(operation)));
        let vss = vss.map(|operation| ("vss", Operation::Vss(operation)));
        fcopy.into_iter().chain(kvp).chain(vss).collect()
    }

    #[test]
    fn every_request_can_change_its_transport() {
        for version in VERSIONS {
            for (service, operation) in all() {
                for encoding in [Encoding::Utf16, Encoding::Utf8] {
                    let body = operation.encode(encoding, version);
                    let decoded = Operation::decode(service, encoding, version, &body);
                    assert_eq!(decoded.unwrap(), operation, "{version} {encoding:?}");
                }
            }
        }
    }

    #[test]
    fn directories_are_moved_and_windows_paths_are_not() {
        let start = |path: &str| {
            let start = fcopy::Start::new(path, "file", 0, 0);
            Operation::Fcopy(fcopy::Operation::Start(start))
        };
        let root = Path::new("/tmp/root");
        assert_eq!(
            start("/srv").moved_below(root).unwrap(),
            start("/tmp/root/srv")
        );
        for (path, moved) in [("srv", "/tmp/root/srv"), ("", "/tmp/root/")] {
            assert_eq!(start(path).moved_below(root).unwrap(), start(moved));
        }
        for other in ["C:\\srv", "C:/srv", "c:", "srv\\sub"] {
            assert_eq!(start(other).moved_below(root).unwrap(), start(other));
        }
        let long = format!("/{}", "a".repeat(255));
        assert!(start(&long).moved_below(root).is_none());
    }

    #[test]
    fn what_the_agent_refuses_is_no_operation() {
        let version = VERSIONS[0];
        for service in ["fcopy", "kvp", "vss"] {
            for body in [&[][..], &[99; 12]] {
                let decoded = Operation::decode(service, Encoding::Utf16, version, body);
                assert!(decoded.is_err(), "{service} {body:?}");
            }
        }
    }
}
