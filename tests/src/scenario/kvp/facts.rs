//! What the guest says of itself: pool 2.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::Status;

use super::super::stage::KvpStage;
use crate::kvp::{DRIVER_VERSION, FACT_POOL, FACTS, KvpHost};

/// The values, in the order of [`FACTS`].
fn values(host: &mut KvpHost) -> Result<Vec<String>> {
    let mut values = Vec::new();
    for (index, key) in (0..).zip(FACTS) {
        let item = host.enumerate(FACT_POOL, index)?;
        let item = item.map_err(|status| {
            anyhow::anyhow!(
                "expected the fact {key} at place {index}; the guest answered {status:?}"
            )
        })?;
        ensure!(
            item.key == key,
            "expected the fact {key} at place {index}; it is {:?}",
            item.key
        );
        values.push(item.value);
    }
    Ok(values)
}

/// What a line of `os-release` says, without quotes.
fn of_release(release: &str, name: &str) -> String {
    release
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .map(|value| value.trim_matches(['"', '\'']).to_owned())
        .next_back()
        .unwrap_or_default()
}

pub(in super::super) fn facts(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let values = values(&mut host)?;
    for index in [FACTS.len().try_into()?, 1000, u32::MAX] {
        let item = host.enumerate(FACT_POOL, index)?;
        ensure!(
            item == Err(Status::NO_MORE_ITEMS),
            "expected no more items at place {index} of the facts; the guest answered {item:?}"
        );
    }
    let files = stage.files();
    let read = |path: &str| -> Result<String> {
        let text = files.read(Path::new(path))?;
        Ok(String::from_utf8(text)?.trim_end().to_owned())
    };
    let release = read("/proc/sys/kernel/osrelease")?;
    let os = read("/etc/os-release").unwrap_or_default();
    let short = release.split('-').next().unwrap_or_default().to_owned();
    let name = match of_release(&os, "NAME") {
        name if name.is_empty() => "Linux".to_owned(),
        name => name,
    };
    let expected = [
        ("OSBuildNumber", release.clone()),
        ("OSName", name),
        ("OSMajorVersion", of_release(&os, "VERSION_ID")),
        ("OSVersion", short),
        ("ProcessorArchitecture", std::env::consts::ARCH.to_owned()),
    ];
    for (key, expected) in expected {
        let at = FACTS.iter().position(|fact| *fact == key);
        let value = at.and_then(|at| values.get(at)).context("a fact")?;
        ensure!(
            *value == expected,
            "expected the fact {key} to be {expected:?}; it is {value:?}"
        );
    }
    let domain = values.first().context("a fact")?;
    let host_name = read("/proc/sys/kernel/hostname")?;
    ensure!(
        domain.to_lowercase().starts_with(
            &host_name
                .split('.')
                .next()
                .unwrap_or_default()
                .to_lowercase()
        ),
        "expected a domain name that begins with {host_name:?}; it is {domain:?}"
    );
    for (at, what) in [(2, "IPv4"), (3, "IPv6")] {
        let value = values.get(at).context("a fact")?;
        for address in value.split(';').filter(|address| !address.is_empty()) {
            let ip: std::net::IpAddr = address
                .parse()
                .with_context(|| format!("{what} address {address:?} in {value:?}"))?;
            ensure!(
                ip.is_ipv4() == (at == 2) && !ip.is_loopback(),
                "expected {what} addresses without loopback; the guest answered {value:?}"
            );
        }
    }
    Ok(())
}

pub(in super::super) fn driver_version(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let values = values(&mut host)?;
    ensure!(
        values.get(1).is_some_and(|value| value == DRIVER_VERSION),
        "expected the driver's version {DRIVER_VERSION}; the guest answered {:?}",
        values.get(1)
    );
    Ok(())
}
