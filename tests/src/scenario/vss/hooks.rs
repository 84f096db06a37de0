//! Hooks: programs that quiesce applications.

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::Status;

use super::super::stage::{SETTLE_TIME, VssStage, expect, expect_failure};
use super::file_systems::{FileSystems, Kind, NOTES};
use super::{freeze, round, thaw};
use crate::vss::Operation;
use crate::wait::until;

/// Where the agent looks for hooks.
const DIRECTORY: &str = "/etc/hyperv-agent/vss.d";

/// The comment by which a hook declares that it knows the argument `freeze-failed`.
const KNOWS: &str = "# hyperv-agent: freeze-failed";

/// Makes a hook that records its name, argument and reason, and then runs `does`.
fn hook(file_systems: &FileSystems, name: &str, does: &str) -> Result<()> {
    let notes = format!("echo {name} $1 $HYPERV_AGENT_REASON >>{NOTES}/hooks");
    hook_of(file_systems, name, &format!("#!/bin/sh\n{notes}\n{does}\n"))
}

/// Makes a hook of this text.
fn hook_of(file_systems: &FileSystems, name: &str, text: &str) -> Result<()> {
    let path = format!("{DIRECTORY}/{name}");
    file_systems.write(&path, text)?;
    file_systems.script("chmod 755 \"$0\"", &[&path]).map(drop)
}

/// Returns what the hooks have recorded since the last call.
fn noted(file_systems: &FileSystems) -> Result<Vec<String>> {
    let script = "cat \"$0\" 2>/dev/null; rm -f \"$0\"";
    let output = file_systems.script(script, &[&format!("{NOTES}/hooks")])?;
    Ok(output.lines().map(str::to_owned).collect())
}

fn expect_noted(file_systems: &FileSystems, expected: &[&str], when: &str) -> Result<()> {
    let found = noted(file_systems)?;
    ensure!(
        found == expected,
        "expected the hooks to run as {expected:?} {when}; they ran as {found:?}"
    );
    Ok(())
}

pub(in super::super) fn in_order(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let point = file_systems.make(Kind::Ext4, "ext4")?;
    // That it can write shows that nothing is frozen while it runs.
    let writes = format!("echo \"$1\" >{point}/application");
    hook(&file_systems, "10-first", &writes)?;
    hook(&file_systems, "20-second", &writes)?;
    hook(&file_systems, "20-second.dpkg-old", "")?;
    hook(&file_systems, "30-left~", "")?;
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    expect_noted(
        &file_systems,
        &["10-first freeze", "20-second freeze"],
        "at a FREEZE",
    )?;
    file_systems.expect_frozen(&[&point], "after a FREEZE")?;
    thaw(&mut host)?;
    file_systems.expect_thawed(&[&point], "after a THAW")?;
    let expected = ["20-second thaw thawed", "10-first thaw thawed"];
    expect_noted(&file_systems, &expected, "at a THAW")?;
    thaw(&mut host)?;
    expect_noted(&file_systems, &[], "at a THAW of nothing")?;
    stage.expect_working(&mut host)
}

/// A hook that refuses a freeze by running `does`.
fn refused(stage: &mut VssStage<'_>, does: &str) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let point = file_systems.make(Kind::Ext4, "ext4")?;
    hook(&file_systems, "05-knows", KNOWS)?;
    hook(&file_systems, "10-first", "")?;
    hook(&file_systems, "20-second", does)?;
    hook(&file_systems, "30-third", "")?;
    file_systems.configure("[vss.hooks]\ntime-limit = 1")?;
    let mut host = stage.connect()?;
    expect_failure(host.freeze()?, "a FREEZE that a hook refuses")?;
    file_systems.expect_thawed(&[&point], "after a FREEZE that failed")?;
    let expected = [
        "05-knows freeze",
        "10-first freeze",
        "20-second freeze",
        "20-second thaw freeze-failed",
        "10-first thaw freeze-failed",
        "05-knows freeze-failed freeze-failed",
    ];
    expect_noted(&file_systems, &expected, "at a FREEZE that failed")?;
    let left = file_systems.script("grep -ls '^slee[p]' /proc/[0-9]*/cmdline || :", &[])?;
    ensure!(left.is_empty(), "what the hook started still runs: {left}");
    // The host sends a THAW nevertheless.
    thaw(&mut host)?;
    hook(&file_systems, "20-second", "")?;
    noted(&file_systems)?;
    round(&file_systems, &[&point], &mut host).context("once the hook succeeds")?;
    stage.expect_working(&mut host)
}

