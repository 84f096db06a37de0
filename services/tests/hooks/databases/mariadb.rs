//! MariaDB: tables of all engines are whole, because a session holds a lock.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use hyperv_services::vss::hooks::{Config, EndReason, run_pre_freeze};

use super::client::Writer;
use super::disk::Disk;
use super::{assert_no_warning, await_that, hook, hooks, output};
use crate::directory::{LONG, Lines, in_words, soon};

const EXAMPLE: &str = include_str!("../../../../packaging/examples/vss.d/mariadb");

/// Each engine; `slow` is for statements that take seconds.
const TABLES: &str = "
    CREATE DATABASE test; USE test;
    CREATE TABLE myisam (n INT, k INT, KEY (n)) ENGINE=MyISAM;
    CREATE TABLE aria (n INT, k INT, KEY (n)) ENGINE=Aria;
    CREATE TABLE plain (n INT, k INT, KEY (n)) ENGINE=Aria TRANSACTIONAL=0;
    CREATE TABLE innodb (n INT, k INT, KEY (n)) ENGINE=InnoDB;
    CREATE TABLE slow (n INT, k INT, nap INT, KEY (n)) ENGINE=MyISAM;";

/// A statement of many rows for the engines without transactions, and a
/// transaction of two statements for the one that has them.
const TRANSACTION: &str = "\
    INSERT INTO myisam SELECT {n}, seq FROM seq_1_to_500; \
    INSERT INTO aria SELECT {n}, seq FROM seq_1_to_500; \
    INSERT INTO plain SELECT {n}, seq FROM seq_1_to_500; \
    BEGIN; INSERT INTO innodb SELECT {n}, seq FROM seq_1_to_200; \
    INSERT INTO innodb SELECT {n}, 200 + seq FROM seq_1_to_300; COMMIT; SELECT {n};";

/// Rows that a slow statement inserts in two seconds or more.
const SLOW: u32 = 2000;

/// More than it has the time for before this test is over.
const ENDLESS: u32 = 200_000;

pub(super) fn test() {
    let disk = Disk::in_place_of("/var/lib/mysql", "xfs");
    let mut config = hooks("90-mariadb", EXAMPLE);
    let log = Lines::default();
    let logger = log.logger();

    // No server: nothing to do.
    run_pre_freeze(&config, soon(), None, |_| (), &logger)
        .unwrap()
        .run_post_thaw(EndReason::Thawed, LONG, &logger);
    assert_eq!(log.lines()[0], "INFO hook 90-mariadb: no server is running");
    assert_no_warning(&log);

    let server = Server::start();
    sql(TABLES);
    let writer = Writer::start(client("test"), TRANSACTION);
    writer.await_more(3);

    // Without the hook a statement is cut in two.
    let slow = Slow::start(ENDLESS);
    let frozen = disk.freeze();
    disk.snapshot(&frozen);
    drop(frozen);
    drop((slow, writer, server));
    disk.restore();
    let server = Server::start();
    let damage = damage_of("slow", ENDLESS);
    println!("without the hook: {damage}");
    assert!(!damage.is_empty(), "the test would not see any damage");
    sql("DROP DATABASE test");
    sql(TABLES);
    let writer = Writer::start(client("test"), TRANSACTION);
    writer.await_more(3);

    // With it, the freeze waits for the statement.
    let slow = Slow::start(SLOW);
    let ran = run_pre_freeze(&config, soon(), None, |_| (), &logger).unwrap();
    let committed = writer.committed();
    let frozen = disk.freeze();
    disk.snapshot(&frozen);
    drop(frozen);
    ran.run_post_thaw(EndReason::Thawed, LONG, &logger);
    assert_no_warning(&log);
    assert_released();
    slow.end();
    writer.await_more(3);

    // A freeze that another hook stops lets the server go on.
    hook(
        &config.directory,
        "91-fails",
        "#!/bin/sh\n[ \"$1\" != freeze ]\n",
    );
    run_pre_freeze(&config, soon(), None, |_| (), &logger).unwrap_err();
    fs::remove_file(config.directory.join("91-fails")).unwrap();
    assert_released();
    writer.await_more(3);

    // So does the session, where nobody ends it, and that is no secret.
    loses_the_lock(&config, &writer);

    // The next freeze takes the lock over from an agent that was killed.
    drop(run_pre_freeze(&config, soon(), None, |_| (), &logger).unwrap());
    let ran = run_pre_freeze(&config, soon(), None, |_| (), &logger).unwrap();
    ran.run_post_thaw(EndReason::AgentRestarted, LONG, &logger);
    assert_no_warning(&log);
    assert_released();
    writer.await_more(3);

    // The way of other servers.
    assert!(EXAMPLE.contains("LOCK=''"));
    let other = EXAMPLE.replace("LOCK=''", "LOCK='FLUSH TABLES WITH READ LOCK'");
    hook(&config.directory, "90-mariadb", &other);
    let ran = run_pre_freeze(&config, soon(), None, |_| (), &logger).unwrap();
    ran.run_post_thaw(EndReason::Thawed, LONG, &logger);
    assert_no_warning(&log);
    writer.await_more(3);
    hook(&config.directory, "90-mariadb", EXAMPLE);

    // A statement that takes longer than the hook may stops the freeze.
    config.time_limit = Duration::from_secs(10);
    let slow = Slow::start(ENDLESS);
    let error = in_words(&run_pre_freeze(&config, soon(), None, |_| (), &logger).unwrap_err());
    assert!(error.contains("cannot get the lock"), "{error}");
    assert!(error.contains("Lock wait timeout exceeded"), "{error}");
    assert_released();
    writer.await_more(3);

    drop((slow, writer, server));
    disk.restore();
    let server = Server::start();
    for table in ["myisam", "aria", "plain", "innodb"] {
        assert_eq!(damage_of(table, 500), "");
        let has = sql(&format!("SELECT MAX(n) FROM test.{table}"));
        let has: u64 = has.parse().unwrap();
        assert!(has >= committed, "{table} has {has} of {committed}");
        let distinct = sql(&format!("SELECT COUNT(DISTINCT n) FROM test.{table}"));
        assert_eq!(distinct, has.to_string(), "{table}");
    }
    assert_eq!(damage_of("slow", SLOW), "");
    assert_eq!(sql("SELECT COUNT(*) FROM test.slow"), SLOW.to_string());
    drop(server);
}

