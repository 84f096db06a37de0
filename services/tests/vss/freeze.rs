//! Freezing for real, what can go wrong with it, and that it always ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, io, mem};

use hyperv_services::service::Service;
use hyperv_services::sys;
use hyperv_services::vss::device_number::DeviceNumber;
use hyperv_services::vss::freeze::{Action, FreezeError, Freezer, NotThawed, Skipped, StartGuard};
use hyperv_services::vss::guard::process::{self, Context};
use hyperv_services::vss::guard::threads::{FileSystemCalls, Kernel};
use hyperv_services::vss::guard::{Guard, GuardError, GuardState};
use hyperv_services::vss::open::{Opened, open};
use hyperv_services::vss::plan;
use hyperv_services::vss::{Config, Processes, Vss, state_file};
use hyperv_vmbus::Encoding;
use hyperv_vmbus::ic::Status;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use slog::{Discard, Logger, o};

use super::root::{Stage, in_own_root};

/// Far longer than any of these tests takes.
const LONG: Duration = Duration::from_secs(600);

const FREEZE: u8 = 5;
const THAW: u8 = 6;

/// The guard's end of its socket, where the test ends it.
static SOCKET: Mutex<Option<UnixStream>> = Mutex::new(None);

/// Nothing can be thawed.
static POWERLESS: AtomicBool = AtomicBool::new(false);

/// The kernel, where it lets the guard thaw.
struct Unless;

impl FileSystemCalls for Unless {
    fn freeze(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        Kernel.freeze(fd)
    }

    fn thaw(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        match POWERLESS.load(Ordering::SeqCst) {
            true => Err(Errno::PERM),
            false => Kernel.thaw(fd),
        }
    }

    fn dead(&self, fd: BorrowedFd<'_>) -> Option<Errno> {
        Kernel.dead(fd)
    }
}

/// A guard on a thread: the agent's executable is not to be had here.
fn guard() -> Result<Guard, GuardError> {
    Ok(guard_and_thread().0)
}

fn guard_and_thread() -> (Guard, JoinHandle<io::Result<()>>) {
    let (ours, its) = UnixStream::pair().unwrap();
    let context = Context {
        switch: PathBuf::from("/nowhere"),
        calls: Arc::new(Unless),
        own_process: false,
    };
    let thread = thread::spawn(move || process::serve(&its, None, context));
    (Guard::at(ours).unwrap(), thread)
}

fn freeze(
    freezer: &mut Freezer,
    file_systems: Vec<Opened>,
) -> Result<hyperv_services::vss::freeze::FreezeSummary, FreezeError> {
    freezer.freeze(file_systems, LONG, later(), None, &mut unexpected)
}

fn unexpected(action: Action, path: &Path) {
    panic!("waits for {path:?} to {action}");
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
    match sys::freeze(&fd) {
        Ok(()) => {
            sys::thaw(&fd).unwrap();
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
    let log = Logger::root(Discard, o!());
    Vss::new(&Config::default(), &log, processes(guard))
}

/// Processes that are threads of this one.
fn processes(start_guard: StartGuard) -> Processes {
    Processes {
        start_guard,
        write_out: |fd| Ok(rustix::fs::syncfs(fd)?),
    }
}

fn ask(service: &mut Vss, operation: u8) -> Status {
    let mut body = [0; 12];
    body[0] = operation;
    service.handle(Encoding::Utf16, &mut body)
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
                after: Vec::new(),
            });
            let mut freezer = Freezer::new(guard);
            let error = freeze(&mut freezer, file_systems).unwrap_err();
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
                    after: Vec::new(),
                },
            );
            let mut freezer = Freezer::new(guard);
            let summary = freeze(&mut freezer, file_systems).unwrap();
            assert_eq!(summary.frozen, 2);
            let skipped = Skipped {
                mount_point: "/run".into(),
                errno: Errno::OPNOTSUPP,
            };
            assert_eq!(summary.skipped, [skipped]);
            assert_eq!(frozen(), [true, true]);
            let thawed = freezer.thaw(LONG, &mut unexpected);
            assert_eq!((thawed.thawed, thawed.early.len()), (2, 0));
            assert_eq!(frozen(), [false, false]);
        },
    );
}

#[test]
fn what_the_kernel_made_read_only_is_told_from_what_is_mounted_so() {
    in_own_root(
        "freeze::what_the_kernel_made_read_only_is_told_from_what_is_mounted_so",
        |stage| {
            for name in ["failed", "read-only"] {
                stage.image(&format!("/images/{name}"), "ext4");
            }
            stage.mount_with("/images/failed", "/failed", "errors=remount-ro");
            stage.mount_with("/images/read-only", "/read-only", "ro");
            let device = fs::metadata(stage.path("/failed")).unwrap().dev();
            let minor = rustix::fs::minor(device);
            let switch = format!("/sys/fs/ext4/loop{minor}/trigger_fs_error");
            fs::write(switch, "made for a test").unwrap();
        },
        |_| {
            for (path, expected) in [("/failed", Some(Errno::ROFS)), ("/read-only", None)] {
                let fd = directory(path, OFlags::RDONLY);
                assert_eq!(Kernel.dead(fd.as_fd()), expected, "{path}");
            }
        },
    );
}

