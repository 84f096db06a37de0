//! Runs a program of the machine for a limited time, without a shell.
//!
//! A program that is not done by its deadline is killed with everything it
//! started. A daemon that a program leaves behind when it is done, as `ifup`
//! leaves a DHCP client, lives on.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

/// Bytes that are kept of each stream; what follows is read and dropped.
const MAX_KEPT: usize = 64 << 10;

/// Bytes read at a time.
const CHUNK: usize = 16 << 10;

/// Bytes that a pipe may hold when its writer is gone: the most that an
/// unprivileged program may ask for.
const MAX_PIPE: usize = 1 << 20;

/// How often the child is looked at where the kernel has no pidfd (before Linux
/// 5.3).
const LOOK: Duration = Duration::from_millis(20);

/// How long a killed program may take to be gone before it is left to a thread.
const GRACE: Duration = Duration::from_millis(500);

/// Letters of a program's last words that an error shows.
const MAX_WORDS: usize = 300;

/// What a program did.
#[derive(Debug)]
pub(crate) struct Output {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// The first 64 KiB of its standard output.
    pub(crate) stdout: Vec<u8>,
    /// The first 64 KiB of its standard error.
    pub(crate) stderr: Vec<u8>,
}

/// Why a program is no help.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("there is no program {}", .0.display())]
    NotFound(PathBuf),

    #[error("cannot run {}", program.display())]
    Start { program: PathBuf, source: io::Error },

    #[error("{} was not done in time and was killed{}", program.display(), after(.said))]
    TimedOut { program: PathBuf, said: String },

    #[error("{} was killed before it was done, as the agent is to end", program.display())]
    Stopped { program: PathBuf },

    #[error("{} failed ({status}){}", program.display(), after(.said))]
    Failed {
        program: PathBuf,
        status: ExitStatus,
        said: String,
    },
}

fn after(said: &str) -> String {
    match said {
        "" => String::new(),
        said => format!(", saying {said:?}"),
    }
}

/// Runs `program`, an absolute path, to its end, to `deadline`, or until `stop` is
/// readable, in a process group of its own, with no input and no environment but a
/// standard `PATH`, `LC_ALL=C` and the given variables. Its status may be a
/// failure.
///
/// # Errors
///
/// Where it cannot be run or is not done in time; never
/// [`RunError::Failed`].
pub(crate) fn run(
    program: &Path,
    args: &[&OsStr],
    variables: &[(&str, &str)],
    deadline: Instant,
    stop: Option<BorrowedFd<'_>>,
) -> Result<Output, RunError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => RunError::NotFound(program.to_owned()),
        _ => RunError::Start {
            program: program.to_owned(),
            source,
        },
    };
    if !program.is_absolute() {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .envs(variables.iter().copied())
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut streams = [
        Stream::new(child.stdout.take().map(OwnedFd::from)),
        Stream::new(child.stderr.take().map(OwnedFd::from)),
    ];
    spare(&child);
    match wait(&mut child, &mut streams, deadline, stop) {
        Ok(Some(status)) => {
            // What the program itself wrote is in the pipes by now. They are not
            // read to their end: a daemon it left may hold them for ever.
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
            let said = last_words(&stdout, &stderr);
            Err(if Instant::now() < deadline {
                RunError::Stopped { program }
            } else {
                RunError::TimedOut { program, said }
            })
        }
        Err(source) => {
            kill(child, &streams);
            Err(failed(source))
        }
    }
}

impl Output {
    /// The output of a program that succeeded.
    ///
    /// # Errors
    ///
    /// [`RunError::Failed`] where it did not, with the last line it had to say.
    pub(crate) fn success(self, program: &Path) -> Result<Self, RunError> {
        if self.status.success() {
            return Ok(self);
        }
        Err(RunError::Failed {
            program: program.to_owned(),
            status: self.status,
            said: last_words(&self.stdout, &self.stderr),
        })
    }
}

/// The last words of the standard error, or of the output where that has none.
fn last_words(stdout: &[u8], stderr: &[u8]) -> String {
    match last_lines(stderr) {
        said if said.is_empty() => last_lines(stdout),
        said => said,
    }
}

/// The last two lines with any word on them, cut where they are long. Some
/// programs show behind what is wrong the line that it is in, and then a mark
/// below the place.
fn last_lines(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().map(str::trim);
    let mut with_words = || lines.rfind(|line| line.contains(char::is_alphanumeric));
    let (last, before) = (with_words(), with_words());
    let lines: Vec<_> = before.into_iter().chain(last).collect();
    lines.join(" / ").chars().take(MAX_WORDS).collect()
}

