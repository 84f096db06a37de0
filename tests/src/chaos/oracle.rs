//! What must be so after each round, whatever happened in it.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyperv_vmbus::ic::Status;

use super::guest::{Guest, clear, tree};
use super::host_device::HostDevice;
use super::messages::NAME;
use crate::fcopy::{Fcopy, FcopyHost, Start};
use crate::host::{Protocol, Service, ServiceHost};
use crate::kvp::{Kvp, KvpHost};
use crate::port::{Device, Machine};
use crate::resources::{Resources, children};
use crate::scenario::{OPEN_TIME, Pattern, Transport};
use crate::vss::{Vss, VssHost};
use crate::wait::until;

/// How long the agent may take to let go of what it held.
const SETTLE_TIME: Duration = Duration::from_secs(60);

/// The number of the devices that are offered in the end.
const NUMBER: u32 = 900;

/// What the name of a file begins with that is not whole yet.
const TEMPORARY: &str = ".hyperv-agent-";

/// What panicked in this process.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Notes each panic from now on, on whatever thread, caught or not.
pub(super) fn note_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
        panics.push(panic.to_string());
        drop(panics);
        before(panic);
    }));
}

/// Expects that nothing has panicked, and that the agent runs where it is to.
pub(super) fn expect_running(guest: &mut Guest) -> Result<()> {
    let panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(
        panics.is_empty(),
        "a thread panicked: {}",
        panics.join("; ")
    );
    drop(panics);
    ensure!(
        guest.machine.is_running() == guest.running,
        "the agent ended by itself"
    );
    Ok(())
}

/// What this process, in which the agent is, holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcessResources {
    descriptors: usize,
    threads: usize,
    children: usize,
}

impl ProcessResources {
    fn now() -> Result<Self> {
        let held = Resources::of(std::process::id())?;
        Ok(Self {
            descriptors: held.descriptors,
            threads: held.threads,
            children: children(std::process::id())?.len(),
        })
    }

    /// Returns what is held without devices, once it is no more than `before`. Some of
    /// it may be released late, so each round is compared with the least of those
    /// before it.
    pub(super) fn flat(before: Option<Self>) -> Result<Self> {
        let Some(before) = before else {
            return Self::now();
        };
        let mut last = before;
        until(SETTLE_TIME, "as much to be held as before", || {
            last = Self::now()?;
            let more = last.descriptors > before.descriptors
                || last.threads > before.threads
                || last.children > before.children;
            Ok((!more).then_some(last))
        })
        .with_context(|| format!("before it was {before:?}, now it is {last:?}"))
    }
}

/// Expects a reply to every request, and an unchanged machine. Compares the resources
/// held afterwards with `before`.
pub(super) fn expect_order(
    guest: &mut Guest,
    round: u64,
    before: Option<ProcessResources>,
) -> Result<Option<ProcessResources>> {
    if guest.running {
        for device in &mut guest.devices {
            device.settle()?;
        }
    }
    guest.devices.iter_mut().try_for_each(HostDevice::rescind)?;
    guest.settle()?;
    expect_running(guest)?;
    expect_nothing_elsewhere(guest)?;
    expect_no_leftovers(guest)?;
    clear(guest.inside())?;
    // Both transports in turns, and every combination of them.
    let way = |bit: u64| match round >> bit & 1 {
        0 => Transport::Uio(68 << 10),
        _ => Transport::HvUtil,
    };
    expect_copies(guest, way(0))?;
    expect_pairs(guest, way(1))?;
    expect_backups(guest, way(2))?;
    expect_running(guest)?;
    clear(guest.inside())?;
    // Look-ups of names and what else takes its time has begun only by now.
    match round < WARM_UP {
        true => Ok(None),
        false => ProcessResources::flat(before).map(Some),
    }
}

/// Rounds until the process has all that it keeps.
const WARM_UP: u64 = 5;

fn offered<T>(
    guest: &mut Guest,
    service: Service,
    transport: Transport,
    with: impl FnOnce(&mut Guest, &dyn Device) -> Result<T>,
) -> Result<T> {
    let device = guest.machine.offer(match transport {
        Transport::Uio(ring_len) => service.uio(NUMBER, ring_len),
        Transport::HvUtil => service.hvutil(),
    })?;
    let done = with(guest, &*device);
    let rescinded = device.rescind();
    let done = done.with_context(|| format!("{} over {transport}", service.name))?;
    rescinded?;
    Ok(done)
}

