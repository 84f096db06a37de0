//! Boots a guest under the monitor.

mod bench;
mod boot_command;
mod installed;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use hyperv_vm::boot::KERNEL_OPTIONS;
use hyperv_vm::monitor::{Config, supported};
use hyperv_vm::suite;

/// A Hyper-V host for Linux guests, as far as VMBus goes
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Only says whether a machine can run here
    Check,
    Bench(bench::Arguments),
    /// Boots a guest, runs commands in it, and powers it off
    Boot(boot_command::Arguments),
    Installed(installed::Arguments),
    /// Lists the scenarios
    List,
    Run(suite::Arguments),
}

/// The machine.
#[derive(Args)]
struct Machine {
    /// Kernel (bzImage)
    #[arg(long)]
    kernel: PathBuf,
    /// Initramfs
    #[arg(long)]
    initramfs: PathBuf,
    /// Kernel command line
    #[arg(long, default_value = KERNEL_OPTIONS)]
    command_line: String,
    /// Memory of the guest, in MiB
    #[arg(long, default_value_t = 512)]
    memory: usize,
    /// Virtual processors
    #[arg(long, default_value_t = 1)]
    processors: u8,
    /// Neither Hyper-V's CPUID nor a VMBus: KVM's own guest
    #[arg(long)]
    without_hyperv: bool,
    /// File that gets the guest's console
    #[arg(long, default_value = "/dev/stdout")]
    console: PathBuf,
    /// Seconds that the guest may run
    #[arg(long, default_value_t = 60)]
    limit: u64,
}

impl From<Machine> for Config {
    fn from(machine: Machine) -> Self {
        Config {
            kernel: machine.kernel,
            initramfs: machine.initramfs,
            command_line: machine.command_line,
            memory: machine.memory,
            processors: machine.processors,
            hyperv: !machine.without_hyperv,
            console: machine.console,
            limit: Duration::from_secs(machine.limit),
        }
    }
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Check => {
            // Read by a script: the reason, without a backtrace.
            if let Err(reason) = supported() {
                println!("{reason:#}");
                return Ok(ExitCode::FAILURE);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Bench(arguments) => bench::run(arguments),
        Command::Boot(arguments) => boot_command::run(arguments),
        Command::Installed(arguments) => installed::run(arguments),
        Command::List => {
            suite::list();
            installed::list();
            Ok(ExitCode::SUCCESS)
        }
        Command::Run(arguments) => suite::run(&arguments),
    }
}
