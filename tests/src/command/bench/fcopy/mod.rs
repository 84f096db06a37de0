//! `hyperv-sim bench fcopy`: what a WRITE takes, with rings of several sizes, with hosts
//! that sleep and hosts that poll, and over the character device.

pub(crate) mod least;
mod transfer;

use anyhow::Result;
use clap::Args;
use hyperv_sim::fcopy::Fcopy;
use hyperv_sim::results::{Group, Row, medians};
use hyperv_sim::scenario::Transport;

use self::transfer::{Host, Pace};
use super::subject::Subject;
use super::{Common, at_rest, ring_size};

/// What the table calls the least that can be done, and whether it polls.
const LEAST: [(&str, bool); 2] = [("copy and pwrite", false), ("copy and pwrite, polls", true)];

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Messages a round of a running transfer.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    messages: usize,
    /// Messages a round where the program is to sleep before each, and those whose system
    /// calls are counted.
    #[arg(long, value_name = "N", default_value_t = 100)]
    slow_messages: usize,
    /// Size of the channel's rings, in KiB (repeatable).
    #[arg(long, value_name = "KIB", value_parser = ring_size, default_values_t = [16, 64, 2048])]
    ring_size: Vec<usize>,
    /// Measure the rings only, not the character device.
    #[arg(long)]
    rings_only: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let mut groups = Vec::new();
    let mut names = Vec::new();
    for (number, kib) in arguments.ring_size.iter().enumerate() {
        let ring_len = kib << 10;
        let mut subjects = subjects(arguments, Transport::Uio(ring_len))?;
        for host in [Host::Sleeps, Host::Polls] {
            let title = format!("rings of {kib} KiB, the host {host}");
            let paces = [
                Pace::Running(1),
                Pace::Running(transfer::in_flight(ring_len)),
                Pace::AfterSleep,
            ];
            groups.push(measure(&mut subjects, host, &paces, &title, arguments)?);
        }
        if number == 0 {
            let title = format!("rings of {kib} KiB, at rest");
            groups.push(rest(&mut subjects, &title, arguments)?);
        }
        let title = format!("rings of {kib} KiB, a host that does not announce room");
        groups.push(full(&mut subjects, ring_len, &title, arguments)?);
        names = subjects.into_iter().map(|it| it.name).collect();
    }
    if !arguments.rings_only {
        let mut subjects = subjects(arguments, Transport::HvUtil)?;
        let title = "character device";
        let paces = [Pace::Running(1), Pace::AfterSleep];
        let host = Host::Sleeps;
        groups.push(measure(&mut subjects, host, &paces, title, arguments)?);
        let title = "character device, at rest";
        groups.push(rest(&mut subjects, title, arguments)?);
        names = subjects.into_iter().map(|it| it.name).collect();
    }
    let title = format!(
        "{} rounds of {} WRITEs ({} after a pause)",
        arguments.common.rounds, arguments.messages, arguments.slow_messages
    );
    arguments
        .common
        .programs
        .output
        .report(names, title, groups)
}

/// What the programs take that do nothing.
fn rest(subjects: &mut [Subject<Fcopy>], title: &str, arguments: &Arguments) -> Result<Group> {
    let programs = subjects.len() - LEAST.len();
    let programs = subjects.get_mut(..programs).unwrap_or_default();
    at_rest(programs, title, arguments.common.idle)
}

/// The programs, and what is done at the least, all of which have their devices.
fn subjects(arguments: &Arguments, transport: Transport) -> Result<Vec<Subject<Fcopy>>> {
    let mut subjects = arguments.common.programs.subjects::<Fcopy>(transport)?;
    for (name, poll) in LEAST {
        let mut subject = Subject::new(&least::command(poll)?, transport)?;
        subject.name = name.to_owned();
        subjects.push(subject);
    }
    for subject in &mut subjects {
        subject.open();
    }
    Ok(subjects)
}

/// Time and system calls of a WRITE at several paces.
fn measure(
    subjects: &mut [Subject<Fcopy>],
    host: Host,
    paces: &[Pace],
    title: &str,
    arguments: &Arguments,
) -> Result<Group> {
    let (mut times, mut calls) = (Vec::new(), Vec::new());
    for pace in paces {
        let messages = match pace {
            Pace::Running(_) => arguments.messages,
            Pace::AfterSleep => arguments.slow_messages,
        };
        let time = |subject: &mut _| transfer::time(subject, host, *pace, messages);
        let values = in_turns(subjects, arguments.common.rounds, time)?;
        let row = pace.to_string();
        times.push(Row::new(&row, "µs", values));
        let messages = arguments.slow_messages;
        let count = |subject: &mut _| transfer::system_calls(subject, host, *pace, messages);
        calls.push(Row::new(
            &row,
            "system calls",
            in_turns(subjects, 1, count)?,
        ));
    }
    times.append(&mut calls);
    Ok(Group::new(title, times))
}

/// Time from when a reply that found the ring full has room to when it is there.
fn full(
    subjects: &mut [Subject<Fcopy>],
    ring_len: usize,
    title: &str,
    arguments: &Arguments,
) -> Result<Group> {
    let after_full = |subject: &mut _| transfer::after_full(subject, ring_len);
    let values = in_turns(subjects, arguments.common.rounds, after_full)?;
    let row = Row::new("from room to the reply", "µs", values);
    Ok(Group::new(title, vec![row]))
}

/// Measures one program after the other, in so many rounds, and takes their medians. A
/// program that fails is not tried again.
fn in_turns(
    subjects: &mut [Subject<Fcopy>],
    rounds: usize,
    mut measure: impl FnMut(&mut Subject<Fcopy>) -> Result<Result<f64, String>>,
) -> Result<Vec<Result<f64, String>>> {
    let mut measured: Vec<Vec<_>> = subjects.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (subject, measured) in subjects.iter_mut().zip(&mut measured) {
            if !measured.last().is_some_and(Result::is_err) {
                measured.push(measure(subject)?);
            }
        }
    }
    Ok(medians(&measured, |it| *it))
}
