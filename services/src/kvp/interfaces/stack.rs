//! How interfaces are stacked on one another.

use std::collections::BTreeSet;

use super::interface::Interface;

/// More levels than anybody stacks: a VF, its netvsc interface, a bond, a bridge.
const MAX_LEVELS: usize = 8;

/// Kinds of interfaces that are on the link of the one below them. A tunnel is not.
const STACKED: [&str; 6] = ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"];

/// Returns the topmost master of an interface, which has its addresses: the bridge of a bond of a
/// port. An interface without a master is its own. Interfaces of a VRF have addresses of their
/// own.
pub(in crate::kvp) fn top<'a>(interface: &'a Interface, all: &'a [Interface]) -> &'a Interface {
    let mut top = interface;
    for _ in 0..MAX_LEVELS {
        let master = all.iter().find(|other| Some(other.index) == top.master);
        match master.filter(|master| master.kind.as_deref() != Some("vrf")) {
            Some(master) => top = master,
            None => break,
        }
    }
    top
}

/// Returns these interfaces, by index, and all whose frames go through one of them: its masters
/// and those that are stacked on it.
pub(in crate::kvp) fn above(roots: &[u32], all: &[Interface]) -> BTreeSet<u32> {
    let mut found: BTreeSet<u32> = roots.iter().copied().collect();
    loop {
        let before = found.len();
        for interface in all {
            let kind = interface.kind.as_deref();
            let is_stacked = kind.is_some_and(|kind| STACKED.contains(&kind));
            let link = interface.link.filter(|_| is_stacked);
            if link.is_some_and(|link| found.contains(&link)) {
                found.insert(interface.index);
            }
            if found.contains(&interface.index) {
                found.extend(interface.master);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::interface;
    use super::*;

    /// An interface of a kind, below `master` and above `link`.
    fn stacked(index: u32, kind: &str, master: Option<u32>, link: Option<u32>) -> Interface {
        Interface {
            kind: Some(kind.to_owned()),
            master,
            link,
            ..interface(index, &format!("{kind}{index}"))
        }
    }

    #[test]
    fn the_topmost_master_has_the_addresses() {
        let vf = Interface {
            master: Some(3),
            ..interface(2, "enP1")
        };
        let netvsc = Interface {
            master: Some(4),
            ..interface(3, "eth0")
        };
        let all = [
            vf,
            netvsc,
            stacked(4, "bond", Some(5), None),
            stacked(5, "bridge", Some(6), None),
            stacked(6, "vrf", None, None),
            stacked(7, "vlan", Some(6), Some(3)),
            // Its master has gone meanwhile.
            stacked(8, "veth", Some(99), None),
        ];
        let tops: Vec<u32> = all.iter().map(|one| top(one, &all).index).collect();
        assert_eq!(tops, [5, 5, 5, 5, 6, 7, 8]);
    }

    #[test]
    fn bridges_bonds_and_vlans_are_above_a_device() {
        let all = [
            stacked(9, "macvlan", None, Some(7)),
            stacked(8, "gre", None, Some(3)),
            stacked(7, "vlan", None, Some(4)),
            stacked(5, "bridge", None, None),
            stacked(4, "bond", Some(5), None),
            Interface {
                master: Some(4),
                ..interface(3, "eth0")
            },
            stacked(10, "vlan", None, Some(99)),
        ];
        let expected = [3, 4, 5, 7, 9].into();
        assert_eq!(above(&[3], &all), expected);
        assert_eq!(above(&[], &all), [].into());
    }

    proptest! {
        /// Of cycles too, which a race of the dumps may show.
        #[test]
        fn every_stack_has_an_end(
            masters in prop::collection::vec(prop::option::of(0..8u32), 8),
            links in prop::collection::vec(prop::option::of(0..8u32), 8),
        ) {
            let pairs = (0..).zip(masters.into_iter().zip(links));
            let all: Vec<Interface> = pairs
                .map(|(index, (master, link))| stacked(index, "vlan", master, link))
                .collect();
            for one in &all {
                top(one, &all);
                prop_assert!(above(&[one.index], &all).contains(&one.index));
            }
        }
    }
}
