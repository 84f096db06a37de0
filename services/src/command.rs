//! What a local user may ask of a service while it serves the host.

use std::fmt::Debug;
use std::os::fd::AsFd;
use std::time::Duration;

use crate::backup::Backup;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// To freeze and thaw as for a backup.
    Rehearse(Rehearse),
}

/// How a backup is rehearsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rehearse {
    /// How long file systems are held frozen, beyond what it takes to freeze them.
    pub hold: Duration,
    /// Whether only the hooks are run, and nothing is frozen.
    pub hooks_only: bool,
}

/// Who asks. The descriptor is that of the connection: it reports a hang-up when
/// they are gone. Nothing here waits for them.
pub trait Client: AsFd + Debug + Send {
    /// Tells how far it is.
    fn progress(&mut self, words: &str);

    /// Tells what came of it, or why it cannot be done.
    fn end(self: Box<Self>, result: Result<Backup, String>);
}