/// Directories that were opened before their file systems were shut down.
static SHUT_DOWN: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

#[test]
fn what_was_shut_down_is_left_out_and_the_rest_is_frozen() {
    in_own_root(
        "freeze::what_was_shut_down_is_left_out_and_the_rest_is_frozen",
        |stage| {
            two_file_systems(stage);
            for kind in ["ext4", "xfs", "btrfs"] {
                let (image, point) = (format!("/images/{kind}"), format!("/{kind}"));
                stage.image(&image, kind);
                stage.mount(&image, &point);
            }
            for kind in ["ext4", "xfs"] {
                let point = stage.path(format!("/{kind}"));
                let opened = directory(point.to_str().unwrap(), OFlags::RDONLY);
                SHUT_DOWN.lock().unwrap().push(opened);
                let point = format!("/{kind}");
                stage.run("xfs_io", &["-x", "-c", "shutdown", &point]);
            }
        },
        |_| {
            let shut_down = mem::take(&mut *SHUT_DOWN.lock().unwrap());
            for fd in &shut_down {
                assert_eq!(Kernel.dead(fd.as_fd()), Some(Errno::SHUTDOWN));
            }
            for path in ["/one", "/two", "/btrfs", "/run"] {
                let fd = directory(path, OFlags::RDONLY);
                assert_eq!(Kernel.dead(fd.as_fd()), None, "{path}");
            }
            let file_systems = shut_down.into_iter().map(|fd| Opened {
                fd,
                mount_point: "/down".into(),
                device: DeviceNumber::default(),
                after: Vec::new(),
            });
            let mut file_systems: Vec<_> = file_systems.collect();
            for path in ["/one", "/two"] {
                file_systems.push(Opened {
                    fd: directory(path, OFlags::RDONLY),
                    mount_point: path.into(),
                    device: DeviceNumber::default(),
                    after: Vec::new(),
                });
            }
            let mut freezer = Freezer::new(guard);
            let summary = freeze(&mut freezer, file_systems).unwrap();
            // Which of them the kernel still freezes depends on its version.
            for skipped in &summary.skipped {
                assert_eq!(skipped.mount_point, Path::new("/down"));
                let expected = [Errno::SHUTDOWN, Errno::ROFS];
                assert!(expected.contains(&skipped.errno), "{skipped:?}");
            }
            assert_eq!(summary.frozen + summary.skipped.len(), 4);
            assert_eq!(frozen(), [true, true]);
            freezer.thaw(LONG, &mut unexpected);
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
            sys::freeze(&one).unwrap();
            let mut freezer = Freezer::new(guard);
            let summary = freeze(&mut freezer, opened()).unwrap();
            assert_eq!(summary.frozen_before, [Path::new("/one")]);
            sys::thaw(&two).unwrap();
            let thawed = freezer.thaw(LONG, &mut unexpected);
            assert_eq!(thawed.early, [Path::new("/two")]);
            assert_eq!(frozen(), [true, false]);
            sys::thaw(&one).unwrap();
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
            sys::freeze(&two).unwrap();
            let (mut agent, guard) = guard_and_thread();
            let fds = [
                directory("/one", OFlags::RDONLY),
                directory("/two", OFlags::RDONLY),
            ];
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            agent.hold(&borrowed, &[], Duration::from_secs(1)).unwrap();
            agent.freeze();
            while agent.state() != GuardState::TimeLimit {
                let flags = rustix::event::PollFlags::IN;
                let mut wait = [rustix::event::PollFd::new(&agent, flags)];
                rustix::event::poll(&mut wait, None).unwrap();
            }
            // This waits for the guard.
            std::fs::write("/one/file", "text").unwrap();
            assert_eq!(frozen(), [false, true]);
            // The same where the agent is gone.
            agent.hold(&borrowed, &[], LONG).unwrap();
            agent.freeze();
            drop(agent);
            guard.join().unwrap().unwrap();
            assert_eq!(frozen(), [false, true]);
            sys::thaw(&two).unwrap();
        },
    );
}

