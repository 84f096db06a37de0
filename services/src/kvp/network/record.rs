//! What became of the host's last IP configuration of each interface. A file for each interface
//! lies in the runtime directory: it outlives the service, which is created again with its
//! device, but not a reboot.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use slog::{Logger, warn};

use crate::error_chain::display_chain;
use crate::kvp::files;
use crate::kvp::network::target::is_plain;
use crate::kvp::request::{Family, IpInfo};
use crate::{replace, trusted};

const DIRECTORY: &str = "ip-configurations";

/// Permission bits of the directory and of its files.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// An IP configuration of the host, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The interface's name.
    pub interface: String,
    /// When the host set it.
    pub time: SystemTime,
    /// The network manager's name for messages.
    pub manager: String,
    /// Its value of `backend`; empty for a script of the site.
    pub key: String,
    /// The files that were written for it.
    pub files: Vec<PathBuf>,
    /// The settings, for messages.
    pub settings: String,
    /// What became of it.
    pub state: State,
    /// What the host sent; the adapter is the GUID of its device.
    pub info: IpInfo,
}

/// What became of an IP configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It was on the interface when the agent looked, with these differences.
    InForce {
        /// For messages: empty, or each in parentheses with a space in front.
        differences: String,
    },
    /// Its files are written, and the network manager has not started yet.
    Deferred,
    /// The network manager has started, or failed to, and it is not in force.
    NotInForce {
        /// Why, for messages.
        why: String,
    },
}

impl fmt::Display for Record {
    /// The state in words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            State::InForce { differences } => write!(f, "in force{differences}"),
            State::Deferred => write!(f, "written, in force when {} starts", self.manager),
            State::NotInForce { why } => write!(f, "not in force: {why}"),
        }
    }
}

impl Record {
    /// Writes the record, in place of an earlier one of the interface.
    ///
    /// # Errors
    ///
    /// Any error of creating the directory or writing the file.
    fn write(&self, runtime_dir: &Path) -> io::Result<()> {
        trusted::make_runtime_directory(runtime_dir)?;
        let directory = trusted::make(&runtime_dir.join(DIRECTORY), DIRECTORY_MODE)?;
        let file = replace::NewFile {
            name: OsStr::new(&self.interface),
            bytes: &self.render(),
            mode: FILE_MODE,
            owner: None,
            sync: false,
        };
        file.write(&directory)
    }

    /// Writes the record; a failure is only logged.
    pub(super) fn write_logged(&self, runtime_dir: &Path, log: &Logger) {
        if let Err(error) = self.write(runtime_dir) {
            let path = runtime_dir.join(DIRECTORY).join(&self.interface);
            let cause = display_chain(&error);
            warn!(log, "cannot write {}: {cause}", path.display());
        }
    }

    fn render(&self) -> Vec<u8> {
        let seconds = self.time.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = seconds.unwrap_or_default().as_secs().to_string();
        let (state, detail) = match &self.state {
            State::InForce { differences } => ("in-force", differences.as_str()),
            State::Deferred => ("deferred", ""),
            State::NotInForce { why } => ("not-in-force", why.as_str()),
        };
        let info = &self.info;
        let family = info.family.0.to_string();
        let dhcp = if info.dhcp { "1" } else { "0" };
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let mut line = |key: &str, value: &[u8]| {
            let plain = value.iter().map(|byte| match byte {
                0 | b'\n' => b' ',
                byte => *byte,
            });
            lines.push(
                [key.as_bytes(), &[0]]
                    .concat()
                    .into_iter()
                    .chain(plain)
                    .collect(),
            );
        };
        for (key, value) in [
            ("time", seconds.as_str()),
            ("manager", &self.manager),
            ("key", &self.key),
            ("settings", &self.settings),
            (state, detail),
            ("device", &info.adapter),
            ("family", &family),
            ("dhcp", dhcp),
            ("addresses", &info.addresses),
            ("subnets", &info.subnets),
            ("gateways", &info.gateways),
            ("dns", &info.dns),
        ] {
            line(key, value.as_bytes());
        }
        for file in &self.files {
            line("file", file.as_os_str().as_bytes());
        }
        lines.join(&b'\n')
    }

