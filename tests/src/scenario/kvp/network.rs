//! The guest's interfaces: what the agent reports of them, and what the host sets.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::{Status, Version};

use super::super::Transport;
use super::super::stage::{KvpStage, SETTLE_TIME, expect, expect_failure};
use crate::host::{FRAMEWORK, FRAMEWORKS, Protocol as _};
use crate::kvp::{BINARY, FACT_POOL, IpInfo, Kvp, KvpHost};
use crate::network::{Adapter, Network, tools};
use crate::wait::until;

const FIRST: Adapter = Adapter {
    name: "hvsim0",
    mac: "00:15:5d:01:02:0a",
    device: Guid::from_u128(0xf8615163_df3e_46c5_913f_f2d2f965ed0e),
};

const SECOND: Adapter = Adapter {
    name: "hvsim1",
    mac: "00:15:5d:01:02:0b",
    device: Guid::from_u128(0x11111111_2222_3333_4444_555555555555),
};

/// Both families.
const BOTH: u8 = 3;

/// The origin of an address that was set by hand.
const STATIC: u16 = 2;

/// The kernel fails a request after that time, whatever comes then.
const KERNELS_PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn network(stage: &mut KvpStage<'_>) -> Result<Arc<dyn Network>> {
    let network = stage.machine().network()?;
    network.add(&FIRST)?;
    network.add(&SECOND)?;
    Ok(network)
}

/// As hosts write them.
fn mac(adapter: &Adapter) -> String {
    adapter.mac.to_uppercase()
}

/// The parts of a list, whose order and last separator are the guest's affair.
fn parts(list: &str) -> BTreeSet<&str> {
    list.split(';').filter(|part| !part.is_empty()).collect()
}

/// Addresses with their subnets, which stand in the same order.
fn addresses(info: &IpInfo) -> BTreeSet<(&str, &str)> {
    let addresses = info.addresses.split(';').filter(|part| !part.is_empty());
    addresses.zip(info.subnets.split(';')).collect()
}

fn get_info(host: &mut KvpHost, mac: &str, family: u8) -> Result<IpInfo> {
    let info = host.get_ip_info(mac, family)?;
    info.map_err(|status| {
        anyhow::anyhow!("expected the configuration of {mac}; the guest answered {status:?}")
    })
}

const V4: [(&str, &str); 3] = [
    ("10.1.0.2", "255.255.255.0"),
    ("10.2.0.3", "255.255.0.0"),
    ("192.168.7.9", "255.255.255.252"),
];

const V6: [(&str, &str); 2] = [("fd00:1::2", "/64"), ("fd00:2::3", "/120")];

/// Gives the first interface these addresses and a gateway, and connects once
/// the guest reports them: new ones of IPv6 are checked for being the only ones.
fn with_addresses(stage: &mut KvpStage<'_>) -> Result<KvpHost> {
    let network = network(stage)?;
    let name = FIRST.name;
    for address in ["10.1.0.2/24", "10.2.0.3/16", "192.168.7.9/30"] {
        network.run(&["ip", "addr", "add", address, "dev", name])?;
    }
    for address in ["fd00:1::2/64", "fd00:2::3/120"] {
        network.run(&["ip", "-6", "addr", "add", address, "dev", name])?;
    }
    let gateway = ["ip", "route", "add", "default", "via", "10.1.0.1"];
    network.run(&[&gateway[..], &["dev", name]].concat())?;
    network.run(&["ip", "addr", "add", "10.9.9.9/8", "dev", SECOND.name])?;
    let mut host = stage.connect()?;
    let expected: BTreeSet<(&str, &str)> = V4.into_iter().chain(V6).collect();
    let mut last = None;
    let found = until(SETTLE_TIME, "the addresses", || {
        let info = last.insert(get_info(&mut host, &mac(&FIRST), BOTH)?);
        Ok((addresses(info) == expected).then_some(()))
    });
    found.with_context(|| format!("the guest answered {last:?}"))?;
    Ok(host)
}

