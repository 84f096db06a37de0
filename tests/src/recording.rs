//! Captures of what an agent says that runs here.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use hyperv_agent::capture::pcapng::{Reader, Writer};
use hyperv_agent::capture::redact::Redactor;
use hyperv_agent::capture::{Level, Record, Section};

/// Writes a capture with all content to a file, with placeholders and with what its machine
/// is: not this one.
pub(crate) fn write(path: &Path, capture: &[u8]) -> Result<()> {
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
            writer.interface(interface)?;
        }
        let mut redactor = Redactor::new(section.level);
        for record in records {
            writer.record(&redactor.redact(record))?;
        }
        Ok(writer.into_inner().flush()?)
    };
    write().with_context(|| path.display().to_string())
}
