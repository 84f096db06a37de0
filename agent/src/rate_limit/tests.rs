use std::sync::mpsc::{Receiver, channel};

use proptest::prelude::*;
use slog::{error, info};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The most bytes of these that came within any 24 hours.
fn most_in_a_day(passed: &[(Duration, u64)]) -> u64 {
    let (mut most, mut within, mut first) = (0, 0, 0);
    for (at, bytes) in passed {
        within += bytes;
        while passed[first].0 + DAY < *at {
            within -= passed[first].1;
            first += 1;
        }
        most = most.max(within);
    }
    most
}

/// What passes a limit of records that come at their times.
struct Simulated {
    state: State,
    began: Instant,
    passed: Vec<(Duration, u64)>,
}

impl Simulated {
    fn new() -> Self {
        let began = Instant::now();
        Self {
            state: State::new(began),
            began,
            passed: Vec::new(),
        }
    }

    /// A record comes; `true` where it passes.
    fn log(&mut self, at: Duration, class: Class, line: u32, cost: u64) -> bool {
        let (now, site) = (self.began + at, ("file", line));
        // As the supervisor does it.
        if self.state.summary_due().is_some_and(|due| due <= now) {
            assert!(self.state.summary(now).is_some());
            self.passed.push((at, SUMMARY_COST as u64));
        }
        let passes = self.state.admits(class, site, cost, now);
        match passes {
            true => self.passed.push((at, cost)),
            false => self.state.kinds.suppressed(site, || "text".repeat(1000)),
        }
        passes
    }
}

