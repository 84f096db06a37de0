//! Copies onto what is there already.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use hyperv_vmbus::ic::Status;

use super::stage::{FcopyStage, expect, expect_failure};
use super::{Pattern, Skip};
use crate::fcopy::{CHUNK, OVERWRITE, Operation};
use crate::files::{Facts, Files, Kind};

pub(super) fn shorter(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let path = stage.directory().join("shrunk");
    stage.files().fill(&path, 1, 50_000)?;
    stage.files().set_mode(&path, 0o640)?;
    let before = stage.facts("shrunk")?;
    let data = Pattern::bytes(2, 10_000);
    let status = stage.copy(&mut host, "shrunk", &data, OVERWRITE)?;
    expect(status, Status::OK, "a copy over a longer file")?;
    stage.expect_files(&["shrunk"])?;
    stage.expect_content(&path, &data)?;
    let after = stage.facts("shrunk")?;
    let keeps = |of: &Facts| (of.mode, of.uid, of.gid);
    ensure!(
        keeps(&before) == keeps(&after),
        "expected the mode and owner {:?}; found {:?}",
        keeps(&before),
        keeps(&after)
    );
    Ok(())
}

pub(super) fn exists(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let path = stage.directory().join("there");
    stage.files().write(&path, b"what was there")?;
    let status = stage.copy(&mut host, "there", b"something else", 0)?;
    expect(
        status,
        Status::ALREADY_EXISTS,
        "a copy onto a file without the overwrite flag",
    )?;
    stage.expect_files(&["there"])?;
    stage.expect_content(&path, b"what was there")?;
    stage.expect_working(&mut host)
}

pub(super) fn dropped(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let path = stage.directory().join("kept");
    stage.files().write(&path, b"what was there")?;
    let start = stage.start("kept", OVERWRITE, 1000)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    let status = host.request(&Operation::write(0, &[1; 1000]))?;
    expect(status, Status::OK, "a WRITE")?;
    stage.expect_content(&path, b"what was there")?;
    expect(host.request(&Operation::Cancel)?, Status::OK, "a CANCEL")?;
    stage.expect_files(&["kept"])?;
    stage.expect_content(&path, b"what was there")
}

pub(super) fn symbolic_link(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let target = stage.directory().join("target");
    stage.files().write(&target, b"what was there")?;
    let link = stage.directory().join("link");
    stage.files().link(Path::new("target"), &link)?;
    let status = stage.copy(&mut host, "link", b"new", OVERWRITE)?;
    expect(status, Status::OK, "a copy onto a symbolic link")?;
    stage.expect_files(&["link", "target"])?;
    ensure!(
        stage.facts("link")?.kind == Kind::Link,
        "expected the link to be one still; it is not"
    );
    stage.expect_content(&target, b"new")
}

pub(super) fn not_a_file(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let files = stage.files();
    files.create_directories(&stage.directory().join("directory"))?;
    files.make_fifo(&stage.directory().join("pipe"))?;
    files.link(Path::new("/dev/null"), &stage.directory().join("null"))?;
    for name in ["directory", "pipe", "null"] {
        let status = stage.copy(&mut host, name, b"new", OVERWRITE)?;
        expect_failure(status, &format!("a copy onto the {name}"))?;
        stage.expect_files(&["null", "pipe"])?;
    }
    ensure!(
        stage.facts("directory")?.kind == Kind::Directory,
        "the directory is none any more"
    );
    stage.expect_working(&mut host)
}

/// A file that nobody may change, for as long as this lives.
struct Immutable {
    files: Arc<dyn Files>,
    path: PathBuf,
}

impl Immutable {
    fn make(files: Arc<dyn Files>, path: PathBuf) -> Result<Self> {
        files
            .set_immutable(&path, true)
            .map_err(|error| Skip(format!("a file cannot be made immutable: {error:#}")))?;
        Ok(Self { files, path })
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        // What fails here shows when the directory is removed.
        let _ = self.files.set_immutable(&self.path, false);
    }
}

pub(super) fn immutable(stage: &mut FcopyStage<'_>) -> Result<()> {
    let path = stage.directory().join("immutable");
    stage.files().write(&path, b"what was there")?;
    let immutable = Immutable::make(stage.files(), path.clone())?;
    let mut host = stage.connect()?;
    let data = Pattern::bytes(3, 2 * CHUNK);
    let status = stage.copy(&mut host, "immutable", &data, OVERWRITE)?;
    expect_failure(status, "a copy onto an immutable file")?;
    stage.expect_files(&["immutable"])?;
    stage.expect_content(&path, b"what was there")?;
    drop(immutable);
    stage.expect_working(&mut host)
}
