//! WRITEs to a program, and how long they take.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyperv_sim::fcopy::{CHUNK, Fcopy, FcopyHost, OVERWRITE, Operation, Start};
use hyperv_sim::port::Machine;
use hyperv_sim::wait::until;
use hyperv_vmbus::ic::Status;

use crate::command::bench::subject::Subject;
use crate::command::bench::trace;

/// Longer than any program looks for the next message before it sleeps.
const PAUSE: Duration = Duration::from_millis(5);

/// For how long the host leaves a full ring full.
const FULL: Duration = Duration::from_millis(2);

/// How often a ring is full in a round.
const TIMES_FULL: u32 = 10;

/// Most WRITEs in flight.
const MAX_IN_FLIGHT: usize = 64;

/// Bytes that a WRITE, or its reply, takes in a ring.
const WRITE_LEN: usize = 16 + (28 + 52 + CHUNK).next_multiple_of(8) + 8;

/// Bytes of a ring's header.
const RING_HEADER: usize = 4096;

/// How long a program may take to answer.
const TIME: Duration = Duration::from_secs(2);

/// How a host waits for replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    /// Until it is signalled.
    Sleeps,
    /// It looks at the ring, and wants no signals.
    Polls,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sleeps => "sleeps",
            Self::Polls => "polls",
        })
    }
}

/// How messages are sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// The next at once, with so many in flight.
    Running(usize),
    /// The next when the program has had the time to fall asleep.
    AfterSleep,
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running(many) => write!(f, "a WRITE, {many} in flight"),
            Self::AfterSleep => f.write_str("a WRITE after a pause"),
        }
    }
}

/// WRITEs for which a ring has room.
fn fit(ring_len: usize) -> usize {
    // The last byte is not used.
    (ring_len - RING_HEADER - 1) / WRITE_LEN
}

/// WRITEs in flight in rings of this size where there are several: as many as fit, within
/// reason; with the smallest the host waits for room.
pub(super) fn in_flight(ring_len: usize) -> usize {
    fit(ring_len).clamp(3, MAX_IN_FLIGHT)
}

/// Microseconds of a WRITE; an error in words where the program does not last.
pub(super) fn time(
    subject: &mut Subject<Fcopy>,
    host: Host,
    pace: Pace,
    messages: usize,
) -> Result<Result<f64, String>> {
    copy(subject, host, messages, |host| {
        let busy = writes(host, pace, messages)?;
        Ok(busy.as_secs_f64() * 1e6 / messages as f64)
    })
}

/// System calls of a WRITE, counted apart from the time.
pub(super) fn system_calls(
    subject: &mut Subject<Fcopy>,
    host: Host,
    pace: Pace,
    messages: usize,
) -> Result<Result<f64, String>> {
    let pid = match subject.pid() {
        Ok(pid) => pid,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    let calls = copy(subject, host, messages, |host| {
        trace::system_calls(pid, host, |host| writes(host, pace, messages).map(|_| ()))
    })?;
    Ok(calls.and_then(|calls| calls.map(|calls| calls as f64 / messages as f64)))
}

/// A copy, with something between START and COMPLETE.
fn copy<T>(
    subject: &mut Subject<Fcopy>,
    kind: Host,
    messages: usize,
    work: impl FnOnce(&mut FcopyHost) -> Result<T>,
) -> Result<Result<T, String>> {
    let start = start(subject, messages)?;
    subject.attempt(|host| {
        if kind == Host::Polls {
            host.channel()?.polling();
        }
        let status = host.request(&start)?;
        ensure!(status == Status::OK, "the START was declined: {status:?}");
        let done = work(host)?;
        host.request(&Operation::Complete)?;
        Ok(done)
    })
}

/// A file that has room for so many messages.
fn start(subject: &Subject<Fcopy>, messages: usize) -> Result<Operation> {
    let directory = subject.machine.directory().to_str();
    let directory = directory.context("the directory's name is not UTF-8")?;
    let size = (messages * CHUNK) as u64;
    Ok(Operation::Start(Start::new(
        directory, "bench", OVERWRITE, size,
    )))
}

/// Sends WRITEs one behind the other and takes every reply.
fn writes(host: &mut FcopyHost, pace: Pace, messages: usize) -> Result<Duration> {
    let data = vec![0x5a; CHUNK];
    let (in_flight, pause) = match pace {
        Pace::Running(in_flight) => (in_flight, None),
        Pace::AfterSleep => (1, Some(PAUSE)),
    };
    let mut busy = Duration::ZERO;
    let (mut sent, mut answered) = (0, 0);
    while answered < messages {
        if let Some(pause) = pause {
            thread::sleep(pause);
        }
        let begun = Instant::now();
        while sent < messages && sent - answered < in_flight {
            host.send(&Operation::write((sent * CHUNK) as u64, &data))?;
            sent += 1;
        }
        expect_ok(host)?;
        answered += 1;
        busy += begun.elapsed();
    }
    Ok(busy)
}

fn expect_ok(host: &mut FcopyHost) -> Result<()> {
    let reply = host.reply_within(TIME)?;
    let reply = reply.with_context(|| format!("a WRITE was not answered in {TIME:?}"))?;
    let status = reply.status;
    ensure!(status == Status::OK, "a WRITE was declined: {status:?}");
    Ok(())
}

/// Microseconds from when a host makes room, of which it says nothing, for a reply that
/// found its ring full, to when the reply is there.
pub(super) fn after_full(
    subject: &mut Subject<Fcopy>,
    ring_len: usize,
) -> Result<Result<f64, String>> {
    let too_many = fit(ring_len) + 1;
    let data = vec![0x5a; CHUNK];
    copy(subject, Host::Sleeps, too_many, |host| {
        let channel = host.channel()?;
        channel.without_flow_control();
        channel.polling();
        host.alone = true;
        let mut waited = Duration::ZERO;
        for _ in 0..TIMES_FULL {
            for number in 0..too_many {
                host.send(&Operation::write((number * CHUNK) as u64, &data))?;
            }
            until(TIME, "the guest to take every request", || {
                Ok(host.channel()?.to_guest.is_drained().then_some(()))
            })?;
            thread::sleep(FULL);
            for _ in 1..too_many {
                expect_ok(host)?;
            }
            let begun = Instant::now();
            expect_ok(host)?;
            waited += begun.elapsed();
        }
        host.alone = false;
        Ok(waited.as_secs_f64() * 1e6 / f64::from(TIMES_FULL))
    })
}
