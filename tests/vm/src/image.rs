//! Adds programs to an initramfs: another archive behind it, with each program
//! and the libraries that it is linked to.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::guest::HELPER;

/// Adds programs to an initramfs
#[derive(Debug, Args)]
pub struct Arguments {
    /// Initramfs to begin with, not compressed
    #[arg(long)]
    base: PathBuf,
    /// Program for the guest, which has it in /bin (repeatable)
    #[arg(long, value_name = "FILE")]
    program: Vec<PathBuf>,
    /// The result
    #[arg(long)]
    output: PathBuf,
}

/// Mode bits of a directory and of a regular file.
const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;

/// Makes the image.
///
/// # Errors
///
/// Where a file cannot be read, or a library is missing.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut archive = Archive::default();
    let helper = std::env::current_exe()?.with_file_name("hyperv-vm-guest");
    archive.add_program(&helper, Path::new(HELPER))?;
    for program in &arguments.program {
        let name = program.file_name().context("a program without a name")?;
        archive.add_program(program, &Path::new("/bin").join(name))?;
    }
    let base = &arguments.base;
    let mut image = fs::read(base).with_context(|| base.display().to_string())?;
    // The kernel looks for a further archive at such a place.
    image.resize(image.len().next_multiple_of(512), 0);
    image.extend(archive.encode()?);
    let mut output = fs::File::create(&arguments.output)
        .with_context(|| arguments.output.display().to_string())?;
    output.write_all(&image)?;
    Ok(())
}

/// What is added, by its path in the guest: mode and content.
#[derive(Default)]
struct Archive(BTreeMap<PathBuf, (u32, Vec<u8>)>);

impl Archive {
    fn add_program(&mut self, file: &Path, path: &Path) -> Result<()> {
        self.add(file, path)?;
        for library in libraries(file)? {
            self.add(&library, &library)?;
        }
        Ok(())
    }

    fn add(&mut self, file: &Path, path: &Path) -> Result<()> {
        let content = fs::read(file).with_context(|| file.display().to_string())?;
        let mode = fs::metadata(file)?.permissions().mode() & 0o777;
        for directory in path.ancestors().skip(1) {
            if directory != Path::new("/") {
                let made = (DIRECTORY, Vec::new());
                self.0.entry(directory.to_owned()).or_insert(made);
            }
        }
        self.0.insert(path.to_owned(), (FILE | mode, content));
        Ok(())
    }

    /// The archive in the kernel's format ("newc"). Directories come before
    /// what is in them: paths are in order.
    fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (number, (path, (mode, content))) in (1u32..).zip(&self.0) {
            let name = path.strip_prefix("/")?.to_str().context("not UTF-8")?;
            entry(&mut bytes, number, name, *mode, content)?;
        }
        entry(&mut bytes, 0, "TRAILER!!!", 0, &[])?;
        Ok(bytes)
    }
}

fn entry(bytes: &mut Vec<u8>, number: u32, name: &str, mode: u32, content: &[u8]) -> Result<()> {
    let (len, name_len) = (u32::try_from(content.len())?, u32::try_from(name.len())?);
    bytes.extend(b"070701");
    // Owner, group and time are 0, there is one link, no device, no checksum.
    for field in [number, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name_len + 1, 0] {
        bytes.extend(format!("{field:08X}").into_bytes());
    }
    bytes.extend(name.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(())
}

/// The libraries that a program is linked to, the loader among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let is_static = text.contains("statically") || said.contains("not a dynamic");
        ensure!(is_static, "ldd {}: {}", program.display(), said.trim());
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for line in text.lines() {
        if line.contains("not found") {
            bail!("{}: {}", program.display(), line.trim());
        }
        let path = line
            .split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(PathBuf::from);
        found.extend(path);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_directories_before_files_and_an_end() {
        let mut archive = Archive::default();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"hello").unwrap();
        archive.add(file.path(), Path::new("/bin/a/b")).unwrap();
        let bytes = archive.encode().unwrap();
        assert!(bytes.len().is_multiple_of(4));
        let text = String::from_utf8_lossy(&bytes);
        let places: Vec<usize> = ["bin\0", "bin/a\0", "bin/a/b\0", "hello", "TRAILER!!!\0"]
            .iter()
            .map(|part| text.find(part).unwrap())
            .collect();
        assert!(places.is_sorted());
        assert_eq!(&bytes[..14], b"07070100000001");
    }
}
