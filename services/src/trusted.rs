//! Checks that root alone controls a path.
//!
//! The agent runs programs as root, acts on files it left itself, and writes files that
//! root's programs read. If another user could write to one of these directories, the
//! agent would act for that user. The check applies to hooks, site scripts, pools,
//! network managers' directories and the agent's own directories.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Mode bits that let the group and others write.
const OTHERS_WRITE: u32 = 0o022;

const STICKY: u32 = 0o1000;

/// Symbolic links that are followed for one path, as many as the kernel follows.
const MAX_LINKS: u32 = 40;

/// Why a path is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It or a directory above it belongs to another user.
    #[error(
        "{} belongs to user {owner}, who could put anything there; give it to root with chown",
        place.display()
    )]
    Owner {
        /// The file or directory.
        place: PathBuf,
        /// User ID of its owner.
        owner: u32,
    },

    /// Another user may write to it or to a directory above it.
    #[error(
        "users other than the owner can write to {} (mode {mode:04o}); remove the permission with \
         chmod go-w", place.display()
    )]
    Writable {
        /// The file or directory.
        place: PathBuf,
        /// Its permission bits.
        mode: u32,
    },

    /// Its status cannot be read, as that of a dangling symbolic link.
    #[error("cannot read its status, or that of its target")]
    Unseen(#[source] io::Error),
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unseen(error) => error,
            refusal => Self::new(io::ErrorKind::PermissionDenied, refusal),
        }
    }
}

/// Resolves `path` and checks that root alone controls it: the file and the directories
/// above it belong to root (or to the user of this process), and no other user may write
/// to them. In the directories further up a sticky bit is enough: it keeps users from
/// renaming what is not theirs.
///
/// Symbolic links are followed if they belong to root, too. The caller must use the
/// returned path, which has no symbolic links and is what was checked.
///
/// # Errors
///
/// Any [`Refusal`].
pub(crate) fn trusted(path: &Path) -> Result<PathBuf, Refusal> {
    let real = resolve(path)?;
    // The directory of a file must not be writable either: a link to any program of
    // root's could take the file's name.
    let is_directory = real.last().is_some_and(|(_, seen)| seen.is_dir());
    check(&real, if is_directory { 1 } else { 2 })?;
    Ok(place(&real).to_owned())
}

/// The places on the way from `/` to a file, itself last, each with its status.
type Way = Vec<(PathBuf, Metadata)>;

/// Where a way leads.
fn place(way: &[(PathBuf, Metadata)]) -> &Path {
    way.last().map_or(Path::new("/"), |(place, _)| place)
}

/// Resolves `path`, and checks that root alone controls each symbolic link on the way: a
/// link that another user can change could lead to root's files now and elsewhere a
/// moment later.
fn resolve(path: &Path) -> Result<Way, Refusal> {
    let path = std::path::absolute(path).map_err(Refusal::Unseen)?;
    let mut way = Way::new();
    let mut links = 0;
    let mut to_go: Vec<PathBuf> = parts(&path);
    while let Some(part) = to_go.pop() {
        if part == Path::new("..") {
            // What is above `/` is `/`.
            way.truncate(way.len().saturating_sub(1).max(1));
            continue;
        }
        if part.has_root() {
            way.clear();
        }
        let next = place(&way).join(&part);
        let seen = fs::symlink_metadata(&next).map_err(Refusal::Unseen)?;
        if !seen.is_symlink() {
            way.push((next, seen));
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Refusal::Unseen(Errno::LOOP.into()));
        }
        check_owner(&next, &seen)?;
        check(&way, 0)?;
        let text = fs::read_link(&next).map_err(Refusal::Unseen)?;
        to_go.extend(parts(&text));
    }
    Ok(way)
}

/// Returns the components of a path, last first. The `/` of an absolute path replaces
/// the path that it is joined to.
fn parts(path: &Path) -> Vec<PathBuf> {
    let parts = path.components().rev();
    let parts = parts.filter(|part| *part != Component::CurDir);
    parts.map(|part| PathBuf::from(part.as_os_str())).collect()
}

/// Checks that root alone controls the directory of a file that may not exist. The
/// file's own mode does not matter.
///
/// # Errors
///
/// Returns any [`Refusal`]; [`Refusal::Unseen`] if the directory does not exist.
pub(crate) fn trusted_directory_of(file: &Path) -> Result<(), Refusal> {
    let way = match resolve(file) {
        // A dangling link may lead somewhere a moment later.
        Err(Refusal::Unseen(error))
            if error.kind() == io::ErrorKind::NotFound && !file.is_symlink() =>
        {
            None
        }
        way => Some(way?),
    };
    // A link is in one directory and may lead into another.
    if way.as_ref().is_none_or(|way| place(way) != file) {
        trusted(file.parent().unwrap_or(Path::new("/")))?;
    }
    let mut way = way.unwrap_or_default();
    way.pop();
    check(&way, 1)
}

/// Opens a directory that root alone controls.
///
/// # Errors
///
/// Returns an error if it cannot be opened, or `PermissionDenied` with the [`Refusal`].
pub fn open_directory(directory: &Path) -> io::Result<OwnedFd> {
    let real = trusted(directory)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(real, flags, Mode::empty())?)
}

/// Opens the state directory, and creates it for root alone if it is missing.
///
/// # Errors
///
/// Returns an error if it cannot be created, and those of [`open_directory`].
pub fn make_state_directory(directory: &Path) -> io::Result<OwnedFd> {
    make(directory, 0o700)
}

