//! `hyperv-vm bench`: what a message costs the agent and a stock daemon, with
//! the devices of a real kernel, in one boot. The programs take turns: each is
//! started, has the device, and is stopped.

mod cases;
mod count;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use hyperv_sim::fcopy::Fcopy;
use hyperv_sim::host::{Protocol, ServiceHost};
use hyperv_sim::kvp::Kvp;
use hyperv_sim::port::{Machine as _, Offer, Port};
use hyperv_sim::results::{Group, Results, Row, medians};
use hyperv_sim::scenario::OPEN_TIME;
use hyperv_sim::vss::Vss;
use hyperv_vm::booted::Booted;
use hyperv_vm::machine::{VmMachine, bind_to_uio};
use hyperv_vm::monitor::Config;
use hyperv_vm::suite::Kind;
use hyperv_vmbus::ic::Status;

use crate::Machine;
use cases::Case;
use count::{Counter, Counts};

/// Messages before those that are measured.
const WARM_UP: usize = 10;

/// Measures what messages cost the agent and stock daemons
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    machine: Machine,
    /// The agent in the guest, quoted as for a shell
    #[arg(
        long,
        value_name = "COMMAND",
        default_value = "/bin/hyperv-agent run --log stderr --enable kvp --enable vss"
    )]
    agent: String,
    /// Measures file copies, and this stock daemon beside the agent
    #[arg(long, value_name = "COMMAND")]
    fcopy: Option<String>,
    /// Measures key-value pairs, and this stock daemon beside the agent
    #[arg(long, value_name = "COMMAND")]
    kvp: Option<String>,
    /// Measures backups, and this stock daemon beside the agent
    #[arg(long, value_name = "COMMAND")]
    vss: Option<String>,
    /// Rounds; the table has their median
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Messages a round, one after another
    #[arg(long, value_name = "N", default_value_t = 400)]
    messages: usize,
    /// Messages a round where each comes after a pause
    #[arg(long, value_name = "N", default_value_t = 50)]
    slow_messages: usize,
    /// File to which the emulator writes its counts of instructions
    #[arg(long, value_name = "FILE")]
    counts: Option<PathBuf>,
    /// Adds the results to those in a file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How a program is measured.
struct Bench<'a> {
    booted: &'a Booted,
    agent: &'a str,
    rounds: usize,
    counter: Option<Counter>,
}

/// The rounds of the agent and of the stock daemon.
type Rounds = [Vec<Result<Measured, String>>; 2];

/// What a message took.
#[derive(Debug)]
struct Measured {
    microseconds: f64,
    interrupts: f64,
    signals: f64,
    counts: Option<Counts>,
    messages: usize,
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let Arguments {
        rounds,
        messages,
        slow_messages,
        ..
    } = arguments;
    ensure!(
        rounds > 0 && messages > 0 && slow_messages > 0,
        "no messages, nothing to measure"
    );
    let booted = Booted::new(&Config::from(arguments.machine))?;
    let bench = Bench {
        booted: &booted,
        agent: &arguments.agent,
        rounds,
        counter: arguments.counts.map(Counter),
    };
    let counts = (messages, slow_messages);
    let mut groups = Vec::new();
    if let Some(stock) = &arguments.fcopy {
        let (offer, way) = match Kind::of(booted.guest.release()) {
            Kind::Uio => {
                bind_to_uio(&booted.guest)?;
                (Fcopy::SERVICE.uio(0, 0), "/dev/uioN")
            }
            Kind::Hvutil => (Fcopy::SERVICE.hvutil(), "/dev/vmbus/hv_fcopy"),
        };
        groups.extend(
            bench.compare::<Fcopy>(stock, offer, |machine| cases::fcopy(machine, way, counts))?,
        );
    }
    if let Some(stock) = &arguments.kvp {
        cases::prepare_kvp(&booted.guest)?;
        let offer = Kvp::SERVICE.hvutil();
        groups.extend(bench.compare::<Kvp>(stock, offer, |_| Ok(cases::kvp(counts)))?);
    }
    if let Some(stock) = &arguments.vss {
        cases::prepare_vss(&booted.guest)?;
        let offer = Vss::SERVICE.hvutil();
        groups.extend(bench.compare::<Vss>(stock, offer, |_| Ok(cases::vss(counts)))?);
    }
    if let Some(path) = &arguments.json {
        let release = booted.guest.release();
        let mut results = match path.exists() {
            true => Results::load(path)?,
            false => Results {
                title: format!(
                    "{rounds} rounds of {messages} messages, or {slow_messages} that take long \
                     or come after a pause; the guest's kernel: {release}"
                ),
                programs: ["hyperv-agent", "stock daemon"].map(str::to_owned).to_vec(),
                groups: Vec::new(),
            },
        };
        if !results.title.contains(release) {
            results.title += &format!(", {release}");
        }
        results.groups.extend(groups);
        results.save(path)?;
    }
    booted.end()?;
    Ok(ExitCode::SUCCESS)
}

