//! The pools of key-value pairs, and the network manager for IP configurations.

use std::io::ErrorKind;

use hyperv_services::kvp::Backend;
use hyperv_services::kvp::network;
use hyperv_services::kvp::pool::{PoolError, Pools};
use hyperv_services::kvp::request::PoolId;

use super::finding::Finding;
use super::machine::Machine;

/// Whether the pool files can be used, and only root can write to them.
pub(super) fn pools(machine: &Machine) -> Vec<Finding> {
    if !machine.is_on("kvp") {
        return Vec::new();
    }
    let pools = Pools::new(&machine.config.service.kvp.directory);
    let mut findings = Vec::new();
    for pool in PoolId::ALL {
        let file = match pools.examine(pool) {
            Ok(Some(file)) => file,
            Ok(None) => continue,
            Err(PoolError::File { path, source, .. })
                if source.kind() == ErrorKind::PermissionDenied && !machine.is_root =>
            {
                let path = path.display().to_string();
                findings.push(Finding::unchecked(path, "run this as root"));
                continue;
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                findings.push(Finding::error(
                    format!("pool {pool} ({}): {error:#}", pool.name()),
                    "correct that, or move the file away: the agent makes a new one",
                ));
                continue;
            }
        };
        let path = file.path.display();
        let own = rustix::process::geteuid().as_raw();
        if ![0, own].contains(&file.owner) {
            findings.push(Finding::warning(
                format!(
                    "{path} belongs to user {}, who can change what the host reads",
                    file.owner
                ),
                format!("`chown root:root {path}`"),
            ));
        }
        if file.mode & 0o022 != 0 {
            findings.push(Finding::warning(
                format!(
                    "users other than the owner can write to {path} (mode {:04o})",
                    file.mode
                ),
                format!("`chmod go-w {path}`"),
            ));
        }
        if file.torn != 0 {
            findings.push(Finding::warning(
                format!(
                    "{path} ends with {} bytes that are no whole record: a program writes it now, \
                     or was killed",
                    file.torn
                ),
                format!(
                    "if it stays so, see `hyperv-agent kvp list --pool {pool}`, which leaves that \
                     out; the next write removes it"
                ),
            ));
        }
    }
    findings
}

/// Whether a network manager would take the host's IP configuration of each adapter.
pub(super) fn ip_injection(machine: &Machine) -> Vec<Finding> {
    let config = &machine.config.service.kvp;
    if !machine.is_on("kvp") || config.network.backend == Backend::Off {
        return Vec::new();
    }
    let adapters = match network::adapters(config, None) {
        Ok(adapters) => adapters,
        Err(error) => {
            let error = anyhow::Error::from(error);
            return vec![Finding::unchecked(format!("{error:#}"), "")];
        }
    };
    let refused = adapters
        .into_iter()
        .filter(|it| it.target.manager.is_none());
    let refused = refused.filter(|it| it.device.is_some());
    refused
        .map(|adapter| {
            let name = adapter.interface;
            let candidates = adapter.target.candidates.iter();
            let installed = candidates.filter(|it| it.in_charge != "no");
            let installed: Vec<_> = installed
                .map(|it| format!("{} needs {}", it.manager, it.sign))
                .collect();
            let mut remedy = format!(
                "`hyperv-agent kvp ip {name}` shows what each network manager needs; start one, or \
                 refuse such configurations: `backend = \"off\"` in [kvp.network]"
            );
            if !installed.is_empty() {
                remedy += &format!(" ({})", installed.join("; "));
            }
            Finding::warning(
                format!(
                    "{name}: an IP configuration of the host would be refused: {}",
                    adapter.target.why
                ),
                remedy,
            )
        })
        .collect()
}