/// Opens the runtime directory, and creates it if it is missing: readable for all,
/// writable for root.
///
/// # Errors
///
/// Returns an error if it cannot be created, and those of [`open_directory`].
pub fn make_runtime_directory(directory: &Path) -> io::Result<OwnedFd> {
    make(directory, 0o755)
}

/// Opens a directory, and creates it and those above if they are missing.
///
/// # Errors
///
/// Returns an error if it cannot be created, and those of [`open_directory`].
pub(crate) fn make(directory: &Path, mode: u32) -> io::Result<OwnedFd> {
    match open_directory(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    // Through another user's link it would be created where that user chooses.
    if let Some(existing) = directory.ancestors().find(|above| above.exists()) {
        check(&resolve(existing)?, 0)?;
    }
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)?;
    open_directory(directory)
}

fn check_owner(place: &Path, seen: &Metadata) -> Result<(), Refusal> {
    match seen.uid() {
        0 => Ok(()),
        owner if owner == rustix::process::geteuid().as_raw() => Ok(()),
        owner => Err(Refusal::Owner {
            place: place.to_owned(),
            owner,
        }),
    }
}

/// Checks that root alone controls each place on the way, the last `strictly` of them
/// without sticky bits.
fn check(way: &[(PathBuf, Metadata)], strictly: usize) -> Result<(), Refusal> {
    for (above, (place, seen)) in way.iter().rev().enumerate() {
        check_owner(place, seen)?;
        let mode = seen.mode() & 0o7777;
        if mode & OTHERS_WRITE != 0 && (above < strictly || mode & STICKY == 0) {
            return Err(Refusal::Writable {
                place: place.to_owned(),
                mode,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_link_that_another_user_has_put_there_leads_nowhere() {
        if !rustix::process::geteuid().is_root() {
            return hyperv_needs::skip("only root can give a link to another user");
        }
        let place = tempfile::tempdir().unwrap();
        let (directory, link) = (place.path().join("directory"), place.path().join("link"));
        fs::create_dir(&directory).unwrap();
        symlink(&directory, &link).unwrap();
        assert_eq!(trusted(&link).unwrap(), directory);
        lchown(&link, Some(65534), None).unwrap();
        // Root's link to it leads nowhere either.
        let roots = place.path().join("root's");
        symlink(&link, &roots).unwrap();
        for path in [&link, &link.join("."), &roots, &roots.join("..")] {
            let refusal = trusted(path).unwrap_err();
            assert!(matches!(refusal, Refusal::Owner { owner: 65534, .. }));
            open_directory(path).unwrap_err();
            trusted_directory_of(path).unwrap_err();
            make(&path.join("new"), 0o755).unwrap_err();
            assert!(!path.join("new").exists());
        }
    }

    #[test]
    fn a_state_directory_that_others_can_write_to_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("a/b");
        make_state_directory(&directory).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o7777, 0o700);
        make_state_directory(&directory).unwrap();
        for (path, mode) in [(&directory, 0o1777), (&place.path().join("a"), 0o777)] {
            set_mode(path, mode);
            let error = make_state_directory(&directory).unwrap_err();
            assert!(error.to_string().contains("chmod go-w"), "{error}");
            set_mode(path, 0o755);
        }
    }

    #[test]
    fn a_link_is_followed_where_both_its_directory_and_the_other_are_trusted() {
        let place = tempfile::tempdir().unwrap();
        let (here, there) = (place.path().join("here"), place.path().join("there"));
        for directory in [&here, &there] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(there.join("file"), "").unwrap();
        symlink(there.join("file"), here.join("link")).unwrap();
        // Who may write to the file is its owner's affair.
        set_mode(&there.join("file"), 0o666);
        trusted_directory_of(&here.join("link")).unwrap();
        trusted_directory_of(&here.join("not there yet")).unwrap();
        for directory in [&here, &there] {
            set_mode(directory, 0o777);
            trusted_directory_of(&here.join("link")).unwrap_err();
            set_mode(directory, 0o755);
        }
        trusted_directory_of(&place.path().join("no/directory")).unwrap_err();
        fs::remove_file(there.join("file")).unwrap();
        let refusal = trusted_directory_of(&here.join("link")).unwrap_err();
        assert!(matches!(refusal, Refusal::Unseen(_)), "{refusal}");
    }

    #[test]
    fn links_are_followed_as_the_kernel_follows_them() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        for directory in ["a/b", "c"] {
            fs::create_dir_all(place.join(directory)).unwrap();
        }
        for (text, link) in [
            ("a/b", "link"),
            ("../link/./..", "a/up"),
            ("../c", "a/out"),
            ("loop", "loop"),
        ] {
            symlink(text, place.join(link)).unwrap();
        }
        for path in ["link", "a/up/b/", "link/../../link", "a/./b/../up", "a/out"] {
            let path = place.join(path);
            assert_eq!(trusted(&path).unwrap(), path.canonicalize().unwrap());
        }
        let refusal = trusted(&place.join("loop")).unwrap_err();
        assert!(matches!(refusal, Refusal::Unseen(_)), "{refusal}");
        // Who may write to the link's directory could put another of root's links there.
        set_mode(&place.join("a"), 0o777);
        trusted(&place.join("a/out")).unwrap_err();
    }
}