/// The hook holds the lock until its own limit is over, and says so at the thaw.
fn loses_the_lock(config: &Config, writer: &Writer) {
    let log = Lines::default();
    let config = Config {
        freeze_limit: Duration::from_secs(1),
        time_limit: Duration::from_secs(10),
        ..config.clone()
    };
    let ran = run_pre_freeze(&config, soon(), None, |_| (), &log.logger()).unwrap();
    writer.await_more(3);
    ran.run_post_thaw(EndReason::Thawed, LONG, &log.logger());
    let warnings = log.of("WARN");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("the lock was lost before the thaw"));
    assert_released();
}

/// What is wrong with a table: what CHECK TABLE says, and statements of which
/// some rows are missing.
fn damage_of(table: &str, rows: u32) -> String {
    let lines = sql(&format!("CHECK TABLE test.{table} EXTENDED"));
    let lines: Vec<_> = lines
        .lines()
        .filter(|line| !line.ends_with("status\tOK"))
        .collect();
    let partial = sql(&format!(
        "SELECT n, COUNT(*) FROM test.{table} GROUP BY n HAVING COUNT(*) <> {rows}"
    ));
    format!("{}{partial}", lines.join("\n"))
}

/// Nothing of the hook is left.
#[track_caller]
fn assert_released() {
    assert!(!Path::new("/run/hyperv-agent-mariadb").exists());
    let sessions = sql("SELECT COUNT(*) FROM information_schema.processlist \
         WHERE db IS NULL AND id <> CONNECTION_ID() AND user = 'root'");
    assert_eq!(sessions, "0");
}

fn client(database: &str) -> Command {
    let mut client = Command::new("mariadb");
    client.args(["--batch", "--skip-column-names", "--unbuffered", database]);
    client
}

#[track_caller]
fn sql(statements: &str) -> String {
    let args = ["--batch", "--skip-column-names", "--execute", statements];
    output("mariadb", &args)
}

/// A statement under way.
struct Slow(Child);

impl Slow {
    fn start(rows: u32) -> Self {
        let statement =
            format!("INSERT INTO slow SELECT 1, seq, SLEEP(0.001) FROM seq_1_to_{rows}");
        let child = client("test").args(["--execute", &statement]).spawn();
        let slow = Self(child.unwrap());
        await_that("the slow statement has begun", || {
            let sleeping = "SELECT COUNT(*) FROM information_schema.processlist \
                            WHERE state = 'User sleep'";
            sql(sleeping) == "1"
        });
        slow
    }

    fn end(mut self) {
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The server as Debian configures it, on its socket alone.
struct Server(Child);

impl Server {
    fn start() -> Self {
        output("install", &["-d", "-o", "mysql", "/run/mysqld"]);
        let log = File::options()
            .create(true)
            .append(true)
            .open("/tmp/mariadb.log")
            .unwrap();
        let child = Command::new("mariadbd")
            .args(["--user=mysql", "--skip-networking", "--log-bin=bin"])
            .arg("--innodb-buffer-pool-size=64M")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let server = Self(child.unwrap());
        await_that("MariaDB is up", || {
            let ping = Command::new("mariadb-admin")
                .args(["--silent", "ping"])
                .output();
            ping.unwrap().status.success()
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed, as if the machine were gone: it may clean up nothing.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        let _ = fs::remove_file("/run/mysqld/mysqld.sock");
    }
}