/// Connects to the guest. A worker that is to end because its device was rescinded before
/// it opened it may open the next device, and closes it at once. Then another worker
/// opens that device.
fn connect<P: Protocol>(device: &dyn Device) -> Result<ServiceHost<P>> {
    let answering = |port| {
        let mut host = ServiceHost::connect(port)?;
        host.request(&P::HARMLESS)?;
        Ok(host)
    };
    answering(device.accept(OPEN_TIME)?).or_else(|error| match device.accept(OPEN_TIME) {
        Ok(second) => answering(second),
        Err(_) => Err(error),
    })
}

fn expect(came: Status, expected: Status, what: &str) -> Result<()> {
    ensure!(
        came == expected,
        "expected {expected:?} for {what}; the guest replied {came:?}"
    );
    Ok(())
}

fn expect_copies(guest: &mut Guest, transport: Transport) -> Result<()> {
    offered(guest, Fcopy::SERVICE, transport, |guest, device| {
        let mut host: FcopyHost = connect(device)?;
        let data = Pattern::bytes(1, 10_000);
        let name = format!("{NAME}whole");
        let directory = guest.inside().to_string_lossy().into_owned();
        let start = Start::new(&directory, &name, 0, data.len() as u64);
        let status = host.copy(&start, &mut &*data, 2, &mut |_| {})?;
        expect(status, Status::OK, "a copy")?;
        let copied = fs::read(guest.inside().join(&name))?;
        ensure!(copied == data, "the copy differs from what was copied");
        Ok(())
    })
}

fn expect_pairs(guest: &mut Guest, transport: Transport) -> Result<()> {
    const KEY: &str = "still works";
    offered(guest, Kvp::SERVICE, transport, |_, device| {
        let mut host: KvpHost = connect(device)?;
        expect(host.set(0, KEY, "it does")?, Status::OK, "a SET")?;
        let value = host.get(0, KEY)?;
        ensure!(
            value.as_deref() == Ok("it does"),
            "expected the value that was set; the guest replied {value:?}"
        );
        expect(host.delete(0, KEY)?, Status::OK, "a DELETE")
    })
}

fn expect_backups(guest: &mut Guest, transport: Transport) -> Result<()> {
    offered(guest, Vss::SERVICE, transport, |guest, device| {
        let mut host: VssHost = connect(device)?;
        let (expected, flags) = (host.expected_flags(), host.hot_backup()?);
        ensure!(flags == Ok(expected), "a HOT_BACKUP was answered {flags:?}");
        // The first THAW may report an earlier backup as inconsistent.
        host.thaw()?;
        expect(host.freeze()?, Status::OK, "a FREEZE")?;
        expect(host.thaw()?, Status::OK, "a THAW")?;
        let setup = guest.machine.setup();
        let noted = tree(&setup.config.vss.environment.runtime_dir)?;
        ensure!(
            noted.is_empty(),
            "it is noted that something is frozen: {noted:?}"
        );
        Ok(())
    })
}

/// Nothing is where the host may not write, nor is anything missing there.
fn expect_nothing_elsewhere(guest: &Guest) -> Result<()> {
    let outside = tree(guest.outside.path())?;
    let kept = guest.outside.path().join("kept");
    ensure!(
        outside == [(kept, b"as it was".to_vec())],
        "the agent wrote outside of its directory: {outside:?}"
    );
    let home = guest.inside().parent().context("a directory above")?;
    let above = home.parent().context("a directory above that")?;
    for directory in [home, above, Path::new("/"), Path::new(".")] {
        for entry in fs::read_dir(directory)?.flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(NAME) {
                bail!(
                    "the agent wrote outside of its directory: {:?}",
                    entry.path()
                );
            }
        }
    }
    let beside: Vec<_> = tree(home)?
        .into_iter()
        .filter(|it| it.0.to_string_lossy().contains(NAME) && !it.0.starts_with(guest.inside()))
        .collect();
    ensure!(beside.is_empty(), "the agent wrote to {beside:?}");
    Ok(())
}

/// No copy that did not end leaves anything once its device is gone.
fn expect_no_leftovers(guest: &Guest) -> Result<()> {
    let mut last = Vec::new();
    until(SETTLE_TIME, "nothing of an unfinished copy", || {
        last = tree(guest.inside())?;
        last.retain(|(path, _)| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(TEMPORARY)
        });
        Ok(last.is_empty().then_some(()))
    })
    .with_context(|| format!("there are {last:?}"))
}
