//! Decides which file system is frozen or thawed next.
//!
//! File systems are frozen side by side, except that one waits for those that must be frozen
//! before it. They are thawed the other way round. A thaw that waits for another one in a way
//! that the order does not show may never return, so the thaw ends with no regard to the
//! order if it makes no progress.

use std::time::{Duration, Instant};

use rustix::io::Errno;

/// How many file systems are frozen, or thawed, at the same time. Disks work side by side,
/// and so do requests to one disk.
const AT_ONCE: usize = 16;

/// How long to wait for a thaw to return before others are thawed at the same time. Most take
/// less than it takes to wake a thread.
const WIDEN: Duration = Duration::from_millis(2);

/// How often a thaw is checked after that.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// The state of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum State {
    /// It was not tried.
    Untouched,
    /// A thread is freezing it since then.
    Freezing(Instant),
    /// `FIFREEZE` returned this error. `ESHUTDOWN` stands for any error of a file system that
    /// was shut down.
    Refused(Errno),
    /// It has to be thawed.
    Frozen,
    /// A thread is thawing it.
    Thawing,
    /// `FITHAW` returned this.
    Thawed(Result<(), Errno>),
}

/// Returns whether the file system is not frozen after a `FITHAW` with this result: it was
/// thawed, or was not frozen.
fn is_thawed(said: Result<(), Errno>) -> bool {
    matches!(said, Ok(()) | Err(Errno::INVAL))
}

/// Returns whether the others are frozen although one cannot be. It cannot
/// (`EOPNOTSUPP`), need not (`EBUSY`: another program froze it), or nothing is written to
/// it (`EROFS`: the kernel made it read-only after an error).
pub(in super::super) fn is_skippable(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::BUSY | Errno::OPNOTSUPP | Errno::ROFS | Errno::SHUTDOWN
    )
}

/// The task of the threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Task {
    Wait,
    Freeze,
    Thaw,
    End,
}

/// A call into the kernel, for the file system with this index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Freeze(usize),
    Thaw(usize),
}

#[derive(Debug)]
struct FileSystem {
    state: State,
    /// Those that are frozen before it and thawed after it.
    before: Vec<usize>,
    /// Those that are frozen after it and thawed before it.
    after: Vec<usize>,
}

/// File systems, and what has been done with them.
#[derive(Debug)]
pub(super) struct Schedule {
    task: Task,
    each: Vec<FileSystem>,
    /// One cannot be frozen: no other one will be.
    failed: bool,
    /// How many may be frozen at the same time.
    freezes: usize,
    /// How many may be thawed at the same time.
    thaws: usize,
    /// Some thaw took long.
    wide: bool,
    /// They are thawed in any order.
    any_order: bool,
    /// How many more may be thawed at the same time after the next check without progress.
    step: usize,
    /// How many calls to thaw have returned, and how many had at the last check.
    returned: (u64, u64),
}

impl Schedule {
    /// Returns a schedule of so many file systems, which are in freeze order. Of each pair in
    /// `order` the first is frozen before the second. Pairs that contradict the freeze order
    /// are ignored.
    pub(super) fn new(count: usize, order: &[(usize, usize)]) -> Self {
        let untouched = || FileSystem {
            state: State::Untouched,
            before: Vec::new(),
            after: Vec::new(),
        };
        let mut each: Vec<_> = std::iter::repeat_with(untouched).take(count).collect();
        for &(first, then) in order.iter().filter(|(first, then)| first < then) {
            if let Some(its) = each.get_mut(then) {
                its.before.push(first);
                if let Some(its) = each.get_mut(first) {
                    its.after.push(then);
                }
            }
        }
        Self {
            task: Task::Wait,
            each,
            failed: false,
            freezes: AT_ONCE,
            thaws: 1,
            wide: false,
            any_order: false,
            step: 1,
            returned: (0, 0),
        }
    }

    /// Leaves one of so many threads free to thaw.
    pub(super) fn set_threads(&mut self, threads: usize) {
        if threads < self.each.len() {
            self.freezes = AT_ONCE.min(threads.saturating_sub(1));
        }
    }

    /// Begins to freeze.
    pub(super) fn freeze(&mut self) {
        if self.task == Task::Wait {
            self.task = Task::Freeze;
        }
    }

