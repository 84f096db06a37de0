//! Freezing for real, what can go wrong with it, and that it always ends.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hyperv_services::kernel;
use hyperv_services::service::Service;
use hyperv_services::vss::freeze::{FreezeError, Freezer};
use hyperv_services::vss::guard::{Guard, GuardError, News, process};
use hyperv_services::vss::open::{Opened, open};
use hyperv_services::vss::plan::{self, DeviceNumber};
use hyperv_services::vss::{Config, Vss};
use hyperv_vmbus::ic::Status;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use slog::{Discard, Logger, o};

use super::root::{Stage, in_own_root};

/// Far longer than any of these tests takes.
const LONG: Duration = Duration::from_secs(600);

const FREEZE: u8 = 5;
const THAW: u8 = 6;

/// A guard on a thread: the agent's executable is not to be had here.
fn guard() -> Result<Guard, GuardError> {
    let (ours, its) = UnixStream::pair().unwrap();
    thread::spawn(|| process::serve(its, None, Path::new("/nowhere")));
    Ok(Guard::at(ours).unwrap())
}

fn two_file_systems(stage: &Stage) {
    for name in ["one", "two"] {
        let image = format!("/images/{name}");
        stage.image(&image, "ext4");
        stage.mount(&image, &format!("/{name}"));
    }
}

fn later() -> Instant {
    Instant::now() + LONG
}

fn opened() -> Vec<Opened> {
    let plan = plan::make(&Config::default()).unwrap();
    let each = plan.freeze.iter();
    each.map(|it| open(it, Path::new("/")).unwrap()).collect()
}

