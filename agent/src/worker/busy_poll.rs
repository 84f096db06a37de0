//! Busy polling: looking at the ring for the next request for a moment before the worker
//! sleeps.
//!
//! Whether that pays depends on the host: on one that sleeps itself, or needs the processor
//! that the worker keeps, it costs time although it finds the requests. So both ways are
//! timed in turns, and the worker polls only while that is faster.

use std::hint;
use std::time::{Duration, Instant};

use hyperv_vmbus::Channel;

/// How long to poll for one request.
const LIMIT: Duration = Duration::from_micros(200);

/// A look at the ring that takes longer was interrupted: something else needs the
/// processor.
const LOOK_LIMIT: Duration = Duration::from_micros(50);

/// Requests that are timed together. Several may arrive at once.
const REQUESTS: u32 = 8;

/// Times that a trial has. Their median counts, so that a slow disk does not.
const TIMES: usize = 9;

/// Trials with polling in a row that pays, before one without.
const POLLING_TRIALS: u32 = 32;

/// The most trials without polling in a row. They double while polling does not pay.
const MAX_SLEEPING_TRIALS: u32 = 32;

/// The busy polling of one device, in trials of both ways.
pub(super) struct BusyPoll {
    polling: bool,
    /// Trials until the other way is tried.
    left: u32,
    /// Trials without polling after the last one with polling that did not pay.
    sleeping_trials: u32,
    /// The time of a request in the last trial without polling.
    asleep: Duration,
    /// The times of a request in this trial.
    times: Vec<Duration>,
    /// The start of the time that runs, and the requests since then.
    since: Instant,
    requests: u32,
}

impl BusyPoll {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            polling: false,
            left: 1,
            sleeping_trials: 1,
            asleep: Duration::ZERO,
            times: Vec::with_capacity(TIMES),
            since: now,
            requests: 0,
        }
    }

    /// Polls for the next request, after so many in an operation, if that pays. Returns
    /// whether one has arrived.
    pub(super) fn finds_request(
        &mut self,
        channel: &mut dyn Channel,
        requests: u32,
        stopping: impl Fn() -> bool,
    ) -> bool {
        let began = Instant::now();
        self.requests(requests, began);
        let mut last = began;
        while self.polling && !stopping() {
            match channel.pending() {
                Some(true) => return true,
                Some(false) => hint::spin_loop(),
                None => return false,
            }
            let now = Instant::now();
            if now - began > LIMIT || now - last > LOOK_LIMIT {
                self.time(Duration::MAX, now);
                return false;
            }
            last = now;
        }
        false
    }

    /// Counts requests that arrived and were handled until `now`.
    fn requests(&mut self, count: u32, now: Instant) {
        self.requests = self.requests.saturating_add(count);
        if self.requests >= REQUESTS {
            self.time((now - self.since) / self.requests, now);
        }
    }

    /// Takes the time of a request, which is over at `now`. The last one ends the trial.
    fn time(&mut self, each: Duration, now: Instant) {
        (self.since, self.requests) = (now, 0);
        self.times.push(each);
        if self.times.len() < TIMES {
            return;
        }
        self.times.sort_unstable();
        let median = self.times.drain(..).nth(TIMES / 2).unwrap_or_default();
        self.left -= 1;
        if !self.polling {
            self.asleep = median;
        } else if median < self.asleep - self.asleep / 8 {
            self.sleeping_trials = 1;
        } else {
            // Polling keeps a processor busy: a little faster is not enough.
            self.sleeping_trials = (self.sleeping_trials * 2).min(MAX_SLEEPING_TRIALS);
            (self.polling, self.left) = (false, self.sleeping_trials);
        }
        if self.left == 0 {
            self.polling = !self.polling;
            self.left = if self.polling { POLLING_TRIALS } else { 1 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    /// The requests of a trial: `REQUESTS` times `TIMES`.
    const TRIAL: u32 = 72;

    struct Host {
        poll: BusyPoll,
        now: Instant,
        /// The time of a request with polling, and without.
        polled: Duration,
        slept: Duration,
    }

    impl Host {
        fn new(polled: Duration, slept: Duration) -> Self {
            let now = Instant::now();
            Self {
                poll: BusyPoll::new(now),
                now,
                polled,
                slept,
            }
        }

        /// Serves so many requests, and returns how many of them with polling.
        fn serve(&mut self, requests: u32) -> u32 {
            let mut polled = 0;
            for _ in 0..requests {
                let polling = self.poll.polling;
                polled += u32::from(polling);
                self.now += if polling { self.polled } else { self.slept };
                self.poll.requests(1, self.now);
            }
            polled
        }
    }

    #[test]
    fn a_worker_polls_while_that_is_faster() {
        let mut host = Host::new(micros(60), micros(90));
        assert_eq!(host.serve(TRIAL), 0, "the first trial is without");
        assert_eq!(host.serve(99 * TRIAL), 96 * TRIAL);
        // The host sleeps from now on.
        host.polled = micros(100);
        host.serve(TRIAL);
        assert!(host.serve(100 * TRIAL) <= 6 * TRIAL);
        // And no longer.
        host.polled = micros(60);
        host.serve(MAX_SLEEPING_TRIALS * TRIAL);
        assert!(host.serve(99 * TRIAL) >= 95 * TRIAL);
    }

    #[test]
    fn a_worker_hardly_ever_polls_where_that_is_not_faster() {
        for polled in [80, 90, 140] {
            let mut host = Host::new(micros(polled), micros(90));
            host.serve(100 * TRIAL);
            let tried = host.serve(100 * TRIAL);
            assert!((1..=3 * TRIAL).contains(&tried), "{polled}: {tried}");
        }
    }

    #[test]
    fn a_worker_that_polls_in_vain_gives_up_at_once() {
        let mut host = Host::new(micros(60), micros(90));
        let mut missed = 0;
        for _ in 0..100 * TRIAL {
            if host.serve(1) == 1 {
                host.poll.time(Duration::MAX, host.now);
                missed += 1;
            }
        }
        assert!((20..70).contains(&missed), "{missed}");
    }

    #[test]
    fn a_pause_of_the_host_changes_nothing() {
        let mut host = Host::new(micros(60), micros(90));
        host.serve(TRIAL);
        for _ in 0..100 {
            assert!(host.poll.polling || host.poll.left == 1);
            host.serve(TRIAL / 2);
            host.now += Duration::from_secs(1);
            host.serve(TRIAL / 2);
        }
    }

    #[test]
    fn requests_that_arrive_together_count_one_by_one() {
        let mut host = Host::new(micros(60), micros(90));
        for _ in 0..TIMES {
            host.now += micros(90) * 40;
            host.poll.requests(40, host.now);
        }
        assert_eq!(host.poll.asleep, micros(90));
    }
}
