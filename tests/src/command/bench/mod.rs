//! `hyperv-sim bench`: the same work for several programs, in turns, in one
//! run. Each is a process of its own and has its device at the same time; while
//! one is measured the others sleep.

mod process;
mod subject;
mod table;
mod trace;

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use hyperv_sim::blackbox;

use subject::{Pace, Subject};
use table::Row;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The program that the others are compared with, quoted as for a shell;
    /// otherwise the hyperv-agent beside this program.
    #[arg(long, value_name = "COMMAND")]
    agent: Option<String>,
    /// A further program (repeatable).
    #[arg(long, value_name = "COMMAND")]
    peer: Vec<String>,
    /// Rounds; the table has their median.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Messages a round of a running transfer.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    messages: usize,
    /// Messages a round where the program is to sleep before each.
    #[arg(long, value_name = "N", default_value_t = 200)]
    slow_messages: usize,
    /// Seconds to count wake-ups for.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    idle: u64,
    /// Size of the channel's rings, in KiB. Not every program takes another.
    #[arg(long, value_name = "KIB", default_value_t = 16)]
    ring: usize,
}

/// The ways in which messages are sent.
const PACES: [(Pace, &str); 3] = [
    (Pace::Running(1), "running transfer, 1 in flight"),
    (Pace::Running(3), "running transfer, 3 in flight"),
    (Pace::AfterSleep, "each message after a pause"),
];

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(reason) = blackbox::unavailable() {
        println!("nothing can be measured here: {reason}");
        return Ok(ExitCode::FAILURE);
    }
    ensure!(arguments.rounds > 0, "no rounds, nothing to measure");
    let agent = match &arguments.agent {
        Some(command) => command.clone(),
        None => beside()?,
    };
    let mut subjects = Vec::new();
    for command in std::iter::once(&agent).chain(&arguments.peer) {
        let subject = Subject::start(command, arguments.ring << 10);
        subjects.push(subject.with_context(|| format!("starting {command}"))?);
    }
    let mut rows = Vec::new();
    for (pace, title) in PACES {
        rows.extend(measure(&mut subjects, pace, title, arguments)?);
    }
    rows.extend(still(&mut subjects, arguments.idle)?);
    let names: Vec<String> = subjects
        .iter()
        .map(|subject| subject.name.clone())
        .collect();
    println!(
        "{} rounds of {} messages ({} after a pause), rings of {} KiB; ratios to the first",
        arguments.rounds, arguments.messages, arguments.slow_messages, arguments.ring
    );
    print!("{}", table::render(&names, &rows));
    Ok(ExitCode::SUCCESS)
}

/// The agent that was built together with this program.
fn beside() -> Result<String> {
    let agent = std::env::current_exe()?.with_file_name("hyperv-agent");
    ensure!(
        agent.exists(),
        "{} does not exist: build it, or say with --agent what to measure",
        agent.display()
    );
    let agent = agent.to_str().context("its path is not UTF-8")?;
    Ok(format!("'{agent}' run --log stderr"))
}

/// Time, interrupts, signals and system calls a message at one pace.
fn measure(
    subjects: &mut [Subject],
    pace: Pace,
    title: &str,
    arguments: &Arguments,
) -> Result<Vec<Row>> {
    let messages = match pace {
        Pace::Running(_) => arguments.messages,
        Pace::AfterSleep => arguments.slow_messages,
    };
    let mut rounds: Vec<Vec<Result<subject::Measured, String>>> = vec![Vec::new(); subjects.len()];
    for _ in 0..arguments.rounds {
        for (subject, rounds) in subjects.iter_mut().zip(&mut rounds) {
            rounds.push(subject.transfer(pace, messages)?);
        }
    }
    let median = |of: fn(&subject::Measured) -> f64| {
        rounds
            .iter()
            .map(|rounds| {
                let values: Result<Vec<f64>, String> = rounds
                    .iter()
                    .map(|round| round.as_ref().map(of).map_err(Clone::clone))
                    .collect();
                values.map(table::median)
            })
            .collect()
    };
    let mut rows = vec![
        Row::heading(title),
        Row::new("µs a message", median(|round| round.microseconds)),
        Row::new("interrupts a message", median(|round| round.interrupts)),
        Row::new("signals a message", median(|round| round.signals)),
    ];
    let mut calls = Vec::new();
    for subject in subjects {
        calls.push(subject.system_calls(pace, messages)?);
    }
    rows.push(Row::new("system calls a message", calls));
    Ok(rows)
}

/// What programs take that do nothing.
fn still(subjects: &mut [Subject], idle: u64) -> Result<Vec<Row>> {
    for subject in subjects.iter_mut() {
        subject.settle();
    }
    let before: Vec<_> = subjects.iter_mut().map(Subject::switches).collect();
    thread::sleep(Duration::from_secs(idle));
    let wakeups = subjects
        .iter_mut()
        .zip(before)
        .map(|(subject, before)| Ok((subject.switches()? - before?) as f64))
        .collect();
    let mut memory = |of: fn(&process::Memory) -> u64| {
        subjects
            .iter_mut()
            .map(|subject| Ok(of(&subject.memory()?) as f64))
            .collect()
    };
    Ok(vec![
        Row::heading("at rest"),
        Row::new("KiB resident", memory(|memory| memory.resident)),
        Row::new("KiB of its own", memory(|memory| memory.private)),
        Row::new(&format!("wake-ups in {idle} s"), wakeups),
    ])
}