    /// Assumes that all are frozen that were not tried, except those that `but` names.
    pub(super) fn assume_frozen(&mut self, but: impl Fn(usize) -> bool) {
        for (index, its) in self.each.iter_mut().enumerate() {
            if its.state == State::Untouched && !but(index) {
                its.state = State::Frozen;
            }
        }
    }

    /// Stops freezing, and begins to thaw. Retries failed thaws.
    pub(super) fn thaw(&mut self) {
        self.task = Task::Thaw;
        for its in &mut self.each {
            if matches!(its.state, State::Thawed(said) if !is_thawed(said)) {
                its.state = State::Frozen;
            }
        }
        // Those that hang do not count.
        self.thaws = 1 + self.count(State::Thawing);
        self.wide = false;
        self.any_order = false;
        self.step = 1;
        self.returned.1 = self.returned.0;
    }

    /// Thaws more at the same time if no thaw has returned since the last time: at first in
    /// order, then in any order and twice as many each time.
    pub(super) fn escalate(&mut self) {
        let (returned, before) = self.returned;
        if returned != before {
            self.returned.1 = returned;
            self.step = 1;
        } else if !self.wide {
            self.wide = true;
            self.thaws = self.thaws.saturating_add(AT_ONCE - 1);
        } else if self.any_pending() {
            self.any_order = true;
            self.thaws = self.thaws.saturating_add(self.step);
            self.step = self.step.saturating_mul(2);
        }
    }

    /// Returns how long to wait until the next [`Schedule::escalate`].
    pub(super) fn check_interval(&self) -> Duration {
        match self.wide {
            false => WIDEN,
            true => CHECK_INTERVAL,
        }
    }

    /// Ends the threads.
    pub(super) fn end(&mut self) {
        self.task = Task::End;
    }

    pub(super) fn has_ended(&self) -> bool {
        self.task == Task::End
    }

    /// Returns the call that a thread is to make now, if there is any.
    pub(super) fn next(&self) -> Option<Call> {
        match self.task {
            Task::Wait | Task::End => None,
            Task::Freeze if self.failed || self.freezing().count() >= self.freezes => None,
            Task::Freeze => {
                let is_next = |its: &FileSystem| {
                    its.state == State::Untouched && self.all(&its.before, |it| !is_open(it))
                };
                self.each.iter().position(is_next).map(Call::Freeze)
            }
            Task::Thaw if self.count(State::Thawing) >= self.thaws => None,
            Task::Thaw => {
                let holds = |state| matches!(state, State::Frozen | State::Thawing);
                let is_next = |its: &FileSystem| {
                    its.state == State::Frozen
                        && (self.any_order || self.all(&its.after, |it| !holds(it)))
                };
                self.each.iter().rposition(is_next).map(Call::Thaw)
            }
        }
    }

    /// Notes that a thread makes this call now.
    pub(super) fn begin(&mut self, call: Call) {
        let (index, state) = match call {
            Call::Freeze(index) => (index, State::Freezing(Instant::now())),
            Call::Thaw(index) => (index, State::Thawing),
        };
        self.set(index, state);
    }

    /// Notes the result of a call. Returns the call that the same thread has to make next, if
    /// the freeze was aborted meanwhile: no other thread thaws this one.
    pub(super) fn ended(&mut self, call: Call, said: Result<(), Errno>) -> Option<Call> {
        match (call, said) {
            (Call::Freeze(index), Ok(())) if self.task != Task::Freeze => {
                return Some(Call::Thaw(index));
            }
            (Call::Freeze(index), Ok(())) => self.set(index, State::Frozen),
            (Call::Freeze(index), Err(errno)) => {
                self.failed |= !is_skippable(errno);
                self.set(index, State::Refused(errno));
            }
            (Call::Thaw(index), said) => {
                self.returned.0 += 1;
                self.set(index, State::Thawed(said));
            }
        }
        None
    }

    fn set(&mut self, index: usize, state: State) {
        if let Some(its) = self.each.get_mut(index) {
            its.state = state;
        }
    }

    fn all(&self, of: &[usize], test: impl Fn(State) -> bool) -> bool {
        let states = of.iter().filter_map(|&index| self.each.get(index));
        states.map(|it| it.state).all(test)
    }

    fn count(&self, state: State) -> usize {
        self.states().filter(|(_, it)| *it == state).count()
    }

    /// Returns the state of each.
    pub(super) fn states(&self) -> impl Iterator<Item = (usize, State)> {
        self.each.iter().map(|its| its.state).enumerate()
    }

