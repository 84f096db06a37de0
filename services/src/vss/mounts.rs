//! What is mounted: `/proc/self/mountinfo`, as proc(5) has it.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::plan::DeviceNumber;

/// The list of mounts, below `root`.
pub(super) const LIST: &str = "proc/self/mountinfo";

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// The kernel's number for the mount.
    pub id: u64,
    /// The kernel's number for the file system.
    pub device: DeviceNumber,
    /// The directory or file at which it is mounted.
    pub point: PathBuf,
    /// Whether all of the file system, or a subvolume of it, is mounted there:
    /// not only a directory or a file in it.
    pub whole: bool,
    /// The type of the file system, such as `xfs`.
    pub kind: String,
    /// What it was mounted from.
    pub source: String,
    /// Whether the file system is read-only, wherever it is mounted.
    pub read_only: bool,
    /// Devices beside the source that it was mounted with: what has its log or
    /// journal, and its realtime device.
    pub external: Vec<PathBuf>,
}

/// Options with such a device: of XFS, and of reiserfs.
const EXTERNAL: [&[u8]; 3] = [b"logdev=", b"rtdev=", b"jdev="];

/// What is mounted now, where `root` stands for `/`.
///
/// # Errors
///
/// If the list cannot be read.
pub fn read(root: &Path) -> io::Result<Vec<Mounted>> {
    fs::read(root.join(LIST)).map(|text| parse(&text))
}

/// The lines of a list of mounts; those that make no sense are left out.
pub fn parse(text: &[u8]) -> Vec<Mounted> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mounted> {
    // Any field but the numbers may be empty, so each space counts.
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let device = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let root = decode(fields.next()?);
    let point = decode(fields.next()?);
    let _options_of_the_mount = fields.next()?;
    // As many optional fields as the kernel likes.
    fields.find(|field| *field == b"-")?;
    let kind = text(fields.next()?);
    let source = text(fields.next()?);
    let options = fields.next()?;
    let mut options = options.split(|byte| *byte == b',');
    let subvolume = |option: &[u8]| option.strip_prefix(b"subvol=").map(decode);
    let external = |option: &[u8]| {
        let device = EXTERNAL.iter().find_map(|it| option.strip_prefix(*it))?;
        Some(decode(device).into())
    };
    Some(Mounted {
        id,
        device,
        whole: root == "/" || options.clone().filter_map(subvolume).any(|it| it == root),
        point: point.into(),
        kind,
        source,
        external: options.clone().filter_map(external).collect(),
        read_only: options.any(|option| option == b"ro"),
    })
}

fn text(field: &[u8]) -> String {
    decode(field).to_string_lossy().into_owned()
}

/// A field without its escapes: bytes that would part it from the next are
/// written as a backslash and three octal digits.
fn decode(field: &[u8]) -> OsString {
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

/// The kernel's number for the mount by which `fd` was opened.
///
/// # Errors
///
/// If `/proc` does not tell.
pub(super) fn id(fd: impl AsFd) -> io::Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
    let info = fs::read_to_string(path)?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| io::Error::other("no number of the mount in /proc/self/fdinfo"))
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
        let mounted = |id, device: &str, point: &str, kind: &str, source: &str| Mounted {
            id,
            device: device.parse().unwrap(),
            point: point.into(),
            whole: true,
            kind: kind.into(),
            source: source.into(),
            read_only: false,
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
            ("ro", "rw,errors=remount-ro", false),
            ("rw", "ro", true),
            ("rw", "rw,data=ro", false),
            ("rw", "noatime,ro,x", true),
        ] {
            let line = format!("1 0 8:1 / /mnt {mount} - ext4 /dev/sda {file_system}");
            assert_eq!(parse(line.as_bytes())[0].read_only, read_only, "{line}");
        }
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

        #[test]
        fn nothing_panics(list: Vec<u8>, words in "[0-9:/ \\\\,-]{0,80}") {
            let lines = list.split(|byte| *byte == b'\n').count();
            prop_assert!(parse(&list).len() <= lines);
            prop_assert!(parse(words.as_bytes()).len() <= 1);
        }
    }
}
