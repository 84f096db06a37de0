//! The kernel's list of mounts: the names in it are anybody's who may mount.

#![no_main]

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;

use hyperv_services::vss::mounts::{Mounted, parse};
use libfuzzer_sys::fuzz_target;

/// The line that the kernel would write, with everything escaped.
fn line(mounted: &Mounted) -> String {
    let escaped = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "\\{byte:03o}").unwrap();
            text
        })
    };
    format!(
        "{} 0 {} {} {} rw - {} {} {}\n",
        mounted.id,
        mounted.device,
        if mounted.whole { "/" } else { "/directory" },
        escaped(mounted.point.as_os_str().as_bytes()),
        escaped(mounted.kind.as_bytes()),
        escaped(mounted.source.as_bytes()),
        if mounted.read_only { "ro" } else { "rw" },
    )
}

fuzz_target!(|list: &[u8]| {
    let mounted = parse(list);
    let lines: String = mounted.iter().map(line).collect();
    assert_eq!(parse(lines.as_bytes()), mounted);
});
