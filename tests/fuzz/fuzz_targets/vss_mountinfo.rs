//! The kernel's list of mounts: the names in it are anybody's who may mount.

#![no_main]

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;

use hyperv_services::vss::mountinfo::{MountInfo, ReadOnly, parse};
use libfuzzer_sys::fuzz_target;

/// The line that the kernel would write, with everything escaped.
fn line(mounted: &MountInfo) -> String {
    let escaped = |bytes: &[u8]| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "\\{byte:03o}").unwrap();
            text
        })
    };
    let external = mounted.external.iter();
    let external = external.fold(String::new(), |text, device| {
        text + ",logdev=" + &escaped(device.as_os_str().as_bytes())
    });
    format!(
        "{} {} {} {} {} ro - {} {} {}{external}\n",
        mounted.id,
        mounted.parent,
        mounted.device,
        if mounted.whole { "/" } else { "/directory" },
        escaped(mounted.point.as_os_str().as_bytes()),
        escaped(mounted.kind.as_bytes()),
        escaped(mounted.source.as_bytes()),
        match mounted.read_only {
            None => "rw",
            Some(ReadOnly::Asked) => "ro",
            Some(ReadOnly::Error) => "rw,emergency_ro",
            Some(ReadOnly::ShutDown) => "rw,shutdown",
        },
    )
}

fuzz_target!(|list: &[u8]| {
    let mounted = parse(list);
    let lines: String = mounted.iter().map(line).collect();
    assert_eq!(parse(lines.as_bytes()), mounted);
});
