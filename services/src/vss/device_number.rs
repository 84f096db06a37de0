//! The kernel's number of a device, or of a file system.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

/// The number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct DeviceNumber {
    /// The driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl DeviceNumber {
    /// That of the file system with this file.
    ///
    /// # Errors
    ///
    /// If there is no such file.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from_raw(rustix::fs::stat(path)?.st_dev))
    }

    /// The number in `st_dev` or `st_rdev`.
    pub fn from_raw(raw: u64) -> Self {
        Self {
            major: rustix::fs::major(raw),
            minor: rustix::fs::minor(raw),
        }
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// A text that is no number of a device.
#[derive(Debug, thiserror::Error)]
#[error("no number of a device, such as 8:1")]
pub struct NoDeviceNumber;

impl FromStr for DeviceNumber {
    type Err = NoDeviceNumber;

    fn from_str(text: &str) -> Result<Self, NoDeviceNumber> {
        let number = |text: &str| text.parse().map_err(|_| NoDeviceNumber);
        let (major, minor) = text.split_once(':').ok_or(NoDeviceNumber)?;
        Ok(Self {
            major: number(major)?,
            minor: number(minor)?,
        })
    }
}
