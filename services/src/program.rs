//! Finds programs of the machine: the network managers' tools, and `systemctl`.
//!
//! They are looked for in the directories of the agent's `PATH`, which the unit or the
//! service manager sets, and then in the usual ones. A program runs as root, so it is
//! found only where root alone decides what it is.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::trusted::{Refusal, trusted};

/// Where programs are looked for after the directories of `PATH`. NixOS has the last one
/// only.
const USUAL: [&str; 5] = [
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/run/current-system/sw/bin",
];

/// Why there is no program of a name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Missing {
    /// No directory has one.
    #[error("program `{name}` not found in {searched}")]
    Nowhere {
        name: String,
        /// The directories.
        searched: String,
    },

    /// Another user than root could change what would be run.
    #[error("refusing to run {}", path.display())]
    Untrusted { path: PathBuf, source: Refusal },
}

/// Finds a program. `root` stands for `/`.
///
/// # Errors
///
/// Any [`Missing`].
pub(crate) fn find(root: &Path, name: &str) -> Result<PathBuf, Missing> {
    find_in(&env::var_os("PATH").unwrap_or_default(), root, name)
}

fn find_in(path: &OsStr, root: &Path, name: &str) -> Result<PathBuf, Missing> {
    let mut refused = None;
    for directory in directories(path) {
        let directory = directory.strip_prefix("/").unwrap_or(&directory);
        let program = root.join(directory).join(name);
        if !is_executable(&program) {
            continue;
        }
        match trusted(&program) {
            // Not where it leads to: BusyBox and others go by the name that they have here.
            Ok(_) => return Ok(program),
            Err(refusal) => refused = refused.or(Some((program, refusal))),
        }
    }
    Err(match refused {
        Some((path, source)) => Missing::Untrusted { path, source },
        None => {
            let name = name.to_owned();
            let searched = searched(path);
            Missing::Nowhere { name, searched }
        }
    })
}

/// Returns the `PATH` for programs that the agent starts: the directories of its own and the
/// usual ones, those left out in which another user than root could place a program. The
/// usual ones need not exist.
pub(crate) fn search_path() -> OsString {
    search_path_in(&env::var_os("PATH").unwrap_or_default())
}

fn search_path_in(path: &OsStr) -> OsString {
    let usable = |directory: &PathBuf| match trusted(directory) {
        Ok(_) => true,
        Err(Refusal::Unseen(_)) => is_usual(directory),
        Err(_) => false,
    };
    // The variable was split at each colon, so no directory has one.
    env::join_paths(directories(path).filter(usable)).unwrap_or_default()
}

/// Returns the directories in which programs are looked for, each once. A relative one would
/// depend on where the agent was started.
fn directories(path: &OsStr) -> impl Iterator<Item = PathBuf> {
    let mut directories: Vec<PathBuf> = Vec::new();
    let usual = USUAL.into_iter().map(PathBuf::from);
    for directory in env::split_paths(path).chain(usual) {
        if directory.is_absolute() && !directories.contains(&directory) {
            directories.push(directory);
        }
    }
    directories.into_iter()
}

fn is_usual(directory: &Path) -> bool {
    USUAL.iter().any(|usual| directory == Path::new(usual))
}

/// Says where a program was looked for.
fn searched(path: &OsStr) -> String {
    let directories: Vec<String> = directories(path)
        .map(|directory| directory.display().to_string())
        .collect();
    let mut searched = directories.join(", ");
    let relative =
        env::split_paths(path).find(|it| !it.is_absolute() && !it.as_os_str().is_empty());
    if let Some(relative) = relative {
        let relative = String::from_utf8_lossy(relative.as_os_str().as_bytes()).into_owned();
        searched += &format!("; `{relative}` in PATH is not an absolute path and is not used");
    }
    searched
}

/// Returns whether this is a file that may be run.
pub(crate) fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Creates a root with a program at each of these paths.
    fn root(programs: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for program in programs {
            let program = root.path().join(program);
            let directory = program.parent().unwrap();
            fs::create_dir_all(directory).unwrap();
            set_mode(directory, 0o755);
            fs::write(&program, "").unwrap();
            set_mode(&program, 0o755);
        }
        root
    }

    fn found(path: &str, root: &Path) -> Result<PathBuf, Missing> {
        let found = find_in(OsStr::new(path), root, "ip")?;
        Ok(found.strip_prefix(root).unwrap().to_owned())
    }

    #[test]
    fn the_directories_of_path_come_before_the_usual_ones() {
        let root = root(&["nix/store/1-iproute2/bin/ip", "opt/bin/ip", "usr/bin/ip"]);
        let root = root.path();
        for (path, expected) in [
            ("", "usr/bin/ip"),
            ("/usr/local/bin:/opt/bin:/usr/bin", "opt/bin/ip"),
            ("/opt/bin:/nix/store/1-iproute2/bin", "opt/bin/ip"),
            ("/nix/store/1-iproute2/bin", "nix/store/1-iproute2/bin/ip"),
        ] {
            assert_eq!(found(path, root).unwrap(), Path::new(expected), "{path}");
        }
        // The link of NixOS, into a directory that its builders may write to.
        fs::remove_file(root.join("usr/bin/ip")).unwrap();
        fs::create_dir_all(root.join("run/current-system/sw/bin")).unwrap();
        set_mode(&root.join("nix/store"), 0o1775);
        let link = root.join("run/current-system/sw/bin/ip");
        symlink(root.join("nix/store/1-iproute2/bin/ip"), link).unwrap();
        let expected = Path::new("run/current-system/sw/bin/ip");
        assert_eq!(found("", root).unwrap(), expected);
    }

    #[test]
    fn what_others_could_have_placed_is_not_run() {
        let root = root(&["home/bin/ip", "usr/bin/ip"]);
        let root = root.path();
        set_mode(&root.join("home/bin"), 0o1777);
        let path = "/home/bin:/usr/bin";
        assert_eq!(found(path, root).unwrap(), Path::new("usr/bin/ip"));
        fs::remove_file(root.join("usr/bin/ip")).unwrap();
        let error = found(path, root).unwrap_err();
        let place = root.join("home/bin");
        let text = format!("refusing to run {}/ip", place.display());
        assert_eq!(error.to_string(), text);
        let reason = error.source().unwrap().to_string();
        assert!(reason.contains("chmod go-w"), "{reason}");
        // Nor is it found by a program that the agent starts.
        let path = format!("{}:/usr/bin", place.display());
        let given = search_path_in(OsStr::new(&path));
        assert_eq!(
            given,
            "/usr/bin:/usr/sbin:/sbin:/bin:/run/current-system/sw/bin"
        );
    }

    #[test]
    fn relative_directories_are_named_and_not_used() {
        let root = root(&["bin/ip"]);
        set_mode(&root.path().join("bin/ip"), 0o644);
        let error = found("bin:.::/opt", root.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "program `ip` not found in /opt, /usr/sbin, /usr/bin, /sbin, /bin, \
             /run/current-system/sw/bin; `bin` in PATH is not an absolute path and is not used"
        );
        let given = search_path_in(OsStr::new("bin:.::"));
        assert_eq!(
            given,
            "/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin"
        );
    }
}
