//! `hyperv-sim run` and `hyperv-sim scenarios`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use hyperv_sim::blackbox::{self, BlackBox};
use hyperv_sim::host::{Protocol as _, keep_messages};
use hyperv_sim::inprocess::InProcess;
use hyperv_sim::port::Machine;
use hyperv_sim::scenario::{
    Captures, Factory, Options, Outcome, Runner, SCENARIOS, Scenario, Transport, Verdict,
};
use hyperv_sim::vss::Vss;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Scenarios to run; all if none is named.
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Run this program with its arguments, quoted as for a shell, instead of the agent
    /// in this process.
    #[arg(long, value_name = "COMMAND")]
    agent: Option<String>,
    /// The guest's transport.
    #[arg(long, value_enum, default_value_t = Wanted::All)]
    transport: Wanted,
    /// Size of the large file, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    large: u64,
    /// Save each message of the host as a file in this directory, for fuzzing.
    #[arg(long, value_name = "DIRECTORY")]
    messages: Option<PathBuf>,
    /// Save a capture of each scenario, as `SCENARIO-TRANSPORT.pcapng` in this directory.
    #[arg(long, value_name = "DIRECTORY")]
    capture: Option<PathBuf>,
    /// Print each verdict as a line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    /// Rings through `/dev/uioN`.
    Uio,
    /// The character device of `hv_utils`.
    Hvutil,
    /// Both.
    All,
}

impl Wanted {
    fn takes(self, transport: Transport) -> bool {
        match self {
            Self::Uio => matches!(transport, Transport::Uio(_)),
            Self::Hvutil => transport == Transport::HvUtil,
            Self::All => true,
        }
    }
}

/// Prints every scenario's name and summary.
pub(crate) fn list() {
    for scenario in SCENARIOS {
        let service = scenario.play.service().name;
        println!("{:26} {service:6} {}", scenario.name, scenario.summary);
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let chosen = chosen(arguments)?;
    if let Some(directory) = &arguments.messages {
        keep_messages(directory.clone());
    }
    let own_process = arguments.agent.is_some();
    let unavailable = own_process.then(blackbox::unavailable).flatten();
    let freezing = chosen
        .iter()
        .any(|scenario| scenario.play.service() == Vss::SERVICE);
    let root_unavailable = (own_process && freezing)
        .then(blackbox::root_unavailable)
        .flatten();
    let options = Options {
        large: arguments.large << 20,
        alone: true,
        captures: arguments.capture.clone().map(|directory| Captures {
            directory,
            kernel: None,
        }),
    };
    let command = arguments.agent.clone();
    let factory: Factory<'_> = Box::new(move |service| {
        let machine: Box<dyn Machine> = match &command {
            Some(command) if service == Vss::SERVICE => Box::new(BlackBox::with_root(command)?),
            Some(command) => Box::new(BlackBox::new(command)?),
            None => Box::new(InProcess::new()?),
        };
        Ok(machine)
    });
    let mut runner = Runner::new(factory, options);
    let mut counts = Counts::default();
    for scenario in chosen {
        for transport in scenario.transports.iter().copied() {
            if !arguments.transport.takes(transport) {
                continue;
            }
            let reason = match scenario.play.service() == Vss::SERVICE {
                true => &root_unavailable,
                false => &unavailable,
            };
            let verdict = match reason {
                Some(reason) => Verdict::skipped(scenario, transport, reason.clone()),
                None => runner.run(scenario, transport)?,
            };
            counts.count(&verdict);
            match arguments.json {
                true => println!("{}", serde_json::to_string(&verdict)?),
                false => print(&verdict),
            }
        }
    }
    let skips_fail = std::env::var_os("CI").is_some();
    if !arguments.json {
        println!(
            "{} passed, {} failed, {} skipped",
            counts.passed, counts.failed, counts.skipped
        );
        if skips_fail && counts.skipped > 0 {
            println!("CI is set: a skipped scenario counts as failed");
        }
    }
    match counts.failed > 0 || (skips_fail && counts.skipped > 0) {
        true => Ok(ExitCode::FAILURE),
        false => Ok(ExitCode::SUCCESS),
    }
}

fn chosen(arguments: &Arguments) -> Result<Vec<&'static Scenario>> {
    if arguments.scenarios.is_empty() {
        let own_process = arguments.agent.is_some();
        return Ok(SCENARIOS
            .iter()
            .filter(|scenario| own_process || !scenario.own_process)
            .collect());
    }
    arguments
        .scenarios
        .iter()
        .map(
            |name| match SCENARIOS.iter().find(|scenario| scenario.name == name) {
                Some(scenario) => Ok(scenario),
                None => bail!("scenario {name:?} not found; `hyperv-sim scenarios` lists all"),
            },
        )
        .collect()
}

#[derive(Debug, Default)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Counts {
    fn count(&mut self, verdict: &Verdict) {
        match verdict.outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::Skipped(_) => self.skipped += 1,
        }
    }
}

fn print(verdict: &Verdict) {
    let Verdict {
        scenario,
        transport,
        seconds,
        ..
    } = verdict;
    let outcome = match &verdict.outcome {
        Outcome::Passed => format!("ok ({seconds:.1} s)"),
        Outcome::Failed(reason) => format!("FAILED: {reason}"),
        Outcome::Skipped(reason) => format!("skipped: {reason}"),
    };
    println!("{scenario:26} {transport:8} {outcome}");
    for line in &verdict.log {
        println!("    | {line}");
    }
}