pub(in super::super) fn get(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = with_addresses(stage)?;
    let info = get_info(&mut host, &mac(&FIRST), BOTH)?;
    ensure!(
        parts(&info.gateways) == ["10.1.0.1"].into() && !info.dhcp,
        "expected the gateway 10.1.0.1 and no DHCP; the guest answered {info:?}"
    );
    let origins = match stage.transport() {
        Transport::Uio(_) => vec![STATIC; V4.len() + V6.len()],
        Transport::HvUtil => vec![],
    };
    ensure!(
        info.origins == origins,
        "expected addresses of the origins {origins:?}; the guest answered {info:?}"
    );
    let info = get_info(&mut host, &mac(&SECOND), BOTH)?;
    ensure!(
        addresses(&info) == [("10.9.9.9", "255.0.0.0")].into() && parts(&info.gateways).is_empty(),
        "expected what the other interface has; the guest answered {info:?}"
    );
    let mut last = None;
    let found = until(SETTLE_TIME, "the addresses among the facts", || {
        let facts = last.insert(host.list(FACT_POOL)?);
        let has = |place: usize, expected: &[&str]| {
            let addresses = facts.get(place).map(|fact| parts(&fact.1));
            addresses.is_some_and(|found| expected.iter().all(|address| found.contains(address)))
        };
        let v4 = has(2, &["10.1.0.2", "10.2.0.3", "192.168.7.9", "10.9.9.9"]);
        Ok((v4 && has(3, &["fd00:1::2", "fd00:2::3"])).then_some(()))
    });
    found.with_context(|| format!("the guest answered {last:?}"))
}

pub(in super::super) fn family(stage: &mut KvpStage<'_>) -> Result<()> {
    let mut host = with_addresses(stage)?;
    for (family, expected, gateways) in [(1, &V4[..], &["10.1.0.1"][..]), (2, &V6, &[])] {
        let info = get_info(&mut host, &mac(&FIRST), family)?;
        let expected: BTreeSet<(&str, &str)> = expected.iter().copied().collect();
        ensure!(
            addresses(&info) == expected
                && parts(&info.gateways) == gateways.iter().copied().collect(),
            "expected {expected:?} and {gateways:?} of family {family}; the guest answered {info:?}"
        );
    }
    Ok(())
}

pub(in super::super) fn unknown(stage: &mut KvpStage<'_>) -> Result<()> {
    network(stage)?;
    let mut host = stage.connect()?;
    for mac in ["00:15:5D:FF:FF:FF", "", "no address", "00:15:5D:01:02"] {
        let info = host.get_ip_info(mac, BOTH)?;
        ensure!(
            info == Err(Status::GUID_NOT_FOUND),
            "expected that nothing has the address {mac:?}; the guest answered {info:?}"
        );
    }
    for adapter in [
        "{00000000-0000-0000-0000-00000000abcd}",
        "00000000-0000-0000-0000-00000000abcd",
    ] {
        let status = host.set_ip_info(&IpInfo {
            adapter: adapter.to_owned(),
            ..configuration()
        })?;
        expect(status, Status::GUID_NOT_FOUND, "a SET of no interface")?;
    }
    stage.expect_working(&mut host)
}

fn adapter(adapter: &Adapter) -> String {
    format!("{{{}}}", adapter.device)
}

pub(super) fn configuration() -> IpInfo {
    IpInfo {
        adapter: adapter(&FIRST),
        family: BOTH,
        dhcp: false,
        addresses: "10.3.0.2;10.4.0.2;fd00:3::2".to_owned(),
        subnets: "255.255.255.0;255.255.0.0;/64".to_owned(),
        gateways: "10.3.0.1".to_owned(),
        dns: "10.3.0.53;10.3.0.54".to_owned(),
        origins: Vec::new(),
    }
}

