//! A guest with the service in it, and the host's side of both encodings.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hyperv_services::service::Service;
use hyperv_services::{Config, fcopy, registry};
pub use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::Status;
use rustix::fs::Mode;
use slog::{Drain, Key, Logger, OwnedKVList, Record, Serializer, o};
use tempfile::TempDir;

use crate::apart;

pub const OVERWRITE: u32 = 1;
pub const CREATE_PATH: u32 = 2;

pub const BOTH: [Encoding; 2] = [Encoding::Utf16, Encoding::Utf8];

/// The service, a directory to copy into, and the service's log.
pub struct Guest {
    pub service: Box<dyn Service>,
    pub directory: TempDir,
    pub config: fcopy::Config,
    pub log: Log,
    encoding: Encoding,
    _state: TempDir,
}

impl Guest {
    pub fn new() -> Self {
        Self::with(Encoding::Utf16, |_, _| {})
    }

    /// A guest whose configuration `configure` changes; it is also given the
    /// directory to copy into.
    pub fn with(encoding: Encoding, configure: impl FnOnce(&mut fcopy::Config, &Path)) -> Self {
        // Modes must come out right whatever the agent was started with.
        rustix::process::umask(Mode::from_raw_mode(0o077));
        let (directory, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut config = fcopy::Config {
            environment: hyperv_services::Environment {
                state_dir: state.path().to_owned(),
                ..hyperv_services::Environment::default()
            },
            ..fcopy::Config::default()
        };
        configure(&mut config, directory.path());
        let log = Log::default();
        Self {
            service: make(&config, &log),
            directory,
            config,
            log,
            encoding,
            _state: state,
        }
    }

    /// The device is closed and opened again.
    pub fn reopen(&mut self) {
        self.service = make(&self.config, &self.log);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Names in the directory, sorted.
    #[track_caller]
    pub fn names(&self) -> Vec<String> {
        names(self.directory.path())
    }

    pub fn start(&mut self, name: &str, flags: u32, size: u64) -> Status {
        let directory = self.directory.path().to_str().unwrap().to_owned();
        self.start_in(&directory, name, flags, size)
    }

    pub fn start_in(&mut self, directory: &str, name: &str, flags: u32, size: u64) -> Status {
        let field = |name: &str| match self.encoding {
            Encoding::Utf16 => name.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            Encoding::Utf8 => name.as_bytes().to_vec(),
        };
        let (name, directory) = (field(name), field(directory));
        self.start_raw(&directory, &name, flags, size)
    }

    pub fn start_raw(&mut self, directory: &[u8], name: &[u8], flags: u32, size: u64) -> Status {
        let mut message = header(0);
        message.extend(name);
        message.resize(36 + 520, 0);
        message.extend(directory);
        message.resize(36 + 1040, 0);
        message.extend(flags.to_le_bytes());
        message.extend(size.to_le_bytes());
        self.send(&message)
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Status {
        self.write_stating(offset, u32::try_from(data.len()).unwrap(), data)
    }

    pub fn write_stating(&mut self, offset: u64, size: u32, data: &[u8]) -> Status {
        let mut message = header(1);
        message.extend([0; 4]);
        message.extend(offset.to_le_bytes());
        message.extend(size.to_le_bytes());
        message.extend(data);
        self.send(&message)
    }

    pub fn complete(&mut self) -> Status {
        self.send(&header(2))
    }

    pub fn cancel(&mut self) -> Status {
        self.send(&header(3))
    }

    /// Sends all of `data` in parts of the usual size.
    #[track_caller]
    pub fn write_all(&mut self, data: &[u8]) {
        let mut offset = 0;
        for part in data.chunks(6144) {
            assert_eq!(self.write(offset, part), Status::OK, "at {offset}");
            offset += part.len() as u64;
        }
    }

    /// A whole copy that is to succeed.
    #[track_caller]
    pub fn copy(&mut self, name: &str, flags: u32, data: &[u8]) {
        let directory = self.directory.path().to_str().unwrap().to_owned();
        self.copy_to(&directory, name, flags, data);
    }

    #[track_caller]
    pub fn copy_to(&mut self, directory: &str, name: &str, flags: u32, data: &[u8]) {
        let started = self.start_in(directory, name, flags, data.len() as u64);
        assert_eq!(started, Status::OK, "{}", self.log.text());
        self.write_all(data);
        assert_eq!(self.complete(), Status::OK, "{}", self.log.text());
    }

    /// Sends any message, padded as a ring pads it.
    pub fn send(&mut self, message: &[u8]) -> Status {
        let mut body = message.to_vec();
        if self.encoding == Encoding::Utf16 {
            body.resize(message.len().next_multiple_of(8), 0);
        }
        self.service.handle(self.encoding, &mut body)
    }
}

fn make(config: &fcopy::Config, log: &Log) -> Box<dyn Service> {
    let config = Config {
        fcopy: config.clone(),
        ..Config::default()
    };
    let log = Logger::root(log.clone(), o!());
    (registry::by_name("fcopy").unwrap().make)(&config, &log)
}

pub fn header(operation: u32) -> Vec<u8> {
    let mut message = operation.to_le_bytes().to_vec();
    message.resize(36, 0);
    message
}

#[track_caller]
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Bytes that differ from place to place.
pub fn data(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i * 31 + (i >> 8) * 7 + (i >> 16)).to_le_bytes()[0])
        .collect()
}

/// The log, a string a line: level, message, `key=value`; and the fields for programs
/// apart, which no line of text has.
#[derive(Default, Clone)]
pub struct Log(Arc<Mutex<Vec<Line>>>);

impl Log {
    pub fn lines(&self) -> Vec<String> {
        self.each(|line| line.text.clone())
    }