#[test]
fn without_its_guard_the_agent_thaws() {
    in_own_root(
        "freeze::without_its_guard_the_agent_thaws",
        two_file_systems,
        |_| {
            let two = directory("/two", OFlags::RDONLY);
            sys::freeze(&two).unwrap();
            // It ends without a thaw.
            let mut freezer = Freezer::new(|| {
                let (ours, its) = UnixStream::pair().unwrap();
                let context = Context {
                    switch: PathBuf::from("/nowhere"),
                    calls: Arc::new(Unless),
                    own_process: false,
                };
                let socket = its.try_clone().unwrap();
                let serve = move || process::serve(&its, None, context);
                thread::spawn(serve);
                *SOCKET.lock().unwrap() = Some(socket);
                Ok(Guard::at(ours).unwrap())
            });
            freeze(&mut freezer, opened()).unwrap();
            assert_eq!(frozen(), [true, true]);
            POWERLESS.store(true, Ordering::SeqCst);
            let socket = SOCKET.lock().unwrap().take().unwrap();
            socket.shutdown(std::net::Shutdown::Both).unwrap();
            assert_eq!(freezer.guard_state(), GuardState::Gone);
            let thawed = freezer.thaw(LONG, &mut unexpected);
            assert_eq!((thawed.thawed, thawed.early.len()), (1, 0));
            assert_eq!(frozen(), [false, true]);
            sys::thaw(&two).unwrap();
        },
    );
}

/// Nothing can be thawed until this is dropped.
struct Powerless;

impl Powerless {
    fn now() -> Self {
        POWERLESS.store(true, Ordering::SeqCst);
        Self
    }
}

impl Drop for Powerless {
    fn drop(&mut self) {
        POWERLESS.store(false, Ordering::SeqCst);
    }
}

#[test]
fn what_cannot_be_thawed_is_named() {
    in_own_root(
        "freeze::what_cannot_be_thawed_is_named",
        two_file_systems,
        |_| {
            let mut freezer = Freezer::new(guard);
            freeze(&mut freezer, opened()).unwrap();
            let powerless = Powerless::now();
            freezer.thaw(LONG, &mut unexpected);
            let stuck: Vec<_> = freezer.stuck().collect();
            let refused = NotThawed::Refused(Errno::PERM);
            assert_eq!(stuck, [("/two".into(), refused), ("/one".into(), refused)]);
            let error = freeze(&mut freezer, opened()).unwrap_err();
            let FreezeError::Stuck { path, why } = &error else {
                panic!("{error:?}");
            };
            assert_eq!((path.as_path(), *why), (Path::new("/two"), refused));
            // The guard tries again without being asked.
            drop(powerless);
            std::fs::write("/one/file", "text").unwrap();
            std::fs::write("/two/file", "text").unwrap();
            freeze(&mut freezer, opened()).unwrap();
            freezer.thaw(LONG, &mut unexpected);
            assert_eq!(frozen(), [false, false]);
        },
    );
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
            let mut service = Vss::new(&config, &Logger::root(Discard, o!()), processes(guard));
            assert_eq!(ask(&mut service, FREEZE), Status::FAIL);
            assert_eq!(ask(&mut service, THAW), Status::OK);
            config.include.mount_points.push("/two".to_owned());
            let mut service = Vss::new(&config, &Logger::root(Discard, o!()), processes(guard));
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
            let error = freezer
                .freeze(opened(), LONG, before, None, &mut unexpected)
                .unwrap_err();
            assert!(matches!(error, FreezeError::TooLate), "{error}");
            assert!(!freezer.is_frozen());
            assert_eq!(frozen(), [false; 2]);
            // The guard is well.
            freeze(&mut freezer, opened()).unwrap();
            assert_eq!(frozen(), [true; 2]);
            assert_eq!(freezer.thaw(LONG, &mut unexpected).thawed, 2);
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
            let start_guard = || {
                let (ours, _) = UnixStream::pair().unwrap();
                Ok(Guard::at(ours).unwrap())
            };
            let mut service = Vss::new(&Config::default(), &log, processes(start_guard));
            assert_eq!(ask(&mut service, FREEZE), Status::FAIL);
            assert_eq!(frozen(), [false, false]);
            assert_eq!(ask(&mut service, THAW), Status::OK);
        },
    );
}

/// Agent and guard were killed while they froze.
#[test]
fn a_kernel_that_was_left_in_haste_takes_its_time_again() {
    let root = tempfile::tempdir().unwrap();
    let switch = root.path().join("sys/kernel/rcu_expedited");
    fs::create_dir_all(switch.parent().unwrap()).unwrap();
    let runtime_directory = root.path().join("run");
    let config = Config {
        environment: hyperv_services::Environment {
            root: root.path().into(),
            runtime_dir: runtime_directory.clone(),
            ..hyperv_services::Environment::default()
        },
        ..Config::default()
    };
    let processes = Processes {
        start_guard: guard,
        write_out: |_| Ok(()),
    };
    for (expedited, before, after) in [(true, "1", "0"), (false, "1", "1"), (true, "2", "2")] {
        fs::write(&switch, before).unwrap();
        let note = state_file::FreezeRecord {
            rcu_expedited: expedited,
            ..state_file::FreezeRecord::default()
        };
        state_file::write(&runtime_directory, &note).unwrap();
        let vss = Vss::new(&config, &Logger::root(Discard, o!()), processes);
        assert_eq!(
            fs::read_to_string(&switch).unwrap(),
            after,
            "{expedited} {before}"
        );
        drop(vss);
        let note = state_file::read(&runtime_directory).unwrap().unwrap();
        assert!(!note.rcu_expedited);
    }
}
