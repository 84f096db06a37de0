//! Every scenario, over every transport, with the agent within this process, every capture of
//! `tests/captures`, and captures that are made here: one test each.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use hyperv_agent::capture::pcapng::Reader;
use hyperv_sim::inprocess::{self, InProcess};
use hyperv_sim::replay::{Capture, Options as ReplayOptions};
use hyperv_sim::scenario::{Captures, Options, Outcome, SCENARIOS, Scenario, Transport, run_one};
use hyperv_vmbus::Encoding;
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
    let scenarios = SCENARIOS
        .iter()
        .filter(|scenario| !scenario.own_process)
        .flat_map(|scenario| {
            scenario.transports.iter().map(move |transport| {
                let name = format!("{}::{transport}", scenario.name.replace('-', "_"));
                Trial::test(name, move || play(scenario, *transport))
            })
        });
    let trials = scenarios.chain(captures()).chain(recorded()).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn play(scenario: &Scenario, transport: Transport) -> Result<(), Failed> {
    let mut machine = InProcess::new().map_err(|error| format!("{error:#}"))?;
    let options = Options {
        large: LARGE,
        alone: false,
        captures: None,
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

/// A test of each capture over each transport.
fn captures() -> Vec<Trial> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let mut trials = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path
            .extension()
            .is_none_or(|extension| extension != "pcapng")
        {
            continue;
        }
        for (name, transport) in [("uio", Encoding::Utf16), ("hvutil", Encoding::Utf8)] {
            let capture = entry.file_name().to_string_lossy().into_owned();
            let path = path.clone();
            let trial = move || replay(&path, transport).map_err(Failed::from);
            trials.push(Trial::test(format!("captures::{capture}::{name}"), trial));
        }
    }
    trials
}

/// Scenarios whose captures are made and replayed: placeholders must not hide that requests
/// are about what earlier ones have made, or are malformed, and other programs in the guest
/// change what they are about.
const RECORDED: [&str; 7] = [
    "create-path",
    "lone-surrogate",
    "malformed-messages",
    "sizes-that-lie",
    "kvp-pools",
    "kvp-duplicates",
    "kvp-other-writers",
];

fn recorded() -> Vec<Trial> {
    let recorded = |scenario: &&Scenario| RECORDED.contains(&scenario.name);
    let scenarios = SCENARIOS.iter().filter(recorded);
    let trials = scenarios.flat_map(|scenario| {
        scenario.transports.iter().map(move |transport| {
            let name = scenario.name.replace('-', "_");
            let record = move || record(scenario, *transport).map_err(Failed::from);
            Trial::test(format!("recorded::{name}::{transport}"), record)
        })
    });
    trials.collect()
}

fn record(scenario: &Scenario, transport: Transport) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut machine = InProcess::new().map_err(|error| format!("{error:#}"))?;
    let captures = Captures {
        directory: directory.path().to_owned(),
        kernel: None,
    };
    let path = captures.path(scenario, transport);
    let options = Options {
        large: 0,
        alone: false,
        captures: Some(captures),
    };
    let verdict = run_one(scenario, transport, &mut machine, &mut 0, options);
    if verdict.outcome != Outcome::Passed {
        return Err(format!("{:?}", verdict.outcome));
    }
    drop(machine);
    let capture = fs::read(&path).map_err(|error| error.to_string())?;
    let mut reader = Reader::new(&capture[..]).map_err(|error| error.to_string())?;
    reader.by_ref().for_each(drop);
    let node = reader.interface(0).map(|it| it.node.clone());
    if node.as_ref().is_none_or(|node| !node.starts_with("/dev")) {
        return Err(format!("the capture names the device {node:?}"));
    }
    for transport in [Encoding::Utf16, Encoding::Utf8] {
        replay(&path, transport).map_err(|error| format!("over {transport:?}: {error}"))?;
    }
    Ok(())
}

fn replay(path: &Path, transport: Encoding) -> Result<(), String> {
    let text = |error| format!("{error:#}");
    let capture = Capture::read(path).map_err(text)?;
    let mut machine = InProcess::new().map_err(text)?;
    let options = ReplayOptions {
        transport: Some(transport),
        recorded_pace: false,
    };
    let outcome = capture.replay(&mut machine, options).map_err(text)?;
    match outcome.difference {
        Some(difference) => Err(capture.describe(&difference)),
        None if outcome.compared == 0 => Err("no reply was compared".to_owned()),
        None => Ok(()),
    }
}