    /// The fields of each line.
    pub fn fields(&self) -> Vec<Vec<String>> {
        self.each(|line| line.fields.clone())
    }

    fn each<T>(&self, of: impl Fn(&Line) -> T) -> Vec<T> {
        self.0.lock().unwrap().iter().map(of).collect()
    }

    /// Forgets all that was logged so far.
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    #[track_caller]
    pub fn assert_says(&self, words: &str) {
        assert!(
            self.text().contains(words),
            "{words:?} is not in:\n{}",
            self.text()
        );
    }
}

impl Drain for Log {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        let mut line = Line {
            text: format!("{} {}", record.level(), record.msg()),
            fields: Vec::new(),
        };
        slog::KV::serialize(values, record, &mut line).unwrap();
        slog::KV::serialize(&record.kv(), record, &mut line).unwrap();
        self.0.lock().unwrap().push(line);
        Ok(())
    }
}

struct Line {
    text: String,
    fields: Vec<String>,
}

impl Serializer for Line {
    fn emit_arguments(&mut self, key: Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        if key.starts_with("HYPERV_") {
            self.fields.push(format!("{key}={value}"));
            return Ok(());
        }
        Ok(write!(self.text, " {key}={value}")?)
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the caller runs in a private mount namespace, where it may mount
/// what it likes. If not, the test of that name is run again in one.
#[track_caller]
pub fn in_own_mounts(test: &str) -> bool {
    let apart = apart::told().is_some();
    if !apart {
        apart::run(test, &["--mount"], "");
    }
    apart
}

/// A mounted file system, unmounted when dropped.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Runs `mount` with these arguments and `place`.
    #[track_caller]
    pub fn new(arguments: &[&str], place: &Path) -> Self {
        let mut mount = apart::program("mount");
        let status = mount.args(arguments).arg(place).status();
        assert!(status.unwrap().success());
        Self(place.to_owned())
    }

    /// A tmpfs with these options.
    #[track_caller]
    pub fn tmpfs(options: &str, place: &Path) -> Self {
        Self::new(&["-t", "tmpfs", "-o", options, "tmpfs"], place)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let status = apart::program("umount").arg(&self.0).status();
        if !std::thread::panicking() {
            assert!(status.unwrap().success());
        }
    }
}
