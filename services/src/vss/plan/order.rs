//! The freeze order: no file system is frozen before another one that is on it, in a file
//! or by a loop device, since that could not write any more.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use crate::vss::device_number::DeviceNumber;
use crate::vss::file_system::FileSystem;

/// Classes of file systems, by which the freeze order is chosen where it is not fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// On a device that may be in any of the others.
    OnAnything,
    /// On a file.
    OnFile,
    /// On disks.
    OnDisk,
    /// Mounted at `/`: more waits for it than for any other.
    Root,
}

/// The place of a file system in the freeze order.
#[derive(Debug)]
pub(super) struct Place {
    /// Its position.
    pub(super) position: usize,
    /// Those that must be frozen before it. Others may be frozen at the same time.
    pub(super) after: BTreeSet<DeviceNumber>,
}

/// Returns the place of each file system in the freeze order.
///
/// What is on a device that may be made of anything is frozen alone, one after the other,
/// and before everything else. What is on one that is left out must be frozen before what
/// carries that one. The root comes after all others: a dependency that the kernel does not
/// show, as on a file of a bitmap or a pool, mostly leads there, and more programs wait for it.
pub(super) fn freeze_order(
    file_systems: &[FileSystem],
    is_left_out: impl Fn(DeviceNumber) -> bool,
) -> HashMap<DeviceNumber, Place> {
    let all: HashSet<_> = file_systems.iter().map(|it| it.device).collect();
    let mut above: HashMap<DeviceNumber, Vec<DeviceNumber>> = HashMap::new();
    let mut below: HashMap<DeviceNumber, BTreeSet<DeviceNumber>> = HashMap::new();
    let mut on_anything = Vec::new();
    for upper in file_systems {
        for lies_on in &upper.lies_on {
            match lies_on.file_system {
                Some(lower) if lower == upper.device || lies_on.in_memory => {}
                Some(lower) if all.contains(&lower) => {
                    if below.entry(upper.device).or_default().insert(lower) {
                        above.entry(lower).or_default().push(upper.device);
                    }
                }
                // On a stacked file system, or on what a program serves.
                _ => on_anything.push(upper.device),
            }
        }
    }
    let on_anything = with_all_above(on_anything, &above);

    let is_root = |it: &FileSystem| it.mounts.iter().any(|mount| mount.point == Path::new("/"));
    let mut sorted: Vec<_> = file_systems.iter().collect();
    sorted.sort_by_cached_key(|it| {
        let class = if on_anything.contains(&it.device) {
            Class::OnAnything
        } else if is_root(it) {
            Class::Root
        } else if !it.lies_on.is_empty() {
            Class::OnFile
        } else {
            Class::OnDisk
        };
        let depths = it.mounts.iter().map(|it| it.point.components().count());
        let place = it.mount_point().to_owned();
        (class, Reverse(depths.min()), place, it.device)
    });

    // The number of file systems above each that have no position yet, and the preference.
    let mut waiting: HashMap<DeviceNumber, (usize, usize)> = HashMap::new();
    for (preference, it) in sorted.iter().enumerate() {
        let above = above.get(&it.device).map_or(0, Vec::len);
        waiting.insert(it.device, (above, preference));
    }
    let mut rest: BTreeSet<_> = waiting
        .iter()
        .map(|(device, key)| (*key, *device))
        .collect();
    let mut places: HashMap<DeviceNumber, Place> = HashMap::new();
    let roots: HashSet<_> = sorted
        .iter()
        .filter(|it| is_root(it))
        .map(|it| it.device)
        .collect();
    let mut alone = None;
    // The first one has nothing above it, unless there is a cycle.
    while let Some((_, device)) = rest.pop_first() {
        waiting.remove(&device);
        let above = above.get(&device).into_iter().flatten().copied();
        let mut after = BTreeSet::new();
        for before in above.chain(alone) {
            match places.get(&before) {
                Some(place) if is_left_out(before) => after.extend(&place.after),
                Some(_) => drop(after.insert(before)),
                // In a cycle.
                None => {}
            }
        }
        if roots.contains(&device) {
            after.extend(places.keys().filter(|it| !is_left_out(**it)));
        }
        let position = places.len();
        places.insert(device, Place { position, after });
        if on_anything.contains(&device) {
            alone = Some(device);
        }
        for lower in below.remove(&device).into_iter().flatten() {
            if let Some(key) = waiting.get_mut(&lower) {
                rest.remove(&(*key, lower));
                key.0 -= 1;
                rest.insert((*key, lower));
            }
        }
    }
    places
}

