//! Runs the distribution's scripts that report DNS servers and DHCP.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use slog::{Logger, warn};

use super::trusted::trusted;
use crate::error_chain::display_chain;
use crate::subprocess::run;

/// Parses the output of `hv_get_dns_info`: DNS servers, one per line.
pub(in crate::kvp::network) fn servers(lines: &str) -> Vec<IpAddr> {
    let servers = lines
        .lines()
        .map(|line| line.split_whitespace().next()?.parse().ok());
    servers.flatten().collect()
}

/// Returns what the script prints; `None` if it does not exist or fails.
pub(in crate::kvp::network) fn output(
    directory: &Path,
    name: &str,
    interface: &str,
    deadline: Instant,
    log: &Logger,
) -> Option<String> {
    let script = directory.join(name);
    if !script.exists() {
        return None;
    }
    let script = match trusted(directory, name) {
        Ok(script) => script,
        Err(refusal) => {
            let why = display_chain(&refusal);
            warn!(log, "{} will not be run: {why}", script.display());
            return None;
        }
    };
    let output = run(&script, &[OsStr::new(interface)], &[], deadline, None).ok()?;
    let output = output.success(&script).ok()?;
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

    fn log() -> Logger {
        Logger::root(slog::Discard, slog::o!())
    }

    fn dns(
        directory: &Path,
        interface: &str,
        deadline: Instant,
        log: &Logger,
    ) -> Option<Vec<IpAddr>> {
        let lines = output(directory, "hv_get_dns_info", interface, deadline, log)?;
        Some(servers(&lines))
    }

    fn dhcp(directory: &Path, interface: &str, deadline: Instant, log: &Logger) -> Option<bool> {
        let lines = output(directory, "hv_get_dhcp_info", interface, deadline, log)?;
        Some(lines.starts_with("Enabled"))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn scripts_get_the_interface_as_argument() {
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
        assert_eq!(dns(here, "eth0", soon(), &log()), Some(servers));
        assert_eq!(dhcp(here, "eth0", soon(), &log()), Some(true));
        assert_eq!(dhcp(here, "eth1", soon(), &log()), Some(false));
    }

    #[test]
    fn a_script_that_is_missing_or_fails_returns_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path();
        assert_eq!(dns(here, "eth0", soon(), &log()), None);
        script(here, "hv_get_dns_info", "echo 10.0.0.1; exit 1");
        assert_eq!(dns(here, "eth0", soon(), &log()), None);
        script(here, "hv_get_dhcp_info", "exec sleep 1000");
        assert_eq!(dhcp(here, "eth0", Instant::now(), &log()), None);
    }

    #[test]
    fn a_script_that_other_users_could_have_written_is_not_run() {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path();
        let ran = here.join("ran");
        let body = format!("touch {}; echo 10.0.0.1", ran.display());
        script(here, "hv_get_dns_info", &body);
        let path = here.join("hv_get_dns_info");
        for (place, mode) in [(path.as_path(), 0o777), (here, 0o1777)] {
            fs::set_permissions(place, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(dns(here, "eth0", soon(), &log()), None);
            assert!(!ran.exists());
            fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert!(dns(here, "eth0", soon(), &log()).is_some());
    }
}
