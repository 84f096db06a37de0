//! The hyperv-agent binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    hyperv_agent::cli::main()
}
