//! Opening the machine's real devices.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use hyperv_services::registry::Entry;
use hyperv_vmbus::hvutil::HvUtilChannel;
use hyperv_vmbus::uio::UioChannel;
use hyperv_vmbus::{Channel, ChannelError};
use nix::errno::Errno;

use crate::locate::Located;

/// Opens a device. The simulated host brings its own.
pub trait Opener: Send + Sync {
    /// Opens `device` for the service `entry`.
    ///
    /// # Errors
    ///
    /// Any [`OpenError`].
    fn open(&self, device: &Located, entry: &Entry) -> Result<Box<dyn Channel>, OpenError>;
}

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another program serves it.
    #[error("{holder} has the device open: stop that program, and keep it from starting again")]
    Held {
        /// Who, in words.
        holder: String,
    },
    /// Opening failed.
    #[error("{source}{hint}")]
    Channel {
        /// What failed.
        source: ChannelError,
        /// What to do about it, as the rest of the sentence.
        hint: &'static str,
    },
}

impl From<ChannelError> for OpenError {
    fn from(source: ChannelError) -> Self {
        let errno = match &source {
            ChannelError::Io { source, .. } => source.raw_os_error().map(Errno::from_raw),
            _ => None,
        };
        let hint = match errno {
            Some(Errno::EBUSY) => {
                ": another program serves the device; stop it (hv_fcopy_daemon, hv_kvp_daemon \
                 or hv_vss_daemon), and keep it from starting again"
            }
            Some(Errno::EACCES | Errno::EPERM) => {
                ": run hyperv-agent as root, and let it reach the device where a sandbox, \
                 a container or a security module confines it"
            }
            _ => "",
        };
        Self::Channel { source, hint }
    }
}

/// Opens the kernel's devices.
#[derive(Debug, Default)]
pub struct KernelDevices;

impl Opener for KernelDevices {
    fn open(&self, device: &Located, entry: &Entry) -> Result<Box<dyn Channel>, OpenError> {
        match device {
            Located::Uio { node, ring_len } => {
                // The kernel lets any number of programs open a UIO device, and
                // two that read one ring spoil it for each other.
                if let Some(holder) = holder_of(node) {
                    return Err(OpenError::Held { holder });
                }
                Ok(Box::new(UioChannel::open(node, *ring_len)?))
            }
            Located::HvUtil { node } => {
                let hvutil = &entry.hvutil;
                Ok(Box::new(HvUtilChannel::open(
                    node,
                    hvutil.registration,
                    hvutil.message_len,
                )?))
            }
        }
    }
}

/// The program that has the character device `node` open, in words. As far as
/// can be seen: without root, other users' descriptors cannot.
fn holder_of(node: &Path) -> Option<String> {
    let device = fs::metadata(node).ok()?;
    if !device.file_type().is_char_device() {
        return None;
    }
    let has_it_open = |process: &Path| {
        fs::read_dir(process.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|descriptor| fs::metadata(descriptor.path()).ok())
            .any(|open| open.file_type().is_char_device() && open.rdev() == device.rdev())
    };
    fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| has_it_open(&Path::new("/proc").join(pid.to_string())))
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{} (process {pid})", name.trim_end())
        })
}
