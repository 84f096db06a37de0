//! `hyperv-agent capture show`: shows a capture as text or JSON.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use clap::Args;

use super::super::output::{self, Exit};
use crate::capture::pcapng::Reader;
use crate::capture::text::Times;
use crate::capture::{Decoder, json, text};

const HELP: &str = "\
A line has the time, the service and the device, the direction (-> from the host,
<- to the host, -- an event), the operation and its fields. The texts of a capture come
from the host: they are quoted, and control characters in them are escaped.

Examples:
  hyperv-agent capture show bug.pcapng           show a file
  hyperv-agent capture show bug.pcapng | less    a page at a time
  hyperv-agent capture - | hyperv-agent capture show -
                                                 show what is said as it is said

Exit status: 0 success, 1 the file cannot be read, is no capture, or is cut off or
malformed: what comes before that is shown.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct Show {
    /// The capture; - for standard input
    file: PathBuf,

    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,

    /// Show the time of day in UTC, instead of seconds since the first message
    #[arg(long, conflicts_with = "json")]
    wall_time: bool,
}

impl Show {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        // A capture that comes from a program is shown as it comes.
        let (input, mut out): (Box<dyn Read>, Box<dyn Write>) = if self.file == Path::new("-") {
            (Box::new(io::stdin()), Box::new(io::stdout()))
        } else {
            let file = File::open(&self.file);
            let file = file.with_context(|| format!("cannot open {}", self.file.display()))?;
            (Box::new(file), Box::new(BufWriter::new(io::stdout())))
        };
        let shown = self.show(input, &mut out);
        // What was read before an error is shown.
        let flushed = out.flush();
        match shown.and(flushed.map_err(anyhow::Error::from)) {
            Err(error) if is_broken_pipe(&error) => Ok(Exit::Success),
            Err(error) => Err(error),
            Ok(()) => Ok(Exit::Success),
        }
    }

    fn show(&self, input: Box<dyn Read>, out: &mut impl Write) -> anyhow::Result<()> {
        let name = match self.file.to_str() {
            Some("-") => "standard input".to_owned(),
            _ => self.file.display().to_string(),
        };
        let unreadable = || format!("cannot read a capture from {name}");
        let mut reader = Reader::new(BufReader::new(input)).with_context(unreadable)?;
        let mut decoder = Decoder::default();
        let mut begin: Option<SystemTime> = None;
        let mut number = 0;
        while let Some(record) = reader.next() {
            let record = record.with_context(unreadable)?;
            let description = decoder.describe(&record);
            let interface = reader.interface(record.interface);
            if begin.is_none() {
                self.title(&reader, Some(record.time), out)?;
            }
            let begin = *begin.get_or_insert(record.time);
            number += 1;
            if self.json {
                let line = json::line(number, interface, &record, &description)?;
                writeln!(out, "{line}")?;
            } else {
                let times = match self.wall_time {
                    true => Times::Wall,
                    false => Times::Relative,
                };
                let line = text::line(times, begin, interface, &record, &description);
                writeln!(out, "{line}")?;
            }
        }
        if begin.is_none() {
            self.title(&reader, None, out)?;
            output::complain(&format!(
                "{name} has no messages: meanwhile the host asked nothing"
            ));
        }
        match reader.dropped() {
            0 => {}
            count => output::complain(&format!(
                "{name} lacks {count} records, which were dropped during the capture"
            )),
        }
        Ok(())
    }

    fn title<R: Read>(
        &self,
        reader: &Reader<R>,
        begin: Option<SystemTime>,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let line = match self.json {
            true => json::title(reader.section())?,
            false => text::title(reader.section(), begin),
        };
        Ok(writeln!(out, "{line}")?)
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
