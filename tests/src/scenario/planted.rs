//! What an ordinary user has put where the host copies to.

use std::path::Path;

use anyhow::Result;
use hyperv_vmbus::ic::Status;

use super::Skip;
use super::stage::{FcopyStage, expect, expect_failure};
use crate::fcopy::{CREATE_PATH, FcopyHost, OVERWRITE, Start};

/// An ordinary user.
const USER: u32 = 4_000_001;

/// As `/tmp` has it.
const STICKY: u32 = 0o1777;

/// A directory in which everybody may write, beside one with a file that is root's
/// alone.
fn prepare(stage: &mut FcopyStage<'_>) -> Result<FcopyHost> {
    let files = stage.files();
    for (name, mode) in [("drop", STICKY), ("kept", 0o700)] {
        files.create_directories(&stage.directory().join(name))?;
        files.set_mode(&stage.directory().join(name), mode)?;
    }
    files.write(&stage.directory().join("kept/secret"), b"root's")?;
    stage.connect()
}

fn give(stage: &FcopyStage<'_>, name: &str) -> Result<()> {
    let given = stage.files().give(&stage.directory().join(name), USER);
    given.map_err(|error| Skip(format!("nothing can be given to a user: {error:#}")).into())
}

fn copy(stage: &FcopyStage<'_>, host: &mut FcopyHost, to: &str, flags: u32) -> Result<Status> {
    let path = stage.directory().join(to);
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let start = Start::new(&super::stage::text(parent)?, &name, flags, 3);
    host.copy(&start, &mut &b"new"[..], 1, &mut |_| {})
}

pub(super) fn links(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = prepare(stage)?;
    let drop = stage.directory().join("drop");
    let (secret, kept) = (Path::new("../kept/secret"), Path::new("../kept"));
    stage.files().link(secret, &drop.join("file"))?;
    stage.files().link(kept, &drop.join("way"))?;
    for name in ["drop/file", "drop/way"] {
        give(stage, name)?;
    }
    for (to, flags) in [
        ("drop/file", OVERWRITE),
        ("drop/way/new", 0),
        ("drop/way/secret", OVERWRITE),
        ("drop/way/further/new", CREATE_PATH),
    ] {
        let status = copy(stage, &mut host, to, flags)?;
        expect_failure(status, &format!("a copy to {to}, by a planted link"))?;
    }
    stage.expect_files(&["drop/file", "drop/way", "kept/secret"])?;
    stage.expect_content(&stage.directory().join("kept/secret"), b"root's")?;
    stage.expect_logged(&[&format!("it belongs to user {USER}")])?;
    stage.expect_working(&mut host)
}

pub(super) fn files(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = prepare(stage)?;
    let files = stage.files();
    let planted = stage.directory().join("drop/file");
    files.write(&planted, b"before")?;
    files.set_mode(&planted, 0o666)?;
    files.create_directories(&stage.directory().join("drop/directory"))?;
    for name in ["drop/file", "drop/directory"] {
        give(stage, name)?;
    }
    for (to, flags) in [
        ("drop/file", OVERWRITE),
        ("drop/directory/new", OVERWRITE | CREATE_PATH),
    ] {
        let status = copy(stage, &mut host, to, flags)?;
        expect_failure(status, &format!("a copy to {to}, which was planted"))?;
    }
    stage.expect_content(&planted, b"before")?;
    let status = copy(stage, &mut host, "drop/new", OVERWRITE)?;
    expect(status, Status::OK, "a copy beside it")?;
    stage.expect_files(&["drop/file", "drop/new", "kept/secret"])?;
    stage.expect_working(&mut host)
}
