//! What happens to the installed package, in this order.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use hyperv_sim::fcopy::{CREATE_PATH, Start};
use hyperv_sim::files::Files as _;
use hyperv_sim::kvp::FACT_POOL;
use hyperv_sim::wait::until;
use hyperv_vmbus::ic::Status;

use super::stage::{AGENT, Hosts, STOCK, Stage, TIME};

/// A step: it finds what the one before it has left.
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    pub(super) play: fn(&Stage<'_>) -> Result<()>,
}

/// In a guest of Hyper-V.
pub(super) static STEPS: &[Step] = &[
    Step {
        name: "installed-boot",
        summary: "the agent is ready before cloud-init starts, no stock daemon runs, no unit fails",
        play: boots,
    },
    Step {
        name: "installed-offer",
        summary: "devices are offered at run time, and the agent serves all three",
        play: is_offered,
    },
    Step {
        name: "installed-cloud-init",
        summary: "the host reads cloud-init's reports of the first boot",
        play: reports,
    },
    Step {
        name: "installed-services",
        summary: "a file is copied, a pair set and read, an ext4 frozen and thawed",
        play: serves,
    },
    Step {
        name: "installed-commands",
        summary: "status, status --check and doctor find all well",
        play: is_well,
    },
    Step {
        name: "installed-stop",
        summary: "the agent ends cleanly, the stock daemons stay out, and it serves again",
        play: stops,
    },
    Step {
        name: "installed-upgrade",
        summary: "dpkg upgrades the package, and the agent serves again",
        play: is_upgraded,
    },
    Step {
        name: "installed-removal",
        summary: "dpkg removes the package, and the stock daemons run at once",
        play: is_removed,
    },
    Step {
        name: "installed-purge",
        summary: "dpkg purges the package, which leaves nothing",
        play: is_purged,
    },
];

/// In a guest of another hypervisor.
pub(super) static WITHOUT_HYPERV: &[Step] = &[Step {
    name: "installed-elsewhere",
    summary: "without Hyper-V the unit is skipped, and the boot neither waits nor fails",
    play: boots_elsewhere,
}];

/// How long a boot may take: less than the silence after which `tests/vm/run` gives up.
const BOOT_TIME: Duration = Duration::from_secs(600);

/// Waits for the end of the boot, in which no unit fails.
fn wait_for_boot(stage: &Stage<'_>) -> Result<()> {
    // The guest has one processor, which looking again and again would take from the boot.
    let state = until(BOOT_TIME, "the boot to end", || {
        let state = stage.sh("timeout 60 systemctl is-system-running --wait || true")?;
        Ok((!matches!(state.as_str(), "" | "initializing" | "starting")).then_some(state))
    })?;
    if state != "running" {
        let failed = stage.sh("systemctl list-units --failed --plain --no-legend")?;
        bail!("the system is {state}; failed units: {failed}");
    }
    Ok(())
}

/// A time of systemd's about a unit, in microseconds since the start of the kernel; 0 for
/// never.
fn when(stage: &Stage<'_>, unit: &str, what: &str) -> Result<u64> {
    let time = stage.property(unit, &format!("{what}TimestampMonotonic"))?;
    time.parse()
        .with_context(|| format!("{unit}: {what} {time}"))
}

fn boots(stage: &Stage<'_>) -> Result<()> {
    wait_for_boot(stage)?;
    stage.expect(AGENT, &[("SubState", "running"), ("NRestarts", "0")])?;
    stage.expect_stock("inactive")?;
    let ready = when(stage, AGENT, "ActiveEnter")?;
    let started = when(stage, "cloud-init-main.service", "ExecMainStart")?;
    ensure!(
        0 < ready && ready < started,
        "the agent was ready at {ready} µs, cloud-init started at {started} µs"
    );
    Ok(())
}

fn is_offered(stage: &Stage<'_>) -> Result<()> {
    stage.offer()?;
    stage.connect()?;
    // udev wants them as soon as their devices are there.
    for unit in STOCK {
        until(TIME, &format!("{unit} to be skipped"), || {
            Ok((stage.property(unit, "Result")? == "exec-condition").then_some(()))
        })?;
    }
    stage.expect_stock("inactive")
}

fn reports(stage: &Stage<'_>) -> Result<()> {
    let items = stage.hosts()?.kvp.list(1)?;
    // CLOUD_INIT|boot|type|name|number: what its four stages end with.
    for name in [
        "init-local",
        "init-network",
        "modules-config",
        "modules-final",
    ] {
        let finish = items.iter().find(|(key, _)| {
            let mut parts = key.split('|');
            parts.next() == Some("CLOUD_INIT")
                && parts.nth(1) == Some("finish")
                && parts.next() == Some(name)
        });
        let (_, value) = finish.with_context(|| {
            let keys: Vec<&str> = items.iter().map(|(key, _)| key.as_str()).collect();
            format!("the host reads no end of {name}: {keys:?}")
        })?;
        ensure!(
            value.contains("\"result\":\"SUCCESS\""),
            "cloud-init says of {name}: {value}"
        );
    }
    Ok(())
}

