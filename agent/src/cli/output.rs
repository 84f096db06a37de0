//! What commands print, and how they exit.
//!
//! Standard output that nobody reads any more (`| head`) is no failure; any other
//! failure to write is one. Control characters in texts for people are escaped.

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use anyhow::Context;
use hyperv_services::kvp::pool::PoolError;
use serde::Serialize;

use crate::config::ConfigError;
use crate::status::client::StatusError;
use crate::terminal;

/// The exit status of a command, as "EXIT STATUS" in hyperv-agent(8) lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Success = 0,
    /// The command failed, or its answer is no.
    Failure = 1,
    /// The command line or the configuration is invalid.
    Usage = 2,
    /// What the command works on is out of reach: the running agent, or a pool.
    Unavailable = 3,
    /// This machine is not a Hyper-V guest.
    NotHyperv = 77,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    pub(super) fn of(success: bool) -> Self {
        if success {
            Self::Success
        } else {
            Self::Failure
        }
    }
}

/// Prints lines for people.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    print_verbatim(&terminal::escaped_lines(text))
}

/// Prints a JSON document.
pub(super) fn print_json(document: &impl Serialize) -> anyhow::Result<()> {
    print_verbatim(&(serde_json::to_string_pretty(document)? + "\n"))
}

/// Prints text for programs, which want it byte for byte.
pub(super) fn print_verbatim(text: &str) -> anyhow::Result<()> {
    written(io::stdout().write_all(text.as_bytes()))
}

/// Judges the result of a write to standard output.
pub(super) fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

/// Prints a message on standard error.
pub(super) fn complain(message: &str) {
    let message = terminal::escaped_lines(message.trim_end());
    // There is no other place to report that this failed.
    let _ = writeln!(io::stderr(), "hyperv-agent: {message}");
}

/// Prints why a command failed, and returns its exit status.
pub(super) fn failed(error: &anyhow::Error) -> Exit {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Some messages end with their cause.
        if !message.ends_with(&cause) {
            let separator = if message.is_empty() { "" } else { ": " };
            message += &format!("{separator}{cause}");
        }
    }
    let denied = error.chain().any(|cause| {
        let error = cause.downcast_ref::<io::Error>();
        error.is_some_and(|it| it.kind() == ErrorKind::PermissionDenied)
    });
    if denied && !rustix::process::geteuid().is_root() {
        message = format!("{}; run this as root", message.trim_end());
    }
    complain(&message);
    exit_status(error)
}

fn exit_status(error: &anyhow::Error) -> Exit {
    match error.downcast_ref() {
        Some(
            PoolError::EmptyKey
            | PoolError::KeyTooLong { .. }
            | PoolError::ValueTooLong { .. }
            | PoolError::Nul(_),
        ) => return Exit::Usage,
        Some(_) => return Exit::Unavailable,
        None => {}
    }
    if error.is::<ConfigError>() {
        Exit::Usage
    } else if let Some(StatusError::NotRunning(_)) = error.downcast_ref() {
        Exit::Unavailable
    } else {
        Exit::Failure
    }
}
