//! `hyperv-agent thaw`: the way out by hand.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use hyperv_services::vss;
use hyperv_services::vss::freeze::{self, Freezer};
use hyperv_services::vss::guard::Guard;
use hyperv_services::vss::hooks::{self, EndReason, PendingHooks};
use hyperv_services::vss::recover;
use hyperv_services::vss::state_file::{self, FreezeRecord, FrozenFileSystem};
use slog::{Level, warn};

use super::args::ConfigFile;
use super::output::usage_error;
use crate::config;
use crate::logging::{Log, Target, Threshold};
use crate::runtime::{RuntimeDirectory, RuntimeError};

const HELP: &str = "\
Thaws what the agent has noted as frozen, whether it still runs or not; where it
does not, the hooks that it has run are run with `thaw`. There is seldom a need: the
agent thaws when it ends, by itself after its time limit, and what a killed agent
has left behind when it is started again. A backup that is under way becomes
inconsistent, and the host is told so. What waits for a disk that does not answer is
named after ten seconds, and thawed as soon as the disk does.

Exit status: 0 nothing is frozen any more, 1 something could not be thawed, 2 wrong
usage.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Thaw {
    /// Thaw every file system, whoever has frozen it
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    config: ConfigFile,
}

impl Thaw {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let config = match config::load(self.config.path.as_deref()) {
            Ok(config) => config.service.vss,
            Err(error) => return Ok(usage_error(&error)),
        };
        let directory = &config.runtime_directory;
        let note = state_file::read(directory)
            .with_context(|| format!("cannot read in {} what is frozen", directory.display()))?;
        let note = note.unwrap_or_default();
        // No log record holds anybody up, and the rest is shown at the end: whether
        // anybody reads it must make no difference to what is done.
        let log = Log::start(Target::Stderr, Threshold::new(Level::Info))?;
        let mut said = String::new();
        let mut complaints = String::new();
        let calmed = recover::reset_rcu_expedited(&config.root, &note);
        match &calmed {
            Ok(None) => {}
            Ok(Some(switch)) => writeln!(said, "{}: was 1, is 0 again", switch.display())?,
            Err((switch, error)) => writeln!(
                complaints,
                "hyperv-agent: cannot set {} to 0: {error}",
                switch.display()
            )?,
        }
        let found = if self.all {
            recover::all_freezable(&config)?
        } else {
            if note == FreezeRecord::default() {
                said += "the agent has nothing frozen (--all thaws what others have frozen)\n";
            }
            recover::recorded(&config, &note)?
        };
        let waits = &mut |action, path: &Path| {
            warn!(log.logger, "waiting for {} to {}", path.display(), action);
        };
        if let Err(error) = freeze::allow_descriptors() {
            warn!(
                log.logger,
                "the number of open files stays limited: {}", error
            );
        }
        let mut freezer = Freezer::new(Guard::start);
        let tried = recover::thaw(&mut freezer, &found, &config.root, &note, waits);
        let mut left = Vec::new();
        for tried in tried {
            let path = tried.mount_point.display();
            match tried.outcome {
                Ok(true) => writeln!(said, "{path}: thawed")?,
                Ok(false) => writeln!(said, "{path}: was not frozen")?,
                Err(error) => {
                    writeln!(complaints, "hyperv-agent: cannot thaw {path}: {error}")?;
                    left.push(FrozenFileSystem {
                        device: tried.device,
                        mount_point: tried.mount_point,
                    });
                }
            }
        }
        let status = match left.is_empty() && calmed.is_ok() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        };
        let ended = end_hooks(&config, note, left, &log);
        // All is done: a reader that is gone is no failure of it.
        let _ = io::stdout().write_all(said.as_bytes());
        let _ = io::stderr().write_all(complaints.as_bytes());
        ended.map(|()| status)
    }
}

/// Lets the applications go on that `note` names, where there is no agent to do so;
/// what is `left` frozen stays noted.
fn end_hooks(
    config: &vss::Config,
    note: FreezeRecord,
    left: Vec<FrozenFileSystem>,
    log: &Log,
) -> anyhow::Result<()> {
    let directory = &config.runtime_directory;
    if note.hooks.is_empty() || agent_runs(directory)? {
        return Ok(());
    }
    let ran = PendingHooks::from_paths(&config.hooks, note.hooks);
    ran.kill_stale(&log.logger);
    ran.run_post_thaw(EndReason::Interrupted, hooks::AFTER, &log.logger);
    let note = FreezeRecord {
        frozen: left,
        guard: note.guard,
        hooks: Vec::new(),
        rehearsal: note.rehearsal,
        rcu_expedited: note.rcu_expedited,
    };
    state_file::write(directory, &note)
        .with_context(|| format!("cannot note in {} what was thawed", directory.display()))
}

fn agent_runs(directory: &Path) -> Result<bool, RuntimeError> {
    match RuntimeDirectory::open(directory)?.check() {
        Ok(()) => Ok(false),
        Err(RuntimeError::AlreadyRunning(_)) => Ok(true),
        Err(error) => Err(error),
    }
}
