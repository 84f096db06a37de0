//! The metrics of default routes, so that those of other interfaces stay and keep precedence.

use std::path::Path;

use super::hook;
use super::interfaces::{Family, Interfaces, Stanza, brought_up};
use super::kept::Part;
use crate::kvp::files;

/// Metrics of the first default route of each family; each further one has one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Metrics {
    /// `None` for the kernel's default.
    pub(super) v4: Option<u32>,
    pub(super) v6: u32,
}

/// Metrics up from here are those of interfaces besides the one that has the default route; each
/// interface has this many.
const FURTHER_INTERFACES: u32 = 2048;
const EACH: u32 = 64;

impl Metrics {
    /// Returns those of an interface that is alone. Its IPv6 routes come before those that routers
    /// announce, whose metric is 1024.
    pub(super) fn alone(index: u32) -> Self {
        Self {
            v4: None,
            v6: 512 + index % 16 * 32,
        }
    }

    /// Returns those that an interface needs: the ones that an administrator gave it, or else
    /// higher ones than those of other interfaces.
    pub(super) fn new(
        root: &Path,
        name: &str,
        index: u32,
        own: &[String],
        interfaces: &Interfaces,
        kept: (&Part, &Part),
    ) -> Self {
        let further = FURTHER_INTERFACES + index % (1 << 20) * EACH;
        let alone = Self::alone(index);
        let others = others(root, name, own, interfaces);
        let given = |part: &Part| part.option("metric").and_then(|metric| metric.parse().ok());
        Self {
            v4: given(kept.0).or_else(|| {
                let has_route = others
                    .iter()
                    .any(|stanza| routes_by_default(stanza, Family::V4));
                (has_route || has_v4_route(root, name)).then_some(further)
            }),
            v6: given(kept.1).unwrap_or_else(|| {
                let has_route = others
                    .iter()
                    .any(|stanza| routes_by_default(stanza, Family::V6));
                match has_route || has_v6_route(root, name) {
                    true => further,
                    false => alone.v6,
                }
            }),
        }
    }
}

/// Returns the stanzas of other interfaces that the machine has.
fn others(root: &Path, name: &str, own: &[String], interfaces: &Interfaces) -> Vec<Stanza> {
    let mut names: Vec<String> = brought_up(root)
        .into_iter()
        .filter_map(|(device, logical)| (device != name).then_some(logical))
        .collect();
    let devices = files::under(root, "/sys/class/net");
    let exist = interfaces.names().filter(|name| {
        // Names with a slash are patterns.
        !name.contains('/') && devices.join(name).exists()
    });
    names.extend(exist.map(str::to_owned));
    names.retain(|other| other != name && !own.contains(other));
    names.sort();
    names.dedup();
    names
        .iter()
        .flat_map(|name| interfaces.stanzas(name))
        .collect()
}

/// Returns whether a stanza makes a default route without a metric.
fn routes_by_default(stanza: &Stanza, family: Family) -> bool {
    let has = |wanted: &str| stanza.options.iter().any(|(key, _)| key == wanted);
    let of_family = |value: &str| value.contains(':') == (family == Family::V6);
    let by_option = stanza.options.iter().any(|(key, value)| match &**key {
        "gateway" => of_family(value) && (family == Family::V6 || !has("metric")),
        "use" => value == "dhcp" && family == Family::V4 && !has("metric"),
        key if hook::KEYS.contains(&key) => {
            let metric = hook::default_route(value, "", family);
            metric.is_some_and(|metric| family == Family::V6 || metric.is_none())
        }
        _ => false,
    });
    let by_dhcp = stanza.method == "dhcp" && stanza.family != Some(Family::V6);
    by_option || by_dhcp && family == Family::V4 && !has("metric")
}

/// Returns whether another interface has an IPv4 default route with the lowest metric.
fn has_v4_route(root: &Path, name: &str) -> bool {
    let text = files::text(&files::under(root, "/proc/net/route")).unwrap_or_default();
    text.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match &*fields {
            [device, "00000000", _, _, _, _, "0", "00000000", ..] => *device != name,
            _ => false,
        }
    })
}