impl Bench<'_> {
    /// Measures the agent and a stock daemon, in turns, and prints the table.
    fn compare<P: Protocol>(
        &self,
        stock: &str,
        offer: Offer,
        cases: impl Fn(&VmMachine) -> Result<Vec<Case<P::Operation>>>,
    ) -> Result<Vec<Group>> {
        let commands = [self.agent, stock];
        let commands = commands.map(shell_words::split);
        // For each case the rounds of each program.
        let mut measured: Vec<(String, Rounds)> = Vec::new();
        for _ in 0..self.rounds {
            for (program, command) in commands.iter().enumerate() {
                let command = command.clone()?;
                let name = command.first().cloned().unwrap_or_default();
                let round = self.round::<P>(command, offer, &cases);
                let round = round.with_context(|| format!("measuring {name}"))?;
                for (at, (title, figures)) in round.into_iter().enumerate() {
                    if measured.len() <= at {
                        measured.push((title, Default::default()));
                    }
                    let rounds = measured
                        .get_mut(at)
                        .and_then(|(_, all)| all.get_mut(program));
                    rounds.context("another program")?.push(Ok(figures));
                }
            }
        }
        let groups: Vec<Group> = measured
            .iter()
            .map(|(title, rounds)| Group::new(title, self.rows(rounds)))
            .collect();
        let results = Results {
            title: format!(
                "{}, kernel {}, {} rounds",
                P::SERVICE.name,
                self.booted.guest.release(),
                self.rounds
            ),
            programs: [self.agent, stock].map(name).to_vec(),
            groups: groups.clone(),
        };
        println!("{}", results.render());
        Ok(groups)
    }

    /// Starts a program with its device, sends it every case, and stops it.
    fn round<P: Protocol>(
        &self,
        command: Vec<String>,
        offer: Offer,
        cases: &impl Fn(&VmMachine) -> Result<Vec<Case<P::Operation>>>,
    ) -> Result<Vec<(String, Measured)>> {
        let Booted { bus, guest, .. } = self.booted;
        let mut machine = VmMachine::new(bus.clone(), Arc::clone(guest), command)?;
        machine.device_first = true;
        let device = machine.offer(offer)?;
        machine.start()?;
        let measure = || -> Result<Vec<_>> {
            let cases = cases(&machine)?;
            let mut host = connect::<P>(device.accept(OPEN_TIME)?, &cases)?;
            let mut measured = Vec::new();
            for case in cases {
                let figures = self.measure(&mut host, &case);
                measured.push((case.title.clone(), figures.context(case.title)?));
            }
            Ok(measured)
        };
        let measured = measure();
        let measured = measured.with_context(|| format!("the program's log:\n{}", machine.log()));
        machine.stop()?;
        device.rescind()?;
        measured
    }

    /// Sends the messages of a case.
    fn measure<P: Protocol>(
        &self,
        host: &mut ServiceHost<P>,
        case: &Case<P::Operation>,
    ) -> Result<Measured> {
        let count = || self.counter.as_ref().map(Counter::read).transpose();
        if let Some(operation) = &case.before {
            ensure!(host.request(operation)? == Status::OK, "it was declined");
        }
        let mut operations = case.operations.iter().cycle();
        send(host, case, WARM_UP, &mut operations)?;
        let bell = Arc::clone(host.channel()?.bell());
        let (signals, interrupts) = (bell.signals(), bell.interrupts());
        let before = count()?;
        let messages = case.messages;
        let busy = send(host, case, messages, &mut operations)?;
        let counts = count()?.zip(before).map(|(after, before)| after - before);
        let each = |count: u64| count as f64 / messages as f64;
        let measured = Measured {
            microseconds: busy.as_secs_f64() * 1e6 / messages as f64,
            interrupts: each(bell.interrupts() - interrupts),
            signals: each(bell.signals() - signals),
            counts,
            messages,
        };
        if let Some(operation) = &case.after {
            ensure!(host.request(operation)? == Status::OK, "it was declined");
        }
        Ok(measured)
    }

    fn rows(&self, rounds: &Rounds) -> Vec<Row> {
        let row = |of: &str, unit, value: fn(&Measured) -> f64| {
            Row::new(&format!("a message{of}"), unit, medians(rounds, value))
        };
        let mut rows = vec![
            row("", "µs", |it| it.microseconds),
            row("", "interrupts", |it| it.interrupts),
            row("", "signals", |it| it.signals),
        ];
        if self.counter.is_some() {
            rows.extend([
                row("", "instructions", |it| {
                    it.each(|counts| counts.programs + counts.kernel)
                }),
                row(", program", "instructions", |it| it.each(|it| it.programs)),
                row(", kernel", "instructions", |it| it.each(|it| it.kernel)),
                row("", "exits to the host", |it| it.each(|it| it.entries)),
            ]);
        }
        rows
    }
}

