//! A device that the host offers while systemd still mounts local file systems.

// Indexing a JSON value returns null for a missing key.
#![expect(clippy::indexing_slicing)]

use anyhow::{Result, bail, ensure};

use super::super::stage::{SETTLE_TIME, VssStage};
use super::backup_status::status;
use super::faults::{expect_inconsistent, kill_both};
use super::file_systems::{Kind, NOTES};
use super::{freeze, round, two};
use crate::wait::until;

/// Has systemd say that `local-fs.target` has a job, while the file is there.
const BOOT: &str = r#"
    set -e
    mkdir -p /run/systemd/system
    cat >/usr/bin/systemctl <<END
#!/bin/sh
[ ! -e $0 ] || echo Job=7
END
    chmod 755 /usr/bin/systemctl
    : >"$0"
"#;

/// Takes that systemd away.
const END: &str = "rm -r /run/systemd /usr/bin/systemctl";

/// What the log, the status and a rehearsal say.
const WAITS: &str = "systemd to mount all local file systems (local-fs.target)";

pub(in super::super) fn early(stage: &mut VssStage<'_>) -> Result<()> {
    let (file_systems, mut points) = two(stage)?;
    let mounting = format!("{NOTES}/mounting");
    file_systems.script(BOOT, &[&mounting])?;
    stage.offer()?;
    // The program may just be starting.
    let vss = until(
        SETTLE_TIME,
        "the status to say that the service waits",
        || {
            let vss = status(&file_systems).unwrap_or_default();
            Ok((vss["waits_for"] == WAITS).then_some(vss))
        },
    )?;
    ensure!(
        vss["devices"] == serde_json::json!([]),
        "expected no device to be open; the status says {vss}"
    );
    stage.expect_logged(&["vss: waiting until systemd has mounted"])?;
    let Err(error) = file_systems.program(&["vss", "rehearse"]) else {
        bail!("a rehearsal was not refused");
    };
    ensure!(
        format!("{error:#}").contains("local-fs.target"),
        "{error:#}"
    );
    // One that is mounted last is frozen as well.
    points.push(file_systems.make(Kind::Ext4, "late")?);
    file_systems.script("rm \"$0\"", &[&mounting])?;
    let mut host = stage.connect()?;
    round(&file_systems, &points, &mut host)?;
    ensure!(status(&file_systems)?["waits_for"].is_null(), "it waits");

    // systemd may wait for what is frozen.
    freeze(&mut host)?;
    kill_both(stage, &file_systems)?;
    file_systems.script(": >\"$0\"", &[&mounting])?;
    stage.machine().start()?;
    file_systems.wait_thawed(&points, "while systemd mounts file systems")?;
    file_systems.script("rm \"$0\"", &[&mounting])?;
    let mut host = stage.connect()?;
    let when = "after both were killed";
    expect_inconsistent(stage, &file_systems, &points, &mut host, when)?;
    file_systems.script(END, &[]).map(drop)
}
