//! A file system that waits for another one, or for its disk, while it is frozen or
//! thawed holds up no other one.
//!
//! Two of them are in files on others, which the configuration leaves out. One of
//! these is frozen by somebody else than the agent: whatever is written through it
//! waits until it is thawed, as it would for a disk that does not answer. Where there
//! is device mapper, a disk of that does not answer, too.

use anyhow::{Context, Result, bail, ensure};
use hyperv_services::timeouts::THAW;
use hyperv_vmbus::ic::Status;

use super::super::stage::{SETTLE_TIME, VssStage, expect};
use super::backup_status::hook;
use super::faults::{expect_inconsistent, guard};
use super::file_systems::{FileSystems, IN_A_FILE, Kind, MOUNTS, NOTES};
use super::{freeze, round};
use crate::vss::{Operation, VssHost};
use crate::wait::until;

/// Makes a file system on a disk of device mapper, of which nothing waits to be
/// written, and that does not have the disk asked to write out what it has: the
/// freeze itself is to wait.
const ON_DISK: &str = r#"
    set -e
    truncate -s 20M "$1/disk.img"
    disk=$(losetup -f)
    losetup "$disk" "$1/disk.img"
    size=$(cat "/sys/block/${disk##*/}/size")
    echo "$disk" >>/run/vss/disks
    export DM_DISABLE_UDEV=1
    dmsetup create upper --table "0 $size linear $disk 0"
    mkfs.ext4 -q -F /dev/mapper/upper
    mkdir "$0"
    mount -t ext4 -o noinit_itable,barrier=0 /dev/mapper/upper "$0"
    sync -f "$0"
"#;

/// The seconds after which the kernel gives up a THAW.
const THAW_LIMIT: u64 = 30;

/// What stands still.
enum Below {
    /// A file system, which is mounted there.
    FileSystem(String),
    /// The disk of device mapper.
    Disk,
}

/// File systems of which one is going to hang.
struct Stuck {
    file_systems: FileSystems,
    /// Is frozen before the other one.
    well: String,
    /// Lies on what stands still.
    hangs: String,
    /// That.
    below: Below,
    host: VssHost,
    /// What was logged before.
    logged: String,
}

impl Stuck {
    /// Nothing stands still yet.
    fn new(stage: &mut VssStage<'_>) -> Result<Self> {
        Self::over(stage, false)
    }

    fn over(stage: &mut VssStage<'_>, disk: bool) -> Result<Self> {
        let file_systems = FileSystems::new(stage)?;
        let (other, below) = (
            file_systems.make(Kind::Ext4, "other")?,
            file_systems.make(Kind::Ext4, "below")?,
        );
        let (well, hangs) = (format!("{MOUNTS}/a-well"), format!("{MOUNTS}/b-hangs"));
        file_systems.script(IN_A_FILE, &[&well, &other])?;
        match disk {
            true => file_systems.script(ON_DISK, &[&hangs, NOTES])?,
            false => file_systems.script(IN_A_FILE, &[&hangs, &below])?,
        };
        file_systems.configure(&format!(
            "[vss]\ntime-limit = 10\n[vss.exclude]\nmount-points = [\"{other}\", \"{below}\"]"
        ))?;
        let host = stage.connect()?;
        Ok(Self {
            file_systems,
            well,
            hangs,
            below: match disk {
                true => Below::Disk,
                false => Below::FileSystem(below),
            },
            host,
            logged: stage.machine().log(),
        })
    }

    /// A FREEZE is under way, and waits.
    fn freezing(stage: &mut VssStage<'_>) -> Result<Self> {
        Self::new(stage)?.freeze(stage)
    }

    /// The same.
    fn freeze(mut self, stage: &mut VssStage<'_>) -> Result<Self> {
        self.stall()?;
        self.host.send(&Operation::Freeze)?;
        self.wait_logged(stage, "to freeze")?;
        let well = &[&self.well];
        self.file_systems
            .expect_frozen(well, "before the one that hangs")?;
        Ok(self)
    }

