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

/// Failures of polling in a trial that do not end it: a time that is no better, a request
/// that was missed, an interruption.
const FAILURES: u32 = 4;

/// Trials with polling in a row that pays, before one without.
const POLLING_TRIALS: u32 = 32;

/// The most trials without polling in a row. They double while polling does not pay.
const MAX_SLEEPING_TRIALS: u32 = 32;

/// The busy polling of one device.
pub(super) struct BusyPoll {
    trials: Trials,
}

impl BusyPoll {
    pub(super) fn new() -> Self {
        let trials = Trials::new(Instant::now());
        Self { trials }
    }

    /// Polls for the next request, after so many in an operation, if that pays. Returns
    /// whether one has arrived.
    pub(super) fn finds_request(
        &mut self,
        channel: &mut dyn Channel,
        requests: u32,
        stopping: impl Fn() -> bool,
    ) -> bool {
        let mut now = Instant::now();
        self.trials.requests(requests, now);
        let until = now + LIMIT;
        while self.trials.polling && !stopping() {
            match channel.pending() {
                Some(true) => return true,
                Some(false) => hint::spin_loop(),
                None => return false,
            }
            let last = now;
            now = Instant::now();
            if now >= until || now - last > LOOK_LIMIT {
                self.trials.fail(now);
                return false;
            }
        }
        false
    }
}

/// Trials of both ways, and which one is in use.
struct Trials {
    polling: bool,
    /// Trials until the other way is tried.
    left: u32,
    /// Trials without polling after a failure.
    sleeping_trials: u32,
    /// The time of a request in the last trial without polling.
    asleep: Duration,
    /// The times of a request in this trial.
    times: Vec<Duration>,
    /// The failures of polling in this trial.
    failures: u32,
    /// The start of the time that runs, and the requests since then.
    since: Instant,
    requests: u32,
}

impl Trials {
    fn new(now: Instant) -> Self {
        Self {
            polling: false,
            left: 1,
            sleeping_trials: 1,
            asleep: Duration::ZERO,
            times: Vec::with_capacity(TIMES),
            failures: 0,
            since: now,
            requests: 0,
        }
    }

    /// Counts requests that arrived and were handled until `now`.
    fn requests(&mut self, count: u32, now: Instant) {
        self.requests = self.requests.saturating_add(count);
        if self.requests < REQUESTS {
            return;
        }
        let each = (now - self.since) / self.requests;
        (self.since, self.requests) = (now, 0);
        self.times.push(each);
        // Polling keeps a processor busy: a little faster is not enough.
        if self.polling && each > self.asleep - self.asleep / 8 {
            self.fail(now);
        }
        if self.times.len() == TIMES {
            self.end_trial();
        }
    }

    fn end_trial(&mut self) {
        if self.polling {
            self.sleeping_trials = 1;
        } else {
            self.times.sort_unstable();
            self.asleep = self.times.get(TIMES / 2).copied().unwrap_or_default();
        }
        self.times.clear();
        self.failures = 0;
        self.left -= 1;
        if self.left == 0 {
            self.polling = !self.polling;
            self.left = if self.polling { POLLING_TRIALS } else { 1 };
        }
    }

    /// Polling has failed. It ends if it has failed too often.
    fn fail(&mut self, now: Instant) {
        self.failures += 1;
        if self.failures > FAILURES {
            self.polling = false;
            self.sleeping_trials = (self.sleeping_trials * 2).min(MAX_SLEEPING_TRIALS);
            self.left = self.sleeping_trials;
            self.times.clear();
            self.failures = 0;
            (self.since, self.requests) = (now, 0);
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
        trials: Trials,
        now: Instant,
        /// The time of a request with polling, and without.
        polled: Duration,
        slept: Duration,
    }

    impl Host {
        fn new(polled: Duration, slept: Duration) -> Self {
            let now = Instant::now();
            let trials = Trials::new(now);
            Self {
                trials,
                now,
                polled,
                slept,
            }
        }

        /// Serves so many requests, and returns how many of them with polling.
        fn serve(&mut self, requests: u32) -> u32 {
            let mut polled = 0;
            for _ in 0..requests {
                let polling = self.trials.polling;
                polled += u32::from(polling);
                self.now += if polling { self.polled } else { self.slept };
                self.trials.requests(1, self.now);
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
        assert!(host.serve(100 * TRIAL) <= 5 * TRIAL);
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
                host.trials.fail(host.now);
                missed += 1;
            }
        }
        assert!((10..50).contains(&missed), "{missed}");
    }

    #[test]
    fn a_pause_of_the_host_changes_nothing() {
        let mut host = Host::new(micros(60), micros(90));
        host.serve(TRIAL);
        for _ in 0..100 {
            assert!(host.trials.polling || host.trials.left == 1);
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
            host.trials.requests(40, host.now);
        }
        assert_eq!(host.trials.asleep, micros(90));
    }
}
