//! Messages of the key-value service, in both encodings: any bytes are
//! decoded or refused, and what is decoded can be answered.

#![no_main]

use hyperv_services::kvp::request::{IpInfo, Reply, Request};
use hyperv_services::kvp::wire;
use hyperv_vmbus::Encoding;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for encoding in [Encoding::Utf16, Encoding::Utf8] {
        let mut message = bytes.to_vec();
        if let Ok(request) = wire::decode(encoding, bytes) {
            let _ = wire::encode(encoding, &mut message, &reply(&request));
        }
    }
    let _ = wire::driver_version(bytes);
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