/// The tools that were called so far.
pub(super) fn calls(network: &dyn Network) -> Result<String> {
    network.run(&[
        "sh",
        "-c",
        &format!("cat {} 2>/dev/null || :", tools::CALLS),
    ])
}

/// Takes away what an earlier scenario left.
pub(super) fn clean(network: &dyn Network) -> Result<()> {
    let files = format!("{}/*", tools::CONFIGURATIONS);
    let notes = [tools::CALLS, tools::HANG, tools::FAIL, tools::HUNG].join(" ");
    network
        .run(&["sh", "-c", &format!("rm -f {files} {notes}")])
        .map(drop)
}

/// Everything that programs write configurations to.
pub(super) fn written(
    stage: &KvpStage<'_>,
    network: &dyn Network,
    pools: &Path,
) -> Result<Vec<String>> {
    let mut files = stage.files().list(pools)?;
    files.retain(|name| !name.starts_with('.'));
    let list = network.run(&["ls", tools::CONFIGURATIONS])?;
    files.extend(list.lines().map(str::to_owned));
    files.sort();
    Ok(files)
}

pub(in super::super) fn set(stage: &mut KvpStage<'_>) -> Result<()> {
    let network = network(stage)?;
    clean(&*network)?;
    let pools = stage.machine().pools();
    let mut host = stage.connect()?;
    expect(host.set_ip_info(&configuration())?, Status::OK, "a SET")?;
    ensure!(
        calls(&*network)?.lines().count() > 0,
        "expected a tool to be called; none was"
    );
    let noted = stage.files().read(&pools.join("ifcfg-hvsim0"))?;
    let noted = String::from_utf8_lossy(&noted).into_owned();
    for line in [
        "DEVICE=hvsim0",
        "HWADDR=00:15:5D:01:02:0A",
        "BOOTPROTO=none",
        "IPADDR0=10.3.0.2",
        "NETMASK0=255.255.255.0",
        "IPADDR1=10.4.0.2",
        "NETMASK1=255.255.0.0",
        "GATEWAY=10.3.0.1",
        "DNS1=10.3.0.53",
        "DNS2=10.3.0.54",
    ] {
        ensure!(
            noted.lines().any(|noted| noted == line),
            "expected {line} in the configuration that is noted; it is\n{noted}"
        );
    }
    let expected: BTreeSet<(&str, &str)> = [
        ("10.3.0.2", "255.255.255.0"),
        ("10.4.0.2", "255.255.0.0"),
        ("fd00:3::2", "/64"),
    ]
    .into();
    let info = get_info(&mut host, &mac(&FIRST), BOTH)?;
    ensure!(
        addresses(&info) == expected && parts(&info.gateways) == ["10.3.0.1"].into() && !info.dhcp,
        "expected what was set to be got; the guest answered {info:?}"
    );
    // Another in its place.
    let other = IpInfo {
        addresses: "10.5.0.5".to_owned(),
        subnets: "255.0.0.0".to_owned(),
        gateways: String::new(),
        dns: String::new(),
        ..configuration()
    };
    expect(host.set_ip_info(&other)?, Status::OK, "another SET")?;
    let info = get_info(&mut host, &mac(&FIRST), BOTH)?;
    ensure!(
        addresses(&info) == [("10.5.0.5", "255.0.0.0")].into() && parts(&info.gateways).is_empty(),
        "expected the second configuration alone; the guest answered {info:?}"
    );
    let untouched = get_info(&mut host, &mac(&SECOND), BOTH)?;
    ensure!(
        untouched.addresses.is_empty(),
        "expected the other interface without addresses; the guest answered {untouched:?}"
    );
    stage.expect_working(&mut host)
}

