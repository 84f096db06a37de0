//! `hyperv-sim copy`: a real file through the real agent.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use hyperv_sim::compare::expect_same;
use hyperv_sim::fcopy::{CREATE_PATH, Fcopy, FcopyHost, OVERWRITE, Start};
use hyperv_sim::host::Protocol as _;
use hyperv_sim::inprocess::InProcess;
use hyperv_sim::port::Machine;
use hyperv_sim::scenario::OPEN_TIME;
use hyperv_vmbus::ic::Status;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The file to copy.
    file: PathBuf,
    /// The directory to copy it to.
    dest_dir: PathBuf,
    /// Replace a file of that name.
    #[arg(long)]
    overwrite: bool,
    /// Make the directory, and those above it, where they are missing.
    #[arg(long)]
    create_path: bool,
    /// Requests at a time.
    #[arg(long, value_name = "N", default_value_t = 1)]
    in_flight: usize,
    /// Size of the channel's rings, in KiB.
    #[arg(long, value_name = "KIB", default_value_t = 20)]
    ring: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut source = File::open(&arguments.file)
        .with_context(|| format!("opening {}", arguments.file.display()))?;
    let facts = source.metadata()?;
    ensure!(
        facts.is_file(),
        "{} is not a regular file",
        arguments.file.display()
    );
    let size = facts.len();
    let name = arguments.file.file_name().context("the file has no name")?;
    let directory = std::path::absolute(&arguments.dest_dir)?;
    let start = Start::new(
        directory
            .to_str()
            .context("the directory's name is not UTF-8")?,
        name.to_str().context("the file's name is not UTF-8")?,
        if arguments.overwrite { OVERWRITE } else { 0 }
            | if arguments.create_path {
                CREATE_PATH
            } else {
                0
            },
        size,
    );

    let bar = ProgressBar::new(size).with_style(ProgressStyle::with_template(
        "{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec}",
    )?);
    let mut machine = InProcess::new()?;
    let lines = bar.clone();
    machine.show_log(Box::new(move |line| {
        lines.suspend(|| eprintln!("agent: {line}"));
    }));
    let device = machine.offer(Fcopy::SERVICE.uio(0, arguments.ring << 10))?;
    machine.start()?;
    let mut host = FcopyHost::connect(device.accept(OPEN_TIME)?)?;

    let begun = Instant::now();
    let before = host.messages();
    let status = host.copy(&start, &mut source, arguments.in_flight, &mut |taken| {
        bar.set_position(taken);
    })?;
    let taken = begun.elapsed();
    let messages = host.messages() - before;
    bar.finish_and_clear();
    machine.stop()?;

    if status != Status::OK {
        println!("the agent declined the copy: {status:?}");
        return Ok(ExitCode::FAILURE);
    }
    let target = directory.join(name);
    expect_same(&target, &mut File::open(&arguments.file)?)?;
    let rate = u128::from(size) * 1_000_000 / taken.as_micros().max(1);
    println!(
        "{}: {} in {:.2} s, {rate}/s, {messages} messages; the copy is the same, byte for byte",
        target.display(),
        HumanBytes(size),
        taken.as_secs_f64(),
        rate = HumanBytes(u64::try_from(rate).unwrap_or(u64::MAX)),
    );
    Ok(ExitCode::SUCCESS)
}
