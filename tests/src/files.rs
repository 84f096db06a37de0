//! The files of a guest machine, as scenarios look at them: here where the
//! guest has the host's own file systems, through a helper where it does not.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use std::io::{ErrorKind, Read};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use serde::{Deserialize, Serialize};

use crate::compare::expect_same;
use crate::scenario::Pattern;

/// What stands under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Anything else.
    Other,
}

/// What is known of a file without reading it; a link is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, the special ones included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub len: u64,
}

/// The files of a guest. Every call fails where the operation does.
#[expect(clippy::missing_errors_doc)]
pub trait Files: Send + Sync {
    /// Facts of what is there; `None` if nothing is.
    fn facts(&self, path: &Path) -> Result<Option<Facts>>;

    /// Everything below a directory that is none itself, as paths from there.
    fn list(&self, directory: &Path) -> Result<Vec<String>>;

    /// All of a file, which is not a large one.
    fn read(&self, path: &Path) -> Result<Vec<u8>>;

    /// Expects a file with the bytes that `expected` returns.
    fn expect_same(&self, path: &Path, expected: &mut dyn Read) -> Result<()>;

    /// Makes or replaces a file.
    fn write(&self, path: &Path, data: &[u8]) -> Result<()>;

    /// Makes or replaces a file with the bytes of a [`Pattern`].
    fn fill(&self, path: &Path, seed: u64, len: usize) -> Result<()> {
        self.write(path, &Pattern::bytes(seed, len))
    }

    /// Changes permission bits.
    fn set_mode(&self, path: &Path, mode: u32) -> Result<()>;

    /// Gives a file, or a link itself, to another user.
    fn give(&self, path: &Path, _user: u32) -> Result<()> {
        bail!("{} cannot be given to another user here", path.display())
    }

    /// Makes a directory and those above it.
    fn create_directories(&self, path: &Path) -> Result<()>;

    /// Makes a symbolic link.
    fn link(&self, target: &Path, link: &Path) -> Result<()>;

    /// Makes a named pipe.
    fn make_fifo(&self, path: &Path) -> Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Removes a directory and all that is in it.
    fn remove_directory(&self, path: &Path) -> Result<()>;

    /// Makes a file that nobody may change, or one that may be again.
    fn set_immutable(&self, path: &Path, immutable: bool) -> Result<()>;

    /// Mounts an empty file system of `size` bytes where the program sees it,
    /// and returns the path under which the other calls reach it.
    fn mount(&self, path: &Path, size: usize) -> Result<PathBuf>;

    /// Unmounts it, busy or not.
    fn unmount(&self, path: &Path) -> Result<()>;
}

/// Files of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalFiles {
    /// The program, if it is a process in its own mount namespace.
    pub pid: Option<u32>,
}

impl LocalFiles {
    /// A command in the mount namespace of the program.
    fn within(pid: u32) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{pid}/ns/mnt"));
        command
    }
}

/// Runs a command; what it says is the error where it fails.
fn succeed(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| name.clone())?;
    ensure!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

impl Files for LocalFiles {
    fn facts(&self, path: &Path) -> Result<Option<Facts>> {
        let found = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            found => found.with_context(|| path.display().to_string())?,
        };
        let kind = match found.file_type() {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_symlink() => Kind::Link,
            _ => Kind::Other,
        };
        Ok(Some(Facts {
            kind,
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            len: found.len(),
        }))
    }

    fn list(&self, directory: &Path) -> Result<Vec<String>> {
        let mut found = Vec::new();
        list(directory, directory, &mut found)?;
        Ok(found)
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        fs::read(path).with_context(|| format!("reading {}", path.display()))
    }

    fn expect_same(&self, path: &Path, expected: &mut dyn Read) -> Result<()> {
        expect_same(path, expected)
    }

    fn write(&self, path: &Path, data: &[u8]) -> Result<()> {
        fs::write(path, data).with_context(|| format!("writing {}", path.display()))
    }

    fn set_mode(&self, path: &Path, mode: u32) -> Result<()> {
        Ok(fs::set_permissions(path, Permissions::from_mode(mode))?)
    }

    fn give(&self, path: &Path, user: u32) -> Result<()> {
        lchown(path, Some(user), Some(user)).with_context(|| format!("giving {}", path.display()))
    }

    fn create_directories(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))
    }

    fn link(&self, target: &Path, link: &Path) -> Result<()> {
        Ok(symlink(target, link)?)
    }

    fn make_fifo(&self, path: &Path) -> Result<()> {
        Ok(nix::unistd::mkfifo(
            path,
            nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR,
        )?)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).with_context(|| format!("removing {}", path.display()))
    }

    fn remove_directory(&self, path: &Path) -> Result<()> {
        fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()))
    }

    fn set_immutable(&self, path: &Path, immutable: bool) -> Result<()> {
        let file = File::open(path)?;
        let mut flags = ioctl_getflags(&file)?;
        flags.set(IFlags::IMMUTABLE, immutable);
        Ok(ioctl_setflags(&file, flags)?)
    }

    fn mount(&self, path: &Path, size: usize) -> Result<PathBuf> {
        let options = format!("size={size},mode=755");
        let Some(pid) = self.pid else {
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount(
                Some("tmpfs"),
                path,
                Some("tmpfs"),
                flags,
                Some(options.as_str()),
            )?;
            return Ok(path.to_owned());
        };
        succeed(
            Self::within(pid)
                .args(["mount", "-t", "tmpfs", "-o", &options, "tmpfs"])
                .arg(path),
        )?;
        let relative = path.strip_prefix("/").context("the path is relative")?;
        Ok(Path::new(&format!("/proc/{pid}/root")).join(relative))
    }

    fn unmount(&self, path: &Path) -> Result<()> {
        match self.pid {
            None => Ok(umount2(path, MntFlags::MNT_DETACH)?),
            Some(pid) => succeed(Self::within(pid).args(["umount", "-l"]).arg(path)),
        }
    }
}

fn list(root: &Path, directory: &Path, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(root, &entry.path(), found)?;
        } else {
            let path = entry.path();
            found.push(path.strip_prefix(root)?.to_string_lossy().into_owned());
        }
    }
    Ok(())
}
