//! `hyperv-sim bench vss`: for how long applications stand still for a backup,
//! and what three services have in memory.
//!
//! Each program is in a guest with a private root, in which nothing of this
//! machine is mounted; the guest has the devices of the other services too.

pub(crate) mod applications;
mod layout;
mod slow_disks;

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use hyperv_sim::blackbox::{self, BlackBox};
use hyperv_sim::fcopy::{Fcopy, FcopyHost};
use hyperv_sim::host::Protocol;
use hyperv_sim::kvp::{FACT_POOL, FACTS, Kvp, KvpHost, Operation};
use hyperv_sim::port::Machine;
use hyperv_sim::results::{Group, Row, medians};
use hyperv_sim::scenario::{OPEN_TIME, Transport};
use hyperv_sim::vss::Vss;
use hyperv_vmbus::ic::Status;

use self::applications::{Applications, Freeze, Pause, now};
use self::layout::Layout;
use self::slow_disks::SlowDisks;
use super::subject::{self, Subject};
use super::{Common, DeviceKind, FCOPY, at_rest, process, trace};

/// For how long the host holds file systems frozen: long enough for every
/// application to notice.
const HOLD: Duration = Duration::from_millis(20);

/// Pages that each application writes before a FREEZE.
const PAGES: usize = 100;

/// How the programs of a guest are started, in its root.
const START: &str = "/run/start";

/// How applications are started there, with further arguments.
const APPLICATIONS: &str = "/run/applications";

/// File systems in all guests together: there are few more loop devices.
const FILE_SYSTEMS: usize = 240;

/// The call that freezes, as strace has it.
const FREEZE: &str = "FIFREEZE";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// A program that runs beside each further one, for what the agent does as
    /// well (repeatable): with the daemons for key-value pairs and for file copy,
    /// all three services are on in every guest.
    #[arg(long, value_name = "COMMAND")]
    beside: Vec<String>,
    /// File systems that a guest has (repeatable), 240 in all guests together.
    #[arg(long, value_name = "N", default_values_t = [1, 10, 100])]
    file_systems: Vec<u32>,
    /// File systems that a guest has on disks that take their time (repeatable), each on one
    /// of its own.
    #[arg(long, value_name = "N", default_values_t = [1, 4, 10])]
    slow_disks: Vec<u32>,
    /// How long each write to such a disk takes, in milliseconds; 0 for no such disks.
    #[arg(long, value_name = "MS", default_value_t = 20)]
    write_delay: u64,
    /// Bind mounts of one file system, in fifties; 0 for none.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    bind_mounts: u32,
    /// Size of a file system, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 16)]
    size: u64,
    /// What is not on the disk yet of each file system when the host asks for a
    /// freeze, in KiB.
    #[arg(long, value_name = "KIB", default_value_t = 1024)]
    dirty: u64,
    #[command(flatten)]
    way: DeviceKind,
}

/// The hosts of the other services.
type Others = Option<(KvpHost, FcopyHost)>;

