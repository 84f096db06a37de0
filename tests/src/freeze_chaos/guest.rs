//! The guest's file systems and processes, and checks of both.

use anyhow::{Context, Result, ensure};

use super::actions::Who;
use crate::scenario::vss::file_systems::{FileSystems, IN_A_FILE, Kind, MOUNTS, NOTES};
use crate::scenario::{SETTLE_TIME, VssStage};
use crate::wait::until;

/// The agent's configuration: all time limits are short.
const CONFIGURATION: &str = r#"
[vss]
time-limit = 5
prepare-limit = 10
[vss.hooks]
time-limit = 2
[vss.exclude]
mount-points = ["/mnt/vss/below"]
"#;

/// A hook that sleeps for a moment and then records its argument.
const HOOK: &str = r#"#!/bin/sh
sleep "0.0$(($$ % 10))"
echo "$1" >>/run/vss/runs."${0##*/}"
"#;

/// Writes numbers to a file again and again. It ends with the guest.
const WRITER: &str = r#"
cd "$0"
( i=0; while :; do echo "$((i = i + 1))       " 1<>count; sleep 0.02; done ) >/dev/null 2>&1 &
echo $! >>/run/vss/writers
"#;

/// Sends a signal to each process whose arguments have one word and another.
const SIGNAL: &str = r#"
for process in $(grep -las "$1" /proc/[0-9]*/cmdline); do
    grep -aqs "$2" "$process" || continue
    process=${process#/proc/}
    kill -"$0" "${process%/cmdline}" && echo sent
done 2>/dev/null || :
"#;

/// Lists unexpected processes: all but the guest's first one and its child, the agent and
/// its guard, the writers, and this script.
const STRAY: &str = r#"
writers=' ' agents=0 guards=0
while read -r writer; do writers="$writers$writer "; done </run/vss/writers
for process in /proc/[0-9]*; do
    number=${process#/proc/}
    read -r stat 2>/dev/null <"$process/stat" || continue
    name=${stat#*\(}
    name=${name%\)*}
    rest=${stat##*\) }
    state=${rest%% *}
    rest=${rest#* }
    parent=${rest%% *}
    case $state-$number-$name in
        Z-*) ;;
        *-1-* | *-$$-*) continue ;;
        *-cat) [ "$parent" != 1 ] || continue ;;
        *-hyperv-agent) agents=$((agents + 1)); [ "$agents" != 1 ] || continue ;;
        *-hyperv-guard) guards=$((guards + 1)); [ "$guards" != 1 ] || continue ;;
    esac
    case $writers in *" $number "* | *" $parent "*) continue ;; esac
    echo "process $number, $name, in state $state, of $parent"
done
"#;

/// The file systems of the guest, and its processes.
pub(super) struct Guest {
    file_systems: FileSystems,
    points: Vec<String>,
    /// What is mounted when nothing is done.
    mounted: String,
}

impl Guest {
    pub(super) fn new(stage: &mut VssStage<'_>) -> Result<Self> {
        let file_systems = FileSystems::new(stage)?;
        file_systems.own_rcu_expedited()?;
        let mut points = vec![
            file_systems.make(Kind::Ext4, "one")?,
            file_systems.make(Kind::Xfs, "two")?,
        ];
        let below = file_systems.make(Kind::Ext4, "below")?;
        let upper = format!("{MOUNTS}/upper");
        file_systems.script(IN_A_FILE, &[&upper, &below])?;
        points.push(upper);
        points.extend(file_systems.root()?);
        file_systems.configure(CONFIGURATION)?;
        for hook in ["10-first", "20-second"] {
            let path = format!("/etc/hyperv-agent/vss.d/{hook}");
            file_systems.write(&path, HOOK)?;
            file_systems.script("chmod 755 \"$0\"", &[&path])?;
        }
        for point in ["/mnt/vss/one", "/mnt/vss/two"] {
            file_systems.script(WRITER, &[point])?;
        }
        let mounted = file_systems.script("cat /proc/self/mountinfo", &[])?;
        Ok(Self {
            file_systems,
            points,
            mounted,
        })
    }

