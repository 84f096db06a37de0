//! Parses DNS servers in files of network managers.

use std::net::{IpAddr, SocketAddr};

/// Parses a DNS server: an address, with an optional port, zone or, after `#`, name.
pub(super) fn server(text: &str) -> Option<IpAddr> {
    let text = text.split('#').next()?;
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => text,
    };
    let bare = bare.split('%').next()?;
    let plain = bare.parse().ok();
    plain.or_else(|| bare.parse().ok().map(|socket: SocketAddr| socket.ip()))
}

/// Parses a list of DNS servers separated by spaces, commas or semicolons; skips invalid
/// ones.
pub(super) fn servers(text: &str) -> Vec<IpAddr> {
    text.split(|letter: char| letter.is_whitespace() || matches!(letter, ',' | ';'))
        .filter_map(server)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::ips;
    use super::*;

    #[test]
    fn a_server_is_parsed_in_several_forms() {
        let cases = [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1:53", "10.0.0.1"),
            ("10.0.0.1#dns.example", "10.0.0.1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fd00::1]:53", "fd00::1"),
            ("[fe80::1%2]:853#dns.example", "fe80::1"),
            ("fd00::1", "fd00::1"),
        ];
        for (text, ip) in cases {
            assert_eq!(server(text), Some(ip.parse().unwrap()), "{text}");
        }
        for text in ["", "dns.example", "10.0.0", "[]", "#", "%", "["] {
            assert_eq!(server(text), None, "{text}");
        }
        assert_eq!(
            servers(" 10.0.0.1;x,fd00::1 "),
            ips(&["10.0.0.1", "fd00::1"])
        );
    }

    proptest! {
        #[test]
        fn no_server_panics(text: String) {
            let _ = servers(&text);
        }
    }
}