/// The reading end of a pipe.
struct Stream {
    /// `None` past the end.
    pipe: Option<fs::File>,
    kept: Vec<u8>,
}

impl Stream {
    fn new(pipe: Option<OwnedFd>) -> Self {
        Self {
            // Where it could be made non-blocking, which cannot fail for a pipe.
            pipe: pipe
                .filter(|pipe| ioctl_fionbio(pipe, true).is_ok())
                .map(fs::File::from),
            kept: Vec::new(),
        }
    }

    /// Reads what is there, at most `limit` bytes or a little more: a program
    /// that writes without end does not hold up the clock.
    fn read(&mut self, limit: usize) {
        let mut buffer = [0; CHUNK];
        let mut seen = 0;
        while let Some(pipe) = &mut self.pipe
            && seen < limit
        {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    seen += count;
                    let room = MAX_KEPT - self.kept.len();
                    self.kept.extend(buffer.iter().take(count.min(room)));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}

/// Lets the kernel end a program when memory is short, where it is to spare the
/// agent.
fn spare(child: &Child) {
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    if score.starts_with('-') {
        // It may have ended already.
        let _ = fs::write(format!("/proc/{}/oom_score_adj", child.id()), "0");
    }
}

/// Reads the streams until the child has ended; `None` where it has not by
/// `deadline`, or when `stop` is readable.
fn wait(
    child: &mut Child,
    streams: &mut [Stream],
    deadline: Instant,
    stop: Option<BorrowedFd<'_>>,
) -> io::Result<Option<ExitStatus>> {
    let pidfd = match pidfd_open(Pid::from_child(child), PidfdFlags::empty()) {
        Ok(pidfd) => Some(pidfd),
        Err(Errno::NOSYS) => None,
        Err(error) => return Err(error.into()),
    };
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let mut left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        if pidfd.is_none() {
            left = left.min(LOOK);
        }
        let pipes = streams.iter().filter_map(|stream| stream.pipe.as_ref());
        let mut fds: Vec<PollFd<'_>> = stop
            .into_iter()
            .chain(pipes.map(AsFd::as_fd))
            .chain(pidfd.as_ref().map(AsFd::as_fd))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if stop.is_some() && fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            return Ok(None);
        }
        streams.iter_mut().for_each(|stream| stream.read(MAX_KEPT));
    }
}

/// Kills the child with all it started, and reaps it.
///
/// The processes are stopped before the first of them is killed: while a parent
/// lives, its children can be found. What has lost its parent before is found
/// by its process group, or by the pipe that it holds; what has left all three
/// cannot be told from any other process of the machine.
fn kill(child: Child, streams: &[Stream]) {
    let leader = Pid::from_child(&child);
    let mut stopped = HashSet::from([leader]);
    // The leader's own number cannot go to another process: it is not reaped.
    let _ = kill_process_group(leader, Signal::STOP);
    loop {
        let new = descendants(&stopped, leader, streams);
        if new.is_empty() {
            break;
        }
        for pid in new {
            let _ = kill_process(pid, Signal::STOP);
            stopped.insert(pid);
        }
    }
    let _ = kill_process_group(leader, Signal::KILL);
    for pid in stopped {
        let _ = kill_process(pid, Signal::KILL);
    }
    reap(child, GRACE);
}

/// Waits for a child that is about to end; where it does not within `patience`, it
/// is reaped when it does.
pub(crate) fn reap(mut child: Child, patience: Duration) {
    let ended = wait(&mut child, &mut [], Instant::now() + patience, None);
    if !matches!(ended, Ok(Some(_))) {
        let _ = thread::Builder::new().spawn(move || child.wait());
    }
}

/// The processes not in `known` that belong to it: children of one in it, those
/// of the leader's group, and those that write to one of the pipes.
fn descendants(known: &HashSet<Pid>, leader: Pid, streams: &[Stream]) -> Vec<Pid> {
    let pipes: Vec<PathBuf> = streams
        .iter()
        .filter_map(|stream| stream.pipe.as_ref())
        .filter_map(|pipe| fs::read_link(format!("/proc/self/fd/{}", pipe.as_raw_fd())).ok())
        .collect();
    let myself = rustix::process::getpid();
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            if pid == myself || known.contains(&pid) {
                return None;
            }
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let belongs = related(&stat, known, leader)
                || ["1", "2"].iter().any(|fd| {
                    fs::read_link(entry.path().join("fd").join(fd))
                        .is_ok_and(|target| pipes.contains(&target))
                });
            belongs.then_some(pid)
        })
        .collect()
}

