//! Commands of a local user to a service that serves the host.

use std::fmt::Debug;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::backup::Backup;

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Freeze and thaw as for a backup.
    Rehearse(Rehearse),
}

/// Options of a rehearsal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearse {
    /// How long file systems stay frozen, from the end of freezing.
    pub hold: Duration,
    /// Whether only hooks run, and nothing is frozen.
    pub hooks_only: bool,
}

/// The client of a command. Its descriptor is the connection, which reports a hang-up
/// when the client is gone. No method waits for the client.
pub trait Client: AsFd + Debug + Send {
    /// Sends a line of progress.
    fn progress(&mut self, words: &str);

    /// Sends the result, or why the command failed.
    fn end(self: Box<Self>, result: Result<Backup, String>);
}
