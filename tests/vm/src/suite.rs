//! Plays scenarios with a guest that is booted for them.

use std::mem;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use clap::{Args, ValueEnum};
use hyperv_sim::scenario::{
    Captures, Factory, Kernel, Options, Outcome, Play, Runner, SCENARIOS, Transport, Verdict,
};

use crate::boot::KERNEL_OPTIONS;
use crate::booted::Booted;
use crate::devices::{self, DEVICES};
use crate::machine::{VmMachine, bind_to_uio};
use crate::monitor::{Config, Ending};

/// Plays scenarios with a program in a real kernel
#[derive(Debug, Args)]
pub struct Arguments {
    /// Scenarios to play; all where none is named
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Kernel (bzImage)
    #[arg(long)]
    kernel: PathBuf,
    /// Initramfs with the program and the helper in it
    #[arg(long)]
    initramfs: PathBuf,
    /// The program and its arguments in the guest, quoted as for a shell
    #[arg(
        long,
        default_value = "/bin/hyperv-agent run --log stderr --enable kvp --enable vss"
    )]
    agent: String,
    /// How the guest's kernel has the file copy device [default: as mainline
    /// kernels of its release have it]
    #[arg(long, value_enum)]
    transport: Option<Kind>,
    /// Let the UIO driver take the device before the program starts, which
    /// otherwise has to do so itself
    #[arg(long)]
    bind: bool,
    /// Size of the large file, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 16)]
    large: u64,
    /// Play once more, in another guest, what fails: an emulated processor now and then
    /// misses an interrupt. What failed the first time is reported
    #[arg(long)]
    again: bool,
    /// Save a capture of each scenario, as `SCENARIO-KERNEL-TRANSPORT.pcapng` in this
    /// directory
    #[arg(long, value_name = "DIRECTORY")]
    capture: Option<PathBuf>,
    /// Print each verdict as a line of JSON
    #[arg(long)]
    json: bool,
    /// Memory of the guest, in MiB
    #[arg(long, default_value_t = 512)]
    memory: usize,
    /// Virtual processors
    #[arg(long, default_value_t = 2)]
    processors: u8,
    /// File that gets the guest's console
    #[arg(long, default_value = "console.log")]
    console: PathBuf,
    /// Further words for the kernel's command line
    #[arg(long, default_value = "")]
    append: String,
    /// Seconds that the guest may run
    #[arg(long, default_value_t = 1800)]
    limit: u64,
}

/// Lines of the protocol's journal that are shown after a failure.
const JOURNAL_LINES: usize = 40;

/// How a guest's kernel has the file copy device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// `uio_hv_generic`: 6.10 and later
    Uio,
    /// `hv_utils`: before 6.10
    Hvutil,
}

impl Kind {
    /// As mainline has it in this release.
    #[must_use]
    pub fn of(release: &str) -> Self {
        let mut numbers = release
            .split(|letter: char| !letter.is_ascii_digit())
            .map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0u32);
        match (next(), next()) >= (6, 10) {
            true => Self::Uio,
            false => Self::Hvutil,
        }
    }
}

/// Prints what can be played, and what cannot and why.
pub fn list() {
    for scenario in SCENARIOS {
        let ways = [
            ("uio", Transport::Uio(16 << 10)),
            ("hvutil", Transport::HvUtil),
        ];
        let mut transports = Vec::new();
        // The kernels here have KVP and VSS in `hv_utils`.
        let fcopy = matches!(scenario.play, Play::Fcopy(_));
        for (name, transport) in ways.into_iter().skip(usize::from(!fcopy)) {
            match scenario.with_kernel(transport) {
                Ok(true) => transports.push(name.to_owned()),
                Ok(false) => {}
                Err(skip) => transports.push(format!("not {name}: {skip}")),
            }
        }
        println!(
            "{:26} [{}] {}",
            scenario.name,
            transports.join(", "),
            scenario.summary
        );
    }
    for device in DEVICES {
        println!("{:26} [hvutil] {}", device.name, device.summary);
    }
}

/// Guests that are booted at most. One whose processor was reset without a word of its
/// kernel, which is how an emulated processor fails, has a successor that begins with the
/// scenario that was lost.
const GUESTS: u32 = 4;

/// Why a guest played no more.
enum Lost {
    /// It did not come so far as to play a scenario.
    AtOnce(Error),
    /// Its processor was reset.
    Reset(Error),
}

