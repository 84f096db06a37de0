//! `hyperv-sim bench start`: what programs take from their start to their first answers.
//!
//! The agent serves all three services; beside it there are the daemons of each. Each
//! program is in a guest with a private root, and starts when its shell, which has stopped
//! itself, goes on.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use hyperv_sim::blackbox::{self, BlackBox};
use hyperv_sim::fcopy::Fcopy;
use hyperv_sim::host::{Protocol, ServiceHost};
use hyperv_sim::kvp::Kvp;
use hyperv_sim::port::{Device, Machine, Offer};
use hyperv_sim::resources::family;
use hyperv_sim::results::{Group, Row, medians};
use hyperv_sim::scenario::OPEN_TIME;
use hyperv_sim::vss::Vss;
use hyperv_sim::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{FCOPY, Output, agent, process, rounds, subject, trace};

/// How the program is started, in its root.
const START: &str = "/run/start";

/// Where a program says that it is ready.
const NOTIFY: &str = "/run/notify";

/// What it writes there.
const READY: &str = "READY=1";

/// What strace writes, in the root.
const TRACE: &str = "/run/trace";

const TIME: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The program that serves all services, quoted as for a shell; otherwise the
    /// hyperv-agent beside this program.
    #[arg(long, value_name = "COMMAND")]
    agent: Option<String>,
    /// A program that copies files.
    #[arg(long, value_name = "COMMAND")]
    fcopy: Option<String>,
    /// A program for key-value pairs.
    #[arg(long, value_name = "COMMAND")]
    kvp: Option<String>,
    /// A program for backups.
    #[arg(long, value_name = "COMMAND")]
    vss: Option<String>,
    /// Starts; the table has their median.
    #[arg(long, value_name = "N", value_parser = rounds, default_value_t = 21)]
    rounds: usize,
    #[command(flatten)]
    pub(super) output: Output,
}

/// A service, whose first answer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Service {
    Fcopy,
    Kvp,
    Vss,
}

const SERVICES: [(Service, &str); 3] = [
    (Service::Fcopy, "file copy"),
    (Service::Kvp, "key-value pairs"),
    (Service::Vss, "backups"),
];

/// A program in its guest.
struct Program {
    machine: BlackBox,
    /// How it is started in there.
    command: String,
    services: Vec<Service>,
    ready: UnixDatagram,
    starts: u32,
}

/// One start.
#[derive(Debug)]
struct Started {
    ready: Option<Duration>,
    answers: Vec<(Service, Duration)>,
    page_faults: u64,
}

impl Service {
    fn offer(self, number: u32) -> Offer {
        match self {
            Self::Fcopy => Fcopy::SERVICE.uio(number, FCOPY.1),
            Self::Kvp => Kvp::SERVICE.hvutil(),
            Self::Vss => Vss::SERVICE.hvutil(),
        }
    }

    /// Waits for the answer to a first request.
    fn answer(self, device: &dyn Device) -> Result<()> {
        fn first<P: Protocol>(device: &dyn Device) -> Result<()> {
            let mut host = ServiceHost::<P>::connect(device.accept(OPEN_TIME)?)?;
            host.request(&P::HARMLESS).map(drop)
        }
        match self {
            Self::Fcopy => first::<Fcopy>(device),
            Self::Kvp => first::<Kvp>(device),
            Self::Vss => first::<Vss>(device),
        }
    }
}

impl Program {
    fn new(command: &str, services: &[Service]) -> Result<Self> {
        let machine = BlackBox::with_root(&format!("sh {START}"))?;
        Ok(Self {
            command: machine.install(command)?,
            ready: machine.socket(Path::new(NOTIFY))?,
            machine,
            services: services.to_vec(),
            starts: 0,
        })
    }

    /// Starts it by a command, and waits for the first answers.
    fn start(&mut self, command: &str) -> Result<Started> {
        let script = format!("export NOTIFY_SOCKET={NOTIFY}\nkill -STOP $$\nexec {command}\n");
        let files = self.machine.files();
        files.write(Path::new(START), script.as_bytes())?;
        let mut devices: Vec<Arc<dyn Device>> = Vec::new();
        for service in &self.services {
            devices.push(self.machine.offer(service.offer(self.starts))?);
        }
        self.starts += 1;
        self.machine.start()?;
        let pid = self.machine.pid().context("it has ended")?;
        until(TIME, "the program's shell to stop", || {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            Ok(status.contains("\nState:\tT").then_some(()))
        })?;
        let begun = Instant::now();
        kill(Pid::from_raw(pid.try_into()?), Signal::SIGCONT)?;
        let (ready, answers) = thread::scope(|scope| {
            let ready = scope.spawn(|| self.ready(begun));
            let answers: Vec<_> = self
                .services
                .iter()
                .zip(&devices)
                .map(|(service, device)| {
                    scope.spawn(move || {
                        let answered = service.answer(&**device);
                        answered.map(|()| (*service, begun.elapsed()))
                    })
                })
                .collect();
            let answers: Result<Vec<_>> = answers
                .into_iter()
                .map(|it| it.join().map_err(|_| anyhow!("a host panicked"))?)
                .collect();
            let ready = ready.join().map_err(|_| anyhow!("a thread panicked"))?;
            anyhow::Ok((ready, answers?))
        })
        .with_context(|| self.machine.log())?;
        let mut page_faults = 0;
        for pid in family(pid)? {
            page_faults += process::page_faults(pid)?;
        }
        for device in devices {
            device.rescind()?;
        }
        self.machine.kill()?;
        Ok(Started {
            ready,
            answers,
            page_faults,
        })
    }

