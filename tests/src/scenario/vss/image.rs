//! What is copied while everything stands still.

use anyhow::{Context, Result, ensure};

use super::super::stage::{SETTLE_TIME, VssStage};
use super::file_systems::{FileSystems, Kind, NOTES};
use super::{freeze, thaw};
use crate::wait::until;

/// Writes one line after the other to a file, each to the disk before the next,
/// and notes each that is there.
const WRITER: &str = r#"
    n=0
    while echo "line $n" >>"$0" && sync "$0"; do
        n=$((n + 1))
        echo "$n" >>"$1"
    done
"#;

const START: &str = r#"
    sh -c "$0" "$1" "$2" </dev/null >/dev/null 2>&1 &
    echo $! >>/run/vss/writers
"#;

/// Lines that each writer has to have written.
const BEFORE: usize = 20;

/// Writers for each file system.
const WRITERS: usize = 2;

struct Writer {
    file: String,
    noted: String,
}

impl Writer {
    fn start(file_systems: &FileSystems, name: &str, point: &str, number: usize) -> Result<Self> {
        let writer = Self {
            file: format!("{point}/{number}"),
            noted: format!("{NOTES}/{name}-{number}"),
        };
        let arguments = [WRITER, writer.file.as_str(), writer.noted.as_str()];
        file_systems.script(START, &arguments).map(drop)?;
        Ok(writer)
    }

    /// Lines that are on the disk as the writer knows.
    fn written(&self, file_systems: &FileSystems) -> Result<usize> {
        lines(file_systems, &self.noted)
    }

    fn wait_for(&self, file_systems: &FileSystems, count: usize, when: &str) -> Result<()> {
        let what = format!("{} to have {count} lines {when}", self.file);
        until(SETTLE_TIME, &what, || {
            Ok((self.written(file_systems)? >= count).then_some(()))
        })
    }
}

fn lines(file_systems: &FileSystems, file: &str) -> Result<usize> {
    let count = file_systems.script("cat \"$0\" 2>/dev/null | wc -l", &[file])?;
    Ok(count.trim().parse()?)
}

pub(in super::super) fn consistent(stage: &mut VssStage<'_>) -> Result<()> {
    let file_systems = FileSystems::new(stage)?;
    let mut kept = Vec::new();
    for kind in Kind::ALL {
        kept.push((kind, file_systems.make(kind, kind.name())?));
    }
    let mut host = stage.connect()?;
    let mut writers = Vec::new();
    for (kind, point) in &kept {
        for number in 0..WRITERS {
            writers.push(Writer::start(&file_systems, kind.name(), point, number)?);
        }
    }
    for writer in &writers {
        writer.wait_for(&file_systems, BEFORE, "before the FREEZE")?;
    }
    freeze(&mut host)?;
    for (kind, _) in &kept {
        let (from, to) = (file_systems.carrier(kind.name())?, copy(*kind));
        file_systems.script("cat \"$0\" >\"$1\"", &[&from, &to])?;
    }
    // What was on its way is noted; then nothing comes any more.
    let mut counts = Vec::new();
    for writer in &writers {
        let there = lines(&file_systems, &writer.file)?;
        let what = format!(
            "{} to note {there} lines while it stands still",
            writer.file
        );
        until(SETTLE_TIME, &what, || {
            Ok((writer.written(&file_systems)? == there).then_some(()))
        })?;
        counts.push(there);
    }
    thaw(&mut host)?;
    for (writer, count) in writers.iter().zip(&counts) {
        writer.wait_for(&file_systems, count + BEFORE, "after the THAW")?;
    }
    file_systems.script("kill -9 $(cat /run/vss/writers)", &[])?;
    for ((kind, point), counts) in kept.iter().zip(counts.chunks(WRITERS)) {
        check(&file_systems, *kind, point, counts)
            .with_context(|| format!("the copy of {}", kind.name()))?;
    }
    stage.expect_working(&mut host)
}

fn copy(kind: Kind) -> String {
    format!("{NOTES}/copy-{}", kind.name())
}

/// Looks a copy over, mounts it in the place of what was copied, and expects
/// files of so many lines.
fn check(file_systems: &FileSystems, kind: Kind, point: &str, counts: &[usize]) -> Result<()> {
    let copy = copy(kind);
    let look = || file_systems.script("\"$@\" 2>&1", &[&["sh"], kind.checker(), &[&copy]].concat());
    // What is left of the journal of an xfs is for its next mount.
    if kind != Kind::Xfs {
        look()?;
    }
    // Writers that were killed may take a moment to let go.
    until(SETTLE_TIME, &format!("{point} to be unmounted"), || {
        Ok(file_systems.script("umount \"$0\"", &[point]).ok())
    })?;
    let script = "mount -t \"$0\" -o loop \"$1\" \"$2\"";
    file_systems.script(script, &[kind.name(), &copy, point])?;
    for (number, count) in counts.iter().enumerate() {
        let file = format!("{point}/{number}");
        let found = file_systems.script("cat \"$0\"", &[&file])?;
        let expected: String = (0..*count).map(|line| format!("line {line}\n")).collect();
        ensure!(
            found == expected,
            "expected {file} to have the {count} lines that were on the disk; it has {}, and ends with {:?}",
            found.lines().count(),
            found.lines().last()
        );
    }
    file_systems.script("umount \"$0\"", &[point])?;
    look().map(drop)
}