impl Measured {
    /// A count for each message.
    fn each(&self, of: fn(&Counts) -> u64) -> f64 {
        let count = self.counts.as_ref().map_or(f64::NAN, |it| of(it) as f64);
        count / self.messages as f64
    }
}

/// Connects to a program. The stock daemon for `/dev/vmbus/hv_fcopy` closes that device
/// at a CANCEL before any copy, so it gets a copy's beginning and end instead.
fn connect<P: Protocol>(port: Port, cases: &[Case<P::Operation>]) -> Result<ServiceHost<P>> {
    let first = cases.first().context("nothing to measure")?;
    let mut host = match &first.before {
        Some(harmless) => ServiceHost::connect_with(port, harmless)?,
        None => ServiceHost::connect(port)?,
    };
    if let Some(after) = first.after.as_ref().filter(|_| !host.has_rings()) {
        host.request(after)?;
    }
    Ok(host)
}

/// Sends so many messages, each when the one before is answered; the time that the
/// host waits.
fn send<'a, P: Protocol>(
    host: &mut ServiceHost<P>,
    case: &Case<P::Operation>,
    messages: usize,
    operations: &mut impl Iterator<Item = &'a P::Operation>,
) -> Result<Duration>
where
    P::Operation: 'a,
{
    let mut busy = Duration::ZERO;
    for operation in operations.take(messages) {
        if let Some(pause) = case.pause {
            thread::sleep(pause);
        }
        let begun = Instant::now();
        let status = host.request(operation)?;
        busy += begun.elapsed();
        ensure!(status == Status::OK, "a message was declined: {status:?}");
    }
    Ok(busy)
}

/// What the program of a command is called.
fn name(command: &str) -> String {
    let program = command.split_whitespace().next().unwrap_or_default();
    program.rsplit('/').next().unwrap_or_default().to_owned()
}
