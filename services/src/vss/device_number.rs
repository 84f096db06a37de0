//! Device numbers.

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

/// The device number of a block device, or the one by which the kernel knows a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct DeviceNumber {
    /// The number of the driver.
    pub major: u32,
    /// The number of the device of that driver.
    pub minor: u32,
}

impl DeviceNumber {
    /// Returns the number of the file system that a file is on.
    ///
    /// # Errors
    ///
    /// What `stat` returns.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from_raw(rustix::fs::stat(path)?.st_dev))
    }

    /// Returns the number that `st_dev` or `st_rdev` encodes.
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

/// A text is no device number.
#[derive(Debug, thiserror::Error)]
#[error("invalid device number: expected one such as 8:1")]
pub struct InvalidDeviceNumber;

impl FromStr for DeviceNumber {
    type Err = InvalidDeviceNumber;

    fn from_str(text: &str) -> Result<Self, InvalidDeviceNumber> {
        let number = |text: &str| text.parse().map_err(|_| InvalidDeviceNumber);
        let (major, minor) = text.split_once(':').ok_or(InvalidDeviceNumber)?;
        Ok(Self {
            major: number(major)?,
            minor: number(minor)?,
        })
    }
}
