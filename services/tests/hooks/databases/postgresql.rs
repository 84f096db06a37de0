//! PostgreSQL: data, WAL and a tablespace on three file systems, which are frozen
//! one after another.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};

use hyperv_services::vss::hooks::{EndReason, run_pre_freeze};

use super::client::Writer;
use super::disk::Disk;
use super::{assert_no_warning, await_that, hooks, output};
use crate::directory::{LONG, Lines, in_words, soon};

const EXAMPLE: &str = include_str!("../../../../packaging/examples/vss.d/postgresql");

/// No checkpoint but those that somebody asks for.
const CONFIGURATION: &str = "
    listen_addresses = ''
    checkpoint_timeout = 1d
    max_wal_size = 10GB
    shared_buffers = 16MB
";

const TABLES: &str = "
    CREATE TABLE debit (n BIGINT PRIMARY KEY);
    CREATE TABLE credit (n BIGINT PRIMARY KEY) TABLESPACE space;";

const TRANSACTION: &str = "BEGIN; INSERT INTO debit VALUES ({n}); \
    INSERT INTO credit VALUES ({n}); COMMIT; SELECT {n};";

pub(super) fn test() {
    let version = version();
    let data = format!("/var/lib/postgresql/{version}/main");
    output("mkdir", &["/wal", "/space"]);
    output("mv", &[&format!("{data}/pg_wal"), "/wal/pg_wal"]);
    symlink("/wal/pg_wal", format!("{data}/pg_wal")).unwrap();
    output(
        "install",
        &["-d", "-o", "postgres", "/space/here", "/tmp/volatile"],
    );
    output(
        &program(&version, "pg_checksums"),
        &["--enable", "--pgdata", &data],
    );
    let configuration = format!("/etc/postgresql/{version}/main/conf.d/test.conf");
    fs::write(configuration, CONFIGURATION).unwrap();
    let disks = [
        Disk::in_place_of("/var/lib/postgresql", "ext4"),
        Disk::in_place_of("/space", "ext4"),
        Disk::in_place_of("/wal", "xfs"),
    ];
    let config = hooks("50-postgresql", EXAMPLE);
    let log = Lines::default();
    let logger = log.logger();

    // No server: nothing to do.
    run_pre_freeze(&config, soon(), None, |_| (), &logger)
        .unwrap()
        .run_post_thaw(EndReason::Thawed, LONG, &logger);
    assert_eq!(log.lines().len(), 2, "{:?}", log.lines());
    assert_no_warning(&log);

    let mut server = Server::start(&version);
    // What would not be in the backup stops the freeze.
    sql("CREATE TABLESPACE volatile LOCATION '/tmp/volatile'");
    let error = in_words(&run_pre_freeze(&config, soon(), None, |_| (), &logger).unwrap_err());
    assert!(error.contains("/tmp/volatile is on tmpfs"), "{error}");
    sql("DROP TABLESPACE volatile");

    sql("CREATE TABLESPACE space LOCATION '/space/here'");
    sql(TABLES);

    // Where nothing of Debian's says which servers there are.
    fs::rename("/usr/bin/pg_lsclusters", "/usr/bin/hidden").unwrap();
    let ran = run_pre_freeze(&config, soon(), None, |_| (), &logger).unwrap();
    ran.run_post_thaw(EndReason::Thawed, LONG, &logger);
    fs::rename("/usr/bin/hidden", "/usr/bin/pg_lsclusters").unwrap();
    assert_says(&log, "the server: checkpoint made");

    // Data first, and WAL first.
    for order in [[0, 1, 2], [2, 1, 0]] {
        let round = start_round();
        let before = sql("SELECT pg_current_wal_lsn()");
        let ran = run_pre_freeze(&config, soon(), None, |_| (), &logger).unwrap();
        assert_says(&log, &format!("{version}/main: checkpoint made"));
        let mut frozen = Vec::new();
        for disk in order {
            // The images are of different moments, as far as the server can tell.
            round.writer.let_go_on(20);
            frozen.push(disks[disk].freeze());
        }
        let committed = round.writer.committed();
        for (disk, frozen) in order.into_iter().zip(&frozen) {
            disks[disk].snapshot(frozen);
        }
        drop(frozen);
        ran.run_post_thaw(EndReason::Thawed, LONG, &logger);
        round.writer.await_more(100);
        drop((round, server));
        for disk in &disks {
            disk.restore();
        }
        let redo = redo(&version, &data);
        server = Server::start(&version);
        // Recovery began at the checkpoint that the hook asked for.
        let begun = format!("SELECT '{redo}'::pg_lsn >= '{before}'::pg_lsn");
        assert_eq!(sql(&begun), "t", "{redo} {before}");
        assert_whole(&version, committed);
    }
    server.stop();
    let args = ["--check", "--pgdata", &data];
    output(&program(&version, "pg_checksums"), &args);
    let warnings = log.of("WARN");
    assert_eq!(warnings.len(), 0, "{warnings:?}");
}

