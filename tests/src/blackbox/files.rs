//! The files of a guest that has a private root.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Weak;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::Guest;
use crate::files::{Facts, Files, LocalFiles};

/// The guest's files: every path is one in its root.
pub(super) struct RootedFiles {
    /// The root, as this process sees it.
    pub(super) view: PathBuf,
    pub(super) guest: Weak<Guest>,
}

impl RootedFiles {
    fn at(&self, path: &Path) -> PathBuf {
        self.view.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn within(&self, job: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        let guest = self.guest.upgrade().context("the guest has ended")?;
        guest.namespace.run(job)?
    }
}

const LOCAL: LocalFiles = LocalFiles { pid: None };

impl Files for RootedFiles {
    fn facts(&self, path: &Path) -> Result<Option<Facts>> {
        LOCAL.facts(&self.at(path))
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>> {
        LOCAL.list(&self.at(directory))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        LOCAL.read(&self.at(path))
    }

    fn expect_same(&self, path: &Path, expected: &mut dyn Read) -> Result<()> {
        LOCAL.expect_same(&self.at(path), expected)
    }

    fn write(&self, path: &Path, data: &[u8]) -> Result<()> {
        LOCAL.write(&self.at(path), data)
    }

    fn set_mode(&self, path: &Path, mode: u32) -> Result<()> {
        LOCAL.set_mode(&self.at(path), mode)
    }

    fn create_directories(&self, path: &Path) -> Result<()> {
        LOCAL.create_directories(&self.at(path))
    }

    fn link(&self, target: &Path, link: &Path) -> Result<()> {
        LOCAL.link(target, &self.at(link))
    }

    fn make_fifo(&self, path: &Path) -> Result<()> {
        LOCAL.make_fifo(&self.at(path))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        LOCAL.remove(&self.at(path))
    }

    fn remove_directory(&self, path: &Path) -> Result<()> {
        LOCAL.remove_directory(&self.at(path))
    }

    fn set_immutable(&self, path: &Path, immutable: bool) -> Result<()> {
        LOCAL.set_immutable(&self.at(path), immutable)
    }

    fn mount(&self, path: &Path, size: usize) -> Result<PathBuf> {
        let (place, options) = (path.to_owned(), format!("size={size},mode=755"));
        self.within(move || {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            let options = Some(options.as_str());
            Ok(mount(Some("tmpfs"), &place, Some("tmpfs"), flags, options)?)
        })?;
        Ok(path.to_owned())
    }

    fn unmount(&self, path: &Path) -> Result<()> {
        let path = path.to_owned();
        self.within(move || Ok(umount2(&path, MntFlags::MNT_DETACH)?))
    }
}