    /// Makes all writes to the file system or disk below wait.
    fn stall(&self) -> Result<()> {
        match &self.below {
            Below::FileSystem(point) => self.file_systems.freeze(point),
            Below::Disk => {
                let script = "DM_DISABLE_UDEV=1 dmsetup suspend --nolockfs --noflush upper";
                self.file_systems.script(script, &[]).map(drop)
            }
        }
    }

    /// Lets the writes continue.
    fn go_on(&self) -> Result<()> {
        match &self.below {
            Below::FileSystem(point) => self.file_systems.thaw(point),
            Below::Disk => {
                let script = "DM_DISABLE_UDEV=1 dmsetup resume upper";
                self.file_systems.script(script, &[]).map(drop)
            }
        }
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

    fn wait_stalled(&self, when: &str) -> Result<()> {
        self.file_systems.wait_thawed(&[&self.well], when)
    }

    /// A FREEZE is refused while the other file system hangs. Then that one continues and
    /// is thawed, and backups work again.
    fn goes_on(mut self, stage: &VssStage<'_>) -> Result<()> {
        self.expect_refused()?;
        self.go_on()?;
        self.expect_rounds(stage)
    }

    /// The same, and the agent notices the thaw: it then holds nothing open that keeps a
    /// file system from being unmounted.
    fn resume_and_check_hooks(mut self, stage: &mut VssStage<'_>) -> Result<()> {
        self.expect_refused()?;
        self.go_on()?;
        self.wait_logged(stage, "is thawed now")?;
        let script = r#"! ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q -e "-> $0\$""#;
        for point in [&self.well, &self.hangs] {
            until(SETTLE_TIME, &format!("nobody to hold {point}"), || {
                Ok(self.file_systems.script(script, &[point]).ok())
            })?;
        }
        self.expect_rounds(stage)
    }

    fn expect_refused(&mut self) -> Result<()> {
        expect(
            self.host.freeze()?,
            Status::FAIL,
            "a FREEZE while one still hangs",
        )?;
        self.wait_stalled("after a FREEZE that was refused")
    }

    fn expect_rounds(mut self, stage: &VssStage<'_>) -> Result<()> {
        let both = [&self.well, &self.hangs];
        self.file_systems
            .wait_thawed(&both, "after their disk continued")?;
        round(&self.file_systems, &both, &mut self.host).context("the next one")?;
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
    let stuck = Stuck::freezing(stage)?;
    stuck.given_up(stage)
}

/// Before, during and after a freeze.
pub(in super::super) fn disk(stage: &mut VssStage<'_>) -> Result<()> {
    let stuck = Stuck::over(stage, true)?.freeze(stage)?;
    stuck.given_up(stage)?;
    stage.stop()?;
    stage.rescind()?;
    let stuck = Stuck::over(stage, true)?;
    stuck.thawing(stage)
}

impl Stuck {
    /// A FREEZE that hangs fails in time.
    fn given_up(mut self, stage: &mut VssStage<'_>) -> Result<()> {
        let status = self.file_systems.program(&["status"])?;
        ensure!(
            status.contains(&format!("waiting for {}", self.hangs)),
            "expected the status to name {}; it says {status}",
            self.hangs
        );
        let reply = self.host.reply()?.status;
        expect(reply, Status::FAIL, "a FREEZE that hangs")?;
        self.wait_stalled("after a FREEZE that hangs")?;
        self.wait_logged(stage, "waits for its disk")?;
        self.resume_and_check_hooks(stage)
    }

    /// Expects that the thaw hook ran once, and that hook and THAW end before the host
    /// gives up.
    fn expect_thaw_hook_in_time(&self, runs: &str) -> Result<()> {
        let runs = self.file_systems.script("cat \"$0\"", &[runs])?;
        let thaws: Vec<_> = runs
            .lines()
            .filter_map(|it| it.strip_prefix("thaw "))
            .collect();
        let [seconds] = thaws[..] else {
            bail!("expected the hook to run once with `thaw`; its runs were {runs:?}");
        };
        let seconds: u64 = seconds.parse()?;
        let limit = THAW_LIMIT - THAW.as_secs();
        ensure!(
            seconds < limit,
            "expected the hook to have less than the {limit} s that are left; it has {seconds} s"
        );
        Ok(())
    }

    /// So does a THAW.
    fn thawing(mut self, stage: &mut VssStage<'_>) -> Result<()> {
        let both = [self.well.clone(), self.hangs.clone()];
        let runs = format!("{NOTES}/runs");
        let records = format!("echo \"$1 $HYPERV_AGENT_TIME_LIMIT\" >>{runs}");
        hook(&self.file_systems, "10-records", &records)?;
        freeze(&mut self.host)?;
        self.file_systems.expect_frozen(&both, "after a FREEZE")?;
        self.stall()?;
        self.host.send(&Operation::Thaw)?;
        self.wait_stalled("while another one hangs in the THAW")?;
        self.wait_logged(stage, "to thaw")?;
        let reply = self.host.reply()?.status;
        expect(reply, Status::FAIL, "a THAW that hangs")?;
        self.expect_thaw_hook_in_time(&runs)?;
        stage.machine().stop().context("stopping the program")?;
        self.start(stage)?;
        self.expect_thaw_hook_in_time(&runs)
            .context("after another start")?;
        self.file_systems
            .script("rm /etc/hyperv-agent/vss.d/10-records", &[])?;
        self.resume_and_check_hooks(stage)
    }
}

pub(in super::super) fn in_thaw(stage: &mut VssStage<'_>) -> Result<()> {
    Stuck::new(stage)?.thawing(stage)
}

/// The disk stands still for a while only.
pub(in super::super) fn for_a_while(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    stuck.go_on()?;
    let reply = stuck.host.reply()?.status;
    expect(reply, Status::OK, "a FREEZE that hangs for a while")?;
    let both = [stuck.well.clone(), stuck.hangs.clone()];
    stuck.file_systems.expect_frozen(&both, "after a FREEZE")?;
    expect(stuck.host.thaw()?, Status::OK, "a THAW")?;
    stuck.expect_rounds(stage)
}

pub(in super::super) fn time_limit(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::new(stage)?;
    freeze(&mut stuck.host)?;
    let both = [stuck.well.clone(), stuck.hangs.clone()];
    stuck.file_systems.expect_frozen(&both, "after a FREEZE")?;
    stuck.stall()?;
    stuck.wait_stalled("after the time limit, while another one hangs")?;
    stuck.go_on()?;
    stuck
        .file_systems
        .wait_thawed(&both, "after the time limit")?;
    let Stuck {
        file_systems,
        mut host,
        ..
    } = stuck;
    expect_inconsistent(
        stage,
        &file_systems,
        &both,
        &mut host,
        "after the time limit",
    )
}

pub(in super::super) fn killed(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    stage.machine().kill()?;
    stuck.wait_stalled("after the program was killed while one hangs")?;
    stuck.start(stage)?;
    stuck.goes_on(stage)
}

pub(in super::super) fn stopped(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    stage.machine().stop().context("stopping the program")?;
    stuck.wait_stalled("after the program was stopped while one hangs")?;
    stuck.start(stage)?;
    stuck.goes_on(stage)
}

/// Another file is in the place of the program's when it is started again.
pub(in super::super) fn upgraded(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    let script = "cp \"$0\" \"$0.new\" && mv \"$0.new\" \"$0\"";
    stuck
        .file_systems
        .script(script, &[stuck.file_systems.path()])?;
    stage.machine().stop().context("stopping the program")?;
    stuck.wait_stalled("after an upgrade while one hangs")?;
    stuck.start(stage)?;
    stuck.goes_on(stage)
}

pub(in super::super) fn guard_killed(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    let number = guard(&stuck.file_systems)?;
    stuck.file_systems.script("kill -9 \"$0\"", &[&number])?;
    stuck.wait_stalled("after the guard was killed while one hangs")?;
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
    let number = guard(&stuck.file_systems)?;
    stuck.file_systems.script(script, &[&number])?;
    stage.machine().kill()?;
    let well = &[&stuck.well];
    stuck
        .file_systems
        .expect_frozen(well, "with nobody left to thaw it")?;
    stuck.start(stage)?;
    stuck.wait_stalled("when the agent is started again while one hangs")?;
    stuck.goes_on(stage)
}

pub(in super::super) fn by_hand(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    match stuck.file_systems.program(&["thaw"]) {
        Ok(output) => bail!("expected `thaw` to fail while one hangs; its output is {output}"),
        Err(error) => {
            let error = format!("{error:#}");
            ensure!(
                error.contains(&format!("cannot thaw {}", stuck.hangs)),
                "expected `thaw` to name {}; the error is {error}",
                stuck.hangs
            );
        }
    }
    stuck.wait_stalled("after a thaw by hand while one hangs")?;
    let reply = stuck.host.reply()?.status;
    expect(reply, Status::FAIL, "a FREEZE that was thawed by hand")?;
    stuck.goes_on(stage)
}

/// That thaws what the others lie on, too.
pub(in super::super) fn all_by_hand(stage: &mut VssStage<'_>) -> Result<()> {
    let mut stuck = Stuck::freezing(stage)?;
    stage.machine().stop().context("stopping the program")?;
    // It may be done before the other guard is, and say so.
    let _ = stuck.file_systems.program(&["thaw", "--all"]);
    let all = [&stuck.well, &stuck.hangs];
    stuck
        .file_systems
        .wait_thawed(&all, "after a thaw of everything by hand")?;
    stuck.start(stage)?;
    stuck.expect_rounds(stage)
}

/// Two file systems on two others, each of which somebody else has frozen: both hang in their
/// freeze at the same time, and the second continues although the first one hangs.
pub(in super::super) fn side_by_side(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let mut pairs = Vec::new();
    for name in ["a", "b"] {
        let below = file_systems.make(Kind::Ext4, &format!("below-{name}"))?;
        let above = format!("{MOUNTS}/{name}-hangs");
        file_systems.script(IN_A_FILE, &[&above, &below])?;
        file_systems.freeze(&below)?;
        pairs.push((above, below));
    }
    let [(first, below_first), (second, below_second)] = &pairs[..] else {
        bail!("expected two of each; there are {pairs:?}");
    };
    let mut host = stage.connect()?;
    let before = stage.machine().log().len();
    host.send(&Operation::Freeze)?;
    let mut wait_logged = |point: &str, times| {
        let line = format!("{point:?} to freeze");
        until(
            SETTLE_TIME,
            &format!("the log to say {line} {times} times"),
            || {
                let log = stage.machine().log();
                let count = log.get(before..).unwrap_or_default().matches(&line).count();
                Ok((count == times).then_some(()))
            },
        )
    };
    wait_logged(first, 1)?;
    wait_logged(second, 1)?;
    file_systems.thaw(below_second)?;
    // It was named last, and is frozen now: the other one is named again.
    wait_logged(first, 2)?;
    file_systems.thaw(below_first)?;
    let reply = host.reply()?.status;
    expect(reply, Status::OK, "a FREEZE that hangs for a while")?;
    let all = [first, below_first, second, below_second];
    file_systems.expect_frozen(&all, "after a FREEZE")?;
    expect(host.thaw()?, Status::OK, "a THAW")?;
    file_systems.expect_thawed(&all, "after a THAW")?;
    round(&file_systems, &all, &mut host).context("the next one")?;
    stage.expect_working(&mut host)
}
