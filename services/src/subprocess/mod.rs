//! Runs a program with a deadline and without a shell.
//!
//! At the deadline the program is killed with all its descendants. A daemon that an
//! exiting program leaves behind, as `ifup` does a DHCP client, keeps running.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use self::kill::kill;
use self::wait::{Stream, wait};
use crate::program;
use crate::sys;

mod error;
mod kill;
mod start;
mod wait;

pub(crate) use error::RunError;
pub(crate) use kill::reap;
pub(crate) use start::{EXECUTABLE, StartError, find_problem};

/// Bytes that a pipe may still hold after its writer exits: the maximum for unprivileged
/// programs.
const MAX_PIPE: usize = 1 << 20;

/// Characters of a program's last lines that an error quotes.
const MAX_QUOTE: usize = 300;

/// How long a program is waited for that is open for writing: an administrator saves it, or
/// another process that has just forked has yet to close its copy of the writer's descriptor.
const WRITTEN: Duration = Duration::from_secs(1);

/// How often it is tried meanwhile.
const WRITTEN_RETRY: Duration = Duration::from_millis(5);

/// The result of a program that exited.
#[derive(Debug)]
pub(crate) struct Output {
    /// Its exit status.
    pub(crate) status: ExitStatus,
    /// The first 64 KiB of its standard output.
    pub(crate) stdout: Vec<u8>,
    /// The first 64 KiB of its standard error.
    pub(crate) stderr: Vec<u8>,
}

/// Runs `program`, an absolute path, until it exits, until `deadline`, or until `stop` is
/// readable. It has a process group of its own, no input, and no environment but a
/// `PATH` ([`program::search_path`]), `LC_ALL=C` and `variables`. Its exit status may be a failure.
///
/// # Errors
///
/// Returns any [`RunError`] but [`RunError::Failed`].
pub(crate) fn run(
    program: &Path,
    args: &[&OsStr],
    variables: &[(&str, &str)],
    deadline: Instant,
    stop: Option<BorrowedFd<'_>>,
) -> Result<Output, RunError> {
    let failed = |refusal| RunError::Start {
        program: program.to_owned(),
        source: start::explain(program, refusal),
    };
    if !program.is_absolute() {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    let mut command = Command::new(program);
    sys::reset_limits_and_signals(&mut command)
        .args(args)
        .env_clear()
        .env("PATH", program::search_path())
        .env("LC_ALL", "C")
        .envs(variables.iter().copied())
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let command = sys::exec_without_shell(&mut command);
    let written = deadline.min(Instant::now() + WRITTEN);
    let mut child = loop {
        match command.spawn() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && Instant::now() < written =>
            {
                thread::sleep(WRITTEN_RETRY);
            }
            spawned => break spawned.map_err(failed)?,
        }
    };
    let mut streams = [
        Stream::new(child.stdout.take().map(OwnedFd::from)),
        Stream::new(child.stderr.take().map(OwnedFd::from)),
    ];
    reset_oom_score(&child);
    match wait(&mut child, &mut streams, deadline, stop) {
        Ok(Some(status)) => {
            // All output of the program itself is in the pipes now. They are not read
            // to their end: a daemon that it left may keep them open.
            streams.iter_mut().for_each(|stream| stream.read(MAX_PIPE));
            let [stdout, stderr] = streams.map(|stream| stream.kept);
            Ok(Output {
                status,
                stdout,
                stderr,
            })
        }
        Ok(None) => {
            streams.iter_mut().for_each(|stream| stream.read(MAX_PIPE));
            kill(child, &streams);
            let [stdout, stderr] = streams.map(|stream| stream.kept);
            let program = program.to_owned();
            let said = quote(&stdout, &stderr);
            Err(if Instant::now() < deadline {
                RunError::Stopped { program }
            } else {
                RunError::TimedOut { program, said }
            })
        }
        Err(source) => {
            kill(child, &streams);
            let program = program.to_owned();
            Err(RunError::Wait { program, source })
        }
    }
}

impl Output {
    /// Returns the output if the program succeeded.
    ///
    /// # Errors
    ///
    /// Returns [`RunError::Failed`] with the program's last lines if it did not.
    pub(crate) fn success(self, program: &Path) -> Result<Self, RunError> {
        if self.status.success() {
            return Ok(self);
        }
        Err(RunError::Failed {
            program: program.to_owned(),
            status: self.status,
            said: quote(&self.stdout, &self.stderr),
            windows_lines: start::has_windows_lines(program),
        })
    }
}

/// Returns the last lines of the standard error, or of the standard output if there are
/// none.
fn quote(stdout: &[u8], stderr: &[u8]) -> String {
    match last_lines(stderr) {
        said if said.is_empty() => last_lines(stdout),
        said => said,
    }
}

/// Returns the last two lines that contain a letter or digit, truncated. After the error
/// some programs print the line that it is in, and then a mark below the column.
fn last_lines(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().map(str::trim);
    let mut with_words = || lines.rfind(|line| line.contains(char::is_alphanumeric));
    let (last, before) = (with_words(), with_words());
    let lines: Vec<_> = before.into_iter().chain(last).collect();
    lines.join(" / ").chars().take(MAX_QUOTE).collect()
}

