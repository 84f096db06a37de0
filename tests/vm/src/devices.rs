//! Devices that the guest's `hv_utils` serves: they are offered, a program
//! registers, and the kernel negotiates the versions with the host.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hyperv_sim::channel::HostChannel;
use hyperv_sim::host::{FRAMEWORKS, Protocol as _};
use hyperv_sim::ic::{Reply, Request as Message};
use hyperv_sim::kvp::Kvp;
use hyperv_sim::port::{Device as _, Port};
use hyperv_sim::ring::Packet;
use hyperv_sim::scenario::{Outcome, Verdict};
use hyperv_sim::vss::{BODY_LEN, Vss};
use hyperv_sim::wait::until;
use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::Version;

use crate::guest::{Guest, Request};
use crate::vmbus::{VmBus, VmDevice};

/// How long the guest may take for each step. The kernel itself waits 55
/// seconds for a program before it negotiates.
const STEP: Duration = Duration::from_secs(90);

/// A device of `hv_utils`.
pub struct Served {
    /// The scenario's name.
    pub name: &'static str,
    /// What is tried.
    pub summary: &'static str,
    class: Guid,
    instance: Guid,
    node: &'static str,
    /// How a program registers: its first bytes, and how many there are.
    registration: (u8, usize),
    /// Message versions that a host offers, and the one that is chosen.
    versions: &'static [Version],
    chosen: Version,
}

/// What the host offers to every guest.
pub static DEVICES: &[Served] = &[
    Served {
        name: "kvp-device",
        summary: "KVP is offered, appears as /dev/vmbus/hv_kvp, and negotiates version 4.0",
        class: Kvp::SERVICE.class,
        instance: Kvp::SERVICE.instance,
        node: "/dev/vmbus/hv_kvp",
        registration: (100, 7432),
        versions: Kvp::VERSIONS,
        chosen: Kvp::KERNEL_VERSION,
    },
    Served {
        name: "vss-device",
        summary: "VSS is offered, appears as /dev/vmbus/hv_vss, and negotiates version 5.0",
        class: Vss::SERVICE.class,
        instance: Vss::SERVICE.instance,
        node: "/dev/vmbus/hv_vss",
        registration: (129, BODY_LEN),
        versions: Vss::VERSIONS,
        chosen: Vss::KERNEL_VERSION,
    },
];

/// Tries one.
pub fn play(device: &Served, bus: &VmBus, guest: &Guest) -> Verdict {
    let begun = Instant::now();
    let outcome = match try_device(device, bus, guest) {
        Ok(()) => Outcome::Passed,
        Err(error) => Outcome::Failed(format!("{error:#}")),
    };
    Verdict {
        scenario: device.name,
        transport: "hvutil".to_owned(),
        outcome,
        log: Vec::new(),
        seconds: begun.elapsed().as_secs_f64(),
    }
}

fn try_device(device: &Served, bus: &VmBus, guest: &Guest) -> Result<()> {
    let offered = bus.offer(device.class, device.instance, true)?;
    let negotiated = negotiate(device, &offered, guest);
    // Its driver lets go of a device only once no program has it open.
    let closed = guest.order(&Request::LetGo);
    let rescinded = offered.rescind();
    negotiated.and(closed).and(rescinded)?;
    let node = Path::new(device.node);
    until(STEP, "the node to go", || {
        Ok((!guest.has(node)?).then_some(()))
    })
}

fn negotiate(device: &Served, offered: &VmDevice, guest: &Guest) -> Result<()> {
    let node = Path::new(device.node);
    until(STEP, device.node, || Ok(guest.has(node)?.then_some(())))?;
    let Port::Kernel(port) = offered.accept(STEP)? else {
        bail!("the kernel's end of {} is no driver", device.node);
    };
    let (first, len) = device.registration;
    let mut message = vec![0; len];
    if let Some(byte) = message.first_mut() {
        *byte = first;
    }
    let path = PathBuf::from(device.node);
    guest
        .order(&Request::Hold { path, message })
        .context("registering")?;
    let mut channel = HostChannel::new(port);
    let request = Message::negotiation(1, &FRAMEWORKS, device.versions)?.encode();
    channel.send(&Packet::in_band(1, &request), STEP)?;
    let reply = channel.recv(STEP)?.context("no answer to a negotiation")?;
    let chosen = Reply::to(&request, &reply.payload)?.settled()?;
    let expected = Some((Version::new(3, 0), device.chosen));
    ensure!(
        chosen == expected,
        "expected the versions {expected:?}; the kernel chose {chosen:?}"
    );
    Ok(())
}
