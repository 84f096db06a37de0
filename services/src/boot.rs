//! What systemd has still to do in this boot.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error_chain::display_chain;
use crate::program;
use crate::subprocess::{RunError, run};

/// How long `systemctl` may take: the machine is busy while it boots.
const QUERY: Duration = Duration::from_secs(5);

/// How often `systemctl` may fail in a row. Then nothing is waited for any longer.
const MAX_FAILURES: u32 = 3;

/// Returns whether systemd manages the machine's services. `run` stands for `/run`.
pub fn has_systemd(run: &Path) -> bool {
    run.join("systemd/system").is_dir()
}

/// Returns the path of `systemctl`, if there is one.
pub fn systemctl() -> Option<PathBuf> {
    program::find(Path::new("/"), "systemctl").ok()
}

/// Returns what `systemctl show` says of units: a block of lines for each, in this order,
/// with an empty line between two. Units that do not exist have a block, too.
///
/// # Errors
///
/// Why `systemctl` failed.
pub fn show(systemctl: &Path, units: &[&str], properties: &str) -> Result<String, String> {
    let properties = format!("--property={properties}");
    let args = ["show", &properties]
        .into_iter()
        .chain(units.iter().copied());
    let args: Vec<_> = args.map(OsStr::new).collect();
    let output = run(systemctl, &args, &[], Instant::now() + QUERY, None)
        .and_then(|output| output.success(systemctl))
        .map_err(|error| display_chain(&error))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until systemd has mounted all local file systems, or has given that up, as it
/// does before it starts an emergency shell. Calls `waiting` if it has not yet.
pub fn wait_for_local_file_systems(waiting: impl FnOnce()) {
    if let Some(systemctl) = systemctl() {
        wait(&systemctl, Duration::from_secs(1), waiting);
    }
}

fn wait(systemctl: &Path, interval: Duration, waiting: impl FnOnce()) {
    let mut waiting = Some(waiting);
    let mut failures = 0;
    loop {
        match has_job(systemctl, "local-fs.target") {
            Ok(false) => return,
            Ok(true) => {
                failures = 0;
                if let Some(waiting) = waiting.take() {
                    waiting();
                }
            }
            Err(_) => failures += 1,
        }
        if failures == MAX_FAILURES {
            return;
        }
        thread::sleep(interval);
    }
}

/// Returns whether systemd is about to start or stop a unit. `systemctl` asks the first
/// process itself, so that this works before D-Bus does.
fn has_job(systemctl: &Path, unit: &str) -> Result<bool, RunError> {
    let args = ["show", "--property=Job", unit].map(OsStr::new);
    let output = run(systemctl, &args, &[], Instant::now() + QUERY, None)?.success(systemctl)?;
    // The line is missing, or the number is 0, if there is no job.
    let output = String::from_utf8_lossy(&output.stdout);
    let job = output.lines().find_map(|line| line.strip_prefix("Job="));
    Ok(job.is_some_and(|job| !["", "0"].contains(&job.trim())))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Runs [`wait`] with a `systemctl` whose n-th run executes the n-th of `runs`, and the
    /// last of them again and again. Returns how often it ran, and how often `waiting` was
    /// called.
    fn waited(runs: &[&str]) -> (usize, usize) {
        let home = tempfile::tempdir().unwrap();
        let count = home.path().join("count");
        let cases: String = runs
            .iter()
            .enumerate()
            .map(|(at, run)| format!("[ $n -gt {at} ] && run='{run}'\n"))
            .collect();
        let script = format!(
            "#!/bin/sh\necho \"$*\" >>{count}\nn=$(wc -l <{count})\n{cases}eval \"$run\"\n",
            count = count.display()
        );
        let systemctl = home.path().join("systemctl");
        fs::write(&systemctl, script).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let mut told = 0;
        wait(&systemctl, Duration::ZERO, || told += 1);
        let asked = fs::read_to_string(&count).unwrap();
        for line in asked.lines() {
            assert_eq!(line, "show --property=Job local-fs.target");
        }
        (asked.lines().count(), told)
    }

    #[test]
    fn local_file_systems_are_waited_for_while_they_have_a_job() {
        assert_eq!(waited(&["true"]), (1, 0));
        assert_eq!(waited(&["echo Job=0"]), (1, 0));
        let job = "echo Job=17";
        assert_eq!(waited(&[job, job, "true"]), (3, 1));
    }

    #[test]
    fn a_systemctl_that_fails_is_not_asked_for_ever() {
        assert_eq!(waited(&["exit 1"]), (3, 0));
        let job = "echo Job=17";
        assert_eq!(waited(&["exit 1", "exit 1", job, "exit 1", "true"]), (5, 1));
    }

    #[test]
    fn another_service_manager_is_told_apart() {
        let run = tempfile::tempdir().unwrap();
        assert!(!has_systemd(run.path()));
        fs::create_dir_all(run.path().join("systemd/system")).unwrap();
        assert!(has_systemd(run.path()));
    }
}
