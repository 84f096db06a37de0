//! The host's last IP configuration of an interface, in the status and in `kvp ip`.

use std::path::PathBuf;
use std::time::SystemTime;

use hyperv_services::clock;
use hyperv_services::kvp::network::record::{Record, State};
use serde::Serialize;

use crate::terminal::escaped;

/// An IP configuration of the host, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IpConfiguration {
    /// The interface.
    pub interface: String,
    /// When the host set it.
    #[serde(with = "clock::rfc3339")]
    pub at: SystemTime,
    /// The network manager that it was written for.
    pub manager: String,
    /// The files that were written for the network manager.
    pub files: Vec<PathBuf>,
    /// What the host wants, as text.
    pub settings: String,
    /// `in-force`, `deferred` or `not-in-force`.
    pub state: &'static str,
    /// How the interface differed, or why the configuration is not in force.
    pub details: String,
    /// The state in words.
    #[serde(skip)]
    words: String,
}

impl From<&Record> for IpConfiguration {
    fn from(record: &Record) -> Self {
        let (state, details) = match &record.state {
            State::InForce { differences } => ("in-force", differences.trim()),
            State::Deferred => ("deferred", ""),
            State::NotInForce { why } => ("not-in-force", why.as_str()),
        };
        Self {
            interface: record.interface.clone(),
            at: record.time,
            manager: record.manager.clone(),
            files: record.files.clone(),
            settings: record.settings.clone(),
            state,
            details: details.to_owned(),
            words: record.to_string(),
        }
    }
}

impl IpConfiguration {
    /// Returns what there is to say, in lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![escaped(&self.settings), escaped(&self.words)];
        let files = self.files.iter();
        lines.extend(files.map(|path| escaped(&path.to_string_lossy())));
        lines
    }
}