    fn parse(interface: &str, bytes: &[u8]) -> Option<Self> {
        let mut record = Self {
            interface: interface.to_owned(),
            time: SystemTime::UNIX_EPOCH,
            manager: String::new(),
            key: String::new(),
            files: Vec::new(),
            settings: String::new(),
            state: State::Deferred,
            info: IpInfo::default(),
        };
        for line in bytes.split(|&byte| byte == b'\n') {
            let end = line.iter().position(|&byte| byte == 0)?;
            let (key, value) = (line.get(..end)?, line.get(end + 1..)?);
            let text = || String::from_utf8_lossy(value).into_owned();
            let info = &mut record.info;
            match key {
                b"time" => {
                    let time = Duration::from_secs(text().parse().ok()?);
                    record.time = SystemTime::UNIX_EPOCH.checked_add(time)?;
                }
                b"manager" => record.manager = text(),
                b"key" => record.key = text(),
                b"settings" => record.settings = text(),
                b"in-force" => {
                    record.state = State::InForce {
                        differences: text(),
                    }
                }
                b"deferred" => record.state = State::Deferred,
                b"not-in-force" => record.state = State::NotInForce { why: text() },
                b"device" => info.adapter = text(),
                b"family" => info.family = Family(text().parse().ok()?),
                b"dhcp" => info.dhcp = value == b"1",
                b"addresses" => info.addresses = text(),
                b"subnets" => info.subnets = text(),
                b"gateways" => info.gateways = text(),
                b"dns" => info.dns = text(),
                b"file" => record.files.push(OsString::from_vec(value.to_vec()).into()),
                _ => return None,
            }
        }
        Some(record)
    }
}

/// Returns the records of all interfaces, by name.
#[must_use]
pub fn records(runtime_dir: &Path) -> Vec<Record> {
    let paths = files::in_directory(&runtime_dir.join(DIRECTORY));
    let records = paths.iter().filter_map(|path| {
        // Not what a killed agent was writing.
        let interface = path.file_name()?.to_str().filter(|name| is_plain(name))?;
        Record::parse(interface, &files::bytes(path)?)
    });
    records.collect()
}

/// Removes the records of configurations that wrote one of these files.
pub(super) fn forget<'a>(runtime_dir: &Path, files: impl Iterator<Item = &'a Path>) {
    let files: Vec<_> = files.collect();
    for record in records(runtime_dir) {
        // Several interfaces can have a file in common, such as /etc/resolv.conf.
        let is_of = record.files.iter().all(|file| files.contains(&&**file));
        if is_of && !record.files.is_empty() {
            remove(runtime_dir, &record.interface);
        }
    }
}

/// Removes the record of an interface, if there is one.
pub(super) fn remove(runtime_dir: &Path, interface: &str) {
    let _ = fs::remove_file(runtime_dir.join(DIRECTORY).join(interface));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(interface: &str, state: State) -> Record {
        Record {
            interface: interface.to_owned(),
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            manager: "NetworkManager".to_owned(),
            key: "networkmanager".to_owned(),
            files: vec!["/etc/a b".into(), "/etc/c".into()],
            settings: "10.0.0.5/24, gateway 10.0.0.1".to_owned(),
            state,
            info: IpInfo {
                adapter: "f8615163-0000-1000-2000-00155d010203".to_owned(),
                family: Family::BOTH,
                dhcp: false,
                addresses: "10.0.0.5".to_owned(),
                subnets: "255.255.255.0".to_owned(),
                gateways: "10.0.0.1".to_owned(),
                dns: String::new(),
            },
        }
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let runtime = tempfile::tempdir().unwrap();
        assert_eq!(records(runtime.path()), []);
        let mut all = vec![
            record("eth0", State::Deferred),
            record(
                "eth1",
                State::InForce {
                    differences: " (still on the interface: 10.0.0.9)".to_owned(),
                },
            ),
        ];
        for record in &all {
            record.write(runtime.path()).unwrap();
        }
        assert_eq!(records(runtime.path()), all);
        all[0].state = State::NotInForce {
            why: "it failed".to_owned(),
        };
        all[0].write(runtime.path()).unwrap();
        assert_eq!(records(runtime.path()), all);
        all[1].files = vec!["/etc/d".into()];
        all[1].write(runtime.path()).unwrap();
        let files = ["/etc/c", "/etc/other", "/etc/a b"].map(Path::new);
        forget(runtime.path(), files.into_iter());
        assert_eq!(records(runtime.path()), all[1..]);
    }

    #[test]
    fn a_text_of_the_host_adds_no_line() {
        let mut evil = record("eth0", State::Deferred);
        evil.info.addresses = "10.0.0.5\nfile\0/etc/passwd".to_owned();
        let read = Record::parse("eth0", &evil.render()).unwrap();
        assert_eq!(read.files, evil.files);
        assert_eq!(read.info.addresses, "10.0.0.5 file /etc/passwd");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Record::parse("eth0", &bytes);
        }
    }
}
