//! The native protocol of the systemd journal: one datagram for each record, with
//! structured fields.
//!
//! A field is a line `NAME=value`. If the value has line breaks, the field is its name, the
//! length of the value in eight bytes, and the value. See
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. A record that does not fit a datagram is
//! truncated, not passed as a file descriptor.

use std::fmt::Arguments;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::stat::fstat;
use slog::{Drain, KV, Key, Level, OwnedKVList, Record, Serializer};

use crate::fields::{RecordText, is_field};

/// Directory of the journal's sockets.
pub(crate) const DIRECTORY: &str = "/run/systemd/journal";

/// Maximum length of a value in bytes. With [`MAX_FIELDS`] of them, a record fits a
/// datagram.
const MAX_VALUE: usize = 1024;

/// Maximum number of fields.
const MAX_FIELDS: usize = 16;

/// Maximum length of a field's name that the journal accepts.
const MAX_NAME: usize = 64;

/// How long the journal may take to accept a record before the record is dropped: its disk
/// may hang, and the queue is bounded.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the journal's socket in `directory`, if the socket at `log` belongs to the
/// journal or does not exist yet, as early in the boot, or if standard error goes to the
/// journal: then systemd has started the agent.
pub(crate) fn socket(log: &Path, directory: &Path, stream: bool) -> Option<PathBuf> {
    let socket = directory.join("socket");
    let is_log = match log.canonicalize() {
        Ok(leads_to) => leads_to.starts_with(directory),
        Err(error) => error.kind() == ErrorKind::NotFound,
    };
    (socket.exists() && (is_log || stream)).then_some(socket)
}

/// Returns whether `output` is the stream to the journal that `JOURNAL_STREAM` names by its
/// device and inode. A program that redirects its output does not change the variable.
pub(crate) fn is_stream(output: impl AsFd, variable: Option<&str>) -> bool {
    let numbers = variable.and_then(|text| text.split_once(':'));
    let Some((device, inode)) = numbers else {
        return false;
    };
    fstat(output)
        .is_ok_and(|stat| device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino))
}

/// Returns the number that syslog and the journal have for a level.
pub(crate) fn priority(level: Level) -> u8 {
    match level {
        Level::Critical => 2,
        Level::Error => 3,
        Level::Warning => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// A drain that sends records to the journal.
pub(crate) struct Journal {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    socket: UnixDatagram,
    /// Number of records that were lost since the last one that was sent.
    dropped: u64,
}

impl Journal {
    /// Connects to the journal at `path`.
    ///
    /// # Errors
    ///
    /// If nothing listens there.
    pub(crate) fn connect(path: PathBuf) -> io::Result<Self> {
        let socket = connected(&path)?;
        let state = Mutex::new(State { socket, dropped: 0 });
        Ok(Self { path, state })
    }

    /// Sends a record. Reconnects if the journal was restarted.
    fn send(&self, state: &mut State, datagram: &[u8]) -> io::Result<()> {
        match state.socket.send(datagram) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(error);
            }
            Err(_) => {}
            Ok(_) => return Ok(()),
        }
        state.socket = connected(&self.path)?;
        state.socket.send(datagram).map(drop)
    }
}

fn connected(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    Ok(socket)
}

impl Drain for Journal {
    type Ok = ();
    type Err = io::Error;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.dropped > 0 {
            let mut lost = Datagram::default();
            let message = format!(
                "log records lost, as the journal did not accept them: {}",
                state.dropped
            );
            lost.start(Level::Warning, &message);
            if self.send(&mut state, &lost.bytes).is_ok() {
                state.dropped = 0;
            }
        }
        let mut datagram = Datagram::default();
        datagram.start(record.level(), &RecordText::of(record, values).0);
        // Fields that cannot be written are left out.
        let _ = values.serialize(record, &mut datagram);
        let _ = record.kv().serialize(record, &mut datagram);
        let sent = self.send(&mut state, &datagram.bytes);
        if sent.is_err() {
            state.dropped += 1;
        }
        sent
    }
}

/// A record in the journal's protocol.
#[derive(Default)]
struct Datagram {
    bytes: Vec<u8>,
    fields: usize,
}

impl Datagram {
    fn start(&mut self, level: Level, message: &str) {
        self.add("PRIORITY", &priority(level).to_string());
        // LOG_DAEMON.
        self.add("SYSLOG_FACILITY", "3");
        self.add("SYSLOG_IDENTIFIER", "hyperv-agent");
        self.add("MESSAGE", message);
    }

