//! `hyperv-agent vss rehearse`: freezes and thaws as for a backup, without a host.

use std::io::{self, Write};

use clap::Args;

use super::super::args::ConfigFile;
use super::super::output::{self, Exit};
use crate::config;
use crate::request::{self, MAX_HOLD, Request, RequestError, call};
use crate::status::backup::{LastBackup, Outcome, file_systems, mount_points, seconds};
use crate::status::client::StatusError;
use crate::terminal::escaped;

const HELP: &str = "\
The running agent does what it does for a backup of the host: it runs the hooks,
freezes, thaws, and runs the hooks again. Programs that write to a frozen file system
wait. If the host asks for a backup meanwhile, the rehearsal ends and the backup takes
place. Ctrl-C ends the rehearsal, too.

Exit status: 0 success, 1 something failed, 2 invalid usage, 3 no agent is running.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Rehearse {
    /// Seconds for which file systems stay frozen, at most 60
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(0..=MAX_HOLD))]
    hold: u64,

    /// Run the hooks only, freeze nothing
    #[arg(long)]
    hooks_only: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigFile,
}

impl Rehearse {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let config = config::load(self.config.path.as_deref())?;
        let socket = config.environment.runtime_dir.join(request::NAME);
        let request = Request::VssRehearse {
            hold: self.hold,
            hooks_only: self.hooks_only,
        };
        let progress = |text: &str| {
            if !self.json {
                // A failure shows when the result is printed; the rehearsal continues.
                let _ = writeln!(io::stdout(), "{}", escaped(text));
            }
        };
        let result = call(&socket, request, progress).map_err(|error| match error {
            RequestError::Io(source) => StatusError::from_io(socket, source).into(),
            error => anyhow::Error::from(error),
        })?;
        if self.json {
            output::print_json(&result)?;
        } else {
            output::print(&text(&result))?;
        }
        Ok(Exit::of(result.is_well()))
    }
}

/// Returns the result as text.
fn text(result: &LastBackup) -> String {
    let mut text = String::new();
    for hook in &result.hooks {
        let (name, action) = (escaped(&hook.name), escaped(&hook.action));
        text += &format!("hook {name}: {action}, {}", seconds(hook.usec));
        if let Some(why) = &hook.failure {
            text += &format!(", FAILED: {}", escaped(why));
        }
        text.push('\n');
    }
    if result.more_hooks > 0 {
        text += &format!("hooks: {} more runs\n", result.more_hooks);
    }
    if result.file_systems > 0 {
        text += &format!(
            "{} frozen: {}\n",
            file_systems(result.file_systems),
            mount_points(&result.mount_points, result.file_systems)
        );
    }
    if let Some(usec) = result.frozen_usec {
        let time = seconds(usec);
        text += &format!("from the first freeze to the last thaw: {time}\n");
    }
    let words = match (result.outcome, result.is_well()) {
        (Outcome::Consistent, true) => "success",
        (Outcome::Consistent, false) => "a hook FAILED",
        (Outcome::Inconsistent, _) => "NOT CONSISTENT",
        (Outcome::Failed, _) => "FAILED",
    };
    text += words;
    if let Some(why) = &result.reason {
        text += &format!(": {}", escaped(why));
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::backup::{Hook, Kind};

    #[test]
    fn a_result_is_shown() {
        let hook = |name: &str, failure: Option<&str>| Hook {
            name: name.into(),
            action: "freeze".into(),
            usec: 12_345,
            failure: failure.map(str::to_owned),
        };
        let well = LastBackup {
            kind: Kind::Rehearsal,
            began: humantime::parse_rfc3339("2026-03-04T03:00:12Z").unwrap(),
            frozen_usec: Some(1_000_200),
            file_systems: 2,
            mount_points: vec!["/a\u{1b}".into()],
            hooks: vec![hook("1", None)],
            more_hooks: 0,
            outcome: Outcome::Consistent,
            reason: None,
        };
        let expected = r"hook 1: freeze, 0.012 s
2 file systems frozen: /a\u{1b} and 1 more
from the first freeze to the last thaw: 1.000 s
success
";
        assert_eq!(text(&well), expected);
        let failed = LastBackup {
            hooks: vec![hook("1", Some("no\nway"))],
            more_hooks: 3,
            frozen_usec: None,
            file_systems: 0,
            outcome: Outcome::Failed,
            reason: Some("hook 1 failed".into()),
            ..well
        };
        let expected = r"hook 1: freeze, 0.012 s, FAILED: no\nway
hooks: 3 more runs
FAILED: hook 1 failed
";
        assert_eq!(text(&failed), expected);
    }
}
