//! Looks up the fully qualified domain name of the machine, which may take long.
//!
//! A request never waits for it: it gets the best name known so far, and starts a look-up
//! on a separate thread when one is due. There is at most one look-up at a time in the
//! process, and none without requests.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dns_lookup::{AddrInfoHints, getaddrinfo};

use crate::retry::retry_until;

/// How long a name is valid.
const REFRESH: Duration = Duration::from_secs(600);

/// When to retry a failed look-up.
const RETRY: Duration = Duration::from_secs(60);

/// The same while the first look-up is recent: the network may be about to start.
const EARLY_RETRY: Duration = Duration::from_secs(10);

/// How long the first look-up is recent.
const EARLY: Duration = Duration::from_secs(120);

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// `AI_CANONNAME`, which is the same on every architecture.
const CANONICAL_NAME: i32 = 2;

/// `SOCK_STREAM`, so that each address is returned only once.
const STREAM: i32 = 1;

/// The state of the process. It outlives the service, which is created again for each
/// opened device: otherwise each would leave behind a thread that waits for the resolver.
static SHARED_STATE: LazyLock<Arc<Mutex<State>>> = LazyLock::new(Arc::default);

type Resolve = dyn Fn(&str) -> Option<String> + Send + Sync;

pub(super) struct FullName {
    resolve: Arc<Resolve>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// A look-up is running.
    busy: bool,
    /// The host name of the last look-up.
    host: String,
    /// When the first look-up of it began.
    first: Option<Instant>,
    /// When the next look-up is due.
    due: Option<Instant>,
    /// The full name for `host`.
    full_name: Option<String>,
}

impl FullName {
    /// Uses the system's resolver.
    pub(super) fn new() -> Self {
        Self {
            state: Arc::clone(&SHARED_STATE),
            ..Self::with(canonical_name)
        }
    }

    fn with(resolve: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self {
            resolve: Arc::new(resolve),
            state: Arc::default(),
        }
    }

    /// Returns the best name known for this host name.
    pub(super) fn best_known(&self, host: &str, now: Instant) -> String {
        let mut state = lock(&self.state);
        if state.host != host && !state.busy {
            *state = State {
                host: host.to_owned(),
                ..State::default()
            };
        }
        if !state.busy && !host.is_empty() && state.due.is_none_or(|due| due <= now) {
            state.busy = self.look_up(host.to_owned());
            let first = *state.first.get_or_insert(now);
            let early = now.saturating_duration_since(first) < EARLY;
            state.due = Some(now + if early { EARLY_RETRY } else { RETRY });
        }
        match &state.full_name {
            Some(name) if state.host == host => name.clone(),
            _ => host.to_owned(),
        }
    }

    /// Waits until no look-up is running, or until `deadline`.
    pub(super) fn wait(&self, deadline: Instant) {
        let done = || Ok::<_, Infallible>((!lock(&self.state).busy).then_some(()));
        let _ = retry_until(deadline, POLL_INTERVAL..=POLL_INTERVAL, done);
    }

