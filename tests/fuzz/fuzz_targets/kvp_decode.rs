//! Messages of the key-value service, over both transports: any bytes are
//! decoded or refused, and what is decoded can be answered.

#![no_main]

use hyperv_services::kvp::request::{IpInfo, Reply, Request};
use hyperv_services::kvp::{hvutil, uio};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut message = bytes.to_vec();
    if let Ok(request) = uio::decode(bytes) {
        let _ = uio::encode(&mut message, &reply(&request));
        assert_eq!(message.len(), bytes.len());
    }
    let mut message = bytes.to_vec();
    if let Ok(request) = hvutil::decode(bytes) {
        let _ = hvutil::encode(&mut message, &reply(&request));
        assert_eq!(message.len(), bytes.len());
    }
    let _ = hvutil::driver_version(bytes);
});

/// A reply with what came in: as long as the host can make it.
fn reply(request: &Request) -> Reply {
    match request.clone() {
        Request::Get { key, .. } => Reply::Value(key),
        Request::Set { key, value, .. } => Reply::Item { key, value },
        Request::Delete { key, .. } => Reply::Item {
            key: key.clone(),
            value: key,
        },
        Request::Enumerate { .. } => Reply::Done,
        Request::GetIpInfo { adapter, family } => Reply::IpInfo(IpInfo {
            dns: adapter.clone(),
            gateways: adapter,
            family,
            ..IpInfo::default()
        }),
        Request::SetIpInfo(info) => Reply::IpInfo(info),
    }
}