fn directory(path: &str, flags: OFlags) -> OwnedFd {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// Whether a file system is frozen, which only an attempt can tell.
fn is_frozen(path: &str) -> bool {
    let fd = directory(path, OFlags::RDONLY);
    match kernel::freeze(&fd) {
        Ok(()) => {
            kernel::thaw(&fd).unwrap();
            false
        }
        Err(errno) => {
            assert_eq!(errno, Errno::BUSY, "{path}");
            true
        }
    }
}

fn frozen() -> [bool; 2] {
    ["/one", "/two"].map(is_frozen)
}

fn service() -> Vss {
    Vss::new(&Config::default(), &Logger::root(Discard, o!()), guard)
}

fn ask(service: &mut Vss, operation: u8) -> Status {
    let mut body = [0; 12];
    body[0] = operation;
    service.handle_uio(&mut body)
}

#[test]
fn when_one_refuses_the_others_are_thawed() {
    in_own_root(
        "freeze::when_one_refuses_the_others_are_thawed",
        two_file_systems,
        |_| {
            let mut file_systems = opened();
            // The kernel freezes nothing by a descriptor that is a mere name.
            file_systems.push(Opened {
                fd: directory("/run", OFlags::PATH),
                mount_point: "/refuses".into(),
                device: DeviceNumber::default(),
            });
            let mut freezer = Freezer::new(guard);
            let error = freezer.freeze(file_systems, LONG, later()).unwrap_err();
            assert!(
                matches!(&error, FreezeError::FileSystem { path, source: Errno::BADF }
                    if path == Path::new("/refuses")),
                "{error:?}"
            );
            assert!(!freezer.is_frozen());
            assert_eq!(frozen(), [false, false]);
        },
    );
}

#[test]
fn what_cannot_be_frozen_is_named_and_the_rest_is_frozen() {
    in_own_root(
        "freeze::what_cannot_be_frozen_is_named_and_the_rest_is_frozen",
        two_file_systems,
        |_| {
            let mut file_systems = opened();
            file_systems.insert(
                1,
                Opened {
                    fd: directory("/run", OFlags::RDONLY),
                    mount_point: "/run".into(),
                    device: DeviceNumber::default(),
                },
            );
            let mut freezer = Freezer::new(guard);
            let summary = freezer.freeze(file_systems, LONG, later()).unwrap();
            assert_eq!(summary.frozen, 2);
            assert_eq!(summary.cannot_freeze, [Path::new("/run")]);
            assert_eq!(frozen(), [true, true]);
            let thawed = freezer.thaw();
            assert_eq!((thawed.thawed, thawed.early.len()), (2, 0));
            assert_eq!(frozen(), [false, false]);
        },
    );
}

#[test]
fn what_others_have_frozen_stays_and_what_they_thaw_shows() {
    in_own_root(
        "freeze::what_others_have_frozen_stays_and_what_they_thaw_shows",
        two_file_systems,
        |_| {
            let (one, two) = (
                directory("/one", OFlags::RDONLY),
                directory("/two", OFlags::RDONLY),
            );
            kernel::freeze(&one).unwrap();
            let mut freezer = Freezer::new(guard);
            let summary = freezer.freeze(opened(), LONG, later()).unwrap();
            assert_eq!(summary.frozen_before, [Path::new("/one")]);
            kernel::thaw(&two).unwrap();
            let thawed = freezer.thaw();
            assert_eq!(thawed.early, [Path::new("/two")]);
            assert_eq!(frozen(), [true, false]);
            kernel::thaw(&one).unwrap();
        },
    );
}

#[test]
fn the_guard_thaws_after_the_time_limit_but_not_what_others_have_frozen() {
    in_own_root(
        "freeze::the_guard_thaws_after_the_time_limit_but_not_what_others_have_frozen",
        two_file_systems,
        |_| {
            let two = directory("/two", OFlags::RDONLY);
            kernel::freeze(&two).unwrap();
            let (ours, its) = UnixStream::pair().unwrap();
            let guard = thread::spawn(|| process::serve(its, None, Path::new("/nowhere")));
            let mut agent = Guard::at(ours).unwrap();
            let fds = [
                directory("/one", OFlags::RDONLY),
                directory("/two", OFlags::RDONLY),
            ];
            let borrowed: Vec<_> = fds.iter().map(std::os::fd::AsFd::as_fd).collect();
            agent.hold(&borrowed, Duration::from_secs(1)).unwrap();
            kernel::freeze(&fds[0]).unwrap();
            agent.not_ours(1);
            let mut wait = [rustix::event::PollFd::new(
                &agent,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut wait, None).unwrap();
            assert_eq!(agent.news(), News::TimeLimit);
            assert_eq!(frozen(), [false, true]);
            // The same where the agent is gone.
            agent.hold(&borrowed, LONG).unwrap();
            kernel::freeze(&fds[0]).unwrap();
            agent.not_ours(1);
            drop(agent);
            guard.join().unwrap().unwrap();
            assert_eq!(frozen(), [false, true]);
            kernel::thaw(&two).unwrap();
        },
    );
}

#[test]
fn what_is_frozen_past_the_time_does_not_stay_so() {
    in_own_root(
        "freeze::what_is_frozen_past_the_time_does_not_stay_so",
        two_file_systems,
        |_| {
            let mut agent = guard().unwrap();
            let one = directory("/one", OFlags::RDONLY);
            agent.hold(&[one.as_fd()], Duration::ZERO).unwrap();
            for _ in 0..2 {
                kernel::freeze(&one).unwrap();
                // This waits for the guard.
                std::fs::write("/one/file", "text").unwrap();
            }
            assert_eq!(agent.news(), News::TimeLimit);
            assert_eq!(agent.news(), News::None);
        },
    );
}

/// What only root may do fails in this thread from now on, until this is dropped.
struct Powerless(CapabilitySets);

impl Powerless {
    fn now() -> Self {
        let all = capabilities(None).unwrap();
        let mut fewer = all;
        fewer.effective.remove(CapabilitySet::SYS_ADMIN);
        set_capabilities(None, fewer).unwrap();
        Self(all)
    }
}

impl Drop for Powerless {
    fn drop(&mut self) {
        set_capabilities(None, self.0).unwrap();
    }
}

#[test]
fn what_cannot_be_thawed_is_tried_again() {
    in_own_root(
        "freeze::what_cannot_be_thawed_is_tried_again",
        two_file_systems,
        |_| {
            let mut service = service();
            assert_eq!(ask(&mut service, FREEZE), Status::OK);
            let powerless = Powerless::now();
            assert_eq!(ask(&mut service, THAW), Status::FAIL);
            assert_eq!(ask(&mut service, THAW), Status::FAIL);
            assert_eq!(ask(&mut service, FREEZE), Status::FAIL);
            drop(powerless);
            assert_eq!(frozen(), [true, true]);
            assert_eq!(ask(&mut service, THAW), Status::OK);
            assert_eq!(frozen(), [false, false]);
            assert_eq!(ask(&mut service, FREEZE), Status::OK);
            assert_eq!(ask(&mut service, THAW), Status::OK);
        },
    );
}

#[test]
fn what_was_left_frozen_and_cannot_be_thawed_is_tried_again() {
    in_own_root(
        "freeze::what_was_left_frozen_and_cannot_be_thawed_is_tried_again",
        two_file_systems,
        |_| {
            let mut killed = service();
            assert_eq!(ask(&mut killed, FREEZE), Status::OK);
            std::mem::forget(killed);
            let powerless = Powerless::now();
            let mut service = service();
            assert_eq!(ask(&mut service, FREEZE), Status::FAIL);
            assert_eq!(ask(&mut service, THAW), Status::FAIL);
            // It is noted for another agent, too.
            drop(service);
            let mut service = self::service();
            assert_eq!(ask(&mut service, FREEZE), Status::FAIL);
            drop(powerless);
            assert_eq!(frozen(), [true, true]);
            assert_eq!(ask(&mut service, FREEZE), Status::OK);
            assert_eq!(frozen(), [true, true]);
            assert_eq!(ask(&mut service, THAW), Status::OK);
            assert_eq!(frozen(), [false, false]);
        },
    );
}

#[test]
fn a_choice_that_nothing_meets_is_no_backup() {
    in_own_root(
        "freeze::a_choice_that_nothing_meets_is_no_backup",
        two_file_systems,
        |_| {
            let mut config = Config::default();
            config.include.mount_points.push("/data".to_owned());
            let mut service = Vss::new(&config, &Logger::root(Discard, o!()), guard);
            assert_eq!(ask(&mut service, FREEZE), Status::FAIL);
            assert_eq!(ask(&mut service, THAW), Status::OK);
            config.include.mount_points.push("/two".to_owned());
            let mut service = Vss::new(&config, &Logger::root(Discard, o!()), guard);
            assert_eq!(ask(&mut service, FREEZE), Status::OK);
            assert_eq!(frozen(), [false, true]);
            assert_eq!(ask(&mut service, THAW), Status::OK);
        },
    );
}

#[test]
fn a_service_that_panics_leaves_nothing_frozen() {
    in_own_root(
        "freeze::a_service_that_panics_leaves_nothing_frozen",
        two_file_systems,
        |_| {
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let mut service = service();
                assert_eq!(ask(&mut service, FREEZE), Status::OK);
                assert_eq!(frozen(), [true, true]);
                panic!("of the test");
            }));
            panicked.unwrap_err();
            assert_eq!(frozen(), [false, false]);
            // Whoever comes after it knows that the backup is not consistent.
            let mut service = service();
            assert_eq!(ask(&mut service, THAW), Status::FAIL);
            assert_eq!(ask(&mut service, THAW), Status::OK);
            assert_eq!(ask(&mut service, FREEZE), Status::OK);
            assert_eq!(ask(&mut service, THAW), Status::OK);
        },
    );
}

