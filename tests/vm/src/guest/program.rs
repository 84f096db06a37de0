//! The program under test, in the guest: its process and its log.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hyperv_sim::resources::Resources;
use hyperv_sim::syslog::Syslog;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LOG: &str = "/run/program.log";

const SYSLOG: &str = "/dev/log";

/// Bytes of the log that are given at most: the line to the host is slow.
const LOG_END: u64 = 4096;

/// Between two looks whether the program has ended.
const LOOK: Duration = Duration::from_millis(5);

/// The program under test.
#[derive(Default)]
pub(super) struct Program(Option<Child>);

impl Program {
    pub(super) fn start(&mut self, words: &[String]) -> Result<()> {
        ensure!(self.pid()?.is_none(), "the program runs already");
        let (program, arguments) = words.split_first().context("the command is empty")?;
        let output = log_file()?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        self.0 = Some(child);
        Ok(())
    }

    /// Its process, while it runs.
    pub(super) fn pid(&mut self) -> Result<Option<u32>> {
        let Some(child) = &mut self.0 else {
            return Ok(None);
        };
        if let Some(status) = child.try_wait()? {
            self.0 = None;
            writeln!(log_file()?, "the program ended: {status}")?;
            return Ok(None);
        }
        Ok(Some(child.id()))
    }

    pub(super) fn end(&mut self, signal: i32, timeout: Duration) -> Result<()> {
        let pid = self.pid()?.context("the program does not run")?;
        let signal = Signal::try_from(signal)?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal)?;
        let deadline = Instant::now() + timeout;
        while self.pid()?.is_some() {
            if Instant::now() >= deadline {
                bail!("the program has not ended {timeout:?} after {signal}");
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    pub(super) fn resources(&mut self) -> Result<Option<Resources>> {
        self.pid()?.map(Resources::of).transpose()
    }
}

/// The last of what it has logged.
pub(super) fn log() -> Result<String> {
    let mut file = match File::open(LOG) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        file => file?,
    };
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOG_END)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

fn log_file() -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    options.open(LOG).context(LOG)
}

/// Takes what programs send to syslog into the log too.
pub(super) fn collect_syslog() -> Result<Syslog> {
    let _ = fs::remove_file(SYSLOG);
    Syslog::new(Path::new(SYSLOG), log_file()?)
}
