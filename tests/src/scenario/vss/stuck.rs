//! A file system that waits for another one, or for its disk, while it is frozen or
//! thawed holds up no other one.
//!
//! Two of them are in files on others, which the configuration leaves out. One of
//! these is frozen by somebody else than the agent: whatever is written through it
//! waits until it is thawed, as it would for a disk that does not answer.

use anyhow::{Context, Result, bail, ensure};
use hyperv_vmbus::ic::Status;

use super::super::stage::{SETTLE_TIME, VssStage, expect};
use super::faults::{expect_spoiled, guard};
use super::shelf::{Kind, MOUNTS, Shelf};
use super::{freeze, round};
use crate::vss::{Operation, VssHost};
use crate::wait::until;

/// Makes a file system in a file of another one, of which nothing waits to be
/// written.
const UPPER: &str = r#"
    set -e
    dd if=/dev/zero of="$1/file" bs=1M count=16 2>/dev/null
    mkfs.ext4 -q -F "$1/file"
    mkdir "$0"
    mount -t ext4 -o loop,noinit_itable "$1/file" "$0"
    sync -f "$0"
"#;

/// File systems of which one is going to hang.
struct Stuck {
    shelf: Shelf,
    /// Is frozen before the other one.
    well: String,
    /// Lies on what stands still.
    hangs: String,
    /// That.
    below: String,
    host: VssHost,
    /// What was logged before.
    logged: String,
}

impl Stuck {
    /// Nothing stands still yet.
    fn new(stage: &mut VssStage<'_>) -> Result<Self> {
        let shelf = Shelf::new(stage)?;
        let (other, below) = (
            shelf.make(Kind::Ext4, "other")?,
            shelf.make(Kind::Ext4, "below")?,
        );
        let (well, hangs) = (format!("{MOUNTS}/a-well"), format!("{MOUNTS}/b-hangs"));
        shelf.script(UPPER, &[&well, &other])?;
        shelf.script(UPPER, &[&hangs, &below])?;
        shelf.configure(&format!(
            "[vss]\ntime-limit = 10\n[vss.exclude]\nmount-points = [\"{other}\", \"{below}\"]"
        ))?;
        let host = stage.connect()?;
        Ok(Self {
            shelf,
            well,
            hangs,
            below,
            host,
            logged: stage.machine().log(),
        })
    }

    /// A FREEZE is under way, and waits.
    fn freezing(stage: &mut VssStage<'_>) -> Result<Self> {
        let mut stuck = Self::new(stage)?;
        stuck.shelf.freeze(&stuck.below)?;
        stuck.host.send(&Operation::Freeze)?;
        stuck.wait_logged(stage, "to freeze")?;
        let well = &[&stuck.well];
        stuck
            .shelf
            .expect_frozen(well, "before the one that hangs")?;
        Ok(stuck)
    }

    /// Waits until the log names the one that hangs with these words.
    fn wait_logged(&self, stage: &mut VssStage<'_>, words: &str) -> Result<()> {
        let line = format!("{:?} {words}", self.hangs);
        until(SETTLE_TIME, &format!("the log to say {line}"), || {
            let log = stage.machine().log();
            let new = |it: &&str| !self.logged.contains(it);
            Ok(log
                .lines()
                .filter(new)
                .find(|it| it.contains(&line))
                .map(drop))
        })
    }

    fn wait_well(&self, when: &str) -> Result<()> {
        self.shelf.wait_thawed(&[&self.well], when)
    }

    /// A FREEZE is refused for as long as the other one hangs. Then that goes on, is
    /// thawed, and all works anew.
    fn goes_on(mut self, stage: &VssStage<'_>) -> Result<()> {
        expect(
            self.host.freeze()?,
            Status::FAIL,
            "a FREEZE while one still hangs",
        )?;
        self.wait_well("after a FREEZE that was refused")?;
        self.shelf.thaw(&self.below)?;
        self.expect_rounds(stage)
    }

    fn expect_rounds(mut self, stage: &VssStage<'_>) -> Result<()> {
        let both = [&self.well, &self.hangs];
        self.shelf
            .wait_thawed(&both, "after what they lie on went on")?;
        round(&self.shelf, &both, &mut self.host).context("the next one")?;
        stage.expect_working(&mut self.host)
    }

    /// Starts the program again, which serves.
    fn start(&mut self, stage: &mut VssStage<'_>) -> Result<()> {
        stage.machine().start()?;
        self.host = stage.connect()?;
        Ok(())
    }
}

pub(in super::super) fn in_freeze(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    let status = stuck.shelf.program(&["status"])?;
    ensure!(
        status.contains(&format!("waiting for {}", stuck.hangs)),
        "expected the status to name {}; it says {status}",
        stuck.hangs
    );
    let reply = stuck.host.reply()?.status;
    expect(reply, Status::FAIL, "a FREEZE that hangs")?;
    stuck.wait_well("after a FREEZE that hangs")?;
    stuck.wait_logged(stage, "waits for its disk")?;
    stuck.goes_on(stage)
}

