//! `hyperv-vm boot`: a look into a guest, without any scenario.

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use hyperv_sim::fcopy::Fcopy;
use hyperv_sim::host::{self, Protocol as _};
use hyperv_sim::kvp::Kvp;
use hyperv_sim::vss::Vss;
use hyperv_vm::control::Control;
use hyperv_vm::hypercall::Host;
use hyperv_vm::monitor::{Config, Ending, Monitor};
use hyperv_vm::vmbus::{Version, VmBus};

use crate::Machine;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    machine: Machine,
    /// A device to offer; all where none is named
    #[arg(long, value_enum)]
    offer: Vec<Service>,
    /// Commands to run in the guest, each given to its shell
    commands: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Service {
    Fcopy,
    Kvp,
    Vss,
}

impl Service {
    const ALL: [Self; 3] = [Self::Fcopy, Self::Kvp, Self::Vss];

    fn service(self) -> host::Service {
        match self {
            Self::Fcopy => Fcopy::SERVICE,
            Self::Kvp => Kvp::SERVICE,
            Self::Vss => Vss::SERVICE,
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let begun = Instant::now();
    let config = Config::from(arguments.machine);
    let limit = config.limit;
    let monitor = Monitor::new(&config)?;
    let bus = VmBus::new(monitor.memory(), monitor.synic(), Version::NEWEST);
    let offers = match arguments.offer.as_slice() {
        [] => &Service::ALL,
        some => some,
    };
    let mut devices = Vec::new();
    for offer in offers {
        let service = offer.service();
        devices.push(bus.offer(service.class, service.instance, false)?);
    }
    let control = monitor.control();
    let stop = monitor.stopper();
    let send_commands = thread::spawn(move || {
        let talked = send_commands(&control, &arguments.commands, limit, begun);
        if talked.is_err() {
            stop.stop();
        }
        talked
    });
    let host: Arc<dyn Host> = Arc::new(bus.clone());
    let ending = monitor.run(&host);
    let talked = send_commands.join();
    println!(
        "{:6.2} s: the guest's VMBus:",
        begun.elapsed().as_secs_f64()
    );
    print!("{}", bus.journal());
    let ending = ending?;
    println!("{:6.2} s: {ending:?}", begun.elapsed().as_secs_f64());
    if let Ok(talked) = talked {
        talked?;
    }
    Ok(match ending {
        Ending::PoweredOff => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Runs each command by what the guest's first program understands: a line to
/// run, then lines with `|` before them, and the status with `=` before it.
fn send_commands(
    control: &Control,
    commands: &[String],
    limit: Duration,
    begun: Instant,
) -> Result<()> {
    let greeting = control.read_line(limit).context("booting the guest")?;
    println!("{:6.2} s: {greeting}", begun.elapsed().as_secs_f64());
    for command in commands {
        println!("{:6.2} s: # {command}", begun.elapsed().as_secs_f64());
        control.write(format!("{command}\n").as_bytes());
        loop {
            let line = control.read_line(limit).with_context(|| command.clone())?;
            println!("{line}");
            if line.starts_with('=') {
                break;
            }
        }
    }
    control.write(b"poweroff -f\n");
    Ok(())
}
