//! The list of mounts, `/proc/self/mountinfo`: see proc(5).

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::device_number::DeviceNumber;

/// The path of the list below the root directory.
pub(super) const LIST: &str = "proc/self/mountinfo";

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// The mount ID.
    pub id: u64,
    /// The ID of the parent mount; for the root, its own or one that is not in the list.
    pub parent: u64,
    /// The device number of the file system.
    pub device: DeviceNumber,
    /// The mount point, a directory or a file.
    pub point: PathBuf,
    /// Whether it shows the whole file system or a subvolume of it, and not only a directory
    /// or a file in it.
    pub whole: bool,
    /// The type of the file system, such as `xfs`.
    pub kind: String,
    /// The source that it was mounted from.
    pub source: String,
    /// Other devices that it was mounted with: for its log or journal, and its realtime
    /// device.
    pub external: Vec<PathBuf>,
    /// Why the file system cannot be written to through any mount, if it cannot.
    pub read_only: Option<ReadOnly>,
}

/// Why a file system cannot be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    /// It was mounted or remounted read-only: `ro`.
    Asked,
    /// The kernel made it read-only after an error. ext4 shows `emergency_ro` from Linux 6.15
    /// on, beside `rw`. Until 6.11 ext4, and btrfs always, shows `ro` for the file system
    /// and `rw` for the mount. In between ext4 shows nothing.
    Error,
    /// It was shut down, and cannot be read either: `shutdown`.
    ShutDown,
}

/// Types that the kernel makes read-only after an error.
const MADE_READ_ONLY: [&str; 4] = ["ext2", "ext3", "ext4", "btrfs"];

/// The options that name external devices, of XFS and reiserfs.
const EXTERNAL: [&[u8]; 3] = [b"logdev=", b"rtdev=", b"jdev="];

/// Reads the mounts, with `root` in place of `/`.
///
/// # Errors
///
/// If the list cannot be read.
pub fn read(root: &Path) -> io::Result<Vec<MountInfo>> {
    fs::read(root.join(LIST)).map(|text| parse(&text))
}

/// Parses a list of mounts. Skips invalid lines.
pub fn parse(text: &[u8]) -> Vec<MountInfo> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<MountInfo> {
    // A field may be empty, so each space counts.
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let parent = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let root = decode(fields.next()?);
    let point = decode(fields.next()?);
    let own_options = fields.next()?;
    // Skip the optional fields.
    fields.find(|field| *field == b"-")?;
    let kind = text(fields.next()?);
    let source = text(fields.next()?);
    let options = fields.next()?;
    let options = options.split(|byte| *byte == b',');
    let has = |wanted: &[u8]| options.clone().any(|option| option == wanted);
    let mut own_options = own_options.split(|byte| *byte == b',');
    let by_kernel = own_options.any(|it| it == b"rw") && MADE_READ_ONLY.contains(&&*kind);
    let read_only = [
        (&b"shutdown"[..], ReadOnly::ShutDown),
        (b"emergency_ro", ReadOnly::Error),
        (
            b"ro",
            if by_kernel {
                ReadOnly::Error
            } else {
                ReadOnly::Asked
            },
        ),
    ];
    let read_only = read_only.into_iter().find(|(option, _)| has(option));
    let subvolume = |option: &[u8]| option.strip_prefix(b"subvol=").map(decode);
    let external = |option: &[u8]| {
        let device = EXTERNAL.iter().find_map(|it| option.strip_prefix(*it))?;
        Some(decode(device).into())
    };
    Some(MountInfo {
        id,
        parent,
        device,
        whole: root == "/" || options.clone().filter_map(subvolume).any(|it| it == root),
        point: point.into(),
        kind,
        source,
        external: options.clone().filter_map(external).collect(),
        read_only: read_only.map(|(_, why)| why),
    })
}

/// Returns the mounts that no path leads to, by ID, each with the mount that hides it: it
/// was mounted over the other one, or over a directory on the way to that.
pub(super) fn hidden(mounted: &[MountInfo]) -> HashMap<u64, &MountInfo> {
    let mut resolver = Resolver::new(mounted);
    let hidden = mounted.iter().filter_map(|it| {
        let found = resolver.find(&it.point)?;
        (found.id != it.id).then_some((it.id, found))
    });
    hidden.collect()
}

/// Resolves paths to mounts by the list alone, without looking a path up.
struct Resolver<'a> {
    mounted: &'a [MountInfo],
    /// The mounts by their parent, if that is in the list, and mount point.
    at: HashMap<(Option<u64>, &'a Path), &'a MountInfo>,
    /// The paths that were resolved already. An ordinary user can make a namespace of a
    /// hundred thousand mounts, all at one deep path.
    found: HashMap<&'a Path, Option<&'a MountInfo>>,
}