pub(in super::super) fn in_thaw(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::new(stage)?;
    let both = [stuck.well.clone(), stuck.hangs.clone()];
    freeze(&mut stuck.host)?;
    stuck.shelf.expect_frozen(&both, "after a FREEZE")?;
    stuck.shelf.freeze(&stuck.below)?;
    stuck.host.send(&Operation::Thaw)?;
    stuck.wait_well("while another one hangs in the THAW")?;
    stuck.wait_logged(stage, "to thaw")?;
    let reply = stuck.host.reply()?.status;
    expect(reply, Status::FAIL, "a THAW that hangs")?;
    stuck.goes_on(stage)
}

/// The disk stands still for a while only.
pub(in super::super) fn for_a_while(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    stuck.shelf.thaw(&stuck.below)?;
    let reply = stuck.host.reply()?.status;
    expect(reply, Status::OK, "a FREEZE that hangs for a while")?;
    let both = [stuck.well.clone(), stuck.hangs.clone()];
    stuck.shelf.expect_frozen(&both, "after a FREEZE")?;
    expect(stuck.host.thaw()?, Status::OK, "a THAW")?;
    stuck.expect_rounds(stage)
}

pub(in super::super) fn time_limit(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::new(stage)?;
    freeze(&mut stuck.host)?;
    let both = [stuck.well.clone(), stuck.hangs.clone()];
    stuck.shelf.expect_frozen(&both, "after a FREEZE")?;
    stuck.shelf.freeze(&stuck.below)?;
    stuck.wait_well("after the time limit, while another one hangs")?;
    stuck.shelf.thaw(&stuck.below)?;
    stuck.shelf.wait_thawed(&both, "after the time limit")?;
    let Stuck {
        shelf, mut host, ..
    } = stuck;
    expect_spoiled(stage, &shelf, &both, &mut host, "after the time limit")
}

pub(in super::super) fn killed(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    stage.machine().kill()?;
    stuck.wait_well("after the program was killed while one hangs")?;
    stuck.start(stage)?;
    stuck.goes_on(stage)
}

pub(in super::super) fn stopped(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    stage.machine().stop().context("stopping the program")?;
    stuck.wait_well("after the program was stopped while one hangs")?;
    stuck.start(stage)?;
    stuck.goes_on(stage)
}

/// Another file is in the place of the program's when it is started again.
pub(in super::super) fn upgraded(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    let script = "cp \"$0\" \"$0.new\" && mv \"$0.new\" \"$0\"";
    stuck.shelf.script(script, &[stuck.shelf.path()])?;
    stage.machine().stop().context("stopping the program")?;
    stuck.wait_well("after an upgrade while one hangs")?;
    stuck.start(stage)?;
    stuck.goes_on(stage)
}

pub(in super::super) fn guard_killed(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    let number = guard(&stuck.shelf)?;
    stuck.shelf.script("kill -9 \"$0\"", &[&number])?;
    stuck.wait_well("after the guard was killed while one hangs")?;
    let reply = stuck.host.reply()?.status;
    expect(reply, Status::FAIL, "a FREEZE whose guard was killed")?;
    stuck.goes_on(stage)
}

pub(in super::super) fn both_killed(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    let script = r#"
        parent=$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$0/status")
        kill -STOP "$parent"
        kill -9 "$0"
    "#;
    let number = guard(&stuck.shelf)?;
    stuck.shelf.script(script, &[&number])?;
    stage.machine().kill()?;
    let well = &[&stuck.well];
    stuck
        .shelf
        .expect_frozen(well, "with nobody left to thaw it")?;
    stuck.start(stage)?;
    stuck.wait_well("when the agent is started again while one hangs")?;
    stuck.goes_on(stage)
}

pub(in super::super) fn by_hand(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    match stuck.shelf.program(&["thaw"]) {
        Ok(said) => bail!("expected `thaw` to fail while one hangs; it says {said}"),
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(
                said.contains(&format!("cannot thaw {}", stuck.hangs)),
                "expected `thaw` to name {}; it says {said}",
                stuck.hangs
            );
        }
    }
    stuck.wait_well("after a thaw by hand while one hangs")?;
    let reply = stuck.host.reply()?.status;
    expect(reply, Status::FAIL, "a FREEZE that was thawed by hand")?;
    stuck.goes_on(stage)
}

/// That thaws what the others lie on, too.
pub(in super::super) fn all_by_hand(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    stage.machine().stop().context("stopping the program")?;
    // It may be done before the other guard is, and say so.
    let _ = stuck.shelf.program(&["thaw", "--all"]);
    let all = [&stuck.well, &stuck.hangs, &stuck.below];
    stuck
        .shelf
        .wait_thawed(&all, "after a thaw of everything by hand")?;
    stuck.start(stage)?;
    stuck.expect_rounds(stage)
}
