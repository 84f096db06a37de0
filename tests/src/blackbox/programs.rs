//! Copies of programs, with all that they need to run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Where programs are in a private root.
pub(super) const PLACE: &str = "/usr/bin";

/// Copies a program of the machine, and the libraries and the interpreter that
/// it is loaded with, below `root`; returns its path in there.
pub(super) fn install(program: &Path, root: &Path) -> Result<String> {
    let name = program.file_name().context("a program has a name")?;
    let place = Path::new(PLACE).join(name);
    copy(program, &below(root, &place)?)?;
    for library in libraries(program)? {
        let to = below(root, &library)?;
        if !to.exists() {
            copy(&library, &to)?;
        }
    }
    let text = place.to_str().map(str::to_owned);
    text.with_context(|| format!("{} is not UTF-8", place.display()))
}

fn below(root: &Path, path: &Path) -> Result<PathBuf> {
    let path = path.strip_prefix("/").context("the path is relative")?;
    Ok(root.join(path))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    to.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::copy(from, to).map(drop))
        .with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

/// What a program is loaded with, as the machine's loader says.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    // One that is loaded with nothing fails, as a script does.
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}

/// The file that a command's first word names.
pub(super) fn find(program: &str) -> Result<PathBuf> {
    let can_run = |path: &Path| {
        fs::metadata(path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        let path = PathBuf::from(program);
        return can_run(&path)
            .then_some(path)
            .with_context(|| format!("{program} is no program"));
    }
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|directory| directory.join(program))
        .find(|path| can_run(path))
        .with_context(|| format!("no program {program} in PATH"))
}