/// Whether the process of this `/proc/PID/stat` is of the leader's group or has
/// its parent in `known`. The name in it is in parentheses, and may have any
/// letter: the fields follow its last one.
fn related(stat: &str, known: &HashSet<Pid>, leader: Pid) -> bool {
    let Some((_, fields)) = stat.rsplit_once(") ") else {
        return false;
    };
    let mut fields = fields.split(' ');
    let state = fields.next();
    let mut number = || fields.next().and_then(|field| field.parse().ok());
    let (parent, group) = (number(), number());
    state != Some("Z")
        && (group == Some(leader.as_raw_nonzero().get())
            || parent
                .and_then(Pid::from_raw)
                .is_some_and(|pid| known.contains(&pid)))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// The process whose number the script wrote to this file.
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
    fn a_program_has_its_arguments_and_little_else() {
        let script = "cat; echo \"$1\"; echo problem >&2; echo \"A_B=$A_B\"; unset A_B; env | cut -d= -f1 | sort; exit 3";
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
        assert_eq!(lines, ["a b;$(c)", "A_B=c=d e", "LC_ALL", "PATH"]);
        let error = output.success(Path::new("/bin/sh")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/bin/sh failed (exit status: 3), saying \"problem\""
        );
    }

    #[test]
    fn a_group_of_its_own_and_no_descriptor_of_ours() {
        let kept = tempfile::NamedTempFile::new().unwrap();
        let output = shell("cut -d' ' -f5 /proc/self/stat; ls -l /proc/self/fd", LONG).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let group: i32 = text.lines().next().unwrap().parse().unwrap();
        assert_ne!(group, rustix::process::getpgrp().as_raw_nonzero().get());
        assert!(text.contains("0 -> /dev/null"), "{text}");
        assert!(!text.contains(kept.path().to_str().unwrap()), "{text}");
    }

    #[test]
    fn what_is_too_much_is_read_and_dropped() {
        let script = "head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2; exit 0";
        let output = shell(script, LONG).unwrap();
        assert!(output.status.success());
        assert_eq!(
            (output.stdout.len(), output.stderr.len()),
            (MAX_KEPT, MAX_KEPT)
        );
    }

    #[test]
    fn programs_that_cannot_be_run() {
        let deadline = Instant::now() + LONG;
        let missing = run(Path::new("/nowhere/at/all"), &[], &[], deadline, None);
        assert!(matches!(missing, Err(RunError::NotFound(_))), "{missing:?}");
        let relative = run(Path::new("true"), &[], &[], deadline, None);
        assert!(
            matches!(relative, Err(RunError::Start { .. })),
            "{relative:?}"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        let forbidden = run(file.path(), &[], &[], deadline, None);
        assert!(
            matches!(forbidden, Err(RunError::Start { .. })),
            "{forbidden:?}"
        );
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
        // The files are there long before the program is given up.
        let error = shell(&script, Duration::from_secs(3)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/bin/sh was not done in time and was killed, saying \"problem\""
        );
        assert!(!lives(noted(&leader)));
        for path in [child, session, orphan] {
            assert_dies(noted(&path));
        }
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
    fn names_with_parentheses_do_not_hide_a_child() {
        let leader = Pid::from_raw(7).unwrap();
        let known = HashSet::from([leader]);
        assert!(related("8 (a) Z 1) S 7 99 99 0", &known, leader));
        assert!(related("8 (a) S 1 7 99 0", &known, leader));
        assert!(!related("8 (S 7 7) S 1 99 99 0", &known, leader));
        assert!(!related("8 (a) Z 7 7 99 0", &known, leader));
        assert!(!related("", &known, leader));
    }

    #[test]
    fn the_last_words_are_short_and_say_something() {
        assert_eq!(last_lines(b"a\n b \n\n  \n"), "a / b");
        assert_eq!(last_lines(b"a\nb\nc"), "b / c");
        assert_eq!(last_lines(b"a\n"), "a");
        assert_eq!(last_lines(b""), "");
        assert_eq!(last_lines(&[b'x'; 5000]).len(), MAX_WORDS);
        assert_eq!(last_lines(b"caf\xc3\xa9 \xff\n"), "caf\u{e9} \u{fffd}");
        let netplan = b"60.yaml:1:11: Invalid YAML:\nnetwork: [\n          ^\n";
        assert_eq!(
            last_lines(netplan),
            "60.yaml:1:11: Invalid YAML: / network: ["
        );
    }
}
