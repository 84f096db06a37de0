//! `hyperv-agent capture FILE` with a running agent.

use std::fs::{self, File, Permissions};
use std::io::BufReader;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use hyperv_agent::capture::pcapng::{ReadError, Reader};
use hyperv_agent::capture::{Level, Record, Section};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, geteuid, mkfifo};
use tempfile::TempDir;

use super::common::{Guest, ONE, Opened};
use super::{lines, wait_for};

/// A directory with a configuration for the command, and the file that it writes.
struct Home {
    directory: TempDir,
    file: PathBuf,
}

impl Home {
    fn new(guest: &Guest) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = guest.control();
        let runtime = runtime.parent().unwrap().display();
        let text = format!("runtime-directory = \"{runtime}\"\n");
        fs::write(directory.path().join("config"), text).unwrap();
        let file = directory.path().join("capture.pcapng");
        Self { directory, file }
    }

    fn command(&self, options: &[&str], file: &Path) -> Child {
        Command::new(env!("CARGO_BIN_EXE_hyperv-agent"))
            .arg("capture")
            .arg("--config")
            .arg(self.directory.path().join("config"))
            .args(options)
            .arg(file)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Starts the command, and waits for the capture to begin.
    fn start(&self, guest: &Guest, options: &[&str]) -> Child {
        let child = self.command(options, &self.file);
        wait_for(guest, |capture| capture.is_some());
        child
    }

    fn read(&self) -> (Section, Vec<Record>) {
        let reader = Reader::new(BufReader::new(File::open(&self.file).unwrap())).unwrap();
        let section = reader.section().clone();
        (section, reader.collect::<Result<_, _>>().unwrap())
    }
}

/// Waits for the end, and returns what was written to standard error.
fn end(child: Child) -> (ExitStatus, String) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status, text)
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

fn serve(guest: &Guest) -> Opened {
    guest.offer(&ONE);
    let mut device = guest.opened(&ONE);
    device.call(b"before");
    device
}

#[test]
fn a_signal_ends_a_capture_with_all_that_was_recorded() {
    let guest = Guest::start(&[&ONE]);
    let mut device = serve(&guest);
    let home = Home::new(&guest);
    for (by, options, level) in [
        (Signal::SIGINT, &["--content", "full"][..], Level::Full),
        (Signal::SIGTERM, &["--overwrite"], Level::None),
    ] {
        let child = home.start(&guest, options);
        for _ in 0..100 {
            device.call(b"request");
        }
        signal(&child, by);
        let (status, text) = end(child);
        assert_eq!(status.code(), Some(0), "{text}");
        let last = text.lines().last().unwrap();
        assert!(
            last.contains(": 200 messages, 1 events, 0 dropped, "),
            "{text}"
        );
        let next = home.file.display();
        let next = format!("(ended: a signal); `hyperv-agent capture show {next}` shows it");
        assert!(last.ends_with(&next), "{text}");
        assert_eq!(
            text.contains("all that host and guest exchange"),
            level == Level::Full
        );
        let (section, records) = home.read();
        assert_eq!(section.level, level);
        assert!(section.application.starts_with("hyperv-agent "));
        assert_eq!(records.len(), 201);
        let wanted = match level {
            Level::Full => "Host request",
            // No decoder knows this service.
            _ => "Host ",
        };
        assert_eq!(lines(&records)[1], wanted);
        assert_eq!(fs::metadata(&home.file).unwrap().mode() & 0o777, 0o600);
    }
    guest.stop();
}

#[test]
fn limits_end_a_capture() {
    let guest = Guest::start(&[&ONE]);
    let mut device = serve(&guest);
    let home = Home::new(&guest);
    let (status, text) = end(home.command(&["--for", "1ms"], &home.file));
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.contains("(ended: its time is over)"), "{text}");
    let mut child = home.start(&guest, &["--overwrite", "--max-size", "4KiB"]);
    while child.try_wait().unwrap().is_none() {
        device.call(b"request");
    }
    let (status, text) = end(child);
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.contains("(ended: it has its size)"), "{text}");
    let size = fs::metadata(&home.file).unwrap().len();
    assert!((2048..=4096).contains(&size), "{size}");
    assert!(home.read().1.len() > 10);
    guest.stop();
}

#[test]
fn the_end_of_the_agent_ends_a_capture() {
    let guest = Guest::start(&[&ONE]);
    let mut device = serve(&guest);
    let home = Home::new(&guest);
    let child = home.start(&guest, &[]);
    device.call(b"request");
    guest.stop();
    let (status, text) = end(child);
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("(ended: the agent has ended)"), "{text}");
    assert_eq!(lines(&home.read().1).last().unwrap(), "Closed ");
}

#[test]
fn a_capture_that_is_killed_is_complete_up_to_its_last_message() {
    let guest = Guest::start(&[&ONE]);
    let mut device = serve(&guest);
    let home = Home::new(&guest);
    let child = home.start(&guest, &[]);
    while fs::metadata(&home.file).map_or(0, |file| file.len()) < 10_000 {
        device.call(b"request");
    }
    signal(&child, Signal::SIGKILL);
    end(child);
    let reader = Reader::new(BufReader::new(File::open(&home.file).unwrap())).unwrap();
    for record in reader {
        assert!(matches!(record, Ok(_) | Err(ReadError::CutOff { .. })));
    }
    wait_for(&guest, |capture| capture.is_none());
    guest.stop();
}