impl<'a> Resolver<'a> {
    fn new(mounted: &'a [MountInfo]) -> Self {
        let ids: HashSet<u64> = mounted.iter().map(|it| it.id).collect();
        let parent = |it: &MountInfo| {
            Some(it.parent).filter(|parent| *parent != it.id && ids.contains(parent))
        };
        let at = mounted.iter().map(|it| ((parent(it), &*it.point), it));
        let at: HashMap<_, _> = at.collect();
        let root = Path::new("/");
        // No path leads to what is mounted over the root.
        let first = at.get(&(None, root)).copied();
        Self {
            mounted,
            at,
            found: HashMap::from([(root, first)]),
        }
    }

    /// Returns the mount that a path leads to, if it is in the list.
    fn find(&mut self, path: &'a Path) -> Option<&'a MountInfo> {
        let mut below = Vec::new();
        let mut current = self.found.get(Path::new("/")).copied().flatten();
        for path in path.ancestors() {
            if let Some(found) = self.found.get(path) {
                current = *found;
                break;
            }
            below.push(path);
        }
        for path in below.into_iter().rev() {
            let mut steps = self.mounted.len();
            while let Some(next) = self.at.get(&(current.map(|it| it.id), path)) {
                current = Some(next);
                if steps == 0 {
                    // A list with a cycle is not the kernel's.
                    current = None;
                    break;
                }
                steps -= 1;
            }
            self.found.insert(path, current);
        }
        current
    }
}

fn text(field: &[u8]) -> String {
    decode(field).to_string_lossy().into_owned()
}

/// Decodes a field: bytes that would separate it from the next are escaped as a backslash
/// and three octal digits.
pub(super) fn decode(field: &[u8]) -> OsString {
    let mut decoded = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let escaped = match (first, after) {
            (
                b'\\',
                [
                    high @ b'0'..=b'3',
                    middle @ b'0'..=b'7',
                    low @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                rest = after;
                (high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0')
            }
            _ => *first,
        };
        decoded.push(escaped);
    }
    OsString::from_vec(decoded)
}

/// Returns the ID of the mount through which `fd` was opened.
///
/// # Errors
///
/// If `/proc` does not have it.
pub(super) fn id(fd: impl AsFd) -> io::Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let info = fs::read_to_string(path)?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| io::Error::other("no mnt_id in /proc/self/fdinfo"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_read() {
        let list = b"22 27 0:21 / /proc rw,nosuid shared:12 master:1 - proc proc rw\n\
            27 1 254:1 / / ro,relatime - ext4 /dev/vda1 rw,discard\n";
        let mounted = |id, device: &str, point: &str, kind: &str, source: &str| MountInfo {
            id,
            parent: if id == 22 { 27 } else { 1 },
            device: device.parse().unwrap(),
            point: point.into(),
            whole: true,
            kind: kind.into(),
            source: source.into(),
            read_only: None,
            external: Vec::new(),
        };
        assert_eq!(
            parse(list),
            [
                mounted(22, "0:21", "/proc", "proc", "proc"),
                mounted(27, "254:1", "/", "ext4", "/dev/vda1"),
            ]
        );
    }

    #[test]
    fn escapes_are_bytes() {
        let list =
            br"1 0 8:1 / /a\040b\011c\012d\134040\303\251\377\400\8 rw - ext4 /dev/x\040\043y rw";
        let [mounted] = &parse(list)[..] else {
            panic!("not one");
        };
        let point = b"/a b\tc\nd\\040\xc3\xa9\xff\\400\\8";
        assert_eq!(mounted.point.as_os_str().as_bytes(), point);
        assert_eq!(mounted.source, "/dev/x #y");
    }

    #[test]
    fn what_shows_only_a_part_of_a_file_system_is_told_from_the_whole() {
        for (root, options, whole) in [
            ("/", "rw", true),
            ("/directory", "rw", false),
            ("/", "rw,subvolid=5,subvol=/", true),
            (r"/a\040b", r"rw,subvolid=256,subvol=/a\040b", true),
            ("/a/directory", "rw,subvolid=256,subvol=/a", false),
        ] {
            let line = format!("1 0 0:40 {root} /mnt rw - btrfs /dev/sda {options}");
            assert_eq!(parse(line.as_bytes())[0].whole, whole, "{line}");
        }
    }

    #[test]
    fn read_only_is_the_file_system_not_the_mount() {
        for (mount, file_system, read_only) in [
            ("ro", "rw,errors=remount-ro", None),
            ("ro", "ro", Some(ReadOnly::Asked)),
            ("rw", "ro", Some(ReadOnly::Error)),
            ("rw", "rw,data=ro", None),
            ("noatime,ro", "noatime,ro,x", Some(ReadOnly::Asked)),
            ("noatime,rw", "noatime,ro,x", Some(ReadOnly::Error)),
            (
                "rw",
                "rw,errors=remount-ro,emergency_ro",
                Some(ReadOnly::Error),
            ),
            ("rw", "ro,emergency_ro", Some(ReadOnly::Error)),
            ("rw,shutdown", "rw,noshutdown,shutdown=1", None),
            ("rw", "rw,emergency_ro,shutdown", Some(ReadOnly::ShutDown)),
        ] {
            let line = format!("1 0 8:1 / /mnt {mount} - ext4 /dev/sda {file_system}");
            assert_eq!(parse(line.as_bytes())[0].read_only, read_only, "{line}");
        }
        // What cannot be written to by its type.
        let line = b"1 0 7:1 / /mnt rw - squashfs /dev/loop1 ro";
        assert_eq!(parse(line)[0].read_only, Some(ReadOnly::Asked));
    }

    #[test]
    fn devices_for_logs_and_realtime_are_read() {
        let options = r"rw,logdev=/dev/with\054and\040x,rtdev=/dev/sdc,jdevx,nologdev=/dev/sdd";
        let list = format!("1 0 8:1 / /mnt rw - xfs /dev/sda {options}");
        let [mounted] = &parse(list.as_bytes())[..] else {
            panic!("not one");
        };
        let expected: [PathBuf; 2] = ["/dev/with,and x".into(), "/dev/sdc".into()];
        assert_eq!(mounted.external, expected);
    }

    #[test]
    fn lines_without_sense_are_left_out() {
        let list = b"\n\
            1\n\
            x 0 8:1 / /mnt rw - ext4 /dev/sda rw\n\
            1 x 8:1 / /mnt rw - ext4 /dev/sda rw\n\
            1 0 8 / /mnt rw - ext4 /dev/sda rw\n\
            1 0 8:-1 / /mnt rw - ext4 /dev/sda rw\n\
            1 0 8:1 / /mnt rw shared:1 ext4 /dev/sda rw\n\
            1 0 8:1 / /mnt rw - ext4 /dev/sda\n\
            2 0 8:1 / /mnt rw - ext4  rw\n\
            \xff\xff 0 8:1 / /mnt rw - ext4 /dev/sda rw";
        let [mounted] = &parse(list)[..] else {
            panic!("not one");
        };
        assert_eq!((mounted.id, mounted.source.as_str()), (2, ""));
    }

    /// What is hidden, as `ID<COVER`, in a list of `ID PARENT POINT`.
    #[track_caller]
    fn hidden_in(list: &[&str]) -> Vec<String> {
        let line = |line: &&str| {
            let [id, parent, point] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            format!("{id} {parent} 8:{id} / {point} rw - ext4 /dev/sda rw\n")
        };
        let mounted = parse(list.iter().map(line).collect::<String>().as_bytes());
        let hidden = hidden(&mounted);
        let mut hidden: Vec<_> = hidden.iter().map(|(id, by)| (id, by.id)).collect();
        hidden.sort();
        let hidden = hidden.iter().map(|(id, by)| format!("{id}<{by}"));
        hidden.collect()
    }

    /// As many as the kernel lets a mount namespace have, which an ordinary user may
    /// make of his own.
    #[test]
    fn many_mounts_over_one_another_take_no_longer_than_many_beside_one_another() {
        const MOST: u64 = 100_000;
        let deep = "/deep".repeat(100);
        let over = |id: u64| format!("{id} {} 8:1 / {deep} rw - ext4 /dev/sda rw\n", id - 1);
        let list: String = (1..=MOST).map(over).collect();
        let list = format!("0 0 8:1 / / rw - ext4 /dev/sda rw\n{list}");
        let mounted = parse(list.as_bytes());
        let hidden = hidden(&mounted);
        assert_eq!(hidden.len() as u64, MOST - 1);
        assert!(hidden.values().all(|by| by.id == MOST));
    }

    #[test]
    fn what_no_path_leads_to_is_hidden() {
        // The root's own parent is in no list.
        assert_eq!(hidden_in(&["1 0 /", "2 1 /mnt", "3 2 /mnt/data"]), [""; 0]);
        assert_eq!(hidden_in(&["1 1 /", "2 1 /mnt"]), [""; 0]);
        // Over a directory on the way, and over what is in that.
        assert_eq!(
            hidden_in(&["1 0 /", "2 1 /mnt/data", "3 2 /mnt/data/in", "4 1 /mnt"]),
            ["2<4", "3<4"]
        );
        // The same path in the mount that covers it.
        assert_eq!(
            hidden_in(&["1 0 /", "2 1 /mnt/data", "3 1 /mnt", "4 3 /mnt/data"]),
            ["2<4"]
        );
        // One over the other, and a third; what is in the first is hidden too.
        assert_eq!(
            hidden_in(&[
                "1 0 /", "2 1 /a", "3 2 /a", "4 3 /a", "5 2 /a/b", "6 4 /a/c"
            ]),
            ["2<4", "3<4", "5<4"]
        );
        // A name that begins like another's is no directory of it.
        assert_eq!(hidden_in(&["1 0 /", "2 1 /mnt-data", "3 1 /mnt"]), [""; 0]);
        // Over the root, where nobody is led to.
        assert_eq!(hidden_in(&["1 0 /", "2 1 /", "3 2 /x"]), ["2<1", "3<1"]);
        // In a directory of a mount that is not shown.
        assert_eq!(
            hidden_in(&["2 7 /a/b", "3 7 /a", "4 7 /c", "5 4 /c/d"]),
            ["2<3"]
        );
        // What the kernel does not write.
        assert_eq!(hidden_in(&["1 2 /a", "2 1 /a", "3 3 /a"]), ["1<3", "2<3"]);
    }

    /// As the kernel does it.
    fn escaped(bytes: &[u8]) -> String {
        let escape = |byte: &u8| match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' | 128.. => format!("\\{byte:03o}"),
            other => char::from(*other).into(),
        };
        bytes.iter().map(escape).collect()
    }

    proptest! {
        #[test]
        fn what_the_kernel_writes_is_read(
            numbers: (u64, u32, u32),
            point: Vec<u8>,
            source: String,
            optional in "(shared:[0-9] |master:[0-9] |unbindable ){0,4}",
        ) {
            let (id, major, minor) = numbers;
            let (at, from) = (escaped(&point), escaped(source.as_bytes()));
            let line = format!("{id} 9 {major}:{minor} / {at} rw {optional}- xfs {from} rw\n");
            let mounted = parse(line.as_bytes());
            prop_assert_eq!(mounted.len(), 1);
            prop_assert_eq!(mounted[0].id, id);
            prop_assert_eq!(mounted[0].device, DeviceNumber { major, minor });
            prop_assert_eq!(mounted[0].point.as_os_str().as_bytes(), point);
            prop_assert_eq!(&mounted[0].source, &source);
        }

        /// Mounts are made one after another, each at a path: what the kernel
        /// makes its parent is the mount in which that path ends then.
        #[test]
        fn the_last_at_a_path_is_seen_and_hides_what_was_below(
            points in prop::collection::vec("(/[ab]){1,3}", 0..12),
        ) {
            let mut mounted = parse(b"1 0 8:1 / / rw - ext4 /dev/sda rw");
            let mut seen = vec![(1, PathBuf::from("/"))];
            for (id, point) in (2..).zip(points) {
                let point = PathBuf::from(point);
                let parent = seen.iter().filter(|(_, it)| point.starts_with(it));
                let parent = parent.max_by_key(|(id, it)| (it.components().count(), *id));
                let (parent, _) = parent.unwrap().clone();
                seen.retain(|(_, it)| !it.starts_with(&point));
                seen.push((id, point.clone()));
                mounted.push(MountInfo { id, parent, point, ..mounted[0].clone() });
            }
            let hidden = hidden(&mounted);
            for it in &mounted {
                let is_seen = seen.iter().any(|(id, _)| *id == it.id);
                prop_assert_eq!(!is_seen, hidden.contains_key(&it.id), "{:?}", it);
            }
            for by in hidden.values() {
                prop_assert!(!hidden.contains_key(&by.id));
            }
        }

        #[test]
        fn nothing_panics(list: Vec<u8>, words in "[0-9:/ \\\\,-]{0,80}") {
            let lines = list.split(|byte| *byte == b'\n').count();
            let mounted = parse(&list);
            prop_assert!(mounted.len() <= lines);
            prop_assert!(hidden(&mounted).len() <= lines);
            prop_assert!(parse(words.as_bytes()).len() <= 1);
        }
    }
}
