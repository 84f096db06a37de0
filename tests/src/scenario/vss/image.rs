//! What is copied while everything stands still.

use anyhow::{Context, Result, ensure};

use super::super::stage::{SETTLE_TIME, VssStage};
use super::shelf::{Kind, NOTES, Shelf};
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
    fn start(shelf: &Shelf, name: &str, point: &str, number: usize) -> Result<Self> {
        let writer = Self {
            file: format!("{point}/{number}"),
            noted: format!("{NOTES}/{name}-{number}"),
        };
        let arguments = [WRITER, writer.file.as_str(), writer.noted.as_str()];
        shelf.script(START, &arguments).map(drop)?;
        Ok(writer)
    }

    /// Lines that are on the disk as the writer knows.
    fn written(&self, shelf: &Shelf) -> Result<usize> {
        lines(shelf, &self.noted)
    }

    fn wait_for(&self, shelf: &Shelf, count: usize, when: &str) -> Result<()> {
        let what = format!("{} to have {count} lines {when}", self.file);
        until(SETTLE_TIME, &what, || {
            Ok((self.written(shelf)? >= count).then_some(()))
        })
    }
}

fn lines(shelf: &Shelf, file: &str) -> Result<usize> {
    let count = shelf.script("cat \"$0\" 2>/dev/null | wc -l", &[file])?;
    Ok(count.trim().parse()?)
}

pub(in super::super) fn consistent(stage: &mut VssStage<'_>) -> Result<()> {
    let shelf = Shelf::new(stage)?;
    let mut kept = Vec::new();
    for kind in Kind::ALL {
        kept.push((kind, shelf.make(kind, kind.name())?));
    }
    let mut host = stage.connect()?;
    let mut writers = Vec::new();
    for (kind, point) in &kept {
        for number in 0..WRITERS {
            writers.push(Writer::start(&shelf, kind.name(), point, number)?);
        }
    }
    for writer in &writers {
        writer.wait_for(&shelf, BEFORE, "before the FREEZE")?;
    }
    freeze(&mut host)?;
    for (kind, _) in &kept {
        let (from, to) = (shelf.carrier(kind.name())?, copy(*kind));
        shelf.script("cat \"$0\" >\"$1\"", &[&from, &to])?;
    }
    // What was on its way is noted; then nothing comes any more.
    let mut counts = Vec::new();
    for writer in &writers {
        let there = lines(&shelf, &writer.file)?;
        let what = format!(
            "{} to note {there} lines while it stands still",
            writer.file
        );
        until(SETTLE_TIME, &what, || {
            Ok((writer.written(&shelf)? == there).then_some(()))
        })?;
        counts.push(there);
    }
    thaw(&mut host)?;
    for (writer, count) in writers.iter().zip(&counts) {
        writer.wait_for(&shelf, count + BEFORE, "after the THAW")?;
    }
    shelf.script("kill -9 $(cat /run/vss/writers)", &[])?;
    for ((kind, point), counts) in kept.iter().zip(counts.chunks(WRITERS)) {
        check(&shelf, *kind, point, counts)
            .with_context(|| format!("the copy of {}", kind.name()))?;
    }
    stage.expect_working(&mut host)
}

fn copy(kind: Kind) -> String {
    format!("{NOTES}/copy-{}", kind.name())
}

/// Looks a copy over, mounts it in the place of what was copied, and expects
/// files of so many lines.
fn check(shelf: &Shelf, kind: Kind, point: &str, counts: &[usize]) -> Result<()> {
    let copy = copy(kind);
    let look = || shelf.script("\"$@\" 2>&1", &[&["sh"], kind.checker(), &[&copy]].concat());
    // What is left of the journal of an xfs is for its next mount.
    if kind != Kind::Xfs {
        look()?;
    }
    // Writers that were killed may take a moment to let go.
    until(SETTLE_TIME, &format!("{point} to be unmounted"), || {
        Ok(shelf.script("umount \"$0\"", &[point]).ok())
    })?;
    let script = "mount -t \"$0\" -o loop \"$1\" \"$2\"";
    shelf.script(script, &[kind.name(), &copy, point])?;
    for (number, count) in counts.iter().enumerate() {
        let file = format!("{point}/{number}");
        let found = shelf.script("cat \"$0\"", &[&file])?;
        let expected: String = (0..*count).map(|line| format!("line {line}\n")).collect();
        ensure!(
            found == expected,
            "expected {file} to have the {count} lines that were on the disk; it has {}, and ends with {:?}",
            found.lines().count(),
            found.lines().last()
        );
    }
    shelf.script("umount \"$0\"", &[point])?;
    look().map(drop)
}
