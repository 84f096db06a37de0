//! The request socket: what root may ask of the running agent beyond its status.
//!
//! A client sends one line of JSON, with the version of this protocol and what it
//! asks: `{"version":1,"request":"vss-rehearse","hold":5,"hooks_only":false}`. It gets
//! lines of JSON: any number of `{"progress":"…"}`, then one `{"result":{…}}` or
//! `{"error":"…"}`, and the connection is closed. It keeps its end open until then: a
//! client that hangs up calls off what it has asked for.
//!
//! The supervisor's loop waits for no client. A thread reads the line, for a short
//! time, and only so many are read at once; the loop then hands the connection to the
//! worker that does the work. No line is waited for to be read: all of them fit the
//! socket's buffer, and what does not is dropped.

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

use crate::status::backup::LastBackup;

/// Name of the socket in the runtime directory.
pub const NAME: &str = "request";

/// Version of the protocol.
const VERSION: u32 = 1;

/// Bytes of a request at most.
const MAX_LEN: usize = 4096;

/// How long a client may take to send its request.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests that are read at once.
const MAX_READERS: usize = 4;

/// Seconds for which a rehearsal may hold file systems frozen.
pub const MAX_HOLD: u64 = 60;

/// What is asked, with the version of the protocol.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    version: u32,
    #[serde(flatten)]
    request: Request,
}

/// What is asked.
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
}

/// What a client is told, a line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// How far it is.
    Progress(String),
    /// What came of it: the last line.
    Result(LastBackup),
    /// Why it cannot be done: the last line.
    Error(String),
}

impl Request {
    /// The service that it is for, and what that is to do.
    pub(crate) fn command(&self) -> (&'static str, Command) {
        match self {
            Self::VssRehearse { hold, hooks_only } => {
                let what = command::Rehearse {
                    hold: Duration::from_secs(*hold),
                    hooks_only: *hooks_only,
                };
                ("vss", Command::Rehearse(what))
            }
        }
    }

    fn read(stream: &UnixStream, timeout: Duration) -> Result<Self, String> {
        let line = first_line(stream, timeout)
            .map_err(|error| format!("cannot read the request: {error}"))?;
        // Of another version the rest may mean something else.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let malformed = |error| format!("malformed request: {error}");
        let Version { version } = serde_json::from_slice(&line).map_err(malformed)?;
        if version != VERSION {
            return Err(format!(
                "the agent takes requests of version {VERSION}, this is of version {version}: \
                 restart the agent after an upgrade"
            ));
        }
        let Envelope { request, .. } = serde_json::from_slice(&line).map_err(malformed)?;
        match request {
            Self::VssRehearse { hold, .. } if hold > MAX_HOLD => {
                Err(format!("file systems are held for {MAX_HOLD} s at most"))
            }
            request => Ok(request),
        }
    }
}

/// What a client sends up to the end of a line, or before it closes its end; no more
/// than a request may have.
fn first_line(mut stream: &UnixStream, timeout: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + timeout;
    let mut line = Vec::new();
    let mut chunk = [0; 512];
    while line.len() < MAX_LEN && !line.contains(&b'\n') {
        // For all of it: a byte now and then would keep the thread for hours.
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => line.extend_from_slice(chunk.get(..len).unwrap_or_default()),
            // The time is over, which the next look sees.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let end = line.iter().position(|byte| *byte == b'\n');
    line.truncate(end.unwrap_or(line.len()));
    Ok(line)
}

/// A client whose request is being carried out.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    ended: bool,
}

impl Client {
    pub(crate) fn refuse(self, why: &str) {
        command::Client::end(Box::new(self), Err(why.to_owned()));
    }

    fn send(&mut self, reply: &Reply) {
        let mut line = serde_json::to_vec(reply).unwrap_or_default();
        line.push(b'\n');
        // Whoever does not read, or has gone, goes without.
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
            let why = "the agent ended, or its device came or went, before it was done";
            self.send(&Reply::Error(why.to_owned()));
        }
    }
}

/// Reads requests, a thread each.
#[derive(Debug, Default)]
pub(crate) struct Readers(Arc<AtomicUsize>);

impl Readers {
    /// Reads what a client asks; `then` is called on a thread of its own.
    pub(crate) fn read(
        &self,
        stream: UnixStream,
        then: impl FnOnce(Request, Client) + Send + 'static,
    ) {
        let count = Arc::clone(&self.0);
        if count.fetch_add(1, Ordering::Relaxed) >= MAX_READERS {
            count.fetch_sub(1, Ordering::Relaxed);
            client(stream).refuse("too many ask for something at once");
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
            // The client has seen its connection closed.
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn client(stream: UnixStream) -> Client {
    // Where that fails a client that does not read has to be waited for: better none.
    let ended = stream.set_nonblocking(true).is_err();
    if ended {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    Client { stream, ended }
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The agent cannot be asked.
    #[error("cannot ask the agent at the request socket")]
    Io(#[from] io::Error),
    /// The connection was closed before the last line.
    #[error("the agent's answer breaks off: it may have ended meanwhile")]
    BrokenOff,
    /// The agent says why not.
    #[error("{0}")]
    Refused(String),
}

/// Asks the agent that listens at `socket`, and waits for the result.
///
/// # Errors
///
/// Any [`RequestError`].
pub fn call(
    socket: &Path,
    request: Request,
    mut progress: impl FnMut(&str),
) -> Result<LastBackup, RequestError> {
    let mut stream = UnixStream::connect(socket)?;
    let mut line = serde_json::to_vec(&Envelope {
        version: VERSION,
        request,
    })
    .map_err(io::Error::from)?;
    line.push(b'\n');
    // An agent that takes no request closes the connection unread, but says why.
    let written = stream.write_all(&line);
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?) {
            Ok(Reply::Progress(words)) => progress(&words),
            Ok(Reply::Result(result)) => return Ok(result),
            Ok(Reply::Error(why)) => return Err(RequestError::Refused(why)),
            Err(_) => break,
        }
    }
    written?;
    Err(RequestError::BrokenOff)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_goes_on_without_end_is_not_read_for_ever() {
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
    fn what_follows_the_first_line_is_not_looked_at() {
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