    /// Sends a signal to each of these processes, and returns how many there were.
    pub(super) fn signal(&self, who: Who, signal: &str) -> Result<usize> {
        // No pattern matches the script that has it.
        let (one, other) = match who {
            Who::Agent => ("bin/hyperv-agen[t]", "ru[n]"),
            Who::Guard => ("vss-guar[d]", "."),
            Who::Hook => ("vss[.]d", "freez[e]"),
            Who::WriteOut => ("vss-write-ou[t]", "."),
            Who::Client => ("bin/hyperv-agen[t]", "tha[w]\\|rehears[e]"),
        };
        let sent = self.file_systems.script(SIGNAL, &[signal, one, other])?;
        Ok(sent.lines().count())
    }

    /// Freezes the file system that carries another one.
    pub(super) fn hang(&self) -> Result<()> {
        self.file_systems.freeze("/mnt/vss/below")
    }

    /// Thaws it.
    pub(super) fn go_on(&self) -> Result<()> {
        self.file_systems.thaw("/mnt/vss/below")
    }

    /// Runs the program in the background.
    pub(super) fn begin(&self, arguments: &[&str]) -> Result<()> {
        let script = "\"$0\" \"$@\" >/dev/null 2>&1 </dev/null &";
        self.file_systems
            .script(script, &[&[self.file_systems.path()], arguments].concat())
            .map(drop)
    }

    /// Returns what was written so far, which does not change while all is frozen.
    pub(super) fn written(&self) -> Result<String> {
        self.file_systems
            .script("cat /mnt/vss/one/count /mnt/vss/two/count", &[])
    }

    /// Waits until the programs that were begun have ended.
    pub(super) fn wait_for_clients(&self) -> Result<()> {
        let what = "whoever thaws or rehearses by hand to end";
        until(SETTLE_TIME, what, || {
            Ok((self.signal(Who::Client, "CONT")? == 0).then_some(()))
        })
    }

    pub(super) fn expect_frozen(&self) -> Result<()> {
        self.file_systems
            .expect_frozen(&self.points, "after a FREEZE")
    }

    /// Expects all to be thawed soon, and to accept writes.
    pub(super) fn expect_thawed(&self, when: &str) -> Result<()> {
        self.file_systems.wait_thawed(&self.points, when)?;
        let script = r#"for point in "$0" "$@"; do
            dd if=/dev/zero of="$point/written" bs=1k count=4 conv=fsync 2>&1 || exit; done"#;
        let points: Vec<_> = self.points.iter().map(String::as_str).collect();
        self.file_systems.script(script, &points).map(drop)
    }

    /// Expects that no process, record or mount is left behind.
    pub(super) fn expect_clean(&self) -> Result<()> {
        self.file_systems
            .expect_rcu_expedited_off("after the thaw")?;
        let note = "! cat /run/hyperv-agent/vss-frozen 2>/dev/null";
        self.file_systems
            .script(note, &[])
            .context("the record of frozen file systems is still there")?;
        let mounted = self.file_systems.script("cat /proc/self/mountinfo", &[])?;
        ensure!(
            mounted == self.mounted,
            "something is mounted that was not: {mounted}"
        );
        let mut stray = String::new();
        let result = until(SETTLE_TIME, "no process but those that serve", || {
            stray = self.file_systems.script(STRAY, &[])?;
            Ok(stray.is_empty().then_some(()))
        });
        result.with_context(|| format!("there are: {}", stray.trim().replace('\n', ", ")))?;
        let holds = r#"ls -l /proc/[0-9]*/fd 2>/dev/null | grep -e '-> /mnt/vss/[a-z]*$' || :"#;
        let mut held = String::new();
        until(SETTLE_TIME, "nobody to hold a file system", || {
            held = self.file_systems.script(holds, &[])?;
            Ok(held.is_empty().then_some(()))
        })
        .with_context(|| held.clone())?;
        self.expect_thaw_hooks()
    }

    /// Expects each hook to have run with a thaw argument after each `freeze`.
    fn expect_thaw_hooks(&self) -> Result<()> {
        for hook in ["10-first", "20-second"] {
            let notes = format!("{NOTES}/runs.{hook}");
            let script = "cat \"$0\" 2>/dev/null; rm -f \"$0\"";
            let runs = self.file_systems.script(script, &[&notes])?;
            let runs: Vec<_> = runs.lines().collect();
            let twice = runs.windows(2).any(|pair| pair == ["freeze", "freeze"]);
            ensure!(
                !twice && runs.last() != Some(&"freeze"),
                "{hook} did not run after a freeze; its runs were {runs:?}"
            );
        }
        Ok(())
    }
}
