//! The request socket: root asks the running agent to do something.
//!
//! A client sends one line of JSON, with the version of this protocol:
//! `{"version":1,"request":"vss-rehearse","hold":5,"hooks_only":false}`. It receives
//! lines of JSON: any number of `{"progress":"…"}`, then one `{"result":{…}}` or
//! `{"error":"…"}`, and the connection is closed. A client that closes its end earlier
//! cancels its request. `{"version":1,"request":"capture","services":["kvp"],"content":"none"}`
//! is answered by `{"capture":{}}` and a capture as pcapng, until the client closes its end.
//!
//! The supervisor's loop waits for no client. A thread reads the line, with a timeout,
//! and the number of such threads is limited. The loop then hands the connection to the
//! worker that executes the request. Replies are written without waiting: they fit the
//! socket's buffer, and those that do not are dropped.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hyperv_services::backup::Backup;
use hyperv_services::command::{self, Command};
use serde::{Deserialize, Serialize};

use crate::capture::Level;
use crate::status::backup::LastBackup;

/// Name of the socket in the runtime directory.
pub const NAME: &str = "request";

/// The commands that send a request: without the socket they are unavailable.
pub const COMMANDS: [&str; 3] = ["capture", "reload", "vss rehearse"];

/// The version of the protocol.
const VERSION: u32 = 1;

/// Maximum length of a request in bytes.
const MAX_LEN: usize = 4096;

/// How long a client may take to send its request.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the agent may take to reload its configuration.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of a capture a client reads at once.
const CAPTURE_BUFFER: usize = 64 << 10;

/// How many requests are read at the same time.
const MAX_READERS: usize = 4;

/// Maximum number of seconds for which a rehearsal holds file systems frozen.
pub const MAX_HOLD: u64 = 60;

/// A request with the version of the protocol.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    version: u32,
    #[serde(flatten)]
    request: Request,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// A rehearsal of a backup.
    VssRehearse {
        /// Seconds for which file systems are held frozen.
        #[serde(default)]
        hold: u64,
        /// Whether only the hooks are run.
        #[serde(default)]
        hooks_only: bool,
    },
    /// The configuration is read again.
    Reload {},
    /// A capture.
    Capture {
        /// The services that are captured; all of them if there is none.
        #[serde(default)]
        services: Vec<String>,
        /// What the client wants of the data of files. It has to put placeholders for all
        /// else itself.
        #[serde(default = "everything")]
        content: Level,
    },
}

/// What clients want that say nothing.
fn everything() -> Level {
    Level::Full
}

/// A line of the agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// What the agent does at present.
    Progress(String),
    /// The result; the last line.
    Result(LastBackup),
    /// The configuration was reloaded; the last line.
    Reloaded {},
    /// A capture follows; the last line.
    Capture {},
    /// Why there is no result; the last line.
    Error(String),
}

impl Request {
    /// Returns the service that executes the request, and its command; `None` if the loop
    /// executes it.
    pub(crate) fn command(&self) -> Option<(&'static str, Command)> {
        match self {
            Self::VssRehearse { hold, hooks_only } => {
                let what = command::Rehearse {
                    hold: Duration::from_secs(*hold),
                    hooks_only: *hooks_only,
                };
                Some(("vss", Command::Rehearse(what)))
            }
            Self::Reload {} | Self::Capture { .. } => None,
        }
    }

    fn read(stream: &UnixStream, timeout: Duration) -> Result<Self, String> {
        let line = first_line(stream, timeout)
            .map_err(|error| format!("cannot read the request: {error}"))?;
        // The rest may mean something else in another version.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let malformed = |error| format!("malformed request: {error}");
        let Version { version } = serde_json::from_slice(&line).map_err(malformed)?;
        if version != VERSION {
            return Err(format!(
                "unsupported request version {version}, the agent expects {VERSION}: restart the \
                 agent after an upgrade"
            ));
        }
        let Envelope { request, .. } = serde_json::from_slice(&line).map_err(malformed)?;
        match request {
            Self::VssRehearse { hold, .. } if hold > MAX_HOLD => Err(format!(
                "invalid hold time {hold}: expected at most {MAX_HOLD} s"
            )),
            request => Ok(request),
        }
    }
}