fn serves(stage: &Stage<'_>) -> Result<()> {
    stage.sh("set -e
        modprobe brd rd_nr=1 rd_size=32768
        mkfs.ext4 -q /dev/ram0
        mount /dev/ram0 /srv")?;
    use_services(stage, "first")
}

/// Uses each service once.
fn use_services(stage: &Stage<'_>, name: &str) -> Result<()> {
    let mut hosts = stage.hosts()?;
    let Hosts { fcopy, kvp, vss } = &mut *hosts;
    let content: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
    let start = Start::new("/srv/in", name, CREATE_PATH, content.len() as u64);
    let status = fcopy.copy(&start, &mut content.as_slice(), 8, &mut |_| {})?;
    ensure!(status == Status::OK, "a copy: {status:?}");
    let path = format!("/srv/in/{name}");
    stage
        .files()
        .expect_same(Path::new(&path), &mut content.as_slice())?;

    let status = kvp.set(0, "name", name)?;
    ensure!(status == Status::OK, "setting a pair: {status:?}");
    let value = kvp.get(0, "name")?;
    ensure!(value == Ok(name.to_owned()), "reading a pair: {value:?}");
    let said = stage.sh("hyperv-agent kvp get --pool 0 name")?;
    ensure!(
        said == name,
        "the guest has {said:?}, the host has set {name:?}"
    );

    let frozen = |expected: &str| -> Result<()> {
        let found = stage.sh(
            "if said=$(LC_ALL=C fsfreeze --freeze /srv 2>&1); then fsfreeze --unfreeze /srv; echo thawed
            else case $said in *busy*) echo frozen ;; *) echo \"$said\" ;; esac; fi",
        )?;
        ensure!(found == expected, "expected /srv to be {expected}: {found}");
        Ok(())
    };
    let status = vss.freeze()?;
    ensure!(status == Status::OK, "a freeze: {status:?}");
    let seen = frozen("frozen");
    let status = vss.thaw()?;
    ensure!(status == Status::OK, "a thaw: {status:?}");
    seen?;
    frozen("thawed")
}

fn is_well(stage: &Stage<'_>) -> Result<()> {
    let status = stage.sh("hyperv-agent status")?;
    for service in ["fcopy", "kvp", "vss"] {
        ensure!(
            status.contains(service),
            "no {service} in the status: {status}"
        );
    }
    let line = stage.sh("hyperv-agent status --check")?;
    ensure!(
        line.starts_with("hyperv-agent OK"),
        "status --check: {line}"
    );
    stage.sh("hyperv-agent doctor 2>&1 || { echo failed; exit 1; } >&2")?;
    Ok(())
}

fn stops(stage: &Stage<'_>) -> Result<()> {
    stage.long("systemctl stop hyperv-agent.service")?;
    stage.expect(
        AGENT,
        &[
            ("ActiveState", "inactive"),
            ("Result", "success"),
            ("ExecMainStatus", "0"),
        ],
    )?;
    // It is enabled, and would start at the next boot.
    for unit in STOCK {
        stage.sh(&format!("systemctl start {unit}"))?;
        stage.expect(
            unit,
            &[("ActiveState", "inactive"), ("Result", "exec-condition")],
        )?;
    }
    stage.sh("systemctl start hyperv-agent.service")?;
    stage.connect()?;
    use_services(stage, "started")
}

fn is_upgraded(stage: &Stage<'_>) -> Result<()> {
    let version = || stage.sh("dpkg-query -W -f '${Version}' hyperv-agent");
    let before = version()?;
    let process = stage.property(AGENT, "MainPID")?;
    stage.long("dpkg -i /root/upgrade.deb")?;
    let after = version()?;
    ensure!(before != after, "version {after} is what was there");
    stage.expect(AGENT, &[("SubState", "running"), ("NRestarts", "0")])?;
    let new = stage.property(AGENT, "MainPID")?;
    ensure!(
        new != process,
        "the agent of the old package runs on: {new}"
    );
    stage.connect()?;
    use_services(stage, "upgraded")?;
    stage.expect_stock("inactive")
}

fn is_removed(stage: &Stage<'_>) -> Result<()> {
    stage.long("dpkg --remove hyperv-agent")?;
    for unit in STOCK {
        until(TIME, unit, || {
            Ok((stage.property(unit, "ActiveState")? == "active").then_some(()))
        })?;
    }
    let mut kvp = stage.connect_kvp()?;
    let fact = kvp.enumerate(FACT_POOL, 0)?;
    ensure!(fact.is_ok(), "the stock daemon has no facts: {fact:?}");
    // By ENUMERATE: the daemon answers a GET with an empty value.
    let pairs = kvp.list(0)?;
    let last = ("name".to_owned(), "upgraded".to_owned());
    ensure!(
        pairs.contains(&last),
        "the stock daemon has {pairs:?}, not {last:?}"
    );
    let flags = stage.connect_vss()?.hot_backup();
    ensure!(
        flags.is_ok(),
        "the stock daemon makes no backups: {flags:?}"
    );
    Ok(())
}

fn is_purged(stage: &Stage<'_>) -> Result<()> {
    stage.long("dpkg --purge hyperv-agent")?;
    let left = stage.sh("find / /run -xdev -iname '*hyperv*agent*'")?;
    ensure!(left.is_empty(), "the purge has left {left}");
    stage.expect(AGENT, &[("LoadState", "not-found")])?;
    stage.expect_stock("active")?;
    wait_for_boot(stage)
}

fn boots_elsewhere(stage: &Stage<'_>) -> Result<()> {
    wait_for_boot(stage)?;
    let hypervisor = stage.sh("systemd-detect-virt || true")?;
    ensure!(hypervisor == "kvm", "the hypervisor is {hypervisor}");
    stage.expect(
        AGENT,
        &[
            ("LoadState", "loaded"),
            ("ConditionResult", "no"),
            ("ActiveState", "inactive"),
            ("Result", "success"),
        ],
    )?;
    ensure!(
        when(stage, AGENT, "Condition")? > 0,
        "nobody wanted the unit"
    );
    // Who comes after the unit waits for what it starts.
    let left = when(stage, AGENT, "InactiveExit")?;
    ensure!(left == 0, "the unit was about to start at {left} µs");
    let jobs = stage.sh("systemctl list-jobs --no-legend")?;
    ensure!(jobs.is_empty(), "jobs still wait: {jobs}");
    stage.expect_stock("inactive")
}
