//! The system log where it is not the journal: lines for `/dev/log`.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use slog::{BorrowedKV, Drain, Level, OwnedKVList, Record, RecordStatic, o};
use slog_syslog::{Facility, Streamer3164, SyslogBuilder};

use crate::fields::RecordText;

/// A drain that sends records to syslog without their structured fields, and reconnects to a
/// daemon that was restarted.
pub(crate) struct Syslog {
    socket: PathBuf,
    stream: Mutex<Streamer3164>,
}

impl Syslog {
    pub(crate) fn connect(socket: PathBuf) -> io::Result<Self> {
        let stream = Mutex::new(Self::stream(&socket)?);
        Ok(Self { socket, stream })
    }

    fn stream(socket: &PathBuf) -> io::Result<Streamer3164> {
        SyslogBuilder::new()
            .facility(Facility::LOG_DAEMON)
            // The crate drops more severe records; the threshold has filtered already.
            .level(Level::Critical)
            .unix(socket)
            .start()
    }
}

impl Drain for Syslog {
    type Ok = ();
    type Err = io::Error;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> io::Result<()> {
        let static_part = RecordStatic {
            location: record.location(),
            tag: record.tag(),
            level: record.level(),
        };
        let RecordText(text) = RecordText::of(record, values);
        let none = OwnedKVList::from(o!());
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let send = |stream: &Streamer3164| {
            stream.log(
                &Record::new(&static_part, &format_args!("{text}"), BorrowedKV(&())),
                &none,
            )
        };
        if send(&stream).is_ok() {
            return Ok(());
        }
        *stream = Self::stream(&self.socket)?;
        send(&stream)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use slog::{Logger, info, warn};

    use super::*;

    #[test]
    fn syslog_reconnects_to_a_restarted_daemon() {
        use std::os::unix::net::UnixDatagram;

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let bind = || {
            let daemon = UnixDatagram::bind(&path).unwrap();
            daemon
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            daemon
        };
        let daemon = bind();
        let syslog = Syslog::connect(path.clone()).unwrap();
        let log = Logger::root(syslog.ignore_res(), o!("HYPERV_DEVICE" => "left out"));
        let read = |daemon: &UnixDatagram| {
            let mut line = [0; 256];
            let len = daemon.recv(&mut line).unwrap();
            String::from_utf8(line[..len].to_vec()).unwrap()
        };
        info!(log, "first"; "key" => "value", "HYPERV_EVENT" => "left out");
        let line = read(&daemon);
        // Facility daemon (3), severity notice (5).
        assert!(line.starts_with("<29>"), "{line}");
        assert!(line.ends_with("first, key: value"), "{line}");
        drop(daemon);
        std::fs::remove_file(&path).unwrap();
        let daemon = bind();
        warn!(log, "second");
        assert!(read(&daemon).ends_with("second"));
    }
}
