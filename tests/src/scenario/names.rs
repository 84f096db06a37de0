//! Directories and names.

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::Status;

use super::Transport;
use super::stage::{FcopyStage, expect, expect_failure};
use crate::fcopy::{CREATE_PATH, FcopyHost, Operation, Start};

fn copy(host: &mut FcopyHost, path: &str, name: &str, flags: u32) -> Result<Status> {
    let data = b"named";
    let start = Start::new(path, name, flags, data.len() as u64);
    host.copy(&start, &mut &data[..], 1, &mut |_| {})
        .with_context(|| format!("copying to {path:?} as {name:?}"))
}

pub(super) fn create_path(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let path = format!("{}/one/two/three", stage.path()?);
    for round in ["made", "there already"] {
        let status = copy(&mut host, &path, round, CREATE_PATH)?;
        expect(
            status,
            Status::OK,
            &format!("a copy to a path that is {round}"),
        )?;
    }
    stage.expect_files(&["one/two/three/made", "one/two/three/there already"])?;
    for directory in ["one", "one/two", "one/two/three"] {
        let mode = stage.facts(directory)?.mode;
        ensure!(
            mode == 0o755,
            "expected the mode 0755 of {directory}; found {mode:04o}"
        );
    }
    // A path that does not begin at the root is taken from there.
    let relative = path.trim_start_matches('/').to_owned();
    expect(
        copy(&mut host, &relative, "relative", 0)?,
        Status::OK,
        "a copy to a relative path",
    )?;
    stage.expect_content(&stage.directory().join("one/two/three/relative"), b"named")?;
    // What stands in the way is no directory.
    let blocked = format!("{path}/made/below");
    expect_failure(
        copy(&mut host, &blocked, "x", CREATE_PATH)?,
        "a path through a file",
    )
}

pub(super) fn missing_path(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let path = format!("{}/missing/below", stage.path()?);
    expect_failure(
        copy(&mut host, &path, "x", 0)?,
        "a copy to a directory that is not there",
    )?;
    let missing = stage.directory().join("missing");
    ensure!(
        stage.files().facts(&missing)?.is_none(),
        "the directory was made without the create flag"
    );
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}

pub(super) fn long(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let path = stage.path()?;
    let longest = "n".repeat(255);
    expect(
        copy(&mut host, &path, &longest, 0)?,
        Status::OK,
        "a name of 255 bytes",
    )?;
    stage.expect_content(&stage.directory().join(&longest), b"named")?;
    stage.files().remove(&stage.directory().join(&longest))?;

    // The host's field holds 259 units and a NUL.
    let deep = format!("{path}/{}", "d".repeat(258usize.saturating_sub(path.len())));
    if deep.len() == 259 {
        expect(
            copy(&mut host, &deep, "x", CREATE_PATH)?,
            Status::OK,
            "a path of 259 bytes",
        )?;
        stage.expect_content(&std::path::Path::new(&deep).join("x"), b"named")?;
        stage
            .files()
            .remove_directory(std::path::Path::new(&deep))?;
    }
    expect_failure(
        copy(&mut host, &path, &"n".repeat(256), 0)?,
        "a name of 256 bytes",
    )?;
    if let Transport::Uio(_) = stage.transport() {
        expect_failure(
            copy(&mut host, &path, &"n".repeat(260), 0)?,
            "a name without a NUL",
        )?;
        expect_failure(
            copy(&mut host, &"/n".repeat(130), "x", 0)?,
            "a path without a NUL",
        )?;
    }
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}

pub(super) fn unicode(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let directory = format!("{}/Täst 目录 🗂", stage.path()?);
    let names = [
        "Grüße.txt",
        "файл",
        "文件 名",
        "😀🚀.bin",
        "a\u{301}",
        "\u{10ffff}",
        " spaces ",
        "tab\tnewline\n",
    ];
    for name in names {
        expect(
            copy(&mut host, &directory, name, CREATE_PATH)?,
            Status::OK,
            &format!("the name {name:?}"),
        )?;
        stage.expect_content(&std::path::Path::new(&directory).join(name), b"named")?;
    }
    let expected: Vec<String> = names
        .iter()
        .map(|name| format!("Täst 目录 🗂/{name}"))
        .collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    stage.expect_files(&expected)
}

pub(super) fn refused(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let path = stage.path()?;
    let inside = format!("{path}/inside");
    stage
        .files()
        .create_directories(std::path::Path::new(&inside))?;
    for name in [
        "",
        ".",
        "..",
        "../outside",
        "below/name",
        "/absolute",
        "trailing/",
    ] {
        let status = copy(&mut host, &inside, name, 0)?;
        expect_failure(status, &format!("the name {name:?}"))?;
        let status = copy(&mut host, &inside, name, CREATE_PATH)?;
        expect_failure(status, &format!("the name {name:?} with the create flag"))?;
    }
    for path in [
        format!("{inside}/.."),
        format!("{inside}/../inside"),
        "..".into(),
    ] {
        let status = copy(&mut host, &path, "x", CREATE_PATH)?;
        expect_failure(status, &format!("the path {path:?}"))?;
    }
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}

pub(super) fn windows(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let path = stage.path()?;
    for (path, name, flags) in [
        (path.as_str(), "a\\b", CREATE_PATH),
        (&format!("{path}/a\\b"), "x", CREATE_PATH),
        // Without the flag: in a black box, `/` may be the machine's own.
        (&format!("C:{path}"), "x", 0),
        ("C:\\tmp", "x", 0),
        ("\\tmp", "x", 0),
    ] {
        expect(
            copy(&mut host, path, name, flags)?,
            Status::INVALID_ARGUMENT,
            &format!("the name {name:?} in the path {path:?}"),
        )?;
    }
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}

pub(super) fn lone_surrogate(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    for lone in [[0x61, 0xd83d], [0xde00, 0x61], [0xd83d, 0x61]] {
        let mut start = Start::new(&stage.path()?, "", 0, 0);
        start.name = lone.to_vec();
        let status = host.request(&Operation::Start(start))?;
        expect(
            status,
            Status::INVALID_ARGUMENT,
            &format!("the name {lone:04x?}"),
        )?;
        let mut start = Start::new(&stage.path()?, "x", CREATE_PATH, 0);
        start.path.push(u16::from(b'/'));
        start.path.extend(lone);
        let status = host.request(&Operation::Start(start))?;
        expect(
            status,
            Status::INVALID_ARGUMENT,
            &format!("a path with {lone:04x?}"),
        )?;
    }
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}
