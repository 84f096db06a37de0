//! A capture that the program makes as a command of its own: `capture`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::STOP;
use super::namespace::Namespace;
use super::process::Process;
use crate::recording;
use crate::scenario::SETTLE_TIME;
use crate::wait::until;

/// How the command ends if no agent is running.
const NO_AGENT: i32 = 3;

/// A capture that goes on until the agent ends.
pub(super) struct Recording {
    path: PathBuf,
    /// What the command has written.
    output: PathBuf,
    process: Process,
}

impl Recording {
    /// Begins one, which is to be a file at `path`. Until it ends it is the file `output`;
    /// what the command says goes to `log`.
    pub(super) fn begin(
        namespace: &Namespace,
        program: &str,
        path: &Path,
        output: PathBuf,
        log: File,
    ) -> Result<Self> {
        let words = [program, "capture", "--content", "full", "-"].map(str::to_owned);
        let start = || {
            let file = File::create(&output).with_context(|| output.display().to_string())?;
            Process::start(namespace, &words, &[], [file, log.try_clone()?])
        };
        let mut process = start()?;
        until(SETTLE_TIME, "the capture to begin", || {
            if let Some(status) = process.status() {
                // The agent that has been started does not serve requests yet.
                let early = status.code() == Some(NO_AGENT);
                ensure!(early, "`{}` ended: {status}", words.join(" "));
                process = start()?;
            }
            Ok((fs::metadata(&output)?.len() > 0).then_some(()))
        })?;
        Ok(Self {
            path: path.to_owned(),
            output,
            process,
        })
    }

    /// Writes the file, once the agent has ended.
    pub(super) fn end(self) -> Result<()> {
        let ended = self.process.wait(STOP, Signal::SIGTERM, || {});
        ended.context("the capture")?;
        recording::write(&self.path, &fs::read(&self.output)?, Path::new("/"))
    }
}
