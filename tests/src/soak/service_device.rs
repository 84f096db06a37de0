//! The device of a service, and the host that speaks over it.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::Status;

use crate::host::{Protocol, ServiceHost};
use crate::port::{Device, Machine};
use crate::scenario::OPEN_TIME;

/// Bytes of each ring: whole messages of every service fit.
const RING_LEN: usize = 68 << 10;

/// What makes another number of one.
const OTHER: u32 = 1 << 4;

/// A device of a service, and its host.
pub(super) struct ServiceDevice<P> {
    number: u32,
    toggles: u32,
    device: Arc<dyn Device>,
    host: Option<ServiceHost<P>>,
}

fn offer<P: Protocol>(machine: &mut dyn Machine, number: u32) -> Result<Arc<dyn Device>> {
    machine.offer(P::SERVICE.uio(number, RING_LEN))
}

impl<P: Protocol> ServiceDevice<P> {
    /// The device is offered, and nobody has opened it yet.
    pub(super) fn offered(machine: &mut dyn Machine, number: u32) -> Result<Self> {
        Ok(Self {
            number,
            toggles: 0,
            device: offer::<P>(machine, number)?,
            host: None,
        })
    }

    pub(super) fn host(&mut self) -> Result<&mut ServiceHost<P>> {
        self.host.as_mut().context("the device is not open")
    }

    pub(super) fn connect(&mut self) -> Result<()> {
        // Where it has opened a device that was taken away, it closes the one that came
        // in its place as soon as it looks, and opens it once more.
        let first = self.device.accept(OPEN_TIME)?;
        let host =
            ServiceHost::connect(first).or_else(|error| match self.device.accept(OPEN_TIME) {
                Ok(second) => ServiceHost::connect(second),
                Err(_) => Err(error),
            });
        self.host = Some(host?);
        Ok(())
    }

    /// The device goes and comes back; where that is so, it goes `at_once` and comes
    /// back once more. The guest answers then.
    pub(super) fn toggle(&mut self, machine: &mut dyn Machine, at_once: bool) -> Result<()> {
        for _ in 0..=u8::from(at_once) {
            self.host = None;
            self.device.rescind()?;
            self.toggles += 1;
            // Under the number that it had, a device is opened after a pause only.
            if self.toggles % 16 != 0 {
                self.number ^= OTHER;
            }
            self.device = offer::<P>(machine, self.number)?;
        }
        self.connect()?;
        let status = self.host()?.request(&P::HARMLESS)?;
        let expected = [Status::OK, Status::NO_MORE_ITEMS];
        ensure!(
            expected.contains(&status),
            "expected a request to succeed after the device came back; the guest answered {status:?}"
        );
        Ok(())
    }
}
