//! Copies onto what is there already.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use anyhow::{Result, ensure};
use hyperv_vmbus::ic::Status;

use super::stage::{Stage, expect, expect_content, expect_failure};
use super::{Pattern, Skip};
use crate::fcopy::{CHUNK, OVERWRITE, Operation};

pub(super) fn shorter(stage: &mut Stage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let path = stage.directory().join("shrunk");
    fs::write(&path, Pattern::bytes(1, 50_000))?;
    fs::set_permissions(&path, Permissions::from_mode(0o640))?;
    let before = fs::metadata(&path)?;
    let data = Pattern::bytes(2, 10_000);
    let status = stage.copy(&mut host, "shrunk", &data, OVERWRITE)?;
    expect(status, Status::OK, "a copy over a longer file")?;
    stage.expect_files(&["shrunk"])?;
    expect_content(&path, &data)?;
    let after = fs::metadata(&path)?;
    let keeps = |of: &fs::Metadata| (of.mode(), of.uid(), of.gid());
    ensure!(
        keeps(&before) == keeps(&after),
        "expected the mode and owner {:?}; found {:?}",
        keeps(&before),
        keeps(&after)
    );
    Ok(())
}

pub(super) fn exists(stage: &mut Stage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let path = stage.directory().join("there");
    fs::write(&path, b"what was there")?;
    let status = stage.copy(&mut host, "there", b"something else", 0)?;
    expect(
        status,
        Status::ALREADY_EXISTS,
        "a copy onto a file without the overwrite flag",
    )?;
    stage.expect_files(&["there"])?;
    expect_content(&path, b"what was there")?;
    stage.expect_working(&mut host)
}

pub(super) fn dropped(stage: &mut Stage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let path = stage.directory().join("kept");
    fs::write(&path, b"what was there")?;
    let start = stage.start("kept", OVERWRITE, 1000)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    let status = host.request(&Operation::write(0, &[1; 1000]))?;
    expect(status, Status::OK, "a WRITE")?;
    expect_content(&path, b"what was there")?;
    expect(host.request(&Operation::Cancel)?, Status::OK, "a CANCEL")?;
    stage.expect_files(&["kept"])?;
    expect_content(&path, b"what was there")
}

pub(super) fn symbolic_link(stage: &mut Stage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let target = stage.directory().join("target");
    fs::write(&target, b"what was there")?;
    let link = stage.directory().join("link");
    symlink("target", &link)?;
    let status = stage.copy(&mut host, "link", b"new", OVERWRITE)?;
    expect(status, Status::OK, "a copy onto a symbolic link")?;
    stage.expect_files(&["link", "target"])?;
    ensure!(
        fs::symlink_metadata(&link)?.is_symlink(),
        "expected the link to be one still; it is not"
    );
    expect_content(&target, b"new")
}

pub(super) fn not_a_file(stage: &mut Stage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    fs::create_dir(stage.directory().join("directory"))?;
    let pipe = stage.directory().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR)?;
    symlink("/dev/null", stage.directory().join("null"))?;
    for name in ["directory", "pipe", "null"] {
        let status = stage.copy(&mut host, name, b"new", OVERWRITE)?;
        expect_failure(status, &format!("a copy onto the {name}"))?;
        stage.expect_files(&["null", "pipe"])?;
    }
    ensure!(
        stage.directory().join("directory").is_dir(),
        "the directory is none any more"
    );
    stage.expect_working(&mut host)
}

/// A file that nobody may change, for as long as this lives.
struct Immutable(std::path::PathBuf);

impl Immutable {
    fn make(path: std::path::PathBuf) -> Result<Self> {
        let skip = |why: String| Skip(format!("a file cannot be made immutable: {why}"));
        let output = Command::new("chattr")
            .arg("+i")
            .arg(&path)
            .output()
            .map_err(|error| skip(format!("chattr: {error}")))?;
        if !output.status.success() {
            return Err(skip(String::from_utf8_lossy(&output.stderr).trim().to_owned()).into());
        }
        Ok(Self(path))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        // What fails here shows when the directory is removed.
        let _ = Command::new("chattr").arg("-i").arg(&self.0).status();
    }
}

pub(super) fn immutable(stage: &mut Stage<'_>) -> Result<()> {
    let path = stage.directory().join("immutable");
    fs::write(&path, b"what was there")?;
    let immutable = Immutable::make(path.clone())?;
    let mut host = stage.connect()?;
    let data = Pattern::bytes(3, 2 * CHUNK);
    let status = stage.copy(&mut host, "immutable", &data, OVERWRITE)?;
    expect_failure(status, "a copy onto an immutable file")?;
    stage.expect_files(&["immutable"])?;
    expect_content(&path, b"what was there")?;
    drop(immutable);
    stage.expect_working(&mut host)
}
