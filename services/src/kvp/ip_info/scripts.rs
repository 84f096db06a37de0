//! The distribution's helper scripts, where the configuration wants them.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use crate::run::run;

/// The DNS servers that `hv_get_dns_info` writes, one a line; `None` where there
/// is no such script or it fails.
pub(super) fn dns(directory: &Path, interface: &str, deadline: Instant) -> Option<Vec<IpAddr>> {
    let lines = output(&directory.join("hv_get_dns_info"), interface, deadline)?;
    let first_words = lines
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    Some(first_words.filter_map(|word| word.parse().ok()).collect())
}

/// Whether `hv_get_dhcp_info` says that there is DHCP; `None` where there is no
/// such script or it fails.
pub(super) fn dhcp(directory: &Path, interface: &str, deadline: Instant) -> Option<bool> {
    let lines = output(&directory.join("hv_get_dhcp_info"), interface, deadline)?;
    Some(lines.starts_with("Enabled"))
}

fn output(script: &Path, interface: &str, deadline: Instant) -> Option<String> {
    let output = run(script, &[OsStr::new(interface)], &[], deadline, None).ok()?;
    let output = output.success(script).ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    fn script(directory: &Path, name: &str, body: &str) {
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn scripts_are_told_the_interface() {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path();
        script(
            here,
            "hv_get_dns_info",
            "echo 10.0.0.1; echo; echo none; echo \"fd00::1 x\"",
        );
        script(
            here,
            "hv_get_dhcp_info",
            "[ \"$1\" = eth0 ] && echo Enabled || echo Disabled",
        );
        let servers: Vec<IpAddr> = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap()).into();
        assert_eq!(dns(here, "eth0", soon()), Some(servers));
        assert_eq!(dhcp(here, "eth0", soon()), Some(true));
        assert_eq!(dhcp(here, "eth1", soon()), Some(false));
    }

    #[test]
    fn a_script_that_is_no_help_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path();
        assert_eq!(dns(here, "eth0", soon()), None);
        script(here, "hv_get_dns_info", "echo 10.0.0.1; exit 1");
        assert_eq!(dns(here, "eth0", soon()), None);
        script(here, "hv_get_dhcp_info", "exec sleep 1000");
        assert_eq!(dhcp(here, "eth0", Instant::now()), None);
    }
}