/// Reads up to the end of a line, or until the client closes its end, but no more than
/// [`MAX_LEN`].
fn first_line(mut stream: &UnixStream, timeout: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + timeout;
    let mut line = Vec::new();
    let mut chunk = [0; 512];
    while line.len() < MAX_LEN && !line.contains(&b'\n') {
        // The timeout is for the whole line: a client that sends a byte now and then
        // would occupy the thread for hours.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => line.extend_from_slice(chunk.get(..len).unwrap_or_default()),
            // The next iteration checks the deadline.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let end = line.iter().position(|byte| *byte == b'\n');
    line.truncate(end.unwrap_or(line.len()));
    Ok(line)
}

/// A client whose request is being executed.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    ended: bool,
}

impl Client {
    pub(crate) fn refuse(self, why: &str) {
        command::Client::end(Box::new(self), Err(why.to_owned()));
    }

    /// Answers a reload, with why the configuration stays as it was.
    pub(crate) fn reloaded(mut self, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.ended = true;
                self.send(&Reply::Reloaded {});
            }
            Err(why) => self.refuse(&why),
        }
    }

    /// Answers that a capture follows, and returns the connection. It does not block.
    pub(crate) fn into_capture(mut self) -> io::Result<UnixStream> {
        self.ended = true;
        self.send(&Reply::Capture {});
        self.stream.try_clone()
    }

    fn send(&mut self, reply: &Reply) {
        let mut line = serde_json::to_vec(reply).unwrap_or_default();
        line.push(b'\n');
        // A client that does not read, or is gone, misses the line.
        let _ = self.stream.write_all(&line);
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl command::Client for Client {
    fn progress(&mut self, words: &str) {
        self.send(&Reply::Progress(words.to_owned()));
    }

    fn end(mut self: Box<Self>, result: Result<Backup, String>) {
        self.ended = true;
        let reply = match result {
            Ok(backup) => Reply::Result(backup.into()),
            Err(why) => Reply::Error(why),
        };
        self.send(&reply);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !self.ended {
            let why = "cancelled: the agent ended, or its device came or went";
            self.send(&Reply::Error(why.to_owned()));
        }
    }
}

/// Reads requests, each on a thread of its own.
#[derive(Debug, Default)]
pub(crate) struct Readers(Arc<AtomicUsize>);

impl Readers {
    /// Reads the request of a client, and calls `then` on the same thread.
    pub(crate) fn read(
        &self,
        stream: UnixStream,
        then: impl FnOnce(Request, Client) + Send + 'static,
    ) {
        let count = Arc::clone(&self.0);
        if count.fetch_add(1, Ordering::Relaxed) >= MAX_READERS {
            count.fetch_sub(1, Ordering::Relaxed);
            client(stream).refuse("too many requests at the same time: try again");
            return;
        }
        let read = move || {
            let request = Request::read(&stream, READ_TIMEOUT);
            let client = client(stream);
            match request {
                Ok(request) => then(request, client),
                Err(why) => client.refuse(&why),
            }
            count.fetch_sub(1, Ordering::Relaxed);
        };
        let started = thread::Builder::new()
            .name("request".to_owned())
            .spawn(read);
        if started.is_err() {
            // The connection was closed with the closure.
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn client(stream: UnixStream) -> Client {
    // If this fails, a write could block the worker: close the connection instead.
    let ended = stream.set_nonblocking(true).is_err();
    if ended {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    Client { stream, ended }
}

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// A call on the socket failed.
    #[error("cannot send the request to the agent")]
    Io(#[from] io::Error),
    /// The connection was closed before the last line.
    #[error("incomplete answer from the agent: it may have ended")]
    Incomplete,
    /// The agent refused the request, or failed to execute it.
    #[error("{0}")]
    Refused(String),
}

/// Sends a request to the agent that listens at `socket`, and waits for the result.
/// `progress` is called with each line of progress.
///
/// # Errors
///
/// [`RequestError::Refused`] with the agent's message, otherwise what kept the agent
/// from answering.
pub fn call(
    socket: &Path,
    request: Request,
    progress: impl FnMut(&str),
) -> Result<LastBackup, RequestError> {
    match exchange(UnixStream::connect(socket)?, request, progress)? {
        Reply::Result(result) => Ok(result),
        _ => Err(RequestError::Incomplete),
    }
}

/// Makes the agent that listens at `socket` reload its configuration.
///
/// # Errors
///
/// [`RequestError::Refused`] with why the configuration stays as it was, otherwise what
/// kept the agent from answering.
pub fn reload(socket: &Path) -> Result<(), RequestError> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(RELOAD_TIMEOUT))?;
    exchange(stream, Request::Reload {}, |_| {}).map(drop)
}

/// Begins a capture in the agent that listens at `socket`, and returns the connection, from
/// which to read it. Of what may be private, `content` concerns only the data of files.
///
/// # Errors
///
/// [`RequestError::Refused`] with why there is no capture, otherwise what kept the agent
/// from answering.
pub fn capture(
    socket: &Path,
    services: Vec<String>,
    content: Level,
) -> Result<BufReader<UnixStream>, RequestError> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(RELOAD_TIMEOUT))?;
    let mut answer = BufReader::with_capacity(CAPTURE_BUFFER, stream.try_clone()?);
    let request = Request::Capture { services, content };
    answer_to(stream, &mut answer, request, |_| {})?;
    Ok(answer)
}

/// Sends a request and returns the last line of the answer.
fn exchange(
    stream: UnixStream,
    request: Request,
    progress: impl FnMut(&str),
) -> Result<Reply, RequestError> {
    let mut answer = BufReader::new(stream.try_clone()?);
    answer_to(stream, &mut answer, request, progress)
}

fn answer_to(
    mut stream: UnixStream,
    answer: &mut impl BufRead,
    request: Request,
    mut progress: impl FnMut(&str),
) -> Result<Reply, RequestError> {
    let mut line = serde_json::to_vec(&Envelope {
        version: VERSION,
        request,
    })
    .map_err(io::Error::from)?;
    line.push(b'\n');
    // An agent that refuses a client closes the connection unread, but sends the reason.
    let written = stream.write_all(&line);
    for line in answer.lines() {
        match serde_json::from_str(&line?) {
            Ok(Reply::Progress(words)) => progress(&words),
            Ok(Reply::Error(why)) => return Err(RequestError::Refused(why)),
            Ok(last) => return Ok(last),
            Err(_) => break,
        }
    }
    written?;
    Err(RequestError::Incomplete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_never_ends_its_line_times_out() {
        let (client, agent) = UnixStream::pair().unwrap();
        let drips = thread::spawn(move || {
            // Until the agent has closed its end.
            while (&client).write_all(b" ").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let error = Request::read(&agent, Duration::from_millis(100)).unwrap_err();
        assert_eq!(error, "cannot read the request: timed out");
        drop(agent);
        drips.join().unwrap();
    }

    #[test]
    fn the_command_of_each_request_is_named() {
        let requests = [r#""vss-rehearse""#, r#""reload""#, r#""capture""#];
        let commands = requests.map(|name| {
            let line = format!(r#"{{"version":1,"request":{name}}}"#);
            let Envelope { request, .. } = serde_json::from_str(&line).unwrap();
            match request {
                Request::VssRehearse { .. } => "vss rehearse",
                Request::Reload {} => "reload",
                Request::Capture { .. } => "capture",
            }
        });
        for command in commands {
            assert!(COMMANDS.contains(&command), "{command}");
        }
        assert_eq!(commands.len(), COMMANDS.len());
    }

    #[test]
    fn what_follows_the_first_line_is_ignored() {
        let (mut client, agent) = UnixStream::pair().unwrap();
        let lines = b"{\"version\":1,\"request\":\"vss-rehearse\"}\nmore\n";
        client.write_all(lines).unwrap();
        let request = Request::VssRehearse {
            hold: 0,
            hooks_only: false,
        };
        assert_eq!(Request::read(&agent, READ_TIMEOUT), Ok(request));
    }
}