/// The results of a round.
#[derive(Debug)]
struct Measured {
    pause: Pause,
    /// From sending a FREEZE to having the reply.
    freeze: Duration,
    /// The same for a THAW.
    thaw: Duration,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(reason) = blackbox::root_unavailable() {
        anyhow::bail!("a program cannot have a private root here: {reason}");
    }
    let transport = arguments.way.transport();
    let commands = arguments.common.programs.commands()?;
    let counts = arguments.file_systems.iter().chain(&arguments.slow_disks);
    let most = counts.max().copied().unwrap_or(1);
    ensure!(
        most > 0 && most as usize * commands.len() <= FILE_SYSTEMS,
        "{most} file systems for each of {} guests: there is room for 1 to {FILE_SYSTEMS} in all",
        commands.len()
    );
    let mut subjects = Vec::new();
    let mut others = Vec::new();
    for (number, command) in commands.iter().enumerate() {
        let beside = match number {
            0 => None,
            _ => Some(&*arguments.beside),
        };
        let (subject, hosts) =
            guest(command, beside, transport).with_context(|| format!("a guest for {command}"))?;
        subjects.push(subject);
        others.push(hosts);
    }
    let mut layouts = Vec::new();
    for file_systems in &arguments.file_systems {
        layouts.push(Layout {
            file_systems: *file_systems,
            bind_mounts: 0,
            delay: 0,
        });
    }
    if arguments.write_delay > 0 {
        for file_systems in &arguments.slow_disks {
            layouts.push(Layout {
                file_systems: *file_systems,
                bind_mounts: 0,
                delay: arguments.write_delay,
            });
        }
    }
    if arguments.bind_mounts > 0 {
        layouts.push(Layout {
            file_systems: 1,
            bind_mounts: arguments.bind_mounts,
            delay: 0,
        });
    }
    let mut groups = Vec::new();
    for layout in layouts {
        groups.push(measure(&mut subjects, layout, arguments)?);
    }
    groups.push(at_rest(
        &mut subjects,
        "at rest, all processes",
        arguments.common.idle,
    )?);
    let title = format!(
        "{} rounds, file systems of {} MiB with {} KiB not on the disk, over {transport}",
        arguments.common.rounds, arguments.size, arguments.dirty
    );
    let programs = subjects.into_iter().map(|it| it.name).collect();
    arguments
        .common
        .programs
        .output
        .report(programs, title, groups)
}

/// A guest in which a program runs, with others beside it, and all three
/// services are in use; a program with none beside it is to serve them alone
/// where `beside` is `None`, and only this one otherwise.
fn guest(
    command: &str,
    beside: Option<&[String]>,
    transport: Transport,
) -> Result<(Subject<Vss>, Others)> {
    let mut machine = BlackBox::with_root(&format!("sh {START}"))?;
    let mut start = String::new();
    for other in beside.unwrap_or_default() {
        start += &format!("{} &\n", machine.install(other)?);
    }
    start += &format!("exec {}\n", machine.install(command)?);
    let simulator = std::env::current_exe()?;
    let simulator = simulator.to_str().context("its path is not UTF-8")?;
    let simulator = machine.install(&shell_words::quote(simulator))?;
    let applications = format!("exec {simulator} applications \"$@\"\n");
    for (path, script) in [(START, start), (APPLICATIONS, applications)] {
        let written = machine.files().write(Path::new(path), script.as_bytes());
        written.context(path)?;
    }
    layout::disks(&*machine.volumes()?)?;
    let (number, ring_len) = FCOPY;
    let kvp = machine.offer(Kvp::SERVICE.hvutil())?;
    let fcopy = machine.offer(Fcopy::SERVICE.uio(number, ring_len))?;
    let mut subject = Subject::on(machine, subject::name(command), transport);
    subject.host()?;
    if beside.is_some_and(<[_]>::is_empty) {
        return Ok((subject, None));
    }
    let mut kvp = KvpHost::connect(kvp.accept(OPEN_TIME).context("key-value pairs")?)?;
    let mut fcopy = FcopyHost::connect(fcopy.accept(OPEN_TIME).context("file copy")?)?;
    for (index, _) in (0..).zip(FACTS) {
        let pool = FACT_POOL;
        kvp.request(&Operation::Enumerate { pool, index })?;
    }
    fcopy.request(&Fcopy::HARMLESS)?;
    Ok((subject, Some((kvp, fcopy))))
}