/// Plays scenarios.
///
/// # Errors
///
/// If a guest does not come up, or is lost on the way for a reason of its own, or
/// twice in the same scenario.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let known = |name: &String| {
        SCENARIOS.iter().any(|scenario| scenario.name == name)
            || DEVICES.iter().any(|device| device.name == name)
    };
    if let Some(name) = arguments.scenarios.iter().find(|name| !known(name)) {
        bail!("scenario {name:?} not found; `hyperv-vm list` lists all");
    }
    let command = shell_words::split(&arguments.agent)?;
    let mut tally = Tally::new(arguments);
    let mut guests = 0;
    play_all(arguments, &command, &mut tally, &mut guests)?;
    let first = match arguments.again {
        true => mem::take(&mut tally.failures),
        false => Vec::new(),
    };
    if !first.is_empty() {
        eprintln!("== once more what failed, in guest {}", guests + 1);
        let failed = |name| first.iter().any(|(failed, _)| *failed == name);
        tally.played.retain(|name| !failed(*name));
        play_all(arguments, &command, &mut tally, &mut guests)?;
    }
    if !arguments.json {
        // Again, as whoever reads a long log begins at its end.
        for (name, reason) in &first {
            println!("FAILED: {name}, at the first attempt: {reason}");
        }
        for (name, reason) in &tally.failures {
            println!("FAILED: {name}: {reason}");
        }
        println!(
            "{} passed, {} failed, {} skipped",
            tally.passed,
            tally.failures.len(),
            tally.skipped
        );
    }
    match tally.failures.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}

/// Plays what has not been played, in guests that are booted one after the other.
fn play_all(
    arguments: &Arguments,
    command: &[String],
    tally: &mut Tally,
    guests: &mut u32,
) -> Result<()> {
    let mut lost_at = None;
    loop {
        *guests += 1;
        let (lost, again) = match play_in_guest(arguments, *guests, command, tally)? {
            None => return Ok(()),
            Some(Lost::AtOnce(why)) => (why, arguments.again),
            Some(Lost::Reset(why)) => {
                let played = Some(tally.played.len());
                let twice = mem::replace(&mut lost_at, played) == played;
                (why.context("the guest's processor was reset"), !twice)
            }
        };
        if !again || *guests >= GUESTS {
            return Err(lost);
        }
        eprintln!("{lost:#}");
        eprintln!("== going on where it was lost, in guest {}", *guests + 1);
    }
}

/// Plays what has not been played, in a guest of its own. `None` where all of it was.
fn play_in_guest(
    arguments: &Arguments,
    number: u32,
    command: &[String],
    tally: &mut Tally,
) -> Result<Option<Lost>> {
    let mut console = arguments.console.clone();
    if number > 1 {
        console.as_mut_os_string().push(format!(".guest-{number}"));
    }
    let booted = Booted::new(&Config {
        kernel: arguments.kernel.clone(),
        initramfs: arguments.initramfs.clone(),
        command_line: format!("{KERNEL_OPTIONS} {}", arguments.append),
        memory: arguments.memory,
        processors: arguments.processors,
        hyperv: true,
        console,
        limit: Duration::from_secs(arguments.limit),
    });
    let booted = match booted {
        Ok(booted) => booted,
        Err(why) => return Ok(Some(Lost::AtOnce(why))),
    };
    let (played_before, failed_before) = (tally.played.len(), tally.failures.len());
    let played = play(arguments, &booted, command, tally);
    if played.is_err() || tally.failures.len() > failed_before {
        let journal = booted.bus.journal();
        let lines: Vec<&str> = journal.lines().collect();
        let end = lines.len().saturating_sub(JOURNAL_LINES);
        eprintln!("{}", lines.get(end..).unwrap_or_default().join("\n"));
    }
    let ended = booted.end()?;
    match (played, ended) {
        (Ok(()), Ending::Stopped) => Ok(None),
        (Ok(()), ended) => bail!("the guest ended by itself: {ended:?}"),
        (Err(why), Ending::TripleFault) => Ok(Some(Lost::Reset(why))),
        (Err(why), Ending::Stopped) if tally.played.len() == played_before => {
            Ok(Some(Lost::AtOnce(why)))
        }
        (Err(why), Ending::Stopped) => Err(why),
        // How the guest ended says why it was lost.
        (Err(why), ended) => Err(why.context(format!("the guest ended by itself: {ended:?}"))),
    }
}

