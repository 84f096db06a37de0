//! `hyperv-sim figures`: the tables and pictures of the README, from stored results.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use hyperv_sim::figures::files;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The directory of `README.md` and `docs/figures`.
    #[arg(default_value = ".")]
    directory: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    for (path, content) in files(&arguments.directory)? {
        if fs::read_to_string(&path).is_ok_and(|old| old == content) {
            continue;
        }
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(())
}