/// Times and system calls with one set of file systems.
fn measure(subjects: &mut [Subject<Vss>], layout: Layout, arguments: &Arguments) -> Result<Group> {
    let mut disks = Vec::new();
    for subject in &mut *subjects {
        if layout.delay > 0 {
            let bytes = arguments.size << 20;
            disks.push(SlowDisks::new(
                &subject.machine,
                layout.file_systems,
                bytes,
            )?);
        }
        layout.make(&*subject.machine.volumes()?, arguments.size)?;
    }
    disks.iter().for_each(|disks| disks.set_delay(layout.delay));
    let mut rounds: Vec<Vec<_>> = subjects.iter().map(|_| Vec::new()).collect();
    for _ in 0..arguments.common.rounds {
        for (subject, rounds) in subjects.iter_mut().zip(&mut rounds) {
            rounds.push(round(subject, layout, arguments.dirty)?);
        }
    }
    let mut calls = Vec::new();
    for subject in &mut *subjects {
        let counted = system_calls(subject).with_context(|| subject.name.clone())?;
        calls.push(vec![counted]);
    }
    disks.iter().for_each(|disks| disks.set_delay(0));
    let mut disks = disks.into_iter();
    for subject in &mut *subjects {
        let volumes = subject.machine.volumes()?;
        layout.clear(&*volumes)?;
        if let Some(disks) = disks.next() {
            disks.clear(&*volumes)?;
        }
    }
    let time = |title, of: fn(&Measured) -> Duration| {
        let milliseconds = medians(&rounds, |round| of(round).as_secs_f64() * 1000.0);
        Row::new(title, "ms", milliseconds)
    };
    let rows = vec![
        time("that an application waits", |it| it.pause.longest),
        time("first freeze to reply", |it| it.pause.to_reply),
        time("THAW to all thawed", |it| it.pause.to_thawed),
        time("FREEZE to reply", |it| it.freeze),
        time("THAW to reply", |it| it.thaw),
        time("between writes otherwise", |it| it.pause.otherwise),
        Row::new(
            "FREEZE to reply",
            "system calls",
            medians(&calls, |it| it.all as f64),
        ),
        Row::new(
            "first freeze to reply",
            "system calls",
            medians(&calls, |it| it.marked as f64),
        ),
    ];
    Ok(Group::new(&layout.to_string(), rows))
}

/// A backup with applications at work; an error in words where the program
/// declines.
fn round(
    subject: &mut Subject<Vss>,
    layout: Layout,
    dirty: u64,
) -> Result<Result<Measured, String>> {
    let (dirty, pages) = (dirty.to_string(), PAGES.to_string());
    let (points, files) = (layout.points(), layout.files());
    let mut command = vec!["sh", APPLICATIONS, "--dirty", &dirty, "--pages", &pages];
    for point in &points {
        command.extend(["--make-dirty", point]);
    }
    command.extend(files.iter().map(String::as_str));
    let applications = Applications::start(&subject.machine, &command)?;
    let host = subject.host()?;
    let asked = now()?;
    let froze = host.freeze()?;
    let replied = now()?;
    thread::sleep(HOLD);
    let thawing = now()?;
    let thawed = host.thaw()?;
    let ended = now()?;
    if froze != Status::OK || thawed != Status::OK {
        let name = &subject.name;
        return Ok(Err(format!(
            "{name} answers a FREEZE with {froze:?}, and the THAW with {thawed:?}"
        )));
    }
    let freeze = Freeze {
        asked,
        replied,
        thawing,
    };
    let pause = applications
        .end(&freeze)
        .with_context(|| subject.name.clone())?;
    Ok(Ok(Measured {
        pause,
        freeze: Duration::from_nanos(replied - asked),
        thaw: Duration::from_nanos(ended - thawing),
    }))
}

/// The system calls of a FREEZE, counted apart from the time.
fn system_calls(subject: &mut Subject<Vss>) -> Result<Result<trace::Calls, String>> {
    let pids = process::copies(subject.pid()?)?;
    let host = subject.host()?;
    let calls = trace::system_calls_from(FREEZE, &pids, host, |host| {
        let status = host.freeze()?;
        ensure!(status == Status::OK, "a FREEZE was declined: {status:?}");
        Ok(())
    });
    host.thaw()?;
    calls
}