/// Returns these and all that are on them.
fn with_all_above(
    mut next: Vec<DeviceNumber>,
    above: &HashMap<DeviceNumber, Vec<DeviceNumber>>,
) -> HashSet<DeviceNumber> {
    let mut found = HashSet::new();
    while let Some(device) = next.pop() {
        if found.insert(device) {
            next.extend(above.get(&device).into_iter().flatten());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vss::file_system::{LiesOn, Mount};

    fn number(minor: u32) -> DeviceNumber {
        DeviceNumber { major: 8, minor }
    }

    fn on(file_system: Option<u32>) -> LiesOn {
        LiesOn {
            what: "/file".into(),
            file_system: file_system.map(number),
            in_memory: false,
        }
    }

    fn file_system(minor: u32, points: &[&str], lies_on: Vec<LiesOn>) -> FileSystem {
        let mount = |point: &&str| Mount {
            point: point.into(),
            ..Mount::default()
        };
        FileSystem {
            device: number(minor),
            mounts: points.iter().map(mount).collect(),
            lies_on,
            ..FileSystem::default()
        }
    }

    /// Where they are mounted, in order; the same whichever way they are given.
    #[track_caller]
    fn order(mut file_systems: Vec<FileSystem>) -> Vec<String> {
        let ordered = |file_systems: &mut Vec<FileSystem>| -> Vec<_> {
            let positions = freeze_order(file_systems, |_| false);
            file_systems.sort_by_key(|it| positions[&it.device].position);
            let points = file_systems.iter().map(FileSystem::mount_point);
            points.map(|point| point.display().to_string()).collect()
        };
        file_systems.reverse();
        let reversed = ordered(&mut file_systems);
        file_systems.sort_by_key(|it| it.device);
        assert_eq!(ordered(&mut file_systems), reversed);
        reversed
    }

    #[test]
    fn deeper_comes_before_shallower_and_the_root_last() {
        let order = order(vec![
            file_system(1, &["/"], vec![]),
            file_system(2, &["/home"], vec![]),
            file_system(3, &["/srv/data/x"], vec![]),
            file_system(4, &["/var"], vec![]),
            file_system(5, &["/var/lib"], vec![]),
            file_system(6, &["/deep/er/than/any", "/mnt"], vec![]),
        ]);
        let first = "/deep/er/than/any";
        assert_eq!(
            order,
            ["/srv/data/x", "/var/lib", first, "/home", "/var", "/"]
        );
    }

    #[test]
    fn the_root_comes_before_what_carries_it_only() {
        let order = order(vec![
            file_system(1, &["/"], vec![on(Some(2))]),
            file_system(2, &["/a/b/c/host"], vec![]),
            file_system(3, &["/home"], vec![]),
        ]);
        assert_eq!(order, ["/home", "/", "/a/b/c/host"]);
    }

    #[test]
    fn btrfs_of_which_a_subvolume_is_the_root_is_the_root() {
        let order = order(vec![
            file_system(1, &["/home", "/", "/a/b/c"], vec![]),
            file_system(2, &["/x"], vec![]),
        ]);
        assert_eq!(order, ["/x", "/home"]);
    }

    #[test]
    fn what_lies_on_anything_comes_first_with_what_lies_on_it() {
        let order = order(vec![
            file_system(1, &["/"], vec![]),
            file_system(2, &["/a/b/c/d/e"], vec![]),
            file_system(3, &["/a/b/c/d"], vec![on(Some(2))]),
            // In a layer of a container, of which there is no plan.
            file_system(4, &["/c"], vec![on(Some(99))]),
            file_system(5, &["/b"], vec![on(None)]),
            file_system(6, &["/u"], vec![on(Some(5)), on(Some(2))]),
        ]);
        assert_eq!(order, ["/c", "/u", "/b", "/a/b/c/d", "/a/b/c/d/e", "/"]);
    }

    #[test]
    fn what_lies_in_memory_does_not() {
        let mut memory = on(Some(99));
        memory.in_memory = true;
        let order = order(vec![
            file_system(1, &["/b"], vec![memory]),
            file_system(2, &["/a/c"], vec![on(Some(3))]),
            file_system(3, &["/d"], vec![]),
        ]);
        assert_eq!(order, ["/a/c", "/b", "/d"]);
    }

    #[test]
    fn a_circle_ends_and_keeps_nothing_else_from_its_place() {
        let order = order(vec![
            file_system(1, &["/a"], vec![on(Some(2))]),
            file_system(2, &["/b"], vec![on(Some(1)), on(Some(2))]),
            file_system(3, &["/c"], vec![on(Some(4)), on(Some(4))]),
            file_system(4, &["/d"], vec![]),
        ]);
        assert_eq!(order, ["/c", "/d", "/a", "/b"]);
    }

    #[test]
    fn the_root_waits_for_all_and_another_one_for_those_on_it_and_on_anything() {
        let file_systems = [
            file_system(1, &["/"], vec![]),
            file_system(2, &["/home"], vec![]),
            file_system(3, &["/a"], vec![on(Some(1))]),
            file_system(4, &["/a/b"], vec![on(Some(3)), on(Some(2))]),
        ];
        let after = |file_systems: &[FileSystem], minor| {
            let mut places = freeze_order(file_systems, |_| false);
            let after = places.remove(&number(minor)).unwrap().after;
            after.into_iter().map(|it| it.minor).collect::<Vec<_>>()
        };
        for (minor, expected) in [(1, &[2, 3, 4][..]), (2, &[4]), (3, &[4]), (4, &[])] {
            assert_eq!(after(&file_systems, minor), expected, "{minor}");
        }
        let unknown = [5, 6].map(|minor| file_system(minor, &["/u"], vec![on(None)]));
        let file_systems = [&file_systems[..], &unknown].concat();
        for (minor, expected) in [(5, &[][..]), (6, &[5]), (1, &[2, 3, 4, 5, 6]), (4, &[6])] {
            assert_eq!(after(&file_systems, minor), expected, "{minor}");
        }
    }

    #[test]
    fn many_that_are_left_out_on_each_other_are_ordered_in_time() {
        const COUNT: u32 = 100;
        let file_systems: Vec<_> = (0..COUNT)
            .map(|minor| {
                let lower = (minor + 1..COUNT).map(|lower| on(Some(lower)));
                file_system(minor, &["/u"], lower.chain([on(None)]).collect())
            })
            .collect();
        let ends = [0, COUNT - 1].map(number);
        let places = freeze_order(&file_systems, |device| !ends.contains(&device));
        assert_eq!(places[&ends[1]].after, BTreeSet::from([ends[0]]));
    }

    proptest! {
        /// Each lies on some of those with greater numbers.
        #[test]
        fn nothing_comes_before_what_lies_on_it(
            carriers in prop::collection::vec(prop::collection::vec(1..20u32, 0..3), 1..60),
            unknown in prop::collection::vec(prop::bool::weighted(0.1), 60),
        ) {
            let file_systems: Vec<_> = (0u32..).zip(&carriers).zip(&unknown).map(|((minor, above), unknown)| {
                let lies_on = above.iter().map(|above| on(Some(minor + above)));
                let unknown = unknown.then(|| on(None));
                let point = format!("/{}", "x/".repeat(minor as usize * 7 % 5));
                file_system(minor, &[&point], lies_on.chain(unknown).collect())
            }).collect();
            let places = freeze_order(&file_systems, |_| false);
            let positions: HashMap<_, _> =
                places.iter().map(|(device, place)| (*device, place.position)).collect();
            prop_assert_eq!(positions.len(), file_systems.len());
            let all: BTreeSet<_> = positions.values().copied().collect();
            prop_assert_eq!(all, (0..file_systems.len()).collect());
            for (device, place) in &places {
                for before in &place.after {
                    prop_assert!(positions[before] < positions[device]);
                }
            }
            let mut on_anything = HashSet::new();
            for upper in file_systems.iter().rev() {
                for lower in &upper.lies_on {
                    match lower.file_system {
                        Some(lower) if positions.contains_key(&lower) => {
                            prop_assert!(places[&lower].after.contains(&upper.device));
                            if on_anything.contains(&lower) {
                                on_anything.insert(upper.device);
                            }
                        }
                        _ => {
                            on_anything.insert(upper.device);
                        }
                    }
                }
            }
            let first: HashSet<_> = positions
                .iter()
                .filter(|(_, place)| **place < on_anything.len())
                .map(|(device, _)| *device)
                .collect();
            prop_assert_eq!(first, on_anything);
        }
    }
}
