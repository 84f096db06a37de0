//! Boots a guest under the monitor.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use hyperv_vm::hypercall::Host;
use hyperv_vm::monitor::{Config, Monitor, supported};

/// Boots a Linux kernel on a Hyper-V host that is none
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Only says whether the machine can run here
    #[arg(long)]
    check: bool,
    /// Kernel (bzImage)
    #[arg(long, required_unless_present = "check")]
    kernel: Option<PathBuf>,
    /// Initramfs
    #[arg(long, required_unless_present = "check")]
    initramfs: Option<PathBuf>,
    /// Kernel command line
    #[arg(long, default_value = "console=ttyS0 panic=-1")]
    command_line: String,
    /// Memory of the guest, in MiB
    #[arg(long, default_value_t = 512)]
    memory: usize,
    /// Virtual processors
    #[arg(long, default_value_t = 1)]
    processors: u8,
    /// File that gets the guest's console
    #[arg(long, default_value = "/dev/stdout")]
    console: PathBuf,
    /// Seconds that the guest may run
    #[arg(long, default_value_t = 60)]
    limit: u64,
}

/// A host that only tells what it is asked.
struct Listener(Instant);

impl Host for Listener {
    fn post_message(&self, connection: u32, kind: u32, payload: &[u8]) -> u16 {
        println!(
            "{:?}: message to {connection}, type {kind}: {payload:x?}",
            self.0.elapsed()
        );
        0
    }

    fn signal_event(&self, connection: u32, flag: u16) -> u16 {
        println!(
            "{:?}: signal to {connection}, flag {flag}",
            self.0.elapsed()
        );
        0
    }

    fn gone(&self) {
        println!("{:?}: the guest is gone", self.0.elapsed());
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.check {
        supported()?;
        return Ok(());
    }
    let monitor = Monitor::new(&Config {
        kernel: arguments.kernel.unwrap_or_default(),
        initramfs: arguments.initramfs.unwrap_or_default(),
        command_line: arguments.command_line,
        memory: arguments.memory,
        processors: arguments.processors,
        console: arguments.console,
        limit: Duration::from_secs(arguments.limit),
    })?;
    let host: Arc<dyn Host> = Arc::new(Listener(Instant::now()));
    let ending = monitor.run(&host)?;
    println!("ending: {ending:?}");
    Ok(())
}
