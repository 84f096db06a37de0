//! Plays scenarios on machines, and says how each went.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{Play, Scenario, Skip, Stage, Transport};
use crate::files::Files;
use crate::host::{Protocol, Service};
use crate::port::Machine;

/// What scenarios are played with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of the large file.
    pub large: u64,
    /// Nothing else runs in this process that opens files or starts threads.
    pub alone: bool,
    /// Where a capture of each scenario goes.
    pub captures: Option<Captures>,
}

/// Where captures of scenarios go.
#[derive(Debug, Clone)]
pub struct Captures {
    /// The directory, which exists.
    pub directory: PathBuf,
    /// Release of the guest's kernel, if there is a real one.
    pub kernel: Option<String>,
}

impl Captures {
    /// The file of a scenario over a transport: `SCENARIO-KERNEL-TRANSPORT.pcapng`.
    #[must_use]
    pub fn path(&self, scenario: &Scenario, transport: Transport) -> PathBuf {
        // As in the names of kernels: 6.12 of 6.12.43+deb13-amd64.
        let kernel = self.kernel.as_ref().map_or(String::new(), |release| {
            let numbers: Vec<&str> = release.split('.').take(2).collect();
            format!("{}-", numbers.join("."))
        });
        let name = format!("{}-{kernel}{transport}.pcapng", scenario.name);
        self.directory.join(name)
    }
}

/// How a scenario went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "reason", rename_all = "lowercase")]
pub enum Outcome {
    /// All was as expected.
    Passed,
    /// Something was not.
    Failed(String),
    /// It could not be tried.
    Skipped(String),
}

/// How a scenario went over one transport.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The transport's name.
    pub transport: String,
    /// How it went.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What the program logged last, where the scenario failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl Verdict {
    /// A scenario that was not played, and why.
    pub fn skipped(scenario: &Scenario, transport: Transport, reason: String) -> Self {
        Self {
            scenario: scenario.name,
            transport: transport.to_string(),
            outcome: Outcome::Skipped(reason),
            log: Vec::new(),
            seconds: 0.0,
        }
    }
}

/// Lines of the log that go with a failure.
const LOG_LINES: usize = 12;

/// Plays one scenario on a machine. `number` is that of the last UIO device.
pub fn run_one(
    scenario: &Scenario,
    transport: Transport,
    machine: &mut dyn Machine,
    number: &mut u32,
    options: Options,
) -> Verdict {
    let begun = Instant::now();
    let played = play(scenario, transport, machine, number, options);
    let outcome = match played {
        Ok(()) => Outcome::Passed,
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(skip) => Outcome::Skipped(skip.to_string()),
            None => Outcome::Failed(format!("{error:#}")),
        },
    };
    let log = match outcome {
        Outcome::Failed(_) => {
            let log = machine.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES);
            lines
                .iter()
                .skip(from)
                .map(|line| (*line).to_owned())
                .collect()
        }
        _ => Vec::new(),
    };
    Verdict {
        scenario: scenario.name,
        transport: transport.to_string(),
        outcome,
        log,
        seconds: begun.elapsed().as_secs_f64(),
    }
}

fn play(
    scenario: &Scenario,
    transport: Transport,
    machine: &mut dyn Machine,
    number: &mut u32,
    options: Options,
) -> Result<()> {
    let directory = machine.directory().join(scenario.name);
    let files = machine.files();
    files
        .create_directories(&directory)
        .context("making the scenario's directory")?;
    empty(&*files, &machine.pools())?;
    let place = (transport, directory.clone(), options);
    let played = match scenario.play {
        Play::Fcopy(play) => act(scenario, play, machine, place, number),
        Play::Kvp(play) => act(scenario, play, machine, place, number),
        Play::Vss(play) => act(scenario, play, machine, place, number),
    };
    let removed = machine
        .files()
        .remove_directory(&directory)
        .context("removing the scenario's directory");
    played.and(removed)
}

fn act<P: Protocol>(
    scenario: &Scenario,
    play: fn(&mut Stage<'_, P>) -> Result<()>,
    machine: &mut dyn Machine,
    (transport, directory, options): (Transport, PathBuf, Options),
    number: &mut u32,
) -> Result<()> {
    let mut stage = Stage::new(machine, transport, directory, number);
    stage.large = options.large;
    stage.alone = options.alone;
    let captures = options.captures.as_ref();
    stage.capture = captures.map(|captures| captures.path(scenario, transport));
    let mut played = play(&mut stage);
    if played.is_ok() && stage.capture.is_some() {
        let why = "it is over before a capture could begin".to_owned();
        played = Err(Skip(why).into());
    }
    // The program ends before its device goes, which not every program outlives;
    // those scenarios in which it has to take the device away themselves.
    let ended = end(stage.machine());
    let rescinded = stage.rescind();
    played.and(ended).and(rescinded)
}

/// Removes what an earlier scenario left in a directory.
fn empty(files: &dyn Files, directory: &Path) -> Result<()> {
    for name in files.list(directory)? {
        files.remove(&directory.join(name))?;
    }
    Ok(())
}

fn end(machine: &mut dyn Machine) -> Result<()> {
    ensure!(machine.is_running(), "the program ended by itself");
    machine.stop()
}

/// Makes a new machine for a service: one that freezes file systems needs some of
/// its own.
pub type Factory<'f> = Box<dyn FnMut(Service) -> Result<Box<dyn Machine>> + 'f>;

/// Plays scenarios one after the other on one machine, which is made again for
/// another service and after a failure.
pub struct Runner<'f> {
    factory: Factory<'f>,
    machine: Option<(Service, Box<dyn Machine>)>,
    number: u32,
    options: Options,
}

impl<'f> Runner<'f> {
    /// A runner without a machine as yet.
    pub fn new(factory: Factory<'f>, options: Options) -> Self {
        Self {
            factory,
            machine: None,
            number: 0,
            options,
        }
    }

    /// Plays a scenario.
    ///
    /// # Errors
    ///
    /// If a machine cannot be made.
    pub fn run(&mut self, scenario: &Scenario, transport: Transport) -> Result<Verdict> {
        let service = scenario.play.service();
        let mut machine = match self.machine.take() {
            Some((serves, machine)) if serves == service => machine,
            other => {
                drop(other);
                (self.factory)(service)?
            }
        };
        let options = self.options.clone();
        let verdict = run_one(
            scenario,
            transport,
            machine.as_mut(),
            &mut self.number,
            options,
        );
        if !matches!(verdict.outcome, Outcome::Failed(_)) {
            self.machine = Some((service, machine));
        }
        Ok(verdict)
    }
}