pub(in super::super) fn dhcp(stage: &mut KvpStage<'_>) -> Result<()> {
    let network = network(stage)?;
    clean(&*network)?;
    let pools = stage.machine().pools();
    let mut host = stage.connect()?;
    expect(host.set_ip_info(&configuration())?, Status::OK, "a SET")?;
    let by_dhcp = IpInfo {
        adapter: adapter(&FIRST),
        family: 1,
        dhcp: true,
        ..IpInfo::default()
    };
    expect(host.set_ip_info(&by_dhcp)?, Status::OK, "a SET of DHCP")?;
    let noted = stage.files().read(&pools.join("ifcfg-hvsim0"))?;
    let noted = String::from_utf8_lossy(&noted).into_owned();
    ensure!(
        noted.contains("BOOTPROTO=dhcp") && !noted.contains("IPADDR"),
        "expected DHCP and no address in the configuration that is noted; it is\n{noted}"
    );
    Ok(())
}

pub(in super::super) fn malformed(stage: &mut KvpStage<'_>) -> Result<()> {
    let network = network(stage)?;
    clean(&*network)?;
    let pools = stage.machine().pools();
    let mut host = stage.connect()?;
    let with = |change: fn(&mut IpInfo)| {
        let mut info = configuration();
        change(&mut info);
        info
    };
    let cases = [
        (
            "an address in words",
            with(|info| info.addresses = "ten".into()),
        ),
        (
            "an address too long",
            with(|info| info.addresses = "1.2.3.4.5".into()),
        ),
        (
            "a number too great",
            with(|info| info.addresses = "10.0.0.256".into()),
        ),
        (
            "an address with a line break",
            with(|info| info.addresses = "10.0.0.1\nDEVICE=lo".into()),
        ),
        (
            "a subnet in words",
            with(|info| info.subnets = "wide".into()),
        ),
        (
            "a gateway in words",
            with(|info| info.gateways = "$(reboot)".into()),
        ),
        (
            "a name server in words",
            with(|info| info.dns = "10.0.0.53;`id`".into()),
        ),
        (
            "a mask with a hole",
            with(|info| info.subnets = "255.0.255.0;255.255.0.0;/64".into()),
        ),
        (
            "fewer subnets than addresses",
            with(|info| info.subnets = "255.255.255.0".into()),
        ),
        (
            "a prefix too long",
            with(|info| info.subnets = "255.255.255.0;255.255.0.0;/129".into()),
        ),
        (
            "more addresses than there is room for",
            with(|info| {
                let addresses: Vec<_> = (1..=65).map(|last| format!("10.3.0.{last}")).collect();
                info.addresses = addresses.join(";");
                info.subnets = ["255.255.255.0"; 65].join(";");
            }),
        ),
        (
            "more name servers than there is room for",
            with(|info| info.dns = ["fd00:3::53"; 65].join(";")),
        ),
    ];
    // Of an older version, so that they are text over rings, too.
    if host.has_rings() {
        host.negotiate(&FRAMEWORKS, &[Kvp::KERNEL_VERSION])?;
    }
    for (what, info) in &cases {
        expect_refused(stage, &*network, &pools, &mut host, info, what)?;
    }
    if host.has_rings() {
        host.negotiate(&FRAMEWORKS, Kvp::VERSIONS)?;
        let gateways = with(|info| info.gateways = ["10.3.0.1"; 6].join(";"));
        let gateways = ("more gateways than there is room for", gateways);
        for (what, info) in cases.iter().chain([&gateways]) {
            expect_refused(stage, &*network, &pools, &mut host, info, what)?;
        }
    }
    stage.expect_working(&mut host)
}

/// Expects that a configuration is invalid and changes nothing.
fn expect_refused(
    stage: &KvpStage<'_>,
    network: &dyn Network,
    pools: &Path,
    host: &mut KvpHost,
    info: &IpInfo,
    what: &str,
) -> Result<()> {
    let what = format!("{what} in version {}", host.version());
    expect(host.set_ip_info(info)?, Status::INVALID_ARGUMENT, &what)?;
    let written = written(stage, network, pools)?;
    ensure!(
        written.is_empty() && calls(network)?.is_empty(),
        "expected nothing to be written for {what}; found {written:?}"
    );
    Ok(())
}

