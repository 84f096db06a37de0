//! `hyperv-sim bench slow-disk`: a large file, copied to a disk that is much slower than
//! the host.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hyperv_sim::fcopy::{CHUNK, Fcopy, FcopyHost, OVERWRITE, Operation, Start};
use hyperv_sim::results::{Group, Row};
use hyperv_sim::scenario::Transport;
use hyperv_sim::slow_disk::SlowDisk;
use hyperv_vmbus::ic::Status;

use super::process::Memory;
use super::subject::Subject;
use super::{Programs, ring_size};

/// How often a program's memory is looked at.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) programs: Programs,
    /// Size of the file, in MiB.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..), default_value_t = 2048)]
    size: u64,
    /// What the disk writes in a second, in MiB.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..), default_value_t = 50)]
    rate: u64,
    /// Size of the channel's rings, in KiB.
    #[arg(long, value_name = "KIB", value_parser = ring_size, default_value_t = 64)]
    ring_size: usize,
}

/// What is measured of a copy.
struct Measured {
    /// From START to when the file is on the disk, and the programs that wait for this
    /// have said so.
    whole: Duration,
    longest_write: Duration,
    complete: Duration,
    /// MiB that were not on the disk when the host sent COMPLETE.
    backlog: f64,
    /// KiB, before and at most.
    private: (u64, u64),
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let (size, rate) = (arguments.size << 20, arguments.rate << 20);
    // The journal, and what the agent leaves free.
    let disk = SlowDisk::new(size + size / 8 + (256 << 20), rate)?;
    let transport = Transport::Uio(arguments.ring_size << 10);
    let mut subjects = arguments.programs.subjects::<Fcopy>(transport)?;
    let mut copies = Vec::new();
    for subject in &mut subjects {
        subject.open();
        copies.push(copy(subject, &disk, size)?);
    }
    let dd = dd(&disk, size)?;
    let mib = |time: Duration| arguments.size as f64 / time.as_secs_f64();
    let row = |title, unit, of: &dyn Fn(&Measured) -> f64| {
        let values = copies
            .iter()
            .map(|copy| copy.as_ref().map(of).map_err(Clone::clone));
        Row::new(title, unit, values.collect())
    };
    let mut whole = row("until it is on the disk", "MiB/s", &|it| mib(it.whole));
    whole.values.push(Ok(mib(dd)));
    let rows = vec![
        whole,
        row("longest WRITE", "ms", &|it| milliseconds(it.longest_write)),
        row("COMPLETE", "ms", &|it| milliseconds(it.complete)),
        row("not on the disk before COMPLETE", "MiB", &|it| it.backlog),
        row("private before", "KiB", &|it| it.private.0 as f64),
        row("private, at most", "KiB", &|it| it.private.1 as f64),
    ];
    let title = format!(
        "a file of {} MiB, a disk that writes {} MiB/s, {transport}",
        arguments.size, arguments.rate
    );
    let names = subjects.into_iter().map(|it| it.name);
    let names = names.chain(["dd".to_owned()]).collect();
    let groups = vec![Group::new("slow disk", rows)];
    arguments.programs.output.report(names, title, groups)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Copies a file, which is removed afterwards.
fn copy(
    subject: &mut Subject<Fcopy>,
    disk: &SlowDisk,
    size: u64,
) -> Result<Result<Measured, String>> {
    let pid = match subject.pid() {
        Ok(pid) => pid,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    let before = Memory::of(pid)?.private;
    let copying = AtomicBool::new(true);
    thread::scope(|scope| {
        let most = scope.spawn(|| {
            let mut most = 0;
            while copying.load(Ordering::Relaxed) {
                // It may have ended; the host says so.
                most = most.max(Memory::of(pid).unwrap_or_default().private);
                thread::sleep(LOOK);
            }
            most
        });
        let measured = subject.attempt(|host| send(host, disk, size));
        copying.store(false, Ordering::Relaxed);
        let most = most.join().unwrap_or_default();
        Ok(measured?.map(|measured| Measured {
            private: (before, most),
            ..measured
        }))
    })
}

fn send(host: &mut FcopyHost, disk: &SlowDisk, size: u64) -> Result<Measured> {
    let directory = disk.mounted();
    let path = directory.to_str().context("its path is not UTF-8")?;
    let (begun, on_disk) = (Instant::now(), disk.written());
    let mut ask = |operation: &Operation| -> Result<Duration> {
        let begun = Instant::now();
        host.send(operation)?;
        let status = loop {
            if let Some(reply) = host.reply_within(Duration::from_secs(600))? {
                break reply.status;
            }
        };
        ensure!(status == Status::OK, "a request was declined: {status:?}");
        Ok(begun.elapsed())
    };
    ask(&Operation::Start(Start::new(path, "file", OVERWRITE, size)))?;
    let data = vec![0x5a; CHUNK];
    let mut longest_write = Duration::ZERO;
    let mut offset = 0;
    while offset < size {
        let len = (size - offset).min(CHUNK as u64);
        let part = usize::try_from(len).ok().and_then(|len| data.get(..len));
        let write = Operation::write(offset, part.unwrap_or_default());
        longest_write = longest_write.max(ask(&write)?);
        offset += len;
    }
    let backlog = size.saturating_sub(disk.written() - on_disk);
    let complete = ask(&Operation::Complete)?;
    sync(disk)?;
    let whole = begun.elapsed();
    fs::remove_file(directory.join("file")).context("removing the copy")?;
    sync(disk)?;
    Ok(Measured {
        whole,
        longest_write,
        complete,
        backlog: backlog as f64 / f64::from(1 << 20),
        private: (0, 0),
    })
}

/// Writes everything to the disk.
fn sync(disk: &SlowDisk) -> Result<()> {
    let directory = fs::File::open(disk.mounted())?;
    Ok(rustix::fs::syncfs(directory)?)
}

/// What dd takes for the same.
fn dd(disk: &SlowDisk, size: u64) -> Result<Duration> {
    let file = disk.mounted().join("dd");
    let begun = Instant::now();
    let status = Command::new("dd")
        .args(["if=/dev/zero", "bs=64k", "iflag=count_bytes", "conv=fsync"])
        .arg(format!("count={size}"))
        .arg(format!("of={}", file.display()))
        .stderr(Stdio::null())
        .status()
        .context("starting dd")?;
    ensure!(status.success(), "dd failed");
    let whole = begun.elapsed();
    fs::remove_file(&file)?;
    Ok(whole)
}