    /// Returns which ones are being frozen, and for how long.
    pub(super) fn freezing(&self) -> impl Iterator<Item = (usize, Duration)> {
        self.states().filter_map(|(index, state)| match state {
            State::Freezing(since) => Some((index, since.elapsed())),
            _ => None,
        })
    }

    /// Returns whether no further one will be frozen, and each call to freeze has returned.
    pub(super) fn is_frozen(&self) -> bool {
        let open = |state| is_open(state) && !(self.failed && state == State::Untouched);
        !self.states().any(|(_, state)| open(state))
    }

    /// Returns whether a thaw has not begun.
    pub(super) fn any_pending(&self) -> bool {
        self.states().any(|(_, state)| state == State::Frozen)
    }

    /// Returns whether a call has not returned.
    pub(super) fn is_calling(&self) -> bool {
        self.states()
            .any(|(_, state)| matches!(state, State::Freezing(_) | State::Thawing))
    }

    /// Returns whether all are thawed.
    pub(super) fn all_thawed(&self) -> bool {
        let failed = |state| matches!(state, State::Thawed(said) if !is_thawed(said));
        !self.is_calling() && !self.any_pending() && !self.states().any(|(_, state)| failed(state))
    }
}

/// Returns whether it is not known yet if one in this state will be frozen.
fn is_open(state: State) -> bool {
    matches!(state, State::Untouched | State::Freezing(_))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    /// Lets one of these calls end.
    fn end(schedule: &mut Schedule, calls: &mut Vec<Call>, which: Index) -> Call {
        let call = calls.swap_remove(which.index(calls.len()));
        assert_eq!(schedule.ended(call, Ok(())), None);
        call
    }

    /// Begins all calls that can be made.
    fn begin(schedule: &mut Schedule, calls: &mut Vec<Call>) -> Vec<Call> {
        let mut begun = Vec::new();
        while let Some(call) = schedule.next() {
            schedule.begin(call);
            begun.push(call);
        }
        calls.extend(&begun);
        begun
    }

    fn state(schedule: &Schedule, index: usize) -> State {
        schedule.each[index].state
    }

    proptest! {
        #[test]
        fn all_are_frozen_and_thawed_in_order_however_long_each_takes(
            count in 0..40usize,
            pairs in prop::collection::vec((0..40usize, 0..40usize), 0..60),
            ends in prop::collection::vec(any::<Index>(), 80),
        ) {
            let mut schedule = Schedule::new(count, &pairs);
            let pairs: Vec<_> = pairs
                .into_iter()
                .filter(|(first, then)| first < then && *then < count)
                .collect();
            let mut ends = ends.into_iter();
            let mut calls = Vec::new();
            schedule.freeze();
            loop {
                for call in begin(&mut schedule, &mut calls) {
                    for &(first, then) in &pairs {
                        prop_assert!(
                            call != Call::Freeze(then) || state(&schedule, first) == State::Frozen
                        );
                    }
                }
                prop_assert!(calls.len() <= AT_ONCE);
                // Some call is under way until all are frozen.
                prop_assert_eq!(calls.is_empty(), schedule.is_frozen());
                let Some(which) = ends.next().filter(|_| !calls.is_empty()) else { break };
                end(&mut schedule, &mut calls, which);
            }
            prop_assert!(schedule.states().all(|(_, state)| state == State::Frozen));
            schedule.thaw();
            loop {
                for call in begin(&mut schedule, &mut calls) {
                    for &(first, then) in &pairs {
                        prop_assert!(
                            call != Call::Thaw(first)
                                || state(&schedule, then) == State::Thawed(Ok(()))
                        );
                    }
                }
                prop_assert!(calls.len() <= AT_ONCE);
                prop_assert_eq!(calls.is_empty(), schedule.all_thawed());
                let Some(which) = ends.next().filter(|_| !calls.is_empty()) else { break };
                end(&mut schedule, &mut calls, which);
            }
            prop_assert!(schedule.all_thawed());
        }

        /// Each call returns this, or never.
        #[test]
        fn what_is_frozen_is_thawed_whatever_fails_or_hangs(
            pairs in prop::collection::vec((0..40usize, 0..40usize), 0..60),
            freezes in prop::collection::vec(prop_oneof![
                1 => Just(None),
                1 => Just(Some(Err(Errno::IO))),
                4 => Just(Some(Err(Errno::BUSY))),
                30 => Just(Some(Ok(()))),
            ], 0..40),
            thaws in prop::collection::vec(prop_oneof![
                1 => Just(None),
                1 => Just(Some(Err(Errno::INVAL))),
                2 => Just(Some(Ok(()))),
            ], 40),
            ends in prop::collection::vec(any::<Index>(), 0..80),
        ) {
            let said = |call: &Call| match *call {
                Call::Freeze(index) => freezes[index],
                Call::Thaw(index) => thaws[index],
            };
            let mut schedule = Schedule::new(freezes.len(), &pairs);
            let (mut calls, mut thawed) = (Vec::new(), vec![0; freezes.len()]);
            schedule.freeze();
            for which in ends {
                begin(&mut schedule, &mut calls);
                let mut returns: Vec<_> = (0..calls.len()).collect();
                returns.retain(|&at| said(&calls[at]).is_some());
                if returns.is_empty() {
                    break;
                }
                let call = calls.swap_remove(returns[which.index(returns.len())]);
                prop_assert_eq!(schedule.ended(call, said(&call).unwrap()), None);
            }
            schedule.thaw();
            // Far fewer checks than there are calls.
            for _ in 0..12 {
                begin(&mut schedule, &mut calls);
                while let Some(at) = calls.iter().position(|call| said(call).is_some()) {
                    let call = calls.swap_remove(at);
                    if let Call::Thaw(index) = call {
                        thawed[index] += 1;
                    }
                    if let Some(own) = schedule.ended(call, said(&call).unwrap()) {
                        prop_assert!(call != own);
                        schedule.begin(own);
                        calls.push(own);
                    }
                    begin(&mut schedule, &mut calls);
                }
                schedule.escalate();
            }
            prop_assert!(!schedule.any_pending());
            prop_assert!(thawed.iter().all(|times| *times <= 1));
            prop_assert_eq!(schedule.is_calling(), !calls.is_empty());
            prop_assert_eq!(schedule.all_thawed(), calls.is_empty());
        }
    }

    #[test]
    fn what_hangs_in_its_thaw_keeps_nothing_frozen() {
        let count = 5 * AT_ONCE;
        let chain: Vec<_> = (1..count).map(|then| (then - 1, then)).collect();
        for (order, in_order) in [(&chain[..], 1), (&[][..], AT_ONCE)] {
            let mut schedule = Schedule::new(count, order);
            schedule.assume_frozen(|_| false);
            schedule.thaw();
            let mut calls = Vec::new();
            begin(&mut schedule, &mut calls);
            assert_eq!(calls.len(), 1);
            schedule.escalate();
            begin(&mut schedule, &mut calls);
            assert_eq!(calls.len(), in_order);
            for _ in 0..10 {
                schedule.escalate();
                begin(&mut schedule, &mut calls);
            }
            assert_eq!(calls.len(), count);
            assert!(schedule.is_calling() && !schedule.any_pending());
        }
    }

    #[test]
    fn one_that_is_frozen_after_the_abort_is_thawed_by_the_same_thread() {
        let mut schedule = Schedule::new(3, &[(0, 1), (1, 2)]);
        let mut calls = Vec::new();
        schedule.freeze();
        assert_eq!(begin(&mut schedule, &mut calls), [Call::Freeze(0)]);
        schedule.thaw();
        assert_eq!(schedule.next(), None);
        assert!(!schedule.all_thawed());
        assert_eq!(schedule.ended(Call::Freeze(0), Ok(())), Some(Call::Thaw(0)));
        schedule.begin(Call::Thaw(0));
        assert_eq!(schedule.ended(Call::Thaw(0), Err(Errno::PERM)), None);
        assert!(!schedule.all_thawed() && !schedule.is_calling());
        // It is tried again.
        schedule.thaw();
        assert_eq!(schedule.next(), Some(Call::Thaw(0)));
        schedule.begin(Call::Thaw(0));
        assert_eq!(schedule.ended(Call::Thaw(0), Ok(())), None);
        assert!(schedule.all_thawed());
    }

    #[test]
    fn a_thread_is_left_for_thaws() {
        let mut schedule = Schedule::new(9, &[]);
        schedule.set_threads(4);
        schedule.freeze();
        assert_eq!(begin(&mut schedule, &mut Vec::new()).len(), 3);
    }
}