/// Those that write.
struct Round {
    bench: Child,
    writer: Writer,
}

fn start_round() -> Round {
    sql("TRUNCATE debit, credit");
    let output = as_postgres(&["pgbench", "--quiet", "--tablespace=space"])
        .arg("--initialize")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let bench = as_postgres(&["pgbench", "--no-vacuum", "--client=2", "--time=1000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let round = Round {
        bench: bench.unwrap(),
        writer: Writer::start(client(), TRANSACTION),
    };
    round.writer.await_more(100);
    round
}

impl Drop for Round {
    fn drop(&mut self) {
        self.bench.kill().unwrap();
        self.bench.wait().unwrap();
    }
}

/// Where recovery would begin.
fn redo(version: &str, data: &str) -> String {
    let control = output(&program(version, "pg_controldata"), &["--pgdata", data]);
    let redo = control
        .lines()
        .find_map(|line| line.strip_prefix("Latest checkpoint's REDO location:"));
    redo.unwrap().trim().to_owned()
}

/// Every transaction to the last is there, this one at the least, and none by
/// half.
fn assert_whole(version: &str, committed: u64) {
    let numbers = |table: &str| -> [u64; 2] {
        let seen = sql(&format!("SELECT COUNT(*) || ' ' || MAX(n) FROM {table}"));
        let (count, last) = seen.split_once(' ').unwrap();
        [count.parse().unwrap(), last.parse().unwrap()]
    };
    let [count, last] = numbers("debit");
    assert_eq!([count, last], numbers("credit"));
    assert_eq!(count, last);
    assert!(last >= committed, "{last} of {committed}");
    let sums = sql("SELECT (SELECT SUM(abalance) FROM pgbench_accounts), \
        (SELECT SUM(bbalance) FROM pgbench_branches), \
        (SELECT SUM(tbalance) FROM pgbench_tellers), \
        (SELECT SUM(delta) FROM pgbench_history)");
    let sums: Vec<_> = sums.split('|').collect();
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    assert_ne!(sql("SELECT COUNT(*) FROM pgbench_history"), "0");
    let checked = as_postgres(&[&program(version, "pg_amcheck")])
        .args(["--all", "--install-missing", "--heapallindexed"])
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[track_caller]
fn assert_says(log: &Lines, words: &str) {
    let line = format!("INFO hook 50-postgresql: {words}");
    assert!(log.lines().contains(&line), "{:?}", log.lines());
}

/// The version that Debian has.
fn version() -> String {
    let mut versions = fs::read_dir("/usr/lib/postgresql").unwrap();
    let version = versions.next().unwrap().unwrap().file_name();
    version.into_string().unwrap()
}

fn program(version: &str, name: &str) -> String {
    format!("/usr/lib/postgresql/{version}/bin/{name}")
}

fn as_postgres(command: &[&str]) -> Command {
    let mut setpriv = Command::new("setpriv");
    setpriv
        .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
        .args(command)
        .current_dir("/");
    setpriv
}

fn client() -> Command {
    as_postgres(&[
        "psql",
        "--no-psqlrc",
        "--quiet",
        "--no-align",
        "--tuples-only",
    ])
}

#[track_caller]
fn sql(statement: &str) -> String {
    let output = client()
        .args(["--set=ON_ERROR_STOP=1", "--command", statement])
        .output()
        .unwrap();
    assert!(output.status.success(), "{statement}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The server as Debian configures it, on its socket alone.
struct Server(Child);

impl Server {
    fn start(version: &str) -> Self {
        output("install", &["-d", "-o", "postgres", "/run/postgresql"]);
        let child = Command::new("pg_ctlcluster")
            .args([
                "--foreground",
                "--skip-systemctl-redirect",
                version,
                "main",
                "start",
            ])
            .stdout(Stdio::null())
            .stderr(fs::File::create("/tmp/postgresql.log").unwrap())
            .spawn();
        let server = Self(child.unwrap());
        await_that("PostgreSQL is up", || {
            client()
                .args(["--command", "SELECT 1"])
                .output()
                .unwrap()
                .status
                .success()
        });
        server
    }

    /// As it should be.
    fn stop(mut self) {
        output("kill", &["-INT", &self.0.id().to_string()]);
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed, as if the machine were gone: it may clean up nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