#[test]
fn whoever_logs_as_much_as_they_can_for_days_gets_no_more_than_the_bound() {
    for cost in [100, MAX_COST] {
        let mut limit = Simulated::new();
        for second in 0..3 * 24 * 60 * 60 {
            for (class, line) in Class::ALL.into_iter().zip(second % 100..) {
                while limit.log(SECOND * second, class, line, cost) {}
            }
        }
        let most = most_in_a_day(&limit.passed);
        assert!(most <= ONE_A_DAY, "{most} of {ONE_A_DAY}");
        // The bound is about what really comes.
        assert!(most > ONE_A_DAY * 8 / 10, "{most} of {ONE_A_DAY}");
        assert!(limit.state.suppressed().total > 1_000_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_sequence_of_records_exceeds_the_bound(
        records in prop::collection::vec(
            (0u64..20_000_000, 0..CLASSES, 0u32..100, 1..=MAX_COST, 1usize..400), 1..400
        )
    ) {
        let mut limit = Simulated::new();
        let mut at = Duration::ZERO;
        for (pause, class, line, cost, times) in records {
            // Mostly at once, and now and then hours later.
            at += Duration::from_millis(if pause % 3 == 0 { pause } else { pause % 300 });
            for _ in 0..times {
                limit.log(at, Class::ALL[class], line, cost);
            }
        }
        prop_assert!(most_in_a_day(&limit.passed) <= ONE_A_DAY);
    }
}

#[test]
fn one_class_leaves_the_others_their_share() {
    let mut limit = Simulated::new();
    for class in Class::ALL {
        limit.log(Duration::ZERO, class, 1, 300);
    }
    for chatty in Class::ALL {
        let mut count = 0;
        while limit.log(Duration::ZERO, chatty, 1, 300) {
            count += 1;
        }
        assert!((50..100).contains(&count), "{chatty:?}: {count}");
    }
}

#[test]
fn the_first_of_a_kind_passes_once_a_day_however_much_there_is() {
    let mut limit = Simulated::new();
    let mut times = 0;
    for minute in 0..3 * 24 * 60 {
        let at = Duration::from_secs(60 * minute);
        while limit.log(at, Class::Warning, 1, 20) {}
        times += u32::from(limit.log(at, Class::Warning, 2, MAX_COST));
    }
    assert_eq!(times, 3);
    // Who makes up kinds gains no more than what is kept for those.
    while limit.log(3 * DAY, Class::Warning, 1, 20) {}
    let firsts = (100..10_000).filter(|line| limit.log(3 * DAY, Class::Warning, *line, MAX_COST));
    assert_eq!(firsts.count(), MAX_KINDS - 2);
}

#[test]
fn summaries_come_soon_and_then_seldom_and_say_what_there_was() {
    let mut limit = Simulated::new();
    assert_eq!(limit.state.summary_due(), None);
    while limit.log(Duration::ZERO, Class::Warning, 1, 300) {}
    for line in [1, 1, 2, 2, 2, 3, 4] {
        limit.log(Duration::ZERO, Class::Warning, line, 300);
    }
    let due = limit.state.summary_due().unwrap();
    assert_eq!(due, limit.began + SUMMARY_AFTER);
    let summary = limit.state.summary(due).unwrap();
    assert!(summary.len() < kinds::MAX_SUMMARY, "{summary}");
    // The first of each kind has passed.
    let beginning = "5 messages suppressed in the last 10 s, most frequent: (3 times) texttext";
    assert!(summary.starts_with(beginning), "{summary}");
    assert!(summary.contains(", (2 times) texttext"), "{summary}");
    assert_eq!(limit.state.summary_due(), None);
    assert_eq!(limit.state.summary(due), None);
    while limit.log(30 * SECOND, Class::Warning, 1, MAX_COST) {}
    assert_eq!(limit.state.summary_due(), Some(due + SUMMARY_INTERVAL));
}

/// Gives the text of each record to a test.
struct RecordText(Mutex<std::sync::mpsc::Sender<String>>);

impl Drain for RecordText {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let text = crate::fields::RecordText::of(record, values).0;
        self.0.lock().unwrap().send(text).unwrap();
        Ok(())
    }
}

/// A log with a limit, and what passes.
fn limited(
    wake: impl Fn() + Send + Sync + UnwindSafe + RefUnwindSafe + 'static,
) -> (Logger, Logger, Arc<RateLimit>, Receiver<String>) {
    let (texts, received) = channel();
    let to = Logger::root(RecordText(Mutex::new(texts)), o!());
    let limit = Arc::new(RateLimit::new(wake));
    let limited = RateLimitedDrain {
        to: to.clone(),
        limit: Arc::clone(&limit),
    };
    (
        Logger::root(limited, o!("service" => "kvp")),
        to,
        limit,
        received,
    )
}

#[test]
fn events_warnings_and_output_pass_beside_any_number_of_others() {
    let (wakes, woken) = channel();
    let wakes = Mutex::new(wakes);
    let (log, to, limit, received) = limited(move || wakes.lock().unwrap().send(()).unwrap());
    for _ in 0..10_000 {
        warn!(log, "again");
        info!(log, "and again");
        info!(log, #PROGRAM_OUTPUT, "said");
    }
    let passed: Vec<_> = received.try_iter().collect();
    for (text, most) in [("again", 300), ("and again", 300), ("said", 300)] {
        let count = passed.iter().filter(|line| line.starts_with(text)).count();
        assert!((50..most).contains(&count), "{text}: {count}");
    }
    let mut expected = Vec::new();
    for number in 0..20 {
        info!(log, "done {}", number; "HYPERV_EVENT" => "copy");
        warn!(log, "failed {}", number; "HYPERV_EVENT" => "copy");
        expected.push(format!("done {number}, service: kvp"));
        expected.push(format!("failed {number}, service: kvp"));
    }
    error!(log, "of another kind");
    expected.push("of another kind, service: kvp".to_owned());
    assert_eq!(received.try_iter().collect::<Vec<_>>(), expected);

    assert_eq!(woken.try_iter().count(), 1);
    let suppressed = limit.suppressed();
    assert_eq!(suppressed.total as usize, 30_000 - passed.len());
    assert!(suppressed.warnings > 9000 && suppressed.warnings < 10_000);
    assert_eq!(suppressed.events, 0);
    limit.log_summary(&to);
    let summary = received.try_recv().unwrap();
    // How long it took, and so the order of the kinds, is the machine's affair.
    for words in [
        "messages suppressed in the last ",
        " times) again, service: kvp",
        " times) and again, service: kvp",
    ] {
        assert!(summary.contains(words), "{summary}");
    }
    limit.log_summary(&to);
    assert!(received.try_recv().is_err());
}

#[test]
fn records_that_the_threshold_stops_take_nothing() {
    let (queue, threshold) = (slog::Discard, Level::Warning);
    let to = Logger::root(slog::LevelFilter::new(queue, threshold).ignore_res(), o!());
    let limit = Arc::new(RateLimit::new(|| {}));
    let limited = RateLimitedDrain {
        to,
        limit: Arc::clone(&limit),
    };
    let log = Logger::root(limited, o!());
    for _ in 0..10_000 {
        info!(log, "quiet");
    }
    assert_eq!(limit.suppressed().total, 0);
}

/// Whatever is logged, and wherever to, takes no more bytes than it costs.
#[cfg(feature = "syslog")]
#[test]
fn what_is_written_of_a_record_is_no_more_than_it_costs() {
    use std::os::unix::net::UnixDatagram;

    use crate::journal::Journal;
    use crate::lines::Lines;
    use crate::syslog::Syslog;

    /// Notes the cost of what passes.
    struct Costs(Mutex<std::sync::mpsc::Sender<u64>>);

    impl Drain for Costs {
        type Ok = ();
        type Err = Never;

        fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
            let cost = TruncatedRecord::of(record, values).cost();
            self.0.lock().unwrap().send(cost).unwrap();
            Ok(())
        }
    }

    let home = tempfile::tempdir().unwrap();
    let bind = |name| UnixDatagram::bind(home.path().join(name)).unwrap();
    let (journal, syslog) = (bind("journal"), bind("syslog"));
    let file = home.path().join("stderr");
    let stderr = Lines::new(std::fs::File::create(&file).unwrap(), false);
    let (costs, cost) = channel();
    let texts = slog::Duplicate(
        Syslog::connect(home.path().join("syslog")).unwrap().fuse(),
        slog::Duplicate(stderr.fuse(), Costs(Mutex::new(costs))).fuse(),
    );
    let drain = slog::Duplicate(
        Journal::connect(home.path().join("journal"))
            .unwrap()
            .fuse(),
        texts.fuse(),
    );
    let limited = RateLimitedDrain {
        to: Logger::root(drain.fuse(), o!()),
        limit: Arc::new(RateLimit::new(|| {})),
    };
    let log = Logger::root(
        limited,
        o!("service" => "kvp", "HYPERV_DEVICE" => "/dev/vmbus/hv_kvp"),
    );
    let mut written = 0;
    let mut check = || {
        let cost = cost.recv().unwrap();
        assert!(cost <= MAX_COST, "{cost}");
        let read = |socket: &UnixDatagram| {
            let mut datagram = vec![0; 1 << 16];
            let len = socket.recv(&mut datagram).unwrap();
            assert!(len as u64 <= cost, "{len} for {cost}");
            datagram.truncate(len);
            String::from_utf8(datagram).unwrap()
        };
        read(&syslog);
        let all = file.metadata().unwrap().len();
        assert!(all - written <= cost, "{} for {cost}", all - written);
        written = all;
        read(&journal)
    };
    info!(log, "");
    check();
    warn!(log, "\n"; "a" => "\n", "HYPERV_B" => "\n");
    check();
    let long = "\u{7f}é".repeat(4000);
    error!(log, "{} {:?} {}", long, long, long; "a" => &long, "b" => &long, "c" => &long,
        "d" => &long, "HYPERV_EVENT" => "backup", "e" => &long, "f" => &long, "g" => &long);
    check();
    let why = format!("{long:?}: no room");
    warn!(log, "failed: {}", why; "HYPERV_EVENT" => "backup", "HYPERV_OUTCOME" => "failed");
    let text = check();
    for words in ["…", ": no room, service: kvp\n", "HYPERV_EVENT=backup\n"] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
}
