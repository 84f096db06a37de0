//! The agent's end of its guard: a process that thaws when the agent cannot.
//!
//! It is started with the service, before anything is frozen, from the agent's
//! own executable. The two are joined by a socket; each knows that the other is
//! gone when it is closed, and the guard by the end of the thread that started it
//! too. A guard that is gone is started anew before the next freeze.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use self::message::{MOST_AT_ONCE, Order, Report};
use crate::run;

mod message;
pub mod process;

/// The argument by which the agent's executable becomes the guard
/// ([`process::main`]).
pub const ARGUMENT: &str = "vss-guard";

/// How long the guard may take to answer: it has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take to end by itself, which is after it has tried once more
/// to thaw what the agent could not.
const LAST: Duration = Duration::from_secs(1);

/// A guard that runs.
#[derive(Debug)]
pub struct Guard {
    socket: UnixStream,
    process: Option<Child>,
}

/// Why there is no guard.
#[derive(Debug, thiserror::Error)]
#[error("the guard process, without which nothing is frozen, {doing}")]
pub struct GuardError {
    doing: &'static str,
    source: io::Error,
}

/// What the guard has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    None,
    /// The time was over, and it has thawed.
    TimeLimit,
    /// It is gone.
    Gone,
}

impl Guard {
    /// Starts the guard, from the executable of this process. It takes the end of
    /// the thread that does so for the end of the agent.
    ///
    /// # Errors
    ///
    /// Where it cannot be started.
    pub fn start() -> Result<Self, GuardError> {
        let cannot = |source| GuardError {
            doing: "cannot be started from /proc/self/exe",
            source,
        };
        let (ours, its) = UnixStream::pair().map_err(cannot)?;
        let process = Command::new("/proc/self/exe")
            .arg0("hyperv-agent")
            .arg(ARGUMENT)
            .env_clear()
            .current_dir("/")
            // What a terminal sends to the agent is not meant for the guard.
            .process_group(0)
            .stdin(OwnedFd::from(its))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(cannot)?;
        let mut guard = Self::at(ours).map_err(cannot)?;
        guard.process = Some(process);
        Ok(guard)
    }

    /// A guard that listens at the other end of `socket`, wherever it runs.
    ///
    /// # Errors
    ///
    /// Where the socket is of no use.
    pub fn at(socket: UnixStream) -> io::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            process: None,
        })
    }

    /// Hands it the file systems that are about to be frozen, in that order; it
    /// thaws them where they are not all frozen in a minute, and after
    /// `limit` in any case.
    ///
    /// # Errors
    ///
    /// Where it is gone, or does not answer.
    pub fn hold(
        &mut self,
        file_systems: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(), GuardError> {
        let mut hold = || {
            let milliseconds = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            Order::Begin(milliseconds).send(&self.socket, &[])?;
            for some in file_systems.chunks(MOST_AT_ONCE) {
                Order::Hold(some.len() as u64).send(&self.socket, some)?;
            }
            Order::Go.send(&self.socket, &[])?;
            let mut report = [0];
            loop {
                self.socket.read_exact(&mut report)?;
                // What it said of an earlier freeze is no news.
                if let Report::Ready = Report::try_from(report[0])? {
                    return Ok(());
                }
            }
        };
        hold().map_err(|source| GuardError {
            doing: "does not answer",
            source,
        })
    }

    /// Tells it that somebody else has frozen the file system of that index.
    pub fn not_ours(&mut self, index: usize) {
        // It shows itself as gone.
        let _ = Order::NotOurs(index as u64).send(&self.socket, &[]);
    }

    /// Tells it that the kernel hurries, which is to end when the agent does.
    pub(super) fn hurried(&mut self) {
        let _ = Order::Hurried.send(&self.socket, &[]);
    }

    /// Tells it that everything is frozen, and the kernel hurries no more.
    pub(super) fn done(&mut self) {
        let _ = Order::Done.send(&self.socket, &[]);
    }

    /// Tells it that all is thawed.
    pub fn release(&mut self) {
        let _ = Order::Release.send(&self.socket, &[]);
    }

    /// What it has to say; it is not waited for.
    pub fn news(&mut self) -> News {
        let mut report = [0];
        let received = self
            .socket
            .set_nonblocking(true)
            .and_then(|()| self.socket.read(&mut report));
        let _ = self.socket.set_nonblocking(false);
        match received {
            Ok(1) if report[0] == Report::TimeLimit as u8 => News::TimeLimit,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => News::None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => News::None,
            _ => News::Gone,
        }
    }
}

