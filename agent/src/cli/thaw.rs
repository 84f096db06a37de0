//! `hyperv-agent thaw`: thaws by hand what a backup has left frozen.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use clap::Args;
use hyperv_services::timeouts;
use hyperv_services::vss;
use hyperv_services::vss::freeze::{self, Freezer};
use hyperv_services::vss::guard::Guard;
use hyperv_services::vss::hooks::{EndReason, PendingHooks};
use hyperv_services::vss::recover;
use hyperv_services::vss::state_file::{self, FreezeRecord, FrozenFileSystem};
use slog::{Level, warn};

use super::args::ConfigFile;
use super::output::{self, Exit, complain};
use crate::logging::{Log, Target, Threshold};
use crate::runtime::{RuntimeDirectory, RuntimeError};
use crate::terminal::escaped;

const HELP: &str = "\
Thaws what the agent has recorded as frozen, whether or not the agent is running. If
it is not running, the hooks that it has run are run with `thaw`. This is seldom
needed: the agent thaws when it ends, when its time limit is over, and when it starts
after it was killed. A backup in progress becomes inconsistent, and the host is told.
If a disk does not answer within ten seconds, its file system is named, and is thawed
as soon as the disk answers.

Exit status: 0 nothing is frozen any more, 1 something could not be thawed, 2 invalid
usage.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Thaw {
    /// Thaw every file system, whoever froze it
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    config: ConfigFile,
}

impl Thaw {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let config = self
            .config
            .load_with_defaults(&["runtime-directory", "vss.hooks.directory"])?
            .service
            .vss;
        let directory = &config.environment.runtime_dir;
        let record = state_file::read(directory)
            .with_context(|| format!("cannot read what is frozen in {}", directory.display()))?;
        let record = record.unwrap_or_default();
        // Nothing is printed before all is thawed, so that a reader that stalls cannot
        // delay it. The log waits for nobody.
        let log = Log::start(Target::Stderr, Threshold::new(Level::Info))?;
        let mut text = String::new();
        let mut complaints = Vec::new();
        let root = &config.environment.root;
        let reset = recover::reset_rcu_expedited(root, &record);
        match &reset {
            Ok(None) => {}
            Ok(Some(switch)) => writeln!(text, "{}: reset from 1 to 0", switch.display())?,
            Err((switch, error)) => {
                complaints.push(format!("cannot set {} to 0: {error}", switch.display()));
            }
        }
        let found = if self.all {
            recover::all_freezable(&config)?
        } else {
            if record == FreezeRecord::default() {
                text += "the agent has frozen nothing (--all thaws what others have frozen)\n";
            }
            recover::recorded(&config, &record)?
        };
        let waits = &mut |action, path: &Path| {
            warn!(log.logger, "waiting for {} to {}", path.display(), action);
        };
        if let Err(error) = freeze::raise_file_limit() {
            warn!(
                log.logger,
                "cannot raise the limit of open files: {}", error
            );
        }
        let mut freezer = Freezer::new(Guard::start);
        let tried = recover::thaw(&mut freezer, &found, root, &record, waits);
        let mut left = Vec::new();
        for tried in tried {
            let path = escaped(&tried.mount_point.to_string_lossy());
            match tried.outcome {
                Ok(true) => writeln!(text, "{path}: thawed")?,
                Ok(false) => writeln!(text, "{path}: was not frozen")?,
                Err(error) => {
                    complaints.push(format!("cannot thaw {path}: {error}"));
                    left.push(FrozenFileSystem {
                        device: tried.device,
                        mount_point: tried.mount_point,
                    });
                }
            }
        }
        let exit = Exit::of(left.is_empty() && reset.is_ok());
        let ended = end_hooks(&config, record, left, &log);
        let printed = output::print(&text);
        for complaint in complaints {
            complain(&complaint);
        }
        ended.and(printed).map(|()| exit)
    }
}

/// Runs the hooks in `record` with `thaw` if no agent is running that would; what is
/// `left` frozen stays noted.
fn end_hooks(
    config: &vss::Config,
    record: FreezeRecord,
    left: Vec<FrozenFileSystem>,
    log: &Log,
) -> anyhow::Result<()> {
    let directory = &config.environment.runtime_dir;
    if record.hooks.is_empty() || agent_runs(directory)? {
        return Ok(());
    }
    let ran = PendingHooks::from_paths(&config.hooks, record.hooks);
    ran.kill_stale(&log.logger);
    ran.run_post_thaw(
        EndReason::Interrupted,
        timeouts::THAW_AND_HOOKS,
        &log.logger,
    );
    let record = FreezeRecord {
        frozen: left,
        hooks: Vec::new(),
        ..record
    };
    state_file::write(directory, &record)
        .with_context(|| format!("cannot record what was thawed in {}", directory.display()))
}

fn agent_runs(directory: &Path) -> Result<bool, RuntimeError> {
    match RuntimeDirectory::open(directory)?.check() {
        Ok(()) => Ok(false),
        Err(RuntimeError::AlreadyRunning(_)) => Ok(true),
        Err(error) => Err(error),
    }
}