/// Returns whether another interface has an IPv6 default route.
fn has_v6_route(root: &Path, name: &str) -> bool {
    let text = files::text(&files::under(root, "/proc/net/ipv6_route")).unwrap_or_default();
    text.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match (&*fields, fields.last()) {
            ([destination, "00", ..], Some(device)) => {
                // The route of `lo` rejects what no other one has.
                destination.bytes().all(|digit| digit == b'0') && *device != name && *device != "lo"
            }
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::network::testing::root;

    fn metrics(files: &[(&str, &str)]) -> Metrics {
        let root = root(files);
        let interfaces = Interfaces::read(root.path());
        let own = ["hyperv-agent-eth0".to_owned()];
        let part = Part::default();
        Metrics::new(root.path(), "eth0", 2, &own, &interfaces, (&part, &part))
    }

    #[test]
    fn another_default_route_keeps_precedence() {
        const STATE: &str = "run/network/ifstate";
        const FILE: &str = "etc/network/interfaces";
        const ROUTES: &str = "proc/net/route";
        const ROUTES6: &str = "proc/net/ipv6_route";
        let zeros = "0".repeat(32);
        let v6 =
            |device: &str| format!("{zeros} 00 {zeros} 00 fe80 00000400 1 0 00450003 {device}\n");
        let (other6, own6, lo6) = (v6("eth1"), v6("eth0"), v6("lo"));
        let up = (STATE, "eth0=hyperv-agent-eth0\neth1=lan\n");
        for (files, v4, v6) in [
            (vec![], None, 576),
            (
                vec![(ROUTES, "eth1 00000000 0107A8C0 0003 0 0 0 00000000 0 0 0\n")],
                Some(2176),
                576,
            ),
            (
                vec![(ROUTES, "eth0 00000000 0107A8C0 0003 0 0 0 00000000 0 0 0\n")],
                None,
                576,
            ),
            (
                vec![(
                    ROUTES,
                    "eth1 00000000 0107A8C0 0003 0 0 100 00000000 0 0 0\n",
                )],
                None,
                576,
            ),
            (
                vec![(ROUTES, "eth1 0000000A 0107A8C0 0003 0 0 0 0000FFFF 0 0 0\n")],
                None,
                576,
            ),
            (vec![(ROUTES6, &*other6)], None, 2176),
            (vec![(ROUTES6, &*own6)], None, 576),
            (vec![(ROUTES6, &*lo6)], None, 576),
            (
                vec![up, (FILE, "iface lan inet static\n gateway 10.1.0.1")],
                Some(2176),
                576,
            ),
            (
                vec![
                    up,
                    (FILE, "iface lan inet static\n gateway 10.1.0.1\n metric 9"),
                ],
                None,
                576,
            ),
            (
                vec![up, (FILE, "iface lan inet6 static\n gateway fd00::1")],
                None,
                2176,
            ),
            (vec![up, (FILE, "iface lan inet dhcp")], Some(2176), 576),
            (vec![up, (FILE, "iface lan\n use dhcp")], Some(2176), 576),
            (
                vec![
                    up,
                    (
                        FILE,
                        "iface lan inet static\n up ip route add default via 10.1.0.1",
                    ),
                ],
                Some(2176),
                576,
            ),
            // No interface has these.
            (
                vec![(FILE, "iface lan inet static\n gateway 10.1.0.1")],
                None,
                576,
            ),
            (
                vec![up, (FILE, "iface eth0 inet static\n gateway 10.1.0.1")],
                None,
                576,
            ),
            (
                vec![("sys/class/net/eth1/x", ""), (FILE, "iface eth1 inet dhcp")],
                Some(2176),
                576,
            ),
        ] {
            let found = metrics(&files);
            assert_eq!((found.v4, found.v6), (v4, v6), "{files:?}");
        }
    }
}
