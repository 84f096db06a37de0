//! The lock under which configurations are applied, rolled back and undone.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::kvp::config::Config;
use crate::kvp::network::error::InjectError;
use crate::retry::retry_until;
use crate::trusted::make_state_directory;

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Takes the lock, by `deadline`.
pub(in crate::kvp::network) fn lock(
    config: &Config,
    deadline: Instant,
) -> Result<File, InjectError> {
    let directory = &config.environment.state_dir;
    let path = directory.join("network-lock");
    let error = |doing| InjectError::file(doing, &path);
    make_state_directory(directory).map_err(InjectError::file("use the directory", directory))?;
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(&path)
        .map_err(error("open"))?;
    let lock = || match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(())),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(cause) => Err(error("lock")(cause.into())),
    };
    let locked = retry_until(deadline, POLL_INTERVAL..=POLL_INTERVAL, lock)?;
    locked.map(|()| file).ok_or(InjectError::Busy)
}
