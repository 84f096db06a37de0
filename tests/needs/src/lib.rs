//! What tests need of the machine beside a Rust toolchain, and the one way in
//! which a test is skipped where that is not there. What they do at random is in
//! [`random`].

pub mod random;

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

/// Debian's packages of the programs that tests run and a small system lacks.
const PACKAGES: &[(&str, &str)] = &[
    ("bash", "bash"),
    ("btrfs", "btrfs-progs"),
    ("capinfos", "wireshark-common"),
    ("dmsetup", "dmsetup"),
    ("fsfreeze", "util-linux"),
    ("ip", "iproute2"),
    ("ldd", "libc-bin"),
    ("losetup", "mount"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mount", "mount"),
    ("nsenter", "util-linux"),
    ("python3", "python3"),
    ("setpriv", "util-linux"),
    ("strace", "strace"),
    ("tshark", "tshark"),
    ("umount", "mount"),
    ("unshare", "util-linux"),
    ("xfs_io", "xfsprogs"),
];

/// Where programs are beside `PATH`, which may lack these for root too.
const PLACES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Says that the test that calls this cannot run here, whether or not the harness
/// captures its output. The caller returns then.
///
/// # Panics
///
/// Where the environment variable `CI` is set: everything must run there.
#[track_caller]
pub fn skip(why: &str) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    // The harness captures what the macros print. In one piece: others print too.
    let line = format!("skipped {test}: {}\n", why.trim_end());
    let _ = io::stderr().write_all(line.as_bytes());
    let ci = env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(!ci, "skipped where CI is set: {why}");
}

/// A program of the machine, to be run.
///
/// # Errors
///
/// In words, with the package to install, where it is not there.
pub fn program(name: &str) -> Result<Command, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    match find(name, env::split_paths(&path)) {
        Some(file) => Ok(Command::new(file)),
        None => Err(missing(name)),
    }
}

fn find(name: &str, path: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    path.chain(PLACES.map(PathBuf::from))
        .map(|place| place.join(name))
        .find(|file| file.is_file())
}

fn missing(name: &str) -> String {
    match PACKAGES.iter().find(|(program, _)| *program == name) {
        Some((_, package)) => format!("{name} is missing: install {package}"),
        None => format!("{name} is missing"),
    }
}

/// `unshare` with these options, to run a program in private namespaces.
///
/// # Errors
///
/// In words, where this process cannot have them: it is not root, or a container
/// keeps it from that.
pub fn namespaces(options: &[&str]) -> Result<Command, String> {
    let unshare = || {
        let mut unshare = program("unshare")?;
        unshare.args(options);
        Ok::<_, String>(unshare)
    };
    let tried = unshare()?.arg("true").output();
    let tried = tried.map_err(|error| format!("unshare: {error}"))?;
    if !tried.status.success() {
        return Err(format!(
            "private namespaces need root, and no container that forbids them ({})",
            String::from_utf8_lossy(&tried.stderr).trim()
        ));
    }
    unshare()
}

/// What one of the scripts in `tests`, such as `databases`, prints: the path of
/// what it fetched.
///
/// # Errors
///
/// What the script says where it cannot.
pub fn fetched(script: &str) -> Result<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(script);
    let output = program("bash")?.arg(path).output();
    let output = output.map_err(|error| format!("bash: {error}"))?;
    let (said, failed) = (output.stdout, output.stderr);
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&said).trim().to_owned()),
        false => Err(format!(
            "{script}: {}",
            String::from_utf8_lossy(&failed).trim()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_comes_with_the_package_that_has_it() {
        let nowhere = || [PathBuf::from("/nowhere")].into_iter();
        assert_eq!(find("no-such-program", nowhere()), None);
        assert_eq!(missing("mkfs.xfs"), "mkfs.xfs is missing: install xfsprogs");
        let error = program("no-such-program").unwrap_err();
        assert_eq!(error, "no-such-program is missing");
        assert!(program("sh").unwrap().status().is_ok());
    }
}
