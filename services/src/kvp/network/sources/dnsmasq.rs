//! dnsmasq: the servers that it forwards to, where `/etc/resolv.conf` names only the machine
//! itself.

use std::net::IpAddr;
use std::path::Path;

use super::resolv_conf;
use crate::kvp::files;
use crate::kvp::network::dns::server;
use crate::trusted::trusted;

const FILE: &str = "etc/dnsmasq.conf";
const DIRECTORY: &str = "etc/dnsmasq.d";

/// Files of servers that are named on its command line: by resolvconf of Debian, by OpenWrt.
const RESOLV_FILES: [&str; 2] = [
    "run/dnsmasq/resolv.conf",
    "tmp/resolv.conf.d/resolv.conf.auto",
];

/// What a configuration file says about the servers that queries are forwarded to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Upstream {
    /// Servers for all domains, without those on loopback addresses.
    pub servers: Vec<IpAddr>,
    /// Files in the format of `resolv.conf` that name more of them.
    pub resolv_files: Vec<String>,
    /// Those files are not read (`no-resolv`).
    pub no_resolv: bool,
}

/// Returns the servers of its configuration, or else those of the files on its command line. Files
/// that others than root could write are ignored: one of them is below `/tmp`.
pub(in crate::kvp::network) fn servers(root: &Path) -> Vec<IpAddr> {
    let mut upstream = Upstream::default();
    let mut paths = vec![root.join(FILE)];
    paths.extend(files::in_directory(&root.join(DIRECTORY)));
    for path in paths.iter().filter(|path| is_read(path)) {
        let parsed = parse(&trusted_text(path).unwrap_or_default());
        upstream.servers.extend(parsed.servers);
        upstream.resolv_files.extend(parsed.resolv_files);
        upstream.no_resolv |= parsed.no_resolv;
    }
    let resolv_files = upstream.resolv_files.iter().map(String::as_str);
    let resolv_files = resolv_files.chain(RESOLV_FILES);
    let of_files = resolv_files
        .filter(|_| !upstream.no_resolv)
        .filter_map(|path| trusted_text(&files::under(root, path)))
        .map(|text| resolv_conf::parse(&text))
        .find(|servers| !servers.is_empty());
    upstream.servers.extend(of_files.unwrap_or_default());
    upstream.servers
}

fn trusted_text(path: &Path) -> Option<String> {
    files::text(&trusted(path).ok()?)
}

/// Returns `false` for the names that it skips in a directory, and for what packages leave there.
fn is_read(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.starts_with(['.', '#']) && !name.ends_with('~') && !name.contains(".dpkg-")
}

/// Parses a configuration file (dnsmasq(8): an option a line, without the dashes).
pub fn parse(text: &str) -> Upstream {
    let mut upstream = Upstream::default();
    for line in text.lines() {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        // A comment begins with `#` after a blank; a port follows an address directly.
        let value = value.split_whitespace().next().unwrap_or_default();
        match key.split_whitespace().next() {
            // `/domain/server` is for that domain only; `@` is before the address to send from.
            Some("server") if !value.starts_with('/') => {
                let address = value.split('@').next().and_then(server);
                upstream
                    .servers
                    .extend(address.filter(|ip| !ip.is_loopback()));
            }
            Some("resolv-file") if value.starts_with('/') => {
                upstream.resolv_files.push(value.to_owned());
            }
            Some("no-resolv") => upstream.no_resolv = true,
            _ => {}
        }
    }
    upstream
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;
    use crate::kvp::network::testing::*;

    #[test]
    fn a_configuration_is_parsed() {
        let text = "# server=10.0.0.9\nserver=10.0.0.1\nserver = 10.0.0.2#5353 # second\n\
                    server=fd00::1@eth0\nserver=/lan/10.0.0.8\nserver=//10.0.0.7\n\
                    server=127.0.0.1#5335\nserver=dns.example\n  server=10.0.0.3@192.0.2.1#55\n\
                    servers-file=/etc/servers\nresolv-file=/run/upstream\nno-resolver\n\
                    server\nresolv-file=relative\n";
        let upstream = parse(text);
        let servers = ips(&["10.0.0.1", "10.0.0.2", "fd00::1", "10.0.0.3"]);
        assert_eq!(upstream.servers, servers);
        assert_eq!(upstream.resolv_files, ["/run/upstream"]);
        assert!(!upstream.no_resolv && parse("no-resolv\n").no_resolv);
    }

    #[test]
    fn all_files_of_the_configuration_count() {
        let resolv = ("run/upstream", "nameserver 10.0.0.3\n");
        let debian = ("run/dnsmasq/resolv.conf", "nameserver 10.0.0.4\n");
        let main = ("etc/dnsmasq.conf", "resolv-file=/run/upstream\n");
        let one = ("etc/dnsmasq.d/one.conf", "server=10.0.0.1\n");
        let left = ("etc/dnsmasq.d/one.conf.dpkg-old", "server=10.0.0.9\n");
        let both = root(&[main, one, left, resolv, debian]);
        assert_eq!(servers(both.path()), ips(&["10.0.0.1", "10.0.0.3"]));
        let closed = ("etc/dnsmasq.d/closed", "no-resolv\n");
        let closed = root(&[main, one, closed, resolv, debian]);
        assert_eq!(servers(closed.path()), ips(&["10.0.0.1"]));
        assert_eq!(servers(root(&[debian]).path()), ips(&["10.0.0.4"]));
        assert!(servers(root(&[one]).path().parent().unwrap()).is_empty());
    }

    #[test]
    fn a_file_that_others_can_write_is_ignored() {
        let openwrt = "tmp/resolv.conf.d/resolv.conf.auto";
        let root = root(&[(openwrt, "# Interface wan\nnameserver 192.0.2.53\n")]);
        let mode = |path: &str, mode| {
            fs::set_permissions(root.path().join(path), Permissions::from_mode(mode)).unwrap();
        };
        // As in a `/tmp` for all.
        mode("tmp", 0o1777);
        assert_eq!(servers(root.path()), ips(&["192.0.2.53"]));
        mode(openwrt, 0o666);
        assert!(servers(root.path()).is_empty());
        mode(openwrt, 0o644);
        mode("tmp/resolv.conf.d", 0o1777);
        assert!(servers(root.path()).is_empty());
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            prop_assert!(parse(&text).servers.iter().all(|ip| !ip.is_loopback()));
        }
    }
}
