//! How commands end, and what they say then.

use std::io::{self, Write};
use std::process::ExitCode;

/// Exit status where the command line or the configuration is wrong.
pub(super) const EXIT_USAGE: u8 = 2;

/// Exit status where no agent runs that could be asked.
pub(super) const EXIT_NOT_RUNNING: u8 = 3;

/// Exit status where this is no Hyper-V guest.
pub(super) const EXIT_NOT_HYPERV: u8 = 77;

pub(super) fn usage_error(error: &dyn std::error::Error) -> ExitCode {
    let _ = writeln!(
        io::stderr(),
        "hyperv-agent: {}",
        error.to_string().trim_end()
    );
    ExitCode::from(EXIT_USAGE)
}