    /// When it said that it is ready; only the agent does.
    fn ready(&self, begun: Instant) -> Option<Duration> {
        if self.services.len() < SERVICES.len() {
            return None;
        }
        let mut message = [0; 256];
        loop {
            let len = self.ready.recv(&mut message).ok()?;
            let text = String::from_utf8_lossy(message.get(..len)?);
            if text.lines().any(|line| line == READY) {
                return Some(begun.elapsed());
            }
        }
    }

    /// System calls, and files opened, up to the first answers.
    fn calls(&mut self) -> Result<Result<trace::Opened, String>> {
        let Ok(strace) = self.machine.install("strace") else {
            return Ok(Err("strace is not installed".to_owned()));
        };
        let command = format!("{strace} -f -o {TRACE} {}", self.command);
        self.start(&command)?;
        let log = self.machine.files().read(Path::new(TRACE))?;
        Ok(Ok(trace::opened(&String::from_utf8_lossy(&log))))
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(reason) = blackbox::root_unavailable() {
        anyhow::bail!("a program cannot have a private root here: {reason}");
    }
    let command = agent(arguments.agent.as_deref())?;
    let all = SERVICES.map(|(service, _)| service);
    let mut sides = vec![vec![Program::new(&command, &all)?]];
    let daemons = [&arguments.fcopy, &arguments.kvp, &arguments.vss];
    let mut others = Vec::new();
    for (command, service) in daemons.into_iter().zip(all) {
        if let Some(command) = command {
            others.push(Program::new(command, &[service])?);
        }
    }
    let mut programs = vec![subject::name(&command)];
    if !others.is_empty() {
        sides.push(others);
        programs.push("stock daemons".to_owned());
    }

    let mut rounds: Vec<Vec<Result<Started, String>>> = sides.iter().map(|_| Vec::new()).collect();
    for _ in 0..arguments.rounds {
        for (side, rounds) in sides.iter_mut().zip(&mut rounds) {
            rounds.push(Ok(start(side)?));
        }
    }
    let mut calls = Vec::new();
    for side in &mut sides {
        let mut all = trace::Opened::default();
        let mut counted = || -> Result<Result<(), String>> {
            for program in &mut *side {
                match program.calls()? {
                    Ok(one) => all += one,
                    Err(reason) => return Ok(Err(reason)),
                }
            }
            Ok(Ok(()))
        };
        let counted = counted()?;
        calls.push(vec![counted.map(|()| all)]);
    }

    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let mut times = Vec::new();
    let ready = rounds.iter().map(|rounds| {
        let ready = rounds.iter().map(|round| {
            let ready = round.as_ref().map_err(Clone::clone)?.ready;
            ready.ok_or_else(|| "the daemons do not say when they are ready".to_owned())
        });
        ready.collect::<Vec<_>>()
    });
    let ready: Vec<_> = ready.collect();
    times.push(Row::new("to READY", "ms", medians(&ready, |it| ms(*it))));
    for (service, name) in SERVICES {
        let answers = rounds.iter().map(|rounds| {
            let answers = rounds.iter().map(|round| {
                let answers = &round.as_ref().map_err(Clone::clone)?.answers;
                let answer = answers.iter().find(|(of, _)| *of == service);
                answer.map_or_else(|| Err(format!("no program for {name}")), |it| Ok(it.1))
            });
            answers.collect::<Vec<_>>()
        });
        let answers: Vec<_> = answers.collect();
        let title = format!("to the first answer, {name}");
        times.push(Row::new(&title, "ms", medians(&answers, |it| ms(*it))));
    }
    let groups = vec![
        Group::new("from exec", times),
        Group::new(
            "from exec to the first answers, all programs",
            vec![
                Row::new("", "system calls", medians(&calls, |it| it.calls as f64)),
                Row::new("", "files opened", medians(&calls, |it| it.files as f64)),
                Row::new(
                    "",
                    "page faults",
                    medians(&rounds, |it| it.page_faults as f64),
                ),
            ],
        ),
    ];
    let title = format!("{} starts, with the files in memory", arguments.rounds);
    arguments.output.report(programs, title, groups)
}

/// Starts the programs of one side, one after the other.
fn start(side: &mut [Program]) -> Result<Started> {
    let mut all = Started {
        ready: None,
        answers: Vec::new(),
        page_faults: 0,
    };
    for program in side {
        let command = program.command.clone();
        let started = program.start(&command)?;
        all.ready = all.ready.or(started.ready);
        all.answers.extend(started.answers);
        all.page_faults += started.page_faults;
    }
    Ok(all)
}