impl AsFd for Guard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(process) = self.process.take() {
            run::reap(process, LAST);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::{self, File};
    use std::path::PathBuf;
    use std::thread::{self, JoinHandle};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::stop::Stop;

    /// Far longer than any of these guards is to run.
    const LONG: Duration = Duration::from_secs(600);

    fn guard() -> (Guard, JoinHandle<io::Result<()>>) {
        guard_with("/nowhere".into())
    }

    fn guard_with(switch: PathBuf) -> (Guard, JoinHandle<io::Result<()>>) {
        let (ours, its) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || process::serve(its, None, &switch));
        (Guard::at(ours).unwrap(), thread)
    }

    fn wait_for_news(guard: &mut Guard) -> News {
        let mut fds = [PollFd::new(&*guard, PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        guard.news()
    }

    #[test]
    fn it_takes_more_descriptors_than_one_message_has_room_for() {
        let (mut guard, thread) = guard();
        let file = File::open("/proc/self/stat").unwrap();
        let many = vec![file.as_fd(); MOST_AT_ONCE * 2 + 1];
        guard.hold(&many, LONG).unwrap();
        guard.not_ours(7);
        guard.not_ours(usize::MAX);
        guard.release();
        guard.hold(&many[..1], LONG).unwrap();
        assert_eq!(guard.news(), News::None);
        drop(guard);
        thread.join().unwrap().unwrap();
    }

    #[test]
    fn it_tells_that_the_time_was_over_and_guards_on() {
        let (mut guard, thread) = guard();
        let file = File::open("/proc/self/stat").unwrap();
        guard
            .hold(&[file.as_fd()], Duration::from_millis(1))
            .unwrap();
        assert_eq!(wait_for_news(&mut guard), News::TimeLimit);
        guard.hold(&[file.as_fd()], LONG).unwrap();
        assert_eq!(guard.news(), News::None);
        drop(guard);
        thread.join().unwrap().unwrap();
    }

    #[test]
    fn what_it_told_of_an_earlier_freeze_is_no_answer() {
        let (mut guard, thread) = guard();
        guard.hold(&[], Duration::ZERO).unwrap();
        let mut fds = [PollFd::new(&guard, PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        guard.hold(&[], LONG).unwrap();
        assert_eq!(guard.news(), News::None);
        drop(guard);
        thread.join().unwrap().unwrap();
    }

    #[test]
    fn the_kernel_does_not_hurry_on_when_the_agent_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let switch = directory.path().join("switch");
        // Nobody else's haste is ended.
        for (done, left) in [(false, "0"), (true, "1")] {
            fs::write(&switch, "1").unwrap();
            let (mut guard, thread) = guard_with(switch.clone());
            guard.hold(&[], LONG).unwrap();
            guard.hurried();
            if done {
                guard.done();
            }
            drop(guard);
            thread.join().unwrap().unwrap();
            assert_eq!(fs::read_to_string(&switch).unwrap(), left);
        }
    }

    /// A thread of the agent that waits for a frozen file system keeps the socket
    /// open when the agent is killed.
    #[test]
    fn an_agent_whose_socket_stays_open_can_be_gone_too() {
        let directory = tempfile::tempdir().unwrap();
        let switch = directory.path().join("switch");
        fs::write(&switch, "1").unwrap();
        let orphaned = Stop::new().unwrap();
        let (ours, its) = UnixStream::pair().unwrap();
        let mut agent = Guard::at(ours).unwrap();
        thread::scope(|scope| {
            let guard = scope.spawn(|| process::serve(its, Some(orphaned.as_fd()), &switch));
            agent.hold(&[], LONG).unwrap();
            agent.hurried();
            assert_eq!(agent.news(), News::None);
            orphaned.tell();
            guard.join().unwrap().unwrap();
        });
        assert_eq!(fs::read_to_string(&switch).unwrap(), "0");
        assert_eq!(wait_for_news(&mut agent), News::Gone);
    }

    #[test]
    fn one_that_lacks_a_descriptor_is_no_guard() {
        let (agent, thread) = guard();
        let file = File::open("/proc/self/stat").unwrap();
        Order::Hold(2).send(&agent.socket, &[file.as_fd()]).unwrap();
        let error = thread.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn one_that_is_gone_shows() {
        let (ours, its) = UnixStream::pair().unwrap();
        let mut guard = Guard::at(ours).unwrap();
        assert_eq!(guard.news(), News::None);
        drop(its);
        assert_eq!(wait_for_news(&mut guard), News::Gone);
        let error = guard.hold(&[], LONG).unwrap_err();
        let words = "the guard process, without which nothing is frozen, does not answer";
        assert_eq!(error.to_string(), words);
    }
}