    fn add(&mut self, name: &str, value: &str) {
        if self.fields == MAX_FIELDS {
            return;
        }
        self.fields += 1;
        // Half a character would make the value binary for the journal.
        let mut end = value.len().min(MAX_VALUE);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = value.as_bytes().get(..end).unwrap_or_default();
        self.bytes.extend_from_slice(name.as_bytes());
        if value.contains(&b'\n') {
            self.bytes.push(b'\n');
            let len = value.len() as u64;
            self.bytes.extend_from_slice(&len.to_le_bytes());
        } else {
            self.bytes.push(b'=');
        }
        self.bytes.extend_from_slice(value);
        self.bytes.push(b'\n');
    }
}

impl Serializer for Datagram {
    fn emit_arguments(&mut self, key: Key, value: &Arguments<'_>) -> slog::Result {
        self.add(&name(key), &value.to_string());
        Ok(())
    }
}

/// Returns the field name of a key: `HYPERV_` and capital letters.
fn name(key: &str) -> String {
    let prefix = if is_field(key) { "" } else { "HYPERV_" };
    let letters = key.chars().map(|letter| match letter {
        'A'..='Z' | '0'..='9' => letter,
        'a'..='z' => letter.to_ascii_uppercase(),
        _ => '_',
    });
    prefix.chars().chain(letters).take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use slog::{Logger, debug, error, info, o, warn};

    use super::*;

    /// A journal, and a log that goes to it.
    fn journal(path: &Path) -> (UnixDatagram, Journal) {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(SEND_TIMEOUT * 20)).unwrap();
        (socket, Journal::connect(path.to_owned()).unwrap())
    }

    fn read(socket: &UnixDatagram) -> Vec<u8> {
        let mut datagram = vec![0; 1 << 20];
        let len = socket.recv(&mut datagram).unwrap();
        datagram.truncate(len);
        datagram
    }

    #[test]
    fn a_record_has_fields_and_the_same_text_as_elsewhere() {
        let home = tempfile::tempdir().unwrap();
        let (socket, journal) = journal(&home.path().join("socket"));
        let values = o!("service" => "vss", "HYPERV_DEVICE" => "/dev/uio0");
        let log = Logger::root(journal.fuse(), values);
        warn!(log, "it {}", "broke"; "retry-in" => 3, "HYPERV_EVENT" => "backup");
        let text = String::from_utf8(read(&socket)).unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[3], "MESSAGE=it broke, service: vss, retry-in: 3");
        lines.sort_unstable();
        let expected = [
            "HYPERV_DEVICE=/dev/uio0",
            "HYPERV_EVENT=backup",
            "HYPERV_RETRY_IN=3",
            "HYPERV_SERVICE=vss",
            "MESSAGE=it broke, service: vss, retry-in: 3",
            "PRIORITY=4",
            "SYSLOG_FACILITY=3",
            "SYSLOG_IDENTIFIER=hyperv-agent",
        ];
        assert_eq!(lines, expected);
        error!(log, "");
        assert!(read(&socket).starts_with(b"PRIORITY=3\n"));
        info!(log, "");
        assert!(read(&socket).starts_with(b"PRIORITY=6\n"));
        debug!(log, "");
        assert!(read(&socket).starts_with(b"PRIORITY=7\n"));
    }

    #[test]
    fn line_breaks_make_no_fields_and_long_records_are_truncated() {
        let home = tempfile::tempdir().unwrap();
        let (socket, journal) = journal(&home.path().join("socket"));
        let log = Logger::root(journal.fuse(), o!());
        info!(log, "one\nPRIORITY=0");
        let datagram = read(&socket);
        let expected = b"MESSAGE\n\x0e\0\0\0\0\0\0\0one\nPRIORITY=0\n";
        assert!(datagram.ends_with(expected), "{datagram:?}");
        info!(log, "{}", "x".repeat(8 << 20));
        assert!(read(&socket).len() < MAX_VALUE + 100);
        info!(log, "x{}", "ü".repeat(MAX_VALUE));
        assert!(String::from_utf8(read(&socket)).is_ok());
    }

    #[test]
    fn a_restarted_journal_gets_the_number_of_lost_records() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("socket");
        let (socket, journal) = journal(&path);
        let log = Logger::root(journal.ignore_res(), o!());
        drop(socket);
        std::fs::remove_file(&path).unwrap();
        info!(log, "lost");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(SEND_TIMEOUT * 20)).unwrap();
        info!(log, "later");
        let text = |datagram| String::from_utf8(datagram).unwrap();
        let lost = "MESSAGE=log records lost, as the journal did not accept them: 1\n";
        assert!(text(read(&socket)).ends_with(lost));
        assert!(text(read(&socket)).ends_with("MESSAGE=later\n"));
    }

    #[test]
    fn a_full_journal_loses_records_and_blocks_only_for_the_timeout() {
        let home = tempfile::tempdir().unwrap();
        let (socket, journal) = journal(&home.path().join("socket"));
        let filler = UnixDatagram::unbound().unwrap();
        filler.set_nonblocking(true).unwrap();
        let path = home.path().join("socket");
        while filler.send_to(b"filler", &path).is_ok() {}
        let log = Logger::root(journal.ignore_res(), o!());
        info!(log, "lost");
        socket.set_nonblocking(true).unwrap();
        while socket.recv(&mut [0; 64]).is_ok() {}
        info!(log, "later");
        let lost = String::from_utf8(read(&socket)).unwrap();
        assert!(lost.ends_with("did not accept them: 1\n"), "{lost}");
    }

    #[test]
    fn the_journal_is_used_if_it_is_the_system_log() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("log");
        let directory = home.path().join("journal");
        std::fs::create_dir(&directory).unwrap();
        let journal = directory.join("socket");
        std::fs::write(&log, "").unwrap();
        std::fs::write(&journal, "").unwrap();
        assert_eq!(socket(&log, &directory, false), None);
        assert_eq!(socket(&log, &directory, true), Some(journal.clone()));
        std::fs::remove_file(&log).unwrap();
        std::fs::write(directory.join("dev-log"), "").unwrap();
        symlink(directory.join("dev-log"), &log).unwrap();
        assert_eq!(socket(&log, &directory, false), Some(journal));
    }

    #[test]
    fn the_journal_is_used_while_there_is_no_system_log_yet() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("log");
        let journal = home.path().join("socket");
        assert_eq!(socket(&log, home.path(), true), None);
        std::fs::write(&journal, "").unwrap();
        assert_eq!(socket(&log, home.path(), false), Some(journal.clone()));
        // The link is there before the socket.
        symlink(home.path().join("dev-log"), &log).unwrap();
        assert_eq!(socket(&log, home.path(), false), Some(journal));
    }

    #[test]
    fn a_stream_to_the_journal_is_known_by_its_device_and_inode() {
        let output = tempfile::tempfile().unwrap();
        let stat = fstat(&output).unwrap();
        let right = format!("{}:{}", stat.st_dev, stat.st_ino);
        let wrong = format!("{}:{}", stat.st_dev, stat.st_ino + 1);
        assert!(is_stream(&output, Some(&right)));
        for text in [&*wrong, "", ":", "1", "x:y"] {
            assert!(!is_stream(&output, Some(text)), "{text}");
        }
        assert!(!is_stream(&output, None));
    }

    /// Reads fields as the journal does, where it does not drop them.
    fn fields(mut datagram: &[u8]) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        while !datagram.is_empty() {
            let end = datagram.iter().position(|&byte| byte == b'\n').unwrap();
            let (line, rest) = datagram.split_at(end);
            let value = |rest: &[u8], len: usize| {
                assert_eq!(rest[len], b'\n');
                String::from_utf8(rest[..len].to_vec()).unwrap()
            };
            let (name, value) = match line.iter().position(|&byte| byte == b'=') {
                Some(at) => {
                    datagram = &rest[1..];
                    (
                        &line[..at],
                        String::from_utf8(line[at + 1..].to_vec()).unwrap(),
                    )
                }
                None => {
                    let (len, rest) = rest[1..].split_first_chunk().unwrap();
                    let len = usize::try_from(u64::from_le_bytes(*len)).unwrap();
                    datagram = &rest[len + 1..];
                    (line, value(rest, len))
                }
            };
            let is_name = |byte: &u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_');
            assert!(name.first().unwrap().is_ascii_uppercase());
            assert!(name.len() <= MAX_NAME && name.iter().all(is_name));
            fields.push((String::from_utf8(name.to_vec()).unwrap(), value));
        }
        fields
    }

    proptest! {
        #[test]
        fn the_journal_reads_what_was_encoded(
            pairs in vec((".{0,80}", "(?s).{0,40}\n?.{0,1200}"), 0..24),
        ) {
            let mut datagram = Datagram::default();
            for (key, value) in &pairs {
                datagram.add(&name(key), value);
            }
            let fields = fields(&datagram.bytes);
            prop_assert_eq!(fields.len(), pairs.len().min(MAX_FIELDS));
            for ((name, read), (key, value)) in fields.iter().zip(&pairs) {
                prop_assert_eq!(name, &super::name(key));
                prop_assert!(value.starts_with(read.as_str()));
                prop_assert!(read == value || read.len() > MAX_VALUE - 4);
            }
        }
    }
}
