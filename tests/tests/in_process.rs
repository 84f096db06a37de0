//! Every scenario, over every transport, with the agent within this process:
//! one test each.

use std::process::ExitCode;

use hyperv_sim::inprocess::{self, InProcess};
use hyperv_sim::scenario::{Options, Outcome, SCENARIOS, Scenario, Transport, run_one};
use libtest_mimic::{Arguments, Failed, Trial};

/// Bytes of the large file: unoptimised code is slow, and the full size is for
/// `hyperv-sim run`.
const LARGE: u64 = if cfg!(debug_assertions) {
    64 << 20
} else {
    1 << 30
};

fn main() -> ExitCode {
    if let Some(ended) = inprocess::guard() {
        return ended;
    }
    let arguments = Arguments::from_args();
    let trials = SCENARIOS
        .iter()
        .filter(|scenario| !scenario.own_process)
        .flat_map(|scenario| {
            scenario.transports.iter().map(move |transport| {
                let name = format!("{}::{transport}", scenario.name.replace('-', "_"));
                Trial::test(name, move || play(scenario, *transport))
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn play(scenario: &Scenario, transport: Transport) -> Result<(), Failed> {
    let mut machine = InProcess::new().map_err(|error| format!("{error:#}"))?;
    let options = Options {
        large: LARGE,
        alone: false,
    };
    let verdict = run_one(scenario, transport, &mut machine, &mut 0, options);
    match verdict.outcome {
        Outcome::Passed => Ok(()),
        Outcome::Skipped(reason) => {
            hyperv_needs::skip(&format!("{} over {transport}: {reason}", scenario.name));
            Ok(())
        }
        Outcome::Failed(reason) => Err(format!(
            "{reason}\nthe agent's log ended with\n  {}",
            verdict.log.join("\n  ")
        )
        .into()),
    }
}
