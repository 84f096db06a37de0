//! `hyperv-sim bench fcopy`: what a WRITE takes.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hyperv_sim::fcopy::{CHUNK, Fcopy, FcopyHost, OVERWRITE, Operation, Start};
use hyperv_sim::port::Machine;
use hyperv_sim::results::{Group, Row, medians};
use hyperv_sim::scenario::Transport;
use hyperv_vmbus::ic::Status;

use super::subject::Subject;
use super::{Common, at_rest, trace};

/// Longer than any program looks for the next message before it sleeps.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Messages a round of a running transfer.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    messages: usize,
    /// Messages a round where the program is to sleep before each.
    #[arg(long, value_name = "N", default_value_t = 200)]
    slow_messages: usize,
    /// Size of the channel's rings, in KiB. Not every program takes another.
    #[arg(long, value_name = "KIB", default_value_t = 16)]
    ring: usize,
}

/// How messages are sent.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// The next at once, with so many in flight.
    Running(usize),
    /// The next when the program has had the time to fall asleep.
    AfterSleep,
}

const PACES: [(Pace, &str); 3] = [
    (Pace::Running(1), "running transfer, 1 in flight"),
    (Pace::Running(3), "running transfer, 3 in flight"),
    (Pace::AfterSleep, "each message after a pause"),
];

/// The results of a round, for each message.
#[derive(Debug)]
struct Measured {
    microseconds: f64,
    interrupts: f64,
    signals: f64,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let transport = Transport::Uio(arguments.ring << 10);
    let mut subjects = arguments.common.subjects::<Fcopy>(transport)?;
    // All of them have their devices from here on.
    for subject in &mut subjects {
        subject.host()?;
    }
    let mut groups = Vec::new();
    for (pace, title) in PACES {
        groups.push(measure(&mut subjects, pace, title, arguments)?);
    }
    groups.push(at_rest(&mut subjects, "at rest", arguments.common.idle)?);
    let title = format!(
        "{} rounds of {} messages ({} after a pause), rings of {} KiB",
        arguments.common.rounds, arguments.messages, arguments.slow_messages, arguments.ring
    );
    let programs = subjects.into_iter().map(|it| it.name).collect();
    arguments.common.output.report(programs, title, groups)
}

/// Time, interrupts, signals and system calls a message at one pace.
fn measure(
    subjects: &mut [Subject<Fcopy>],
    pace: Pace,
    title: &str,
    arguments: &Arguments,
) -> Result<Group> {
    let messages = match pace {
        Pace::Running(_) => arguments.messages,
        Pace::AfterSleep => arguments.slow_messages,
    };
    let mut rounds: Vec<Vec<_>> = subjects.iter().map(|_| Vec::new()).collect();
    for _ in 0..arguments.common.rounds {
        for (subject, rounds) in subjects.iter_mut().zip(&mut rounds) {
            rounds.push(transfer(subject, pace, messages)?);
        }
    }
    let mut calls = Vec::new();
    for subject in subjects {
        calls.push(system_calls(subject, pace, messages)?);
    }
    let rows = vec![
        Row::new(
            "a message",
            "µs",
            medians(&rounds, |round: &Measured| round.microseconds),
        ),
        Row::new(
            "a message",
            "interrupts",
            medians(&rounds, |round| round.interrupts),
        ),
        Row::new(
            "a message",
            "signals",
            medians(&rounds, |round| round.signals),
        ),
        Row::new("a message", "system calls", calls),
    ];
    Ok(Group::new(title, rows))
}

/// Sends so many WRITEs; an error in words where the program does not last.
fn transfer(
    subject: &mut Subject<Fcopy>,
    pace: Pace,
    messages: usize,
) -> Result<Result<Measured, String>> {
    let start = start(subject, messages)?;
    subject.attempt(|host| {
        begin(host, &start)?;
        let measured = writes(host, pace, messages)?;
        host.request(&Operation::Complete)?;
        Ok(measured)
    })
}

/// System calls a message, counted apart from the time.
fn system_calls(
    subject: &mut Subject<Fcopy>,
    pace: Pace,
    messages: usize,
) -> Result<Result<f64, String>> {
    let start = start(subject, messages)?;
    let pid = subject.pid()?;
    let calls = subject.attempt(|host| {
        begin(host, &start)?;
        let calls =
            trace::system_calls(pid, host, |host| writes(host, pace, messages).map(|_| ()))?;
        host.request(&Operation::Complete)?;
        Ok(calls.map(|calls| calls as f64 / messages as f64))
    })?;
    Ok(calls.and_then(|calls| calls))
}

/// A file that has room for so many messages.
fn start(subject: &Subject<Fcopy>, messages: usize) -> Result<Operation> {
    let directory = subject.machine.directory().to_str();
    let directory = directory.context("the directory's name is not UTF-8")?;
    let size = (messages * CHUNK) as u64;
    Ok(Operation::Start(Start::new(
        directory, "bench", OVERWRITE, size,
    )))
}

fn begin(host: &mut FcopyHost, start: &Operation) -> Result<()> {
    let status = host.request(start)?;
    ensure!(status == Status::OK, "the START was declined: {status:?}");
    Ok(())
}

/// Sends WRITEs one behind the other and takes every reply.
fn writes(host: &mut FcopyHost, pace: Pace, messages: usize) -> Result<Measured> {
    let data = vec![0x5a; CHUNK];
    let (in_flight, pause) = match pace {
        Pace::Running(in_flight) => (in_flight, None),
        Pace::AfterSleep => (1, Some(PAUSE)),
    };
    let bell = Arc::clone(host.channel()?.bell());
    let (signals, interrupts) = (bell.signals(), bell.interrupts());
    let mut busy = Duration::ZERO;
    let (mut sent, mut answered) = (0, 0);
    while answered < messages {
        if let Some(pause) = pause {
            thread::sleep(pause);
        }
        let begun = Instant::now();
        while sent < messages && sent - answered < in_flight {
            host.send(&Operation::write((sent * CHUNK) as u64, &data))?;
            sent += 1;
        }
        let status = host.reply()?.status;
        ensure!(status == Status::OK, "a WRITE was declined: {status:?}");
        answered += 1;
        busy += begun.elapsed();
    }
    let each = |count: u64| count as f64 / messages as f64;
    Ok(Measured {
        microseconds: busy.as_secs_f64() * 1e6 / messages as f64,
        interrupts: each(bell.interrupts() - interrupts),
        signals: each(bell.signals() - signals),
    })
}