/// Resets the OOM score of a program that inherits a negative one from the agent.
fn reset_oom_score(child: &Child) {
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    if score.starts_with('-') {
        // It may have exited already.
        let _ = fs::write(format!("/proc/{}/oom_score_adj", child.id()), "0");
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use rustix::process::{Pid, Signal, kill_process};

    use super::wait::MAX_KEPT;
    use super::*;
    use crate::error_chain::display_chain;

    /// Far more than any of these programs needs.
    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str, time: Duration) -> Result<Output, RunError> {
        let args = ["-c", script].map(OsStr::new);
        run(
            Path::new("/bin/sh"),
            &args,
            &[],
            Instant::now() + time,
            None,
        )
    }

    /// Returns the process whose ID the script wrote to this file.
    fn noted(path: &Path) -> Pid {
        let number = fs::read_to_string(path).unwrap();
        Pid::from_raw(number.trim().parse().unwrap()).unwrap()
    }

    /// Waits for the process to be gone or a zombie, which whoever adopted it
    /// may leave for a while.
    fn assert_dies(pid: Pid) {
        let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
        let end = Instant::now() + LONG;
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < end, "{pid:?} still runs");
            thread::yield_now();
        }
    }

    fn lives(pid: Pid) -> bool {
        rustix::process::test_kill_process(pid).is_ok()
    }

    #[test]
    fn a_program_gets_its_arguments_and_a_minimal_environment() {
        let script = "cat; echo \"$1\"; echo problem >&2; echo \"A_B=$A_B\"; unset A_B; echo \"$PATH\"; env | cut -d= -f1 | sort; exit 3";
        let args = ["-c", script, "sh", "a b;$(c)"].map(OsStr::new);
        let variables = [("A_B", "c=d e")];
        let output = run(
            Path::new("/bin/sh"),
            &args,
            &variables,
            Instant::now() + LONG,
            None,
        )
        .unwrap();
        assert_eq!(output.status.code(), Some(3));
        // The shell itself sets PWD, and some set OLDPWD, SHLVL and _.
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let mut lines: Vec<_> = text.lines().collect();
        lines.retain(|line| !["_", "OLDPWD", "PWD", "SHLVL"].contains(line));
        let path = program::search_path().into_string().unwrap();
        assert_eq!(lines, ["a b;$(c)", "A_B=c=d e", &path, "LC_ALL", "PATH"]);
        let error = output.success(Path::new("/bin/sh")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/bin/sh failed (exit status: 3), saying \"problem\""
        );
    }

    #[test]
    fn a_program_has_its_own_group_and_no_descriptor_of_the_agent() {
        let kept = tempfile::NamedTempFile::new().unwrap();
        let output = shell("cut -d' ' -f5 /proc/self/stat; ls -l /proc/self/fd", LONG).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let group: i32 = text.lines().next().unwrap().parse().unwrap();
        assert_ne!(group, rustix::process::getpgrp().as_raw_nonzero().get());
        assert!(text.contains("0 -> /dev/null"), "{text}");
        assert!(!text.contains(kept.path().to_str().unwrap()), "{text}");
    }

    #[test]
    fn output_beyond_the_limit_is_read_and_dropped() {
        let script = "head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2; exit 0";
        let output = shell(script, LONG).unwrap();
        assert!(output.status.success());
        assert_eq!(
            (output.stdout.len(), output.stderr.len()),
            (MAX_KEPT, MAX_KEPT)
        );
    }

    /// Runs a file with this text and mode, and returns the error.
    fn refusal(text: &[u8], mode: u32) -> String {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("program");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = run(&path, &[], &[], Instant::now() + LONG, None).unwrap_err();
        assert!(!error.started());
        let RunError::Start { program, source } = error else {
            panic!("{error}");
        };
        assert_eq!(program, path);
        source
            .to_string()
            .replace(path.to_str().unwrap(), "PROGRAM")
    }

    #[test]
    fn programs_that_cannot_be_run() {
        let deadline = Instant::now() + LONG;
        for (path, words) in [
            ("/nowhere/at/all", "the program does not exist"),
            ("true", "invalid input parameter"),
        ] {
            let error = run(Path::new(path), &[], &[], deadline, None).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert_eq!(source, words);
        }
        for (text, mode, words) in [
            (
                &b"#!/bin/sh\n"[..],
                0o644,
                "Permission denied (os error 13)",
            ),
            (
                b"#!/etc/passwd\n",
                0o755,
                "its interpreter /etc/passwd is not executable",
            ),
            (
                b"#!/no/sh -e\n",
                0o755,
                "its interpreter /no/sh does not exist",
            ),
            (
                b"#!/bin/sh\r\n",
                0o755,
                "its interpreter \"/bin/sh\\r\" does not exist: the file has Windows line ends; \
                 remove them with sed -i 's/\\r$//' PROGRAM",
            ),
            (
                b"\xEF\xBB\xBF#!/bin/sh\n",
                0o755,
                "it begins with a byte order mark; remove it with sed -i \
                 '1s/^\\xEF\\xBB\\xBF//' PROGRAM",
            ),
            (b"\x7FELF", 0o755, "it is built for another architecture"),
            (
                b"echo\n",
                0o755,
                "it is not a program; a script must begin with a line like #!/bin/sh",
            ),
        ] {
            assert_eq!(refusal(text, mode), words);
        }
    }

    #[test]
    fn an_interpreter_without_its_own_is_named() {
        let interpreter = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        fs::write(&interpreter, "#!/no/sh\n").unwrap();
        fs::set_permissions(&interpreter, fs::Permissions::from_mode(0o755)).unwrap();
        let script = format!("#!{}\n", interpreter.display());
        let expected = format!(
            "the interpreter or dynamic loader that {} needs does not exist",
            interpreter.display()
        );
        assert_eq!(refusal(script.as_bytes(), 0o755), expected);
    }

    #[test]
    fn windows_line_ends_are_named_where_a_script_fails() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("program");
        fs::write(&path, "#!/usr/bin/env sh-from-windows\r\nexit 0\r\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let output = run(&path, &[], &[], Instant::now() + LONG, None).unwrap();
        let error = output.success(&path).unwrap_err();
        assert!(error.started());
        let words = "; the file has Windows line ends, which may be why";
        assert!(error.to_string().ends_with(words), "{error}");
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str| place.path().join(name);
        let (leader, child, session, orphan) = (
            file("leader"),
            file("child"),
            file("session"),
            file("orphan"),
        );
        // A child in the group, one in a session of its own, and one there whose
        // parent is gone and that is known by its pipe only. All ignore SIGTERM.
        let script = format!(
            "trap '' TERM; echo problem >&2; echo $$ >{}
             sleep 1000 & echo $! >{}
             setsid sh -c 'echo $$ >{}; sleep 1000; true' &
             (setsid sh -c 'echo $$ >{}; exec sleep 1000' &)
             exec >/dev/null
             wait",
            leader.display(),
            child.display(),
            session.display(),
            orphan.display()
        );
        // The files exist long before the timeout.
        let error = shell(&script, Duration::from_secs(6)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/bin/sh timed out and was killed, saying \"problem\""
        );
        assert!(!lives(noted(&leader)));
        for path in [child, session, orphan] {
            assert_dies(noted(&path));
        }
    }

    #[test]
    fn a_program_that_is_open_for_writing_is_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let program = place.path().join("program");
        let mut file = File::create(&program).unwrap();
        file.write_all(b"#!/bin/sh\necho up\n").unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o755))
            .unwrap();
        let run_it = || run(&program, &[], &[], Instant::now() + LONG, None);
        let error = display_chain(&run_it().unwrap_err());
        assert!(error.ends_with("Text file busy (os error 26)"), "{error}");
        thread::scope(|scope| {
            scope.spawn(|| {
                // If this ends too soon, nothing was waited for.
                thread::sleep(WRITTEN / 10);
                drop(file);
            });
            assert_eq!(run_it().unwrap().stdout, b"up\n");
        });
    }

    #[test]
    fn a_program_that_closes_its_streams_and_hangs_is_killed() {
        let error = shell("exec >&- 2>&-; sleep 1000", Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, RunError::TimedOut { .. }), "{error}");
    }

    #[test]
    fn a_program_that_writes_without_end_is_killed() {
        let error = shell("cat /dev/zero", Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, RunError::TimedOut { .. }), "{error}");
    }

    #[test]
    fn a_daemon_that_holds_the_pipes_neither_delays_nor_dies() {
        let place = tempfile::tempdir().unwrap();
        let daemon = place.path().join("daemon");
        let script = format!("echo up; sleep 1000 & echo $! >{}", daemon.display());
        let output = shell(&script, LONG).unwrap();
        assert_eq!(output.stdout, b"up\n");
        let pid = noted(&daemon);
        assert!(lives(pid));
        kill_process(pid, Signal::KILL).unwrap();
    }

    #[test]
    fn the_quote_is_short_and_contains_words() {
        assert_eq!(last_lines(b"a\n b \n\n  \n"), "a / b");
        assert_eq!(last_lines(b"a\nb\nc"), "b / c");
        assert_eq!(last_lines(b"a\n"), "a");
        assert_eq!(last_lines(b""), "");
        assert_eq!(last_lines(&[b'x'; 5000]).len(), MAX_QUOTE);
        assert_eq!(last_lines(b"caf\xc3\xa9 \xff\n"), "caf\u{e9} \u{fffd}");
        let netplan = b"60.yaml:1:11: Invalid YAML:\nnetwork: [\n          ^\n";
        assert_eq!(
            last_lines(netplan),
            "60.yaml:1:11: Invalid YAML: / network: ["
        );
    }
}