/// Whoever may write to a hook could run what he likes as root.
pub(in super::super) fn writable_by_others(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let point = file_systems.make(Kind::Ext4, "ext4")?;
    hook(&file_systems, "10-first", "")?;
    hook(&file_systems, "20-second", "")?;
    let path = format!("{DIRECTORY}/20-second");
    let mut host = stage.connect()?;
    for (worse, better) in [("chmod 777", "chmod 755"), ("chown 1", "chown 0")] {
        file_systems.script(&format!("{worse} \"$0\""), &[&path])?;
        expect_failure(host.freeze()?, &format!("a FREEZE after {worse} of a hook"))?;
        file_systems.expect_thawed(&[&point], "after a FREEZE that failed")?;
        let runs = noted(&file_systems)?;
        ensure!(
            !runs.iter().any(|run| run.starts_with("20-second")),
            "the hook was run after {worse}: {runs:?}"
        );
        thaw(&mut host)?;
        file_systems.script(&format!("{better} \"$0\""), &[&path])?;
        noted(&file_systems)?;
        round(&file_systems, &[&point], &mut host).context("once the hook is safe")?;
        noted(&file_systems)?;
    }
    stage.expect_working(&mut host)
}

pub(in super::super) fn fails(stage: &mut VssStage<'_>) -> Result<()> {
    refused(stage, "[ \"$1\" != freeze ]")
}

pub(in super::super) fn hangs(stage: &mut VssStage<'_>) -> Result<()> {
    refused(stage, "[ \"$1\" != freeze ] || sleep 600")
}

pub(in super::super) fn goes_on(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let point = file_systems.make(Kind::Ext4, "ext4")?;
    hook(&file_systems, "10-first", "exit 1")?;
    file_systems.configure("[vss.hooks]\non-failure = \"go-on\"")?;
    let mut host = stage.connect()?;
    expect(host.freeze()?, Status::OK, "a FREEZE whose hook failed")?;
    file_systems.expect_frozen(&[&point], "although its hook failed")?;
    thaw(&mut host)?;
    file_systems.expect_thawed(&[&point], "after a THAW")?;
    let expected = ["10-first freeze", "10-first thaw thawed"];
    expect_noted(&file_systems, &expected, "in all")?;
    stage.expect_working(&mut host)
}

/// Makes a hook that hangs the first time that it runs with `action`.
fn hanging_once(file_systems: &FileSystems, action: &str) -> Result<()> {
    let does = format!(
        "[ \"$1\" != {action} ] || [ -e {NOTES}/hung ] || {{ echo $$ >{NOTES}/hung; exec sleep 600; }}"
    );
    hook(file_systems, "10-first", &does)
}

fn wait_hanging(file_systems: &FileSystems) -> Result<()> {
    let there = format!("[ -s {NOTES}/hung ]");
    until(SETTLE_TIME, "the hook to hang", || {
        Ok(file_systems.script(&there, &[]).ok())
    })?;
    Ok(())
}

/// An agent that is stopped waits for no freeze hook, and runs the thaw hooks.
pub(in super::super) fn stopped(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let point = file_systems.make(Kind::Ext4, "ext4")?;
    hanging_once(&file_systems, "freeze")?;
    let mut host = stage.connect()?;
    host.send(&Operation::Freeze)?;
    wait_hanging(&file_systems)?;
    stage.machine().stop().context("stopping the program")?;
    let expected = ["10-first freeze", "10-first thaw freeze-failed"];
    expect_noted(
        &file_systems,
        &expected,
        "by a program that was stopped meanwhile",
    )?;
    let gone = format!("! kill -0 $(cat {NOTES}/hung) 2>/dev/null");
    file_systems
        .script(&gone, &[])
        .context("the hook still runs after the program was stopped")?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    round(&file_systems, &[&point], &mut host)?;
    stage.expect_working(&mut host)
}

/// A hook still runs with `freeze` when the next agent runs it with `thaw`.
pub(in super::super) fn outlives(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let does = format!(
        "[ $1 = freeze ] || exit 0\necho >{NOTES}/begun\n\
         until [ -e {NOTES}/goes-on ]; do sleep 0.05; done\n\
         echo the application rests >>{NOTES}/hooks"
    );
    hook(&file_systems, "10-slow", &does)?;
    for by_hand in [false, true] {
        file_systems.script("rm -f \"$0/begun\" \"$0/goes-on\"", &[NOTES])?;
        let mut host = stage.connect()?;
        host.send(&Operation::Freeze)?;
        until(SETTLE_TIME, "the hook to begin", || {
            Ok(file_systems.script("cat \"$0/begun\"", &[NOTES]).ok())
        })?;
        stage.machine().kill()?;
        if by_hand {
            file_systems.program(&["thaw"])?;
        }
        stage.machine().start()?;
        let mut host = stage.connect()?;
        expect(host.thaw()?, Status::FAIL, "a THAW after it was killed")?;
        file_systems.write(&format!("{NOTES}/goes-on"), "")?;
        let runs = "! grep -las '1[0]-slow' /proc/[0-9]*/cmdline";
        until(SETTLE_TIME, "the hook to end", || {
            Ok(file_systems.script(runs, &[]).ok())
        })?;
        let why = if by_hand {
            "interrupted"
        } else {
            "agent-restarted"
        };
        let expected = ["10-slow freeze", &format!("10-slow thaw {why}")];
        expect_noted(
            &file_systems,
            &expected,
            "where the program was killed meanwhile",
        )?;
        stage.machine().stop()?;
        stage.machine().start()?;
    }
    Ok(())
}

