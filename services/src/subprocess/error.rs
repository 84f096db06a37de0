//! Errors of running a program.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use super::start::StartError;

/// Why a program gave no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot run {}", program.display())]
    Start {
        program: PathBuf,
        source: StartError,
    },

    #[error("cannot wait for {}; it was killed", program.display())]
    Wait { program: PathBuf, source: io::Error },

    #[error("{} timed out and was killed{}", program.display(), after(.said))]
    TimedOut { program: PathBuf, said: String },

    #[error("{} was killed because the agent is stopping", program.display())]
    Stopped { program: PathBuf },

    #[error("{} failed ({status}){}{}", program.display(), after(.said), hint(*.windows_lines))]
    Failed {
        program: PathBuf,
        status: ExitStatus,
        said: String,
        windows_lines: bool,
    },
}

impl RunError {
    /// Whether the program was started.
    pub(crate) fn started(&self) -> bool {
        !matches!(self, Self::Start { .. })
    }
}

fn after(said: &str) -> String {
    match said {
        "" => String::new(),
        said => format!(", saying {said:?}"),
    }
}

fn hint(windows_lines: bool) -> &'static str {
    match windows_lines {
        true => "; the file has Windows line ends, which may be why",
        false => "",
    }
}