/// A layout for each version.
pub(in super::super) fn versions(stage: &mut KvpStage<'_>) -> Result<()> {
    let network = network(stage)?;
    clean(&*network)?;
    let mut host = stage.connect()?;
    let [three, four, six] = [3, 4, 6].map(|major| Version::new(major, 0));
    for (offered, expected, round) in [
        (&[four][..], four, 1),
        (&[BINARY], BINARY, 2),
        (&[three], three, 3),
        (&[three, four, BINARY, six], BINARY, 4),
    ] {
        // Between two negotiations the layout stays.
        for change in [true, false] {
            if change {
                let chosen = host.negotiate(&FRAMEWORKS, offered)?;
                ensure!(
                    chosen == Some((FRAMEWORK, expected)),
                    "expected version {expected} of {offered:?}; the guest chose {chosen:?}"
                );
                let addresses = format!("10.3.{round}.2;fd00:3::{round}");
                let status = host.set_ip_info(&IpInfo {
                    addresses,
                    subnets: "255.255.255.0;/64".to_owned(),
                    gateways: format!("10.3.{round}.1"),
                    ..configuration()
                })?;
                expect(status, Status::OK, &format!("a SET in version {expected}"))?;
            }
            let info = get_info(&mut host, &mac(&FIRST), BOTH)?;
            let (v4, v6) = (format!("10.3.{round}.2"), format!("fd00:3::{round}"));
            let gateway = format!("10.3.{round}.1");
            let origins = usize::from(expected == BINARY) * 2;
            ensure!(
                addresses(&info) == [(&*v4, "255.255.255.0"), (&*v6, "/64")].into()
                    && parts(&info.gateways) == [&*gateway].into()
                    && info.origins == vec![STATIC; origins],
                "expected what was set in version {expected}; the guest answered {info:?}"
            );
        }
    }
    stage.expect_working(&mut host)
}

pub(in super::super) fn fails(stage: &mut KvpStage<'_>) -> Result<()> {
    let network = network(stage)?;
    clean(&*network)?;
    let mut host = stage.connect()?;
    expect(host.set_ip_info(&configuration())?, Status::OK, "a SET")?;
    network.run(&["touch", tools::FAIL])?;
    let other = IpInfo {
        addresses: "10.6.0.6".to_owned(),
        subnets: "255.0.0.0".to_owned(),
        ..configuration()
    };
    expect_failure(host.set_ip_info(&other)?, "a SET whose tool fails")?;
    network.run(&["rm", tools::FAIL])?;
    expect(
        host.set_ip_info(&configuration())?,
        Status::OK,
        "a SET after that",
    )?;
    stage.expect_working(&mut host)
}

pub(in super::super) fn hangs(stage: &mut KvpStage<'_>) -> Result<()> {
    let network = network(stage)?;
    clean(&*network)?;
    let mut host = stage.connect()?;
    network.run(&["touch", tools::HANG])?;
    let begun = Instant::now();
    let status = host.set_ip_info(&configuration())?;
    let taken = begun.elapsed();
    expect_failure(status, "a SET whose tool does not end")?;
    ensure!(
        taken < KERNELS_PATIENCE,
        "expected an answer within {KERNELS_PATIENCE:?}; it took {taken:?}"
    );
    stage.expect_working(&mut host)?;
    let processes = network.run(&["cat", tools::HUNG])?;
    ensure!(!processes.trim().is_empty(), "no tool was called");
    until(SETTLE_TIME, "the end of the tool's processes", || {
        let mut processes = processes.split_whitespace();
        let live = processes.find(|process| Path::new("/proc").join(process).exists());
        Ok(live.is_none().then_some(()))
    })?;
    network.run(&["rm", tools::HANG])?;
    expect(
        host.set_ip_info(&configuration())?,
        Status::OK,
        "a SET after that",
    )
}
