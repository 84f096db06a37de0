//! `hyperv-sim replay`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use hyperv_sim::blackbox::{self, BlackBox};
use hyperv_sim::host::Protocol as _;
use hyperv_sim::inprocess::InProcess;
use hyperv_sim::port::Machine;
use hyperv_sim::replay::{Capture, Options, Outcome};
use hyperv_sim::vss::Vss;
use hyperv_vmbus::Encoding;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Captures of `hyperv-agent capture`.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Replay to this program with its arguments, quoted as for a shell, instead of the
    /// agent in this process.
    #[arg(long, value_name = "COMMAND")]
    agent: Option<String>,
    /// The guest's transport, if not that of the capture.
    #[arg(long, value_enum)]
    transport: Option<Transport>,
    /// When requests are sent.
    #[arg(long, value_enum, default_value_t = Pace::Fast)]
    pace: Pace,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Transport {
    /// Rings through `/dev/uioN`.
    Uio,
    /// The character device of `hv_utils`.
    Hvutil,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pace {
    /// At the times of the capture.
    Recorded,
    /// As soon as the reply before it has come.
    Fast,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut all_same = true;
    for file in &arguments.files {
        let same = replay(file, arguments).with_context(|| file.display().to_string())?;
        all_same &= same;
    }
    Ok(match all_same {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Replays one capture, and returns whether the replies are the same.
fn replay(file: &Path, arguments: &Arguments) -> Result<bool> {
    let capture = Capture::read(file)?;
    let mut machine = machine(&capture, arguments)?;
    let options = Options {
        transport: arguments.transport.map(|transport| match transport {
            Transport::Uio => Encoding::Utf16,
            Transport::Hvutil => Encoding::Utf8,
        }),
        recorded_pace: arguments.pace == Pace::Recorded,
    };
    let outcome = match capture.replay(&mut *machine, options) {
        Ok(outcome) => outcome,
        Err(error) => {
            for line in machine.log().lines() {
                eprintln!("    | {line}");
            }
            return Err(error);
        }
    };
    print(file, &capture, &outcome);
    Ok(outcome.difference.is_none())
}

fn machine(capture: &Capture, arguments: &Arguments) -> Result<Box<dyn Machine>> {
    let Some(command) = &arguments.agent else {
        return Ok(Box::new(InProcess::new()?));
    };
    // A program that freezes file systems must not see this machine's.
    let freezes = capture.has(Vss::SERVICE.name);
    let unavailable = match freezes {
        true => blackbox::root_unavailable(),
        false => blackbox::unavailable(),
    };
    if let Some(reason) = unavailable {
        bail!("cannot run {command:?}: {reason}");
    }
    Ok(Box::new(match freezes {
        true => BlackBox::with_root(command)?,
        false => BlackBox::new(command)?,
    }))
}

fn print(file: &Path, capture: &Capture, outcome: &Outcome) {
    let result = match &outcome.difference {
        None => "as in the capture",
        Some(_) => "the last one DIFFERS",
    };
    println!(
        "{}: {} requests sent, {} replies compared, {result}",
        file.display(),
        outcome.sent,
        outcome.compared
    );
    for (why, numbers) in &outcome.left_out {
        let plural = if numbers.len() == 1 { "" } else { "s" };
        println!("    left out: record{plural} {}: {why}", ranges(numbers));
    }
    if let Some(difference) = &outcome.difference {
        println!("{}", capture.describe(difference));
    }
}

/// Numbers in ascending order, those that follow each other as a range.
fn ranges(numbers: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let ranges = ranges.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    ranges.collect::<Vec<_>>().join(", ")
}