#[test]
fn what_comes_too_late_freezes_nothing() {
    in_own_root(
        "freeze::what_comes_too_late_freezes_nothing",
        two_file_systems,
        |_| {
            let mut freezer = Freezer::new(guard);
            let before = Instant::now() - Duration::from_millis(1);
            let error = freezer.freeze(opened(), LONG, before).unwrap_err();
            assert!(matches!(error, FreezeError::TooLate), "{error}");
            assert!(!freezer.is_frozen());
            assert_eq!(frozen(), [false; 2]);
            // The guard is well.
            freezer.freeze(opened(), LONG, later()).unwrap();
            assert_eq!(frozen(), [true; 2]);
            assert_eq!(freezer.thaw().thawed, 2);
        },
    );
}

#[test]
fn without_a_guard_nothing_is_frozen() {
    in_own_root(
        "freeze::without_a_guard_nothing_is_frozen",
        two_file_systems,
        |_| {
            // One that is started and ends at once, each time.
            let log = Logger::root(Discard, o!());
            let mut service = Vss::new(&Config::default(), &log, || {
                let (ours, _) = UnixStream::pair().unwrap();
                Ok(Guard::at(ours).unwrap())
            });
            assert_eq!(ask(&mut service, FREEZE), Status::FAIL);
            assert_eq!(frozen(), [false, false]);
            assert_eq!(ask(&mut service, THAW), Status::OK);
        },
    );
}