#[test]
fn an_existing_file_is_replaced_on_request_only() {
    let guest = Guest::start(&[&ONE]);
    let home = Home::new(&guest);
    let now = ["--for", "1ms"];
    fs::write(&home.file, "precious").unwrap();
    let (status, text) = end(home.command(&now, &home.file));
    assert_eq!(status.code(), Some(1));
    assert!(
        text.contains("exists: name another file, or add --overwrite"),
        "{text}"
    );
    assert_eq!(fs::read(&home.file).unwrap(), b"precious");
    let (status, text) = end(home.command(&["--overwrite", "--for", "1ms"], &home.file));
    assert_eq!(status.code(), Some(0), "{text}");
    assert_eq!(home.read().1.len(), 0);
    // None of them has left a capture behind.
    wait_for(&guest, |capture| capture.is_none());
    guest.stop();
}

#[test]
fn what_cannot_be_the_file_says_why_and_what_to_do() {
    let guest = Guest::start(&[&ONE]);
    let home = Home::new(&guest);
    let in_home = |name: &str| home.directory.path().join(name);
    fs::write(&home.file, "precious").unwrap();
    symlink(&home.file, in_home("link")).unwrap();
    symlink("nothing", in_home("dangling")).unwrap();
    mkfifo(&in_home("pipe"), Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(in_home("socket")).unwrap();
    let link = "is a symbolic link, which is not followed: name what it leads to";
    let file = format!("{} is no directory; name another file", home.file.display());
    let none = in_home("none/sub");
    let none = format!(
        "there is no directory {}; create it, or name another file",
        none.display()
    );
    let pipe = "is a pipe: name - as the file, and redirect standard output to the pipe";
    let elsewhere = "; name a file in another directory";
    for (path, wanted) in [
        (in_home("link"), link),
        (in_home("dangling"), link),
        (in_home("."), "is a directory: name a file in it"),
        (in_home("pipe"), pipe),
        (in_home("socket"), "is a socket: name another file"),
        ("/dev/null".into(), "is a device: name another file"),
        (home.file.join("sub/file"), &file),
        (in_home("none/sub/file"), &none),
        (in_home(&"x".repeat(300)), elsewhere),
        ("/proc/self/capture".into(), elsewhere),
    ] {
        let (status, text) = end(home.command(&["--overwrite"], &path));
        assert_eq!(status.code(), Some(1), "{text}");
        let path = path.to_str().unwrap();
        assert!(text.contains(path) && text.contains(wanted), "{text}");
    }
    let closed = in_home("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    let (status, text) = end(home.command(&["--for", "1ms"], &closed.join("file")));
    // Permissions do not stop root that has its capabilities.
    if status.code() != Some(0) {
        let next = match geteuid().is_root() {
            true => elsewhere,
            false => "; run this as root",
        };
        let wanted = format!("cannot create {}/file: Permission denied", closed.display());
        assert!(text.contains(&wanted) && text.contains(next), "{text}");
    }
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(fs::read(&home.file).unwrap(), b"precious");
    // None of them has left a capture behind.
    wait_for(&guest, |capture| capture.is_none());
    guest.stop();
}

#[test]
fn a_file_that_cannot_be_written_does_not_stay() {
    let guest = Guest::start(&[&ONE]);
    let home = Home::new(&guest);
    // As on a full disk.
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_hyperv-agent"))
        .arg("capture")
        .arg("--config")
        .arg(home.directory.path().join("config"))
        .arg(&home.file)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (status, text) = end(child);
    assert_eq!(status.code(), Some(1), "{text}");
    let wanted = format!("cannot write {}: File too large", home.file.display());
    assert!(text.contains(&wanted), "{text}");
    assert!(!home.file.exists());
    guest.stop();
}

#[test]
fn standard_output_takes_a_capture() {
    let guest = Guest::start(&[&ONE]);
    let mut device = serve(&guest);
    let home = Home::new(&guest);
    let mut child = home.command(&[], Path::new("-"));
    wait_for(&guest, |capture| capture.is_some());
    device.call(b"request");
    let mut reader = Reader::new(child.stdout.take().unwrap()).unwrap();
    let records: Vec<_> = reader.by_ref().take(3).collect::<Result<_, _>>().unwrap();
    assert_eq!(records.len(), 3);
    // As `| head` does.
    drop(reader);
    device.call(b"request");
    let (status, text) = end(child);
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.ends_with("(ended: nobody reads it)\n"), "{text}");
    guest.stop();
}

#[test]
fn without_an_agent_there_is_no_capture_and_no_file() {
    let guest = Guest::start(&[&ONE]);
    let home = Home::new(&guest);
    let (status, text) = end(home.command(&["--service", "kvp"], &home.file));
    assert_eq!(status.code(), Some(1));
    assert!(
        text.contains("unknown service `kvp`: expected one") || text.contains("switched off"),
        "{text}"
    );
    guest.stop();
    let (status, text) = end(home.command(&[], &home.file));
    assert_eq!(status.code(), Some(3), "{text}");
    assert!(text.contains("no agent is running"), "{text}");
    assert!(!home.file.exists());
    for wrong in [
        ["--for", "soon"],
        ["--for", "0s"],
        ["--max-size", "4095B"],
        ["--max-size", "1 XB"],
        ["--content", "some"],
        ["--service", "x"],
    ] {
        let (status, _) = end(home.command(&wrong, &home.file));
        assert_eq!(status.code(), Some(2), "{wrong:?}");
    }
}
