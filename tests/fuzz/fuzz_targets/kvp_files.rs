//! The files of other programs that the KVP service reads: os-release and what
//! the network managers keep.

#![no_main]

use hyperv_services::kvp::assignments;
use hyperv_services::kvp::network::ini::{Document, Syntax};
use hyperv_services::kvp::network::sources::{dhclient, dhcpcd, dnsmasq, resolv_conf};
use hyperv_services::kvp::network::{ifcfg, ifupdown, ini};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|content: &[u8]| {
    let _ = dhcpcd::parse(content);
    let text = String::from_utf8_lossy(content);
    for (key, value) in assignments::parse(&text) {
        assert!(!key.is_empty() && value.len() <= text.len());
    }
    for section in ["Network", "connection", "ipv4"] {
        let _ = ini::section(&text, section).count();
    }
    for syntax in [Syntax::Unit, Syntax::KeyFile] {
        let document = Document::parse(&text, syntax);
        assert_eq!(Document::parse(&document.render(), syntax), document);
    }
    let _ = ifcfg::parse(&text);
    let _ = ifupdown::parse(&text);
    let _ = dhclient::parse(&text);
    let _ = dnsmasq::parse(&text);
    assert!(resolv_conf::parse(&text).iter().all(|ip| !ip.is_loopback()));
});
