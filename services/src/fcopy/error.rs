//! Why a copy fails: a message for the administrator and a status for the host.
//!
//! Paths and names come from the host and are formatted with `{:?}`, which escapes control
//! characters.

use std::path::PathBuf;

use hyperv_vmbus::ic::Status;
use rustix::io::Errno;

use super::owners::Distrust;
use super::request::Malformed;

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Malformed(#[from] Malformed),

    #[error("the file name {0:?} is not a single path component")]
    FileName(String),

    #[error("the directory {0:?} contains `..`")]
    DirectoryName(String),

    #[error(
        "{0:?} is a Windows path, with a drive letter or a backslash; use a Linux path: \
         -DestinationPath /srv/in/"
    )]
    WindowsPath(String),

    #[error("a size of {size} bytes is over the configured limit of {limit}")]
    OverLimit { size: u64, limit: u64 },

    #[error("a file cannot have {0} bytes")]
    Size(u64),

    #[error("{0:?} lies outside the directories that the configuration allows")]
    NotAllowed(PathBuf),

    #[error("{path:?} is not {action}: {reason}")]
    Untrusted {
        path: PathBuf,
        action: &'static str,
        reason: Distrust,
    },

    #[error(
        "the directory {0:?} does not exist, and the host did not request to create it \
         (Copy-VMFile -CreateFullPath)"
    )]
    NoDirectory(PathBuf),

    #[error("cannot open the directory {path:?}{}", advice(.source))]
    Directory { path: PathBuf, source: Errno },

    #[error("cannot create the directory {path:?}{}", advice(.source))]
    MakeDirectory { path: PathBuf, source: Errno },

    #[error("the directory {path:?} is {what} in it until `chattr -{flag}`")]
    ProtectedDirectory {
        path: PathBuf,
        what: &'static str,
        flag: char,
    },

    #[error(
        "{0:?} exists already, and the host did not request to overwrite it (Copy-VMFile \
         -Force)"
    )]
    Exists(PathBuf),

    #[error(
        "{path:?} is a directory; to copy into it, end its name with a slash: -DestinationPath {:?}",
        path.join("")
    )]
    IsDirectory { path: PathBuf, overwrite: bool },

    #[error("{path:?} is {what} and will not be overwritten")]
    NotReplaceable { path: PathBuf, what: &'static str },

    #[error("cannot {doing} {path:?}{}", advice(.source))]
    File {
        doing: &'static str,
        path: PathBuf,
        source: Errno,
    },

    #[error("the file system of {path:?} has no room for {size} bytes{}", advice(.source))]
    NoRoom {
        path: PathBuf,
        size: u64,
        source: Errno,
    },

    #[error(
        "the file system of {path:?} has no room for {size} bytes: {available} are available, and \
         {keep_free} of them stay free (`keep-free`)"
    )]
    KeepFree {
        path: PathBuf,
        size: u64,
        available: u64,
        keep_free: u64,
    },

    #[error(
        "cannot preserve {what} of {path:?}, which is to be overwritten; does the agent run as root?"
    )]
    Keep {
        what: String,
        path: PathBuf,
        source: Errno,
    },

    #[error("the host sent too many separate parts of the file")]
    TooManyParts,

    #[error("the host never sent bytes {start} to {end}")]
    Hole { start: u64, end: u64 },

    #[error("the host sent no more data for {0} s (`idle-limit`)")]
    Stalled(u64),

    #[error("the host negotiated again during the copy")]
    Renegotiated,

    #[error("no copy is in progress")]
    Idle,
}

impl Error {
    /// Returns the status for the host.
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Malformed(_)
            | Self::FileName(_)
            | Self::DirectoryName(_)
            | Self::WindowsPath(_)
            | Self::OverLimit { .. }
            | Self::Size(_) => Status::INVALID_ARGUMENT,
            Self::Exists(_)
            | Self::IsDirectory {
                overwrite: false, ..
            } => Status::ALREADY_EXISTS,
            Self::NoRoom { .. } | Self::KeepFree { .. } => Status::DISK_FULL,
            Self::Directory { source, .. }
            | Self::MakeDirectory { source, .. }
            | Self::File { source, .. }
            | Self::Keep { source, .. } => match *source {
                Errno::NOSPC | Errno::DQUOT => Status::DISK_FULL,
                Errno::NAMETOOLONG => Status::INVALID_ARGUMENT,
                _ => Status::FAIL,
            },
            _ => Status::FAIL,
        }
    }
}

/// Advice on errors whose name does not suggest what to do, to append to a path.
fn advice(source: &Errno) -> &'static str {
    match *source {
        Errno::ROFS => {
            " (mount its file system with `rw`; if an error made it read-only, `dmesg` shows it)"
        }
        Errno::DQUOT => " (the disk quota is used up: see repquota(8))",
        Errno::NAMETOOLONG => " (a name has at most 255 bytes on most file systems)",
        Errno::ACCESS => {
            " (does the agent run as root, and do SELinux, AppArmor or the server of a network \
             file system allow it?)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_chain::display_chain;

    #[test]
    fn a_full_disk_and_a_full_quota_are_the_same_to_the_host() {
        for source in [Errno::NOSPC, Errno::DQUOT] {
            let path = PathBuf::from("/f");
            let doing = "write to";
            let error = Error::File {
                doing,
                path,
                source,
            };
            assert_eq!(error.status(), Status::DISK_FULL);
        }
    }

    #[test]
    fn the_message_ends_with_the_cause() {
        let path = PathBuf::from("/f\n");
        let doing = "write to";
        let source = Errno::IO;
        let error = Error::File {
            doing,
            path,
            source,
        };
        assert_eq!(
            display_chain(&error),
            r#"cannot write to "/f\n": Input/output error (os error 5)"#
        );
    }

    #[test]
    fn some_errors_come_with_advice() {
        for (source, words) in [
            (Errno::ROFS, "`rw`"),
            (Errno::DQUOT, "repquota(8)"),
            (Errno::NAMETOOLONG, "255 bytes"),
            (Errno::ACCESS, "SELinux"),
        ] {
            let path = || PathBuf::from("/srv/f");
            let errors = [
                Error::Directory {
                    path: path(),
                    source,
                },
                Error::MakeDirectory {
                    path: path(),
                    source,
                },
                Error::File {
                    doing: "look at",
                    path: path(),
                    source,
                },
                Error::NoRoom {
                    path: path(),
                    size: 1,
                    source,
                },
            ];
            for error in errors.map(|error| error.to_string()) {
                assert!(error.contains("/srv/f") && error.contains(words), "{error}");
            }
        }
    }
}
