//! Redis: every write that was acknowledged is in the image, because writes wait.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use hyperv_services::vss::hooks::{Config, EndReason, run_pre_freeze};

use super::client::Writer;
use super::disk::Disk;
use super::{assert_no_warning, await_that, hook, hooks, output};
use crate::directory::{LONG, Lines, in_words, soon};

const EXAMPLE: &str = include_str!("../../../../packaging/examples/vss.d/redis");

const SOCKET: &str = "/run/redis/redis.sock";

const PASSWORD: &str = "/etc/hyperv-agent/redis-password";

/// Each is answered with the number of those so far.
const WRITE: &str = "INCR n";

pub(super) fn test() {
    let disk = Disk::in_place_of("/var/lib/redis", "ext4");
    let options = "OPTIONS=''";
    assert!(EXAMPLE.contains(options));
    let text = EXAMPLE.replace(options, &format!("OPTIONS='-s {SOCKET}'"));
    let config = hooks("80-redis", &text);

    let log = run(&config);
    assert_eq!(log.lines()[0], "INFO hook 80-redis: no server is running");

    // Without the hook, what was not saved is lost.
    let snapshots = ["--save", "3600 1000000"];
    let server = Server::start(&snapshots);
    let writer = writer();
    writer.await_more(1000);
    let frozen = disk.freeze();
    disk.snapshot(&frozen);
    drop(frozen);
    drop((writer, server));
    disk.restore();
    let server = Server::start(&snapshots);
    assert_eq!(ask(&["GET", "n"]), "", "the test would not see a loss");
    drop(server);

    every_write_is_there(&disk, &config, &snapshots, "snapshot saved, writes paused");
    let appends = ["--appendonly", "yes", "--appendfsync", "everysec"];
    every_write_is_there(
        &disk,
        &config,
        &appends,
        "append-only file written, writes paused",
    );

    others_let_it_go_on(&config);
    what_cannot_be_saved_stops_the_freeze(&config);

    // By choice.
    let server = Server::start(&["--save", ""]);
    let log = run(&config);
    let line = "INFO hook 80-redis: the server has no persistence, nothing to do";
    assert_eq!(log.lines()[0], line);
    drop(server);
    let server = Server::start(&["--replicaof", "192.0.2.1 6379"]);
    let log = run(&config);
    let line = "INFO hook 80-redis: the server is a replica, nothing to do";
    assert_eq!(log.lines()[0], line);
    drop(server);
}

/// A freeze and a thaw, with which the hook is content.
fn run(config: &Config) -> Lines {
    let log = Lines::default();
    let logger = log.logger();
    let ran = run_pre_freeze(config, soon(), None, |_| (), &logger).unwrap();
    ran.run_post_thaw(EndReason::Thawed, LONG, &logger);
    assert_no_warning(&log);
    log
}

/// A server that is started from an image of one that is frozen has it all.
fn every_write_is_there(disk: &Disk, config: &Config, options: &[&str], says: &str) {
    let server = Server::start(options);
    let writer = writer();
    writer.await_more(1000);
    let log = Lines::default();
    let logger = log.logger();
    let ran = run_pre_freeze(config, soon(), None, |_| (), &logger).unwrap();
    assert_eq!(log.lines()[0], format!("INFO hook 80-redis: {says}"));
    let frozen = disk.freeze();
    // Reads do not wait, and there are no more writes.
    let written = ask(&["GET", "n"]);
    await_that("the writer has all answers", || {
        writer.committed().to_string() == written
    });
    disk.snapshot(&frozen);
    drop(frozen);
    ran.run_post_thaw(EndReason::Thawed, LONG, &logger);
    assert_no_warning(&log);
    writer.await_more(1000);
    drop((writer, server));
    disk.restore();
    let server = Server::start(options);
    assert_eq!(ask(&["GET", "n"]), written);
    drop(server);
}

/// Whatever else ends the freeze lets writes go on.
fn others_let_it_go_on(config: &Config) {
    let server = Server::start(&["--save", "3600 1000000", "--requirepass", "secret word"]);
    let log = Lines::default();
    let logger = log.logger();
    let error = run_pre_freeze(config, soon(), None, |_| (), &logger).unwrap_err();
    assert!(in_words(&error).contains("NOAUTH"), "{}", in_words(&error));
    fs::write(PASSWORD, "secret word\n").unwrap();
    let writer = writer();
    writer.await_more(100);

    hook(
        &config.directory,
        "91-fails",
        "#!/bin/sh\n[ \"$1\" != freeze ]\n",
    );
    run_pre_freeze(config, soon(), None, |_| (), &logger).unwrap_err();
    fs::remove_file(config.directory.join("91-fails")).unwrap();
    writer.await_more(100);

    // Nobody comes to end it.
    let short = Config {
        freeze_limit: Duration::from_secs(1),
        time_limit: Duration::from_secs(10),
        ..config.clone()
    };
    drop(run_pre_freeze(&short, soon(), None, |_| (), &logger).unwrap());
    writer.await_more(100);
    drop((writer, server));
    fs::remove_file(PASSWORD).unwrap();
}

fn what_cannot_be_saved_stops_the_freeze(config: &Config) {
    let server = Server::start(&[
        "--save",
        "3600 1000000",
        "--stop-writes-on-bgsave-error",
        "no",
        "--dir",
        "/proc",
    ]);
    let writer = writer();
    writer.await_more(100);
    let log = Lines::default().logger();
    let error = in_words(&run_pre_freeze(config, soon(), None, |_| (), &log).unwrap_err());
    assert!(error.contains("could not save a snapshot"), "{error}");
    writer.await_more(100);
    drop((writer, server));
}

fn client() -> Command {
    let mut client = Command::new("redis-cli");
    client.args(["-s", SOCKET]);
    if let Ok(password) = fs::read_to_string(PASSWORD) {
        client.env("REDISCLI_AUTH", password.trim_end());
    }
    client
}

fn writer() -> Writer {
    Writer::start(client(), WRITE)
}

#[track_caller]
fn ask(command: &[&str]) -> String {
    let answer = client().args(command).output().unwrap();
    assert!(answer.status.success(), "{answer:?}");
    String::from_utf8(answer.stdout).unwrap().trim().to_owned()
}

/// The server with Debian's defaults but for these options, on its socket alone.
struct Server(Child);

impl Server {
    fn start(options: &[&str]) -> Self {
        output("mkdir", &["-p", "/run/redis"]);
        let log = File::options()
            .create(true)
            .append(true)
            .open("/tmp/redis.log")
            .unwrap();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--unixsocket", SOCKET])
            .args(["--dir", "/var/lib/redis"])
            .args(options)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let server = Self(child.unwrap());
        await_that("Redis is up", || {
            let answer = client().arg("PING").output().unwrap();
            let answer = String::from_utf8(answer.stdout).unwrap();
            answer.trim() == "PONG" || answer.starts_with("NOAUTH")
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed, as if the machine were gone: it may clean up nothing.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        if Path::new(SOCKET).exists() {
            fs::remove_file(SOCKET).unwrap();
        }
    }
}
