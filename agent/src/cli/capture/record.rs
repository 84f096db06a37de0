//! `hyperv-agent capture FILE`: records until something ends it.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use hyperv_services::kvp::facts;
use hyperv_services::values::parse_size;

use super::super::args::{ConfigFile, service_names};
use super::super::output::{Exit, complain};
use super::file::{Output, Place, State};
use super::progress::Progress;
use super::source::{End, Signals, Source};
use crate::capture::pcapng::{ReadError, Reader};
use crate::capture::redact::Redactor;
use crate::capture::{EventKind, Level, Section};
use crate::request::{self, RequestError};
use crate::status::client::StatusError;
use crate::terminal::bytes;

pub(super) const HELP: &str = "\
Records what the host sends to the running agent and what the agent answers, as pcapng, for
bug reports and tests. Without --content full, names, keys, values and addresses are placeholders
of the same length, and the data of copied files is left out.

Ctrl-C or SIGTERM ends the capture, as do its limits and the end of the agent. The file is
complete up to the last message, also if this program is killed.

Examples:
  hyperv-agent capture --for 5min bug.pcapng       record for a bug report
  hyperv-agent capture show bug.pcapng             look at it
  hyperv-agent capture --service kvp kvp.pcapng    record one service, until Ctrl-C
  hyperv-agent capture - | hyperv-agent capture show -
                                                   show what is said as it is said

REPORTING A PROBLEM in hyperv-agent(8) says how to get a capture that helps.

Exit status: 0 the capture was ended by a signal or a limit, 1 the agent has ended it, or
FILE cannot be written, 2 invalid usage, 3 no agent is running.";

/// The least size of a capture in bytes, with some messages in it.
const SMALLEST: u64 = 4 << 10;

const FULL: &str = "\
the capture will contain all that host and guest exchange, which may be secret: contents and \
paths of copied files, key-value pairs, host names and IP configurations";

#[derive(Debug, Args)]
pub(super) struct Record {
    /// Capture this service only (repeatable)
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    service: Vec<String>,

    /// End the capture after this time, such as 90s or 12h
    #[arg(
        long = "for",
        value_name = "DURATION",
        default_value = "1h",
        value_parser = duration
    )]
    limit: Duration,

    /// End the capture before the file is larger, with B, KiB, MiB, GiB or TiB
    #[arg(long, value_name = "BYTES", default_value = "100MiB", value_parser = size)]
    max_size: u64,

    /// What the file has of private content: placeholders, also checksums of data, or all
    #[arg(long, value_name = "CONTENT", default_value = "none", value_parser = levels())]
    content: Level,

    /// Replace FILE if it exists
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    config: ConfigFile,

    /// The file to create, for its owner only; `-` for standard output
    // A subcommand needs none.
    #[arg(required = true)]
    file: Option<PathBuf>,
}

fn levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(Level::ALL.map(Level::name)).map(|name| {
        let known = Level::ALL.into_iter().find(|level| level.name() == name);
        known.unwrap_or_default()
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("expected more than 0s".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

fn size(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Some(size @ SMALLEST..) => Ok(size),
        Some(_) => Err(format!("expected at least {}", bytes(SMALLEST))),
        None => Err("expected a whole number with B, KiB, MiB, GiB or TiB".to_owned()),
    }
}

impl Record {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        let Some(file) = &self.file else {
            return Ok(Exit::Usage);
        };
        let config = self.config.load_with_defaults(&["runtime-directory"])?;
        let place = Place::new(file, self.overwrite)?;
        if self.content == Level::Full {
            complain(FULL);
        }
        let signals = Signals::catch().context("cannot handle signals")?;
        let socket = config.environment.runtime_dir.join(request::NAME);
        let stream = match request::capture(&socket, self.service.clone(), self.content) {
            Ok(stream) => stream,
            Err(RequestError::Io(error)) => return Err(StatusError::from_io(socket, error).into()),
            Err(error) => return Err(error.into()),
        };
        // A line on the terminal would be between those of the program that reads this.
        let progress = Rc::new(Progress::new(matches!(place, Place::File(_))));
        let source = Source::new(stream, signals, self.limit, Rc::clone(&progress));
        let end = source.end();
        let mut reader = Reader::new(source).context("cannot read what the agent sends")?;
        let section = Section {
            os: format!(
                "{}, {}",
                reader.section().os,
                facts::system_name(&config.environment.root)
            ),
            level: self.content,
            ..reader.section().clone()
        };
        let mut output = Output::new(&place, &section, self.max_size)?;
        complain(&format!(
            "capturing to {place} for at most {} or {}; Ctrl-C ends it",
            humantime::format_duration(self.limit),
            bytes(self.max_size)
        ));
        let mut redactor = Redactor::new(self.content);
        let mut full = None;
        while let Some(record) = reader.next() {
            let record = match record {
                Ok(record) => record,
                // The agent, or the wait for the rest, has ended in the middle of it.
                Err(ReadError::CutOff { .. } | ReadError::Io { .. }) => break,
                Err(error) => return Err(error).context("cannot read what the agent sends"),
            };
            let Some(interface) = reader.interface(record.interface) else {
                continue;
            };
            let event = record.event();
            let mut state = output.add(interface, redactor.redact(record))?;
            // Before it waits for more, everything is in the file.
            if state == State::Open && !reader.get_ref().has_more() {
                state = output.flush()?;
            }
            if state != State::Open {
                full = Some(state);
                break;
            }
            let (count, by) = match event {
                None => (&progress.messages, 1),
                Some(event) if event.kind == EventKind::Dropped => {
                    (&progress.dropped, event.text.parse().unwrap_or(0))
                }
                Some(_) => (&progress.events, 1),
            };
            count.set(count.get().saturating_add(by));
            progress.written.set(output.size());
            progress.changed();
            progress.show_if_due(Instant::now());
        }
        progress.written.set(output.finish()?);
        progress.clear();
        let (why, exit) = match (full, end.get()) {
            (Some(State::Unread), _) => ("nobody reads it", Exit::Success),
            (Some(_), _) => ("it has its size", Exit::Success),
            (None, Some(End::Signal)) => ("a signal", Exit::Success),
            (None, Some(End::Time)) => ("its time is over", Exit::Success),
            (None, None) => ("the agent has ended", Exit::Failure),
        };
        let next = place.show();
        let next = next.map_or_else(String::new, |next| format!("; `{next}` shows it"));
        complain(&format!(
            "{place}: {} (ended: {why}){next}",
            progress.text()
        ));
        Ok(exit)
    }
}
