//! Freezing file systems for backups. Protocol section 8.
//!
//! The way of a FREEZE: `uio` or `hvutil` decodes it into a [`request`];
//! [`hooks`] lets the applications come to rest; [`plan`] says which of the
//! machine's [`mounts`] are frozen and in which order, by what lies on what
//! ([`stack`]); [`open`] gets a descriptor of each; the [`guard`], a process of
//! its own, gets a copy of each descriptor; and then [`freeze`] does nothing but
//! one call for each.

use std::path::PathBuf;
use std::time::Duration;

use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::{MessageType, Version};

use crate::registry::{Entry, HvUtil};
use crate::unsupported::Unsupported;

pub mod hooks;
pub mod ioctl;
pub mod open;
pub mod plan;

/// Bytes of every message on the character device.
const MESSAGE_LEN: usize = 12;

const OP_REGISTER: u8 = 129;

/// The service's entry in the registry.
pub static ENTRY: Entry = Entry {
    name: "vss",
    summary: "freezing file systems for backups",
    class: Guid::from_u128(0x35fa2e29_ea23_4236_96ae_3a6ebacba440),
    message_type: MessageType::VSS,
    frameworks: &[Version::new(3, 0)],
    versions: &[Version::new(5, 0)],
    hvutil: HvUtil {
        node: "vmbus/hv_vss",
        registration: &[OP_REGISTER, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        message_len: MESSAGE_LEN,
    },
    default: false,
    make: |_, _| Box::new(Unsupported),
};

/// What the service is configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Only these file systems are frozen; all, where it names none.
    pub include: Patterns,
    /// These are not.
    pub exclude: Patterns,
    /// How long file systems stay frozen before they are thawed without having
    /// been asked to.
    pub time_limit: Duration,
    /// The programs that are run before and after.
    pub hooks: hooks::Config,
    /// Where it is noted what is frozen; no file system that can be frozen.
    pub runtime_directory: PathBuf,
    /// What stands for `/` where the machine's own files are read: `/` but in
    /// tests.
    pub root: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            include: Patterns::default(),
            exclude: Patterns::default(),
            time_limit: Duration::from_secs(10 * 60),
            hooks: hooks::Config::default(),
            runtime_directory: PathBuf::from("/run/hyperv-agent"),
            root: PathBuf::from("/"),
        }
    }
}

/// File systems, named by globs (`*` and `?`, which match a `/` too). A file
/// system is meant if any of the globs is its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patterns {
    /// Of a directory at which it is mounted.
    pub mount_points: Vec<String>,
    /// Of its type, such as `xfs`.
    pub types: Vec<String>,
    /// Of its device: the source that it was mounted from, or the kernel's name
    /// for it below `/dev`.
    pub devices: Vec<String>,
}
