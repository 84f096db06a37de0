//! `hyperv-sim bench`: the same work for several programs, in turns, in one
//! run. Each is a separate process and has its device at the same time; while
//! one is measured the others sleep.

pub(crate) mod fcopy;
mod kvp;
mod process;
mod slow_disk;
mod start;
mod subject;
mod trace;
pub(crate) mod vss;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use hyperv_sim::host::Protocol;
use hyperv_sim::results::{Group, Results, Row};
use hyperv_sim::scenario::Transport;
use hyperv_sim::{blackbox, chart};

use subject::Subject;

/// Rings in which whole messages of key-value pairs and backups fit.
const RING_LEN: usize = 68 << 10;

/// The number and the rings of the file-copy device that is there as well.
const FCOPY: (u32, usize) = (63, 16 << 10);

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// File copy over `/dev/uioN` and `/dev/vmbus/hv_fcopy`.
    Fcopy(fcopy::Arguments),
    /// A large file, copied to a slow disk.
    SlowDisk(slow_disk::Arguments),
    /// Key-value pairs and IP configuration over `/dev/vmbus/hv_kvp`.
    Kvp(kvp::Arguments),
    /// Freezing and thawing file systems over `/dev/vmbus/hv_vss`.
    Vss(vss::Arguments),
    /// The start, up to the first answers.
    Start(start::Arguments),
}

/// What is compared, and where the results go.
#[derive(Debug, Args)]
struct Programs {
    /// The program that the others are compared with, quoted as for a shell;
    /// otherwise the hyperv-agent beside this program.
    #[arg(long, value_name = "COMMAND")]
    agent: Option<String>,
    /// A further program (repeatable).
    #[arg(long, value_name = "COMMAND")]
    peer: Vec<String>,
    #[command(flatten)]
    output: Output,
}

/// Options of a comparison in rounds.
#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    programs: Programs,
    /// Rounds; the table has their median.
    #[arg(long, value_name = "N", value_parser = rounds, default_value_t = 5)]
    rounds: usize,
    /// Seconds to count wake-ups for; with 0, programs are not waited for to come to rest.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    idle: u64,
}

/// Where results go, beside the table on standard output.
#[derive(Debug, Args)]
struct Output {
    /// Write the results to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw how the further programs compare with the first.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Output {
    /// Fails if a file cannot be written, before anything is measured.
    fn check(&self) -> Result<()> {
        for path in [&self.json, &self.svg].into_iter().flatten() {
            let mut options = fs::OpenOptions::new();
            let file = options.create(true).append(true).open(path);
            file.with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    fn report(&self, programs: Vec<String>, title: String, groups: Vec<Group>) -> Result<()> {
        let results = Results {
            title,
            programs,
            groups,
        };
        print!("{}", results.render());
        if let Some(path) = &self.json {
            results.save(path)?;
        }
        if let Some(path) = &self.svg {
            fs::write(path, chart::draw(&results)?).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

/// How programs have the device of a service that most of them know as a
/// character device only.
#[derive(Debug, Args)]
struct DeviceKind {
    /// Over the rings of `/dev/uioN`, for programs that know them.
    #[arg(long)]
    uio: bool,
}

impl DeviceKind {
    fn transport(&self) -> Transport {
        match self.uio {
            true => Transport::Uio(RING_LEN),
            false => Transport::HvUtil,
        }
    }
}

pub(crate) fn run(bench: &Bench) -> Result<ExitCode> {
    if let Some(reason) = blackbox::unavailable() {
        println!("nothing can be measured here: {reason}");
        return Ok(ExitCode::FAILURE);
    }
    bench.output().check()?;
    match bench {
        Bench::Fcopy(arguments) => fcopy::run(arguments)?,
        Bench::SlowDisk(arguments) => slow_disk::run(arguments)?,
        Bench::Kvp(arguments) => kvp::run(arguments)?,
        Bench::Vss(arguments) => vss::run(arguments)?,
        Bench::Start(arguments) => start::run(arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Bench {
    fn output(&self) -> &Output {
        match self {
            Self::Fcopy(arguments) => &arguments.common.programs.output,
            Self::SlowDisk(arguments) => &arguments.programs.output,
            Self::Kvp(arguments) => &arguments.common.programs.output,
            Self::Vss(arguments) => &arguments.common.programs.output,
            Self::Start(arguments) => &arguments.output,
        }
    }
}

/// A number of rounds, from the command line.
fn rounds(text: &str) -> Result<usize> {
    let rounds = text.parse()?;
    ensure!(rounds > 0, "no rounds, nothing to measure");
    Ok(rounds)
}

/// The size of a ring in KiB, from the command line.
fn ring_size(text: &str) -> Result<usize> {
    let size = text.parse()?;
    ensure!(
        size >= 16 && size % 4 == 0,
        "rings have 16 KiB or more, in pages of 4 KiB"
    );
    Ok(size)
}

impl Programs {
    /// The programs, the first of which the others are compared with.
    fn subjects<P: Protocol>(&self, transport: Transport) -> Result<Vec<Subject<P>>> {
        let commands = self.commands()?;
        let subjects = commands.iter().map(|it| Subject::new(it, transport));
        subjects.collect()
    }

    /// How they are started.
    fn commands(&self) -> Result<Vec<String>> {
        let agent = agent(self.agent.as_deref())?;
        Ok([vec![agent], self.peer.clone()].concat())
    }
}

/// The agent's command: this one, or of the agent that was built together with this
/// program.
fn agent(command: Option<&str>) -> Result<String> {
    if let Some(command) = command {
        return Ok(command.to_owned());
    }
    let agent = std::env::current_exe()?.with_file_name("hyperv-agent");
    ensure!(
        agent.exists(),
        "{} does not exist: build it, or say with --agent what to measure",
        agent.display()
    );
    let agent = agent.to_str().context("its path is not UTF-8")?;
    Ok(format!("'{agent}' run --log stderr"))
}

/// What programs take that do nothing.
fn at_rest<P: Protocol>(subjects: &mut [Subject<P>], title: &str, idle: u64) -> Result<Group> {
    if idle > 0 {
        for subject in subjects.iter_mut() {
            subject.wait_until_idle();
        }
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
    let rows = vec![
        Row::new("resident", "KiB", memory(|memory| memory.resident)),
        Row::new(
            "with shared pages divided (Pss)",
            "KiB",
            memory(|memory| memory.proportional),
        ),
        Row::new("private", "KiB", memory(|memory| memory.private)),
        Row::new("not from files", "KiB", memory(|memory| memory.anonymous)),
        Row::new(&format!("in {idle} s"), "wake-ups", wakeups),
    ];
    Ok(Group::new(title, rows))
}
