//! Whether a guest could reach a file system of the machine.
//!
//! A program that handles a FREEZE freezes all file systems that it finds mounted. If
//! one of the machine's were among them, the machine would hang.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use nix::unistd::{Pid, gettid};

use super::namespace::Namespace;

/// Refuses a namespace in which any file system of the machine is mounted, or a
/// process is seen that has one.
///
/// # Errors
///
/// If there is one, or if `mountinfo` cannot be read.
pub(super) fn expect_none_of_the_machine(namespace: &Namespace) -> Result<()> {
    let thread: Pid = namespace.run(gettid)?;
    let thread = format!("/proc/self/task/{thread}");
    let machine = read("/proc/self/mountinfo")? + &read("/proc/1/mountinfo")?;
    let mut guest = vec![read(&format!("{thread}/mountinfo"))?];
    // What other processes have mounted is found by their number.
    let processes = format!("{thread}/root/proc");
    for entry in fs::read_dir(&processes).context(processes)?.flatten() {
        let name = entry.file_name();
        if name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            // It may have ended.
            if let Ok(list) = fs::read_to_string(entry.path().join("mountinfo")) {
                guest.push(list);
            }
        }
    }
    for guest in guest {
        if let Some(shared) = shared(&guest, &machine)? {
            bail!(
                "refusing to offer a device for backups: the program would freeze file systems \
                 of this machine ({shared}); it needs a private root and a PID namespace"
            );
        }
    }
    Ok(())
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.to_owned())
}

/// A file system that is mounted here as well as there, in words.
fn shared(guest: &str, machine: &str) -> Result<Option<String>> {
    let machine = devices(machine)?;
    let guest = devices(guest)?;
    Ok(guest
        .into_iter()
        .find(|(device, _)| machine.contains_key(device))
        .map(|(device, point)| format!("{device}, there on {point}")))
}

/// Device numbers of what is mounted, each with a place.
fn devices(mountinfo: &str) -> Result<BTreeMap<&str, &str>> {
    mountinfo
        .lines()
        .map(|line| {
            let mut fields = line.split(' ').skip(2);
            let device = fields.next();
            device
                .filter(|device| device.contains(':'))
                .zip(fields.nth(1))
                .with_context(|| format!("no line of a mountinfo: {line:?}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "\
        22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n";

    #[test]
    fn a_device_in_both_is_found_wherever_it_is_mounted() {
        let apart = "40 1 7:0 / / rw - ext4 /dev/loop0 rw\n41 40 0:99 / /proc rw - proc p rw\n";
        assert_eq!(shared(apart, MACHINE).unwrap(), None);
        let bound = format!("{apart}42 40 254:0 /home /mnt/h rw - ext4 /dev/vda rw\n");
        let found = shared(&bound, MACHINE).unwrap();
        assert_eq!(found.as_deref(), Some("254:0, there on /mnt/h"));
        assert!(shared(MACHINE, MACHINE).unwrap().is_some());
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        for wrong in ["", "1 2", "1 2 3 / / rw", "1 2 0:3 /"] {
            let text = format!("{wrong}\n");
            assert!(shared(&text, MACHINE).is_err(), "{wrong:?}");
            assert!(shared(MACHINE, &text).is_err(), "{wrong:?}");
        }
    }
}