/// Kills an agent while a thaw hook runs, and returns the mount point of the file system.
fn killed(stage: &mut VssStage<'_>) -> Result<(FileSystems, String)> {
    let file_systems = FileSystems::new(stage)?;
    let point = file_systems.make(Kind::Ext4, "ext4")?;
    hanging_once(&file_systems, "thaw")?;
    hook(&file_systems, "05-before", "")?;
    let mut host = stage.connect()?;
    freeze(&mut host)?;
    host.send(&Operation::Thaw)?;
    wait_hanging(&file_systems)?;
    stage.machine().kill()?;
    file_systems.script(&format!("kill $(cat {NOTES}/hung)"), &[])?;
    let expected = [
        "05-before freeze",
        "10-first freeze",
        "10-first thaw thawed",
    ];
    expect_noted(&file_systems, &expected, "until the program was killed")?;
    Ok((file_systems, point))
}

/// The next agent runs the thaw hooks that did not end.
pub(in super::super) fn killed_then_started(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, point) = killed(stage)?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    expect(host.thaw()?, Status::FAIL, "a THAW after it was killed")?;
    let expected = [
        "10-first thaw agent-restarted",
        "05-before thaw agent-restarted",
    ];
    expect_noted(&file_systems, &expected, "by the next program")?;
    round(&file_systems, &[&point], &mut host)?;
    stage.expect_working(&mut host)
}

/// So does `hyperv-agent thaw` while no agent runs; `script` calls it.
fn by_hand(stage: &mut VssStage<'_>, script: &str) -> Result<()> {
    let (file_systems, point) = killed(stage)?;
    let output = file_systems
        .script(script, &[file_systems.path()])
        .with_context(|| format!("`hyperv-agent thaw` by {script:?}"))?;
    let expected = ["10-first thaw interrupted", "05-before thaw interrupted"];
    expect_noted(&file_systems, &expected, "by `hyperv-agent thaw`")?;
    ensure!(
        output.is_empty() || output.contains(&format!("{point}: was not frozen")),
        "`hyperv-agent thaw` printed {output:?}"
    );
    stage.machine().start()?;
    let mut host = stage.connect()?;
    expect(host.thaw()?, Status::FAIL, "a THAW after it was killed")?;
    expect_noted(&file_systems, &[], "by the next program")?;
    round(&file_systems, &[&point], &mut host)?;
    stage.expect_working(&mut host)
}

pub(in super::super) fn killed_then_by_hand(stage: &mut VssStage<'_>) -> Result<()> {
    by_hand(stage, "exec \"$0\" thaw")
}

/// Also when standard output and standard error cannot be written to: the exit status is
/// that of the output then.
pub(in super::super) fn killed_then_unheard(stage: &mut VssStage<'_>) -> Result<()> {
    by_hand(stage, "\"$0\" thaw >/dev/full 2>/dev/full; [ $? = 1 ]")
}

/// A hook that cannot be started makes the freeze fail, with the reason in the log, and
/// is not run at the thaw.
pub(in super::super) fn not_started(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let point = file_systems.make(Kind::Ext4, "ext4")?;
    hook(&file_systems, "10-first", "")?;
    file_systems.write(&format!("{DIRECTORY}/README"), "no hook\n")?;
    let mut host = stage.connect()?;
    // If the check before the run finds it, no other hook is run either.
    let before: &[&str] = &[];
    let first: &[&str] = &["10-first freeze", "10-first thaw freeze-failed"];
    for (text, words, expected) in [
        ("#!/bin/sh\r\nexit 0\r\n", "Windows line ends", before),
        (
            "#!/no/such/sh\n",
            "interpreter /no/such/sh does not exist",
            before,
        ),
        ("exit 0\n", "a line like #!/bin/sh", first),
    ] {
        hook_of(&file_systems, "20-second", text)?;
        let plan = file_systems.program(&["vss", "plan"])?;
        ensure!(
            expected == first || plan.contains(words),
            "the plan does not contain {words:?}: {plan}"
        );
        expect_failure(host.freeze()?, &format!("a FREEZE with the hook {text:?}"))?;
        file_systems.expect_thawed(&[&point], "after a FREEZE that failed")?;
        expect_noted(&file_systems, expected, "at a FREEZE that failed")?;
        stage.expect_logged(&[words])?;
        let log = stage.machine().log();
        ensure!(
            !log.contains("20-second failed at thaw"),
            "a hook that was not started was run at the thaw: {log}"
        );
        thaw(&mut host)?;
    }
    let plan = file_systems.program(&["vss", "plan"])?;
    let readme = format!("{DIRECTORY}/README");
    ensure!(
        plan.contains(&readme),
        "the plan does not name the file that is not executable: {plan}"
    );
    stage.expect_logged(&[&readme])?;
    hook(&file_systems, "20-second", "")?;
    round(&file_systems, &[&point], &mut host).context("once the hook can be started")?;
    stage.expect_working(&mut host)
}
