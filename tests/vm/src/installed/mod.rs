//! `hyperv-vm installed`: the installed package in a small Debian with systemd, from its
//! first boot to its purge, and in a boot without Hyper-V.

mod stage;
mod steps;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use hyperv_vm::booted::Booted;
use hyperv_vm::monitor::{Config, Ending};

use self::stage::Stage;
use self::steps::{STEPS, Step, WITHOUT_HYPERV};
use crate::Machine;

/// Plays the life of the installed package
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    machine: Machine,
    /// Boot once more where a step fails: an emulated processor now and then misses an
    /// interrupt. What failed the first time is reported
    #[arg(long)]
    again: bool,
}

/// What failed, with the reasons.
type Failures = Vec<(&'static str, String)>;

/// Prints the steps.
pub(crate) fn list() {
    for step in STEPS.iter().chain(WITHOUT_HYPERV) {
        println!("{:26} [installed] {}", step.name, step.summary);
    }
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let config = Config::from(arguments.machine);
    let (mut passed, mut failures, mut first) = (0, Failures::new(), Failures::new());
    for (number, (steps, hyperv)) in [(STEPS, true), (WITHOUT_HYPERV, false)].iter().enumerate() {
        let mut config = config.clone();
        config.hyperv = *hyperv;
        let console = config.console.clone();
        let mut boot = |attempt: u32| {
            config.console.clone_from(&console);
            let suffix = format!(".guest-{}-{attempt}", number + 1);
            config.console.as_mut_os_string().push(suffix);
            play(&config, steps)
        };
        let mut failed = boot(1)?;
        if arguments.again && !failed.is_empty() {
            eprintln!("== once more, in another guest");
            first.append(&mut failed);
            failed = boot(2)?;
        }
        passed += steps.len() - failed.len();
        failures.append(&mut failed);
    }
    // Again, as whoever reads a long log begins at its end.
    for (name, reason) in &first {
        println!("FAILED: {name}, at the first attempt: {reason}");
    }
    for (name, reason) in &failures {
        println!("FAILED: {name}: {reason}");
    }
    println!("{passed} passed, {} failed", failures.len());
    Ok(match failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Boots a guest and plays the steps in it, each after what the one before it left.
fn play(config: &Config, steps: &[Step]) -> Result<Failures> {
    let begun = Instant::now();
    let booted = Booted::new(config)?;
    let release = booted.guest.release();
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!("a guest with kernel {release} is up ({seconds:.1} s)");
    let stage = Stage::new(&booted);
    let mut failures = Failures::new();
    for step in steps {
        let begun = Instant::now();
        let outcome = (step.play)(&stage);
        let seconds = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => println!("{:26} installed ok ({seconds:.1} s)", step.name),
            Err(error) => {
                println!("{:26} installed FAILED: {error:#}", step.name);
                for line in stage.log().lines() {
                    println!("    | {line}");
                }
                failures.push((step.name, format!("{error:#}")));
            }
        }
    }
    drop(stage);
    match booted.end()? {
        Ending::Stopped => Ok(failures),
        // The steps that came after its end have failed.
        ended if !failures.is_empty() => {
            eprintln!("the guest ended by itself: {ended:?}");
            Ok(failures)
        }
        ended => bail!("the guest ended by itself: {ended:?}"),
    }
}