fn play(
    arguments: &Arguments,
    booted: &Booted,
    command: &[String],
    tally: &mut Tally,
) -> Result<()> {
    let version = booted.bus.version();
    let version = version.map_or("none".to_owned(), |version| version.to_string());
    eprintln!(
        "a guest with kernel {} is up, VMBus version {version}",
        booted.guest.release()
    );
    let machine = || {
        let mut machine = VmMachine::new(
            booted.bus.clone(),
            Arc::clone(&booted.guest),
            command.to_vec(),
        )?;
        machine.device_first = arguments.bind;
        anyhow::Ok(machine)
    };
    if arguments.bind {
        bind_to_uio(&booted.guest)?;
    }
    let kind_of_release = Kind::of(booted.guest.release());
    let played = tally.played.clone();
    let wanted = |name: &'static str| {
        let named = arguments.scenarios.is_empty() || arguments.scenarios.iter().any(|n| n == name);
        named && !played.contains(&name)
    };
    for device in DEVICES.iter().filter(|device| wanted(device.name)) {
        tally.count(&devices::play(device, &booted.bus, &booted.guest))?;
    }
    let options = Options {
        large: arguments.large << 20,
        alone: false,
        captures: arguments.capture.clone().map(|directory| Captures {
            directory,
            kernel: Some(booted.guest.release().to_owned()),
        }),
    };
    let chosen = || SCENARIOS.iter().filter(|scenario| wanted(scenario.name));
    let fcopy = match arguments.transport.unwrap_or(kind_of_release) {
        Kind::Uio if chosen().any(|scenario| matches!(scenario.play, Play::Fcopy(_))) => {
            Transport::Uio(machine()?.ring_len()?)
        }
        Kind::Uio | Kind::Hvutil => Transport::HvUtil,
    };
    let factory: Factory<'_> = Box::new(|_| Ok(Box::new(machine()?)));
    let mut runner = Runner::new(factory, options);
    let all_of_older = arguments.scenarios.is_empty() && kind_of_release == Kind::Hvutil;
    for scenario in chosen() {
        let transport = match scenario.play {
            Play::Fcopy(_) => fcopy,
            Play::Kvp(_) | Play::Vss(_) => Transport::HvUtil,
        };
        let verdict = match scenario.with_kernel(transport) {
            Ok(false) => continue,
            Ok(true) if all_of_older && scenario.kernel == Kernel::Newest => {
                let reason = "the newer kernel shows it, and virtual machines are slow";
                Verdict::skipped(scenario, transport, reason.to_owned())
            }
            Ok(true) => runner.run(scenario, transport)?,
            Err(skip) => Verdict::skipped(scenario, transport, skip.to_string()),
        };
        // A scenario whose guest is lost has no verdict.
        if let Outcome::Failed(reason) = &verdict.outcome {
            let guest = booted.guest.has(Path::new("/"));
            guest.with_context(|| format!("{}: {reason}", scenario.name))?;
        }
        tally.count(&verdict)?;
    }
    Ok(())
}

struct Tally {
    json: bool,
    /// Names of what has a verdict.
    played: Vec<&'static str>,
    passed: u32,
    /// Names of what failed, with the reasons.
    failures: Vec<(&'static str, String)>,
    skipped: u32,
}

impl Tally {
    fn new(arguments: &Arguments) -> Self {
        Self {
            json: arguments.json,
            played: Vec::new(),
            passed: 0,
            failures: Vec::new(),
            skipped: 0,
        }
    }

    fn count(&mut self, verdict: &Verdict) -> Result<()> {
        let seconds = verdict.seconds;
        let outcome = match &verdict.outcome {
            Outcome::Passed => {
                self.passed += 1;
                format!("ok ({seconds:.1} s)")
            }
            Outcome::Failed(reason) => {
                self.failures.push((verdict.scenario, reason.clone()));
                format!("FAILED: {reason}")
            }
            Outcome::Skipped(reason) => {
                self.skipped += 1;
                format!("skipped: {reason}")
            }
        };
        self.played.push(verdict.scenario);
        if self.json {
            println!("{}", serde_json::to_string(verdict)?);
            return Ok(());
        }
        println!("{:26} {:8} {outcome}", verdict.scenario, verdict.transport);
        for line in &verdict.log {
            println!("    | {line}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_tells_the_transport() {
        for (release, kind) in [
            ("6.1.0-40-amd64", Kind::Hvutil),
            ("6.9.12", Kind::Hvutil),
            ("6.10.0-rc1", Kind::Uio),
            ("6.12.43+deb13-amd64", Kind::Uio),
            ("7.0", Kind::Uio),
            ("", Kind::Hvutil),
        ] {
            assert_eq!(Kind::of(release), kind, "{release}");
        }
    }
}
