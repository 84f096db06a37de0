//! The guest's files, through the helper.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use hyperv_sim::files::{Facts, Files};

use super::client::Guest;
use super::request::{Digest, Reply, Request};

/// The guest's files.
pub struct RemoteFiles(pub Arc<Guest>);

impl Files for RemoteFiles {
    fn facts(&self, path: &Path) -> Result<Option<Facts>> {
        match self.0.call(&Request::Facts(path.to_owned()))? {
            Reply::Facts(facts) => Ok(facts),
            other => bail!("the helper answered {other:?}"),
        }
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>> {
        match self.0.call(&Request::List(directory.to_owned()))? {
            Reply::Names(names) => Ok(names),
            other => bail!("the helper answered {other:?}"),
        }
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        match self.0.call(&Request::Read(path.to_owned()))? {
            Reply::Bytes(bytes) => Ok(bytes),
            other => bail!("the helper answered {other:?}"),
        }
    }

    fn expect_same(&self, path: &Path, expected: &mut dyn Read) -> Result<()> {
        let expected = Digest::of(expected)?.reply();
        let found = self.0.call(&Request::Digest(path.to_owned()))?;
        ensure!(
            found == expected,
            "{} differs from what was copied: expected {expected:?}, found {found:?}",
            path.display()
        );
        Ok(())
    }

    fn write(&self, path: &Path, data: &[u8]) -> Result<()> {
        self.0.order(&Request::Write {
            path: path.to_owned(),
            data: data.to_vec(),
        })
    }

    fn fill(&self, path: &Path, seed: u64, len: usize) -> Result<()> {
        self.0.order(&Request::Fill {
            path: path.to_owned(),
            seed,
            len,
        })
    }

    fn set_mode(&self, path: &Path, mode: u32) -> Result<()> {
        self.0.order(&Request::SetMode {
            path: path.to_owned(),
            mode,
        })
    }

    fn create_directories(&self, path: &Path) -> Result<()> {
        self.0.order(&Request::CreateDirectories(path.to_owned()))
    }

    fn link(&self, target: &Path, link: &Path) -> Result<()> {
        self.0.order(&Request::Link {
            target: target.to_owned(),
            link: link.to_owned(),
        })
    }

    fn make_fifo(&self, path: &Path) -> Result<()> {
        self.0.order(&Request::MakeFifo(path.to_owned()))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.0.order(&Request::Remove(path.to_owned()))
    }

    fn remove_directory(&self, path: &Path) -> Result<()> {
        self.0.order(&Request::RemoveDirectory(path.to_owned()))
    }

    fn set_immutable(&self, path: &Path, immutable: bool) -> Result<()> {
        self.0.order(&Request::SetImmutable {
            path: path.to_owned(),
            immutable,
        })
    }

    fn mount(&self, path: &Path, size: usize) -> Result<PathBuf> {
        self.0.order(&Request::Mount {
            path: path.to_owned(),
            size,
        })?;
        Ok(path.to_owned())
    }

    fn unmount(&self, path: &Path) -> Result<()> {
        self.0.order(&Request::Unmount(path.to_owned()))
    }
}
