//! `hyperv-agent vss rehearse`: a backup without a host.

use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::args::ConfigFile;
use super::output::{EXIT_NOT_RUNNING, usage_error};
use crate::config;
use crate::request::{self, MAX_HOLD, Request, RequestError, call};
use crate::status::backup::{LastBackup, Outcome, file_systems, mount_points, seconds};
use crate::status::client::StatusError;
use crate::terminal::escaped;

const HELP: &str = "\
The running agent does all that it does for a backup of the host: hooks, freeze, thaw.
Whoever writes to a frozen file system waits. A backup that the host asks for
meanwhile ends the rehearsal, and takes place. So does Ctrl-C end it.

Exit status: 0 all went well, 1 something failed, 2 wrong usage, 3 no agent runs.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Rehearse {
    /// Hold file systems frozen for so long, up to 60
    #[arg(long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(0..=MAX_HOLD))]
    hold: u64,

    /// Run the hooks, and freeze nothing
    #[arg(long)]
    hooks_only: bool,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigFile,
}

impl Rehearse {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let config = match config::load(self.config.path.as_deref()) {
            Ok(config) => config,
            Err(error) => return Ok(usage_error(&error)),
        };
        let socket = config.runtime_directory.join(request::NAME);
        let request = Request::VssRehearse {
            hold: self.hold,
            hooks_only: self.hooks_only,
        };
        let mut out = io::stdout();
        let progress = |words: &str| {
            if !self.json {
                // Its end is no reason to leave the rehearsal, which goes on to its own.
                let _ = writeln!(out, "{}", escaped(words));
            }
        };
        let result = match call(&socket, request, progress) {
            Ok(result) => result,
            Err(error) => return failed(&socket, error),
        };
        let text = match self.json {
            true => serde_json::to_string_pretty(&result)? + "\n",
            false => text(&result),
        };
        match io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
        Ok(match result.is_well() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

/// Says why there is no result.
fn failed(socket: &Path, error: RequestError) -> anyhow::Result<ExitCode> {
    let path = socket.to_owned();
    let not_asked = match &error {
        RequestError::Io(source) => match source.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => StatusError::NotRunning(path),
            ErrorKind::PermissionDenied => StatusError::NotAllowed(path),
            _ => return Err(error.into()),
        },
        RequestError::BrokenOff | RequestError::Refused(_) => return Err(error.into()),
    };
    let code = match not_asked {
        StatusError::NotRunning(_) => ExitCode::from(EXIT_NOT_RUNNING),
        _ => ExitCode::FAILURE,
    };
    let _ = writeln!(io::stderr(), "hyperv-agent: {not_asked}");
    Ok(code)
}

/// The result for people.
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
        (Outcome::Consistent, true) => "all went well",
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
all went well
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
