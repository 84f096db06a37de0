//! Captures of what an agent says that runs here.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use hyperv_agent::capture::pcapng::{Reader, Writer};
use hyperv_agent::capture::redact::Redactor;
use hyperv_agent::capture::{Interface, Level, Record, Section};

/// Writes a capture with all content to a file, with placeholders, with what its machine is:
/// not this one, and with the names of devices in that machine, whose root is `root` here.
pub(crate) fn write(path: &Path, capture: &[u8], root: &Path) -> Result<()> {
    let write = || -> Result<()> {
        let mut reader = Reader::new(capture)?;
        let records: Vec<Record> = reader.by_ref().collect::<Result<_, _>>()?;
        let section = Section {
            os: "hyperv-sim".to_owned(),
            level: Level::None,
            ..reader.section().clone()
        };
        let mut writer = Writer::new(BufWriter::new(File::create(path)?), &section)?;
        for interface in reader.interfaces() {
            let node = interface.node.strip_prefix(root)?;
            writer.interface(&Interface {
                node: Path::new("/").join(node),
                ..interface.clone()
            })?;
        }
        let mut redactor = Redactor::new(section.level);
        for record in records {
            writer.record(&redactor.redact(record))?;
        }
        Ok(writer.into_inner().flush()?)
    };
    write().with_context(|| path.display().to_string())
}
