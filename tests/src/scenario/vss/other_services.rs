//! What other services do on a frozen file system waits for the thaw, and holds
//! up nothing else.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use hyperv_vmbus::ic::Status;
use serde_json::Value;

use super::super::Pattern;
use super::super::stage::{OPEN_TIME, SETTLE_TIME, VssStage, expect};
use super::faults::expect_inconsistent;
use super::file_systems::FileSystems;
use super::{freeze, thaw, two};
use crate::fcopy::{CHUNK, Fcopy, FcopyHost, Operation as Copy, Start};
use crate::host::Protocol as _;
use crate::kvp::{self, Kvp, KvpHost};
use crate::port::{Device, Offer, Port};
use crate::vss::VssHost;
use crate::wait::until;

/// The number of the second device.
const NUMBER: u32 = 500;

/// A file that is copied, on the first of the file systems.
const NAME: &str = "copied";

/// A key that is set.
const KEY: &str = "a key";

/// Everything stands still, and a second device is there.
struct Waiting {
    file_systems: FileSystems,
    points: Vec<String>,
    backups: VssHost,
    device: Arc<dyn Device>,
}

impl Waiting {
    /// Offers a second device, connects to it, and lets everything stand still.
    fn new<H>(
        stage: &mut VssStage<'_>,
        offer: Offer,
        connect: fn(Port) -> Result<H>,
    ) -> Result<(Self, H)> {
        let (file_systems, points) = two(stage)?;
        let mut backups = stage.connect()?;
        let device = stage.machine().offer(offer)?;
        let host = connect(device.accept(OPEN_TIME)?)?;
        freeze(&mut backups)?;
        file_systems.expect_frozen(&points, "after a FREEZE")?;
        let waiting = Self {
            file_systems,
            points,
            backups,
            device,
        };
        Ok((waiting, host))
    }

    /// The device of a service, as the program's status has it.
    fn status(&self, service: &str) -> Result<Value> {
        let status = self.file_systems.program(&["status", "--json"])?;
        let status: Value = serde_json::from_str(&status)?;
        let services = status.get("services").and_then(Value::as_array);
        let device = services
            .into_iter()
            .flatten()
            .find(|it| it.get("name").is_some_and(|name| name == service))
            .and_then(|it| it.pointer("/devices/0"));
        let device = device.with_context(|| {
            format!("expected a device of {service} in the status; it says {status}")
        })?;
        Ok(device.clone())
    }

    fn works(&self, service: &str) -> Result<bool> {
        let device = self.status(service)?;
        Ok(device.get("working") == Some(&Value::Bool(true)))
    }

    /// Waits until a service executes its request.
    fn wait_for_work(&self, service: &str) -> Result<()> {
        until(SETTLE_TIME, &format!("{service} to be at work"), || {
            Ok(self.works(service)?.then_some(()))
        })
    }

    /// Expects that only this service waits.
    fn expect_others_to_work(&mut self, stage: &VssStage<'_>, service: &str) -> Result<()> {
        for _ in 0..3 {
            let device = self.status("vss")?;
            let kind = device.pointer("/operation/kind");
            ensure!(
                kind.is_some_and(|kind| kind == "frozen"),
                "expected the status to say that file systems are frozen; it says {device}"
            );
        }
        self.file_systems
            .expect_frozen(&self.points, &format!("while {service} waits"))?;
        stage.expect_working(&mut self.backups)?;
        ensure!(self.works(service)?, "{service} does not wait for the thaw");
        Ok(())
    }

    fn thaw(&mut self) -> Result<()> {
        thaw(&mut self.backups)?;
        self.file_systems
            .expect_thawed(&self.points, "after a THAW")
    }

    /// Takes the second device away.
    fn end(mut self, stage: &mut VssStage<'_>) -> Result<()> {
        self.device.rescind()?;
        if !stage.machine().is_running() {
            bail!("the program ended with its second device");
        }
        stage.expect_working(&mut self.backups)
    }

    /// Expects all to work after the program was ended while it waited.
    fn expect_thawed_and_start(self, stage: &mut VssStage<'_>, when: &str) -> Result<()> {
        let Self {
            file_systems,
            points,
            ..
        } = &self;
        file_systems.wait_thawed(points, when)?;
        stage.machine().start()?;
        let mut backups = stage.connect()?;
        expect_inconsistent(stage, file_systems, points, &mut backups, when)?;
        Self { backups, ..self }.end(stage)
    }
}

/// A copy waits whose data is this.
fn copy(stage: &mut VssStage<'_>, data: &[u8]) -> Result<(Waiting, FcopyHost)> {
    let offer = Fcopy::SERVICE.uio(NUMBER, 20 << 10);
    let (waiting, mut files) = Waiting::new(stage, offer, FcopyHost::connect)?;
    let point = waiting.points.first().context("no file system")?;
    let start = Start::new(point, NAME, 0, data.len() as u64);
    files.send(&Copy::Start(start))?;
    waiting.wait_for_work("fcopy")?;
    Ok((waiting, files))
}

pub(in super::super) fn copy_waits(stage: &mut VssStage<'_>) -> Result<()> {
    let data = Pattern::bytes(1, 2 * CHUNK);
    let (mut waiting, mut files) = copy(stage, &data)?;
    waiting.expect_others_to_work(stage, "fcopy")?;
    waiting.thaw()?;
    expect(files.reply()?.status, Status::OK, "a START after the THAW")?;
    for (at, chunk) in data.chunks(CHUNK).enumerate() {
        let status = files.request(&Copy::write((at * CHUNK) as u64, chunk))?;
        expect(status, Status::OK, "a WRITE after the THAW")?;
    }
    expect(files.request(&Copy::Complete)?, Status::OK, "a COMPLETE")?;
    let point = waiting.points.first().context("no file system")?;
    stage.expect_content(format!("{point}/{NAME}").as_ref(), &data)?;
    waiting.end(stage)
}

pub(in super::super) fn copy_waits_stopped(stage: &mut VssStage<'_>) -> Result<()> {
    let (waiting, _files) = copy(stage, &[])?;
    stage.machine().stop().context("stopping the program")?;
    waiting.expect_thawed_and_start(stage, "after the program was stopped while a copy waited")
}

/// A thread that waits for a thaw cannot be killed, and until it goes the program
/// holds what it has open.
pub(in super::super) fn copy_waits_killed(stage: &mut VssStage<'_>) -> Result<()> {
    let (waiting, _files) = copy(stage, &[])?;
    stage.machine().kill()?;
    waiting.expect_thawed_and_start(stage, "after the program was killed while a copy waited")
}

/// The pools lie on `/`.
pub(in super::super) fn kvp_waits(stage: &mut VssStage<'_>) -> Result<()> {
    let offer = Kvp::SERVICE.uio(NUMBER, 68 << 10);
    let (mut waiting, mut pairs) = Waiting::new(stage, offer, KvpHost::connect)?;
    let set = kvp::Operation::set(0, KEY, kvp::Value::text("a value"));
    pairs.send(&set)?;
    waiting.wait_for_work("kvp")?;
    waiting.expect_others_to_work(stage, "kvp")?;
    waiting.thaw()?;
    expect(pairs.reply()?.status, Status::OK, "a SET after the THAW")?;
    let value = pairs.get(0, KEY)?;
    ensure!(
        value.as_deref() == Ok("a value"),
        "expected what was set before the THAW; the guest answered {value:?}"
    );
    expect(pairs.delete(0, KEY)?, Status::OK, "a DELETE")?;
    waiting.end(stage)
}
