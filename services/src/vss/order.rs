//! In which order file systems are frozen: none before what lies on it, which
//! could not be written out any more.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use super::plan::{DeviceNumber, FileSystem};

/// What is frozen earlier, as far as what lies on what leaves a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Lies on what may be in any of the others.
    OnAnything,
    /// Lies on a file.
    OnFile,
    /// Lies on disks.
    OnDisk,
    /// Is mounted at `/`: more waits for it than for any other.
    Root,
}

/// The place of each of the file systems in the order in which they are frozen.
pub(super) fn places(file_systems: &[FileSystem]) -> HashMap<DeviceNumber, usize> {
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
                // A layer over another file system, or a program's.
                _ => on_anything.push(upper.device),
            }
        }
    }
    let on_anything = with_all_above(on_anything, &above);

    let mut sorted: Vec<_> = file_systems.iter().collect();
    sorted.sort_by_cached_key(|it| {
        let class = if on_anything.contains(&it.device) {
            Class::OnAnything
        } else if it.mounts.iter().any(|mount| mount.point == Path::new("/")) {
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

    // How many there are above each that have no place yet, and which would be
    // the first otherwise.
    let mut waiting: HashMap<DeviceNumber, (usize, usize)> = HashMap::new();
    for (preference, it) in sorted.iter().enumerate() {
        let above = above.get(&it.device).map_or(0, Vec::len);
        waiting.insert(it.device, (above, preference));
    }
    let mut rest: BTreeSet<_> = waiting
        .iter()
        .map(|(device, key)| (*key, *device))
        .collect();
    let mut places = HashMap::new();
    // The first has nothing above it, unless what was found out makes no sense.
    while let Some((_, device)) = rest.pop_first() {
        waiting.remove(&device);
        places.insert(device, places.len());
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

/// These, and whatever lies on them.
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