    /// Starts a look-up; returns whether a thread could be started.
    fn look_up(&self, host: String) -> bool {
        let (resolve, state) = (Arc::clone(&self.resolve), Arc::clone(&self.state));
        // Nobody joins the thread: it may hang in the resolver until the process ends.
        let look_up = move || {
            let name = resolve(&host).filter(|name| is_full_name(name, &host));
            let mut state = lock(&state);
            state.busy = false;
            if let Some(name) = name {
                state.full_name = Some(name);
                state.due = Some(Instant::now() + REFRESH);
            }
        };
        let thread = thread::Builder::new().name("full-name".to_owned());
        thread.spawn(look_up).is_ok()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn canonical_name(host: &str) -> Option<String> {
    let hints = AddrInfoHints {
        flags: CANONICAL_NAME,
        socktype: STREAM,
        ..AddrInfoHints::default()
    };
    let first = getaddrinfo(Some(host), None, Some(hints)).ok()?.next()?;
    first.ok()?.canonname
}

/// Whether the name identifies this machine and is no shorter than the host name:
/// `/etc/hosts` may list the short one first.
fn is_full_name(name: &str, host: &str) -> bool {
    let plain = |letter: char| !letter.is_control() && !letter.is_whitespace();
    let first = name.split('.').next().unwrap_or_default();
    let own = !["", "localhost", "ip6-localhost", "ip6-loopback"].contains(&first);
    let as_full = name.contains('.') || !host.contains('.');
    own && as_full && name.chars().all(plain) && name.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A resolver that reports each query and waits for its answer from the test.
    struct Resolver {
        asked: Receiver<String>,
        answers: Sender<Option<String>>,
    }

    impl Resolver {
        fn new() -> (Self, FullName) {
            let (ask, asked) = channel();
            let (answers, answer) = channel();
            let shared = Mutex::new((ask, answer));
            let name = FullName::with(move |host| {
                let shared = shared.lock().unwrap();
                shared.0.send(host.to_owned()).unwrap();
                shared.1.recv().unwrap()
            });
            (Self { asked, answers }, name)
        }

        /// Answers the running look-up and waits until the answer is stored.
        fn answer(&self, name: &FullName, answer: Option<&str>) {
            self.answers.send(answer.map(str::to_owned)).unwrap();
            while lock(&name.state).busy {
                thread::yield_now();
            }
        }

        fn was_asked(&self) -> Option<String> {
            self.asked.recv_timeout(Duration::from_secs(20)).ok()
        }
    }

    #[test]
    fn a_request_does_not_wait_for_the_resolver() {
        let (resolver, name) = Resolver::new();
        let now = Instant::now();
        assert_eq!(name.best_known("web", now), "web");
        assert_eq!(resolver.was_asked().as_deref(), Some("web"));
        // While there is no answer, there is no second query.
        assert_eq!(name.best_known("web", now + REFRESH * 2), "web");
        resolver.answer(&name, Some("web.example.org"));
        assert_eq!(name.best_known("web", now), "web.example.org");
        assert!(resolver.asked.try_recv().is_err());
    }

    #[test]
    fn a_look_up_can_be_waited_for() {
        let (resolver, name) = Resolver::new();
        name.best_known("web", Instant::now());
        resolver.was_asked();
        name.wait(Instant::now());
        resolver
            .answers
            .send(Some("web.example.org".to_owned()))
            .unwrap();
        name.wait(Instant::now() + Duration::from_secs(60));
        assert_eq!(name.best_known("web", Instant::now()), "web.example.org");
    }

    #[test]
    fn services_that_come_and_go_share_one_look_up() {
        let (first, second) = (FullName::new(), FullName::new());
        assert!(Arc::ptr_eq(&first.state, &second.state));
        let (resolver, name) = Resolver::new();
        let now = Instant::now();
        for _ in 0..1000 {
            let another = FullName {
                resolve: Arc::clone(&name.resolve),
                state: Arc::clone(&name.state),
            };
            assert_eq!(another.best_known("web", now + REFRESH * 2), "web");
        }
        assert!(resolver.was_asked().is_some());
        assert!(resolver.asked.try_recv().is_err());
        resolver.answer(&name, None);
    }

    #[test]
    fn an_old_name_is_looked_up_again() {
        let (resolver, name) = Resolver::new();
        name.best_known("web", Instant::now());
        resolver.was_asked();
        resolver.answer(&name, Some("web.old"));
        name.best_known("web", Instant::now() + RETRY);
        assert!(!lock(&name.state).busy);
        let later = Instant::now() + REFRESH;
        assert_eq!(name.best_known("web", later), "web.old");
        assert!(resolver.was_asked().is_some());
        // A failed look-up does not discard the name.
        resolver.answer(&name, None);
        assert_eq!(name.best_known("web", later), "web.old");
        assert_eq!(name.best_known("web", later + RETRY), "web.old");
        assert!(resolver.was_asked().is_some());
        resolver.answer(&name, Some("web.new"));
        assert_eq!(name.best_known("web", later), "web.new");
    }

    #[test]
    fn a_look_up_that_failed_is_retried_soon_at_first() {
        let (resolver, name) = Resolver::new();
        let mut now = Instant::now();
        let start = now;
        let mut looked_up = Vec::new();
        while now < start + EARLY * 2 {
            name.best_known("web", now);
            if lock(&name.state).busy {
                looked_up.push((now - start).as_secs());
                resolver.was_asked();
                resolver.answer(&name, None);
            }
            now += Duration::from_secs(1);
        }
        let early = (0..=12).map(|at| at * 10);
        assert_eq!(looked_up, early.chain([180]).collect::<Vec<_>>());
    }

    #[test]
    fn a_new_host_name_is_looked_up_at_once() {
        let (resolver, name) = Resolver::new();
        let now = Instant::now();
        name.best_known("old", now);
        resolver.was_asked();
        assert_eq!(name.best_known("new", now), "new");
        resolver.answer(&name, Some("old.example.org"));
        assert_eq!(name.best_known("new", now), "new");
        assert_eq!(resolver.was_asked().as_deref(), Some("new"));
        resolver.answer(&name, Some("new.example.org"));
        assert_eq!(name.best_known("new", now), "new.example.org");
    }

    #[test]
    fn an_answer_that_identifies_no_machine_is_ignored() {
        for answer in [
            "",
            "localhost",
            "localhost.localdomain",
            "ip6-localhost",
            ".example.org",
            "10.0.0.1",
            "::1",
            "a b",
            "a\n",
        ] {
            let (resolver, name) = Resolver::new();
            let now = Instant::now();
            name.best_known("web", now);
            resolver.was_asked();
            resolver.answer(&name, Some(answer));
            assert_eq!(name.best_known("web", now), "web", "{answer:?}");
        }
    }

    #[test]
    fn a_full_host_name_is_not_replaced_by_a_shorter_one() {
        for (answer, best) in [
            ("web", "web.example.org"),
            ("web.example.net", "web.example.net"),
        ] {
            let (resolver, name) = Resolver::new();
            let now = Instant::now();
            name.best_known("web.example.org", now);
            resolver.was_asked();
            resolver.answer(&name, Some(answer));
            assert_eq!(name.best_known("web.example.org", now), best);
        }
    }

    #[test]
    fn without_a_host_name_there_is_no_look_up() {
        let (resolver, name) = Resolver::new();
        assert_eq!(name.best_known("", Instant::now()), "");
        assert!(resolver.asked.try_recv().is_err());
    }

    #[test]
    fn the_systems_resolver_returns_canonical_names() {
        assert!(canonical_name("localhost").is_some_and(|name| name.starts_with("localhost")));
        assert_eq!(canonical_name("no\0name"), None);
    }
}
