//! Copying files from the host into the guest. Protocol section 5.

use std::path::PathBuf;

use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::{MessageType, Status, Version};

use crate::registry::{Entry, HvUtil};
use crate::service::Service;

/// The service's entry in the registry.
pub static ENTRY: Entry = Entry {
    name: "fcopy",
    summary: "file copy from the host (Copy-VMFile)",
    class: Guid::from_u128(0x34d14be3_dee4_41c8_9ae7_6b174977c192),
    message_type: MessageType::FILE_COPY,
    frameworks: &[Version::new(3, 0)],
    versions: &[Version::new(1, 1)],
    hvutil: HvUtil {
        node: "vmbus/hv_fcopy",
        registration: &1u32.to_le_bytes(),
        message_len: 6196,
    },
    default: true,
    make: |config, log| {
        Box::new(FileCopy {
            config: config.fcopy.clone(),
            log: log.clone(),
        })
    },
};

/// What the service is configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Directories under which files may be written; `/` allows all.
    pub directories: Vec<PathBuf>,
    /// Permission bits of a new file.
    pub mode: u32,
    /// Bytes a file may have at most; `None` for no limit.
    pub max_size: Option<u64>,
    /// Whether a file is synced to its disk before the host is told that it is
    /// complete.
    pub sync: bool,
    /// Where the names of unfinished files are kept that would outlive the
    /// agent's death.
    pub state_directory: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directories: vec![PathBuf::from("/")],
            mode: 0o744,
            max_size: None,
            sync: true,
            state_directory: PathBuf::from("/var/lib/hyperv-agent"),
        }
    }
}

struct FileCopy {
    #[allow(dead_code)]
    config: Config,
    #[allow(dead_code)]
    log: slog::Logger,
}

impl Service for FileCopy {
    fn handle_uio(&mut self, _body: &mut [u8]) -> Status {
        Status::FAIL
    }
    fn handle_hvutil(&mut self, _buffer: &mut [u8], _len: usize) -> usize {
        0
    }
}
