//! An IP configuration that the host sets before the guest's network manager runs.

use anyhow::{Result, ensure};
use hyperv_vmbus::ic::Status;

use super::super::stage::{KvpStage, expect};
use super::network;
use crate::network::Network;

/// Has systemd say that systemd-networkd has a job to start, until the file is gone.
const BOOT: &str = r#"
    rm -f /run/systemd/netif/state /run/systemd/netif/links/*
    mkdir -p /run/systemd/system
    printf '[Match]\nName=hvsim*\n' >/etc/systemd/network/50-all.network
    touch /run/hyperv-sim/starting
    rm -f /usr/bin/systemctl
    cat >/usr/bin/systemctl <<'END'
#!/bin/sh
for unit; do
    case $unit in
        systemd-networkd.service)
            if [ -e /run/hyperv-sim/starting ]; then
                printf 'LoadState=loaded\nActiveState=inactive\nJob=5\n\n'
            else
                printf 'LoadState=loaded\nActiveState=active\nJob=0\n\n'
            fi
            ;;
        *.service | *.target) printf 'LoadState=not-found\nActiveState=inactive\n\n' ;;
    esac
done
END
    chmod 755 /usr/bin/systemctl
"#;

/// Starts systemd-networkd, which configures the interface by its first file.
const START: &str = "
    networkctl reconfigure hvsim0
    touch /run/systemd/netif/state
    rm /run/hyperv-sim/starting
";

fn shell(network: &dyn Network, script: &str) -> Result<()> {
    network.run(&["sh", "-c", script]).map(drop)
}

pub(in super::super) fn early(stage: &mut KvpStage<'_>) -> Result<()> {
    let network = network::network(stage)?;
    network::clean(&*network)?;
    shell(&*network, BOOT)?;
    let mut host = stage.connect()?;
    let status = host.set_ip_info(&network::configuration())?;
    expect(status, Status::OK, "a SET before the manager runs")?;
    stage.expect_logged(&[
        "hvsim0",
        "in force when systemd-networkd starts",
        "10.3.0.2",
    ])?;
    ensure!(
        network::calls(&*network)?.is_empty(),
        "expected no tool of the manager to be called"
    );
    shell(&*network, START)?;
    stage.expect_logged(&["hvsim0", "is in force with systemd-networkd", "10.3.0.2"])?;
    stage.expect_working(&mut host)
}
