//! Other programs that use the pools at the same time as the host: cloud-init
//! itself, which takes the locks of `flock`, and others that take those or the
//! ones of `fcntl`, as `hv_kvp_daemon` does. The two families do not know of
//! each other, so each has its own pool.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyperv_vmbus::ic::Status;

use super::super::Skip;
use super::super::stage::{KvpStage, expect, text};
use super::{expect_got, expect_value, set};
use crate::kvp::{DEVICE_VALUE_UNITS, Item, KvpHost, pool};
use crate::wait::until;

/// The other programs.
const PEERS: &str = include_str!("peers.py");

/// The record in which some count.
const COUNT: &str = "count";

/// What the handler's keys begin with.
const REPORT: &str = "CLOUD_INIT|";

/// The pools of those with locks of `flock`, and of `fcntl`.
const FLOCK: u8 = 1;
const FCNTL: u8 = 0;

/// How often each reporter reports, and each counter counts.
const REPORTS: usize = 60;
const COUNTS: usize = 200;

/// What the host does at least, and for as long as the others are there.
const ROUNDS: usize = 20;

/// How long all that may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Of so many keys that the host has set one is there at the end.
const KEPT: usize = 5;

/// So many rounds after it was set a key is deleted, if it is not kept.
const DELETED_AFTER: usize = 7;

/// All keys are enumerated once in so many rounds.
const LISTED_EVERY: usize = 10;

/// A program beside the one that serves the host; it does not outlive the
/// scenario.
struct Peer {
    name: &'static str,
    child: Child,
    /// What it has printed, and what it has complained of.
    output: PathBuf,
    complaints: PathBuf,
}

impl Peer {
    fn start(directory: &Path, name: &'static str, arguments: &[&str]) -> Result<Self> {
        let output = directory.join(name);
        let complaints = directory.join(format!("{name} complains"));
        let child = Command::new("python3")
            .args(["-c", PEERS])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(File::create(&complaints)?)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self {
            name,
            child,
            output,
            complaints,
        })
    }

    /// Whether it has ended; it must end well.
    fn has_ended(&mut self) -> Result<bool> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(false);
        };
        ensure!(
            status.success(),
            "{} failed: {}",
            self.name,
            fs::read_to_string(&self.complaints)?.trim()
        );
        Ok(true)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the host does with one pool, and what it has seen there.
struct HostSide {
    pool: u8,
    /// The last count.
    count: usize,
    /// What cloud-init has reported, as far as it was seen.
    reports: BTreeMap<String, String>,
}

/// Value of the host's key with this number.
fn value(number: usize) -> String {
    format!("{number}|")
        .repeat(DEVICE_VALUE_UNITS / 5)
        .chars()
        .take(number * 37 % DEVICE_VALUE_UNITS)
        .collect()
}

fn key(number: usize) -> String {
    format!("host|{number}")
}

impl HostSide {
    fn play(&mut self, host: &mut KvpHost, round: usize) -> Result<()> {
        set(host, self.pool, &key(round), "not yet")?;
        set(host, self.pool, &key(round), &value(round))?;
        if let Some(old) = round.checked_sub(DELETED_AFTER) {
            expect_got(host, self.pool, &key(old), &value(old))?;
            if old % KEPT != 0 {
                let what = format!("a DELETE of {:?}", key(old));
                expect(host.delete(self.pool, &key(old))?, Status::OK, &what)?;
            }
        }
        let counted = host.get(self.pool, COUNT)?;
        let counted = counted.map_err(|status| anyhow::anyhow!("a GET of {COUNT}: {status:?}"))?;
        let count = counted.parse()?;
        ensure!(
            count >= self.count,
            "{COUNT} of pool {} went from {} to {count}",
            self.pool,
            self.count
        );
        self.count = count;
        if round % LISTED_EVERY == 0 {
            self.list(host)?;
        }
        Ok(())
    }

    /// What is enumerated while records come and go: each is a whole one.
    fn list(&mut self, host: &mut KvpHost) -> Result<()> {
        let mut index = 0;
        loop {
            let Item { key, value: found } = match host.enumerate(self.pool, index)? {
                Ok(item) => item,
                Err(Status::NO_MORE_ITEMS) => return Ok(()),
                Err(status) => bail!("item {index} of pool {}: {status:?}", self.pool),
            };
            index += 1;
            let whole = match key.split_once('|') {
                Some(("host", number)) => found == "not yet" || found == value(number.parse()?),
                Some(("flock" | "fcntl", _)) => found == "#".repeat(1000),
                _ if key.starts_with(REPORT) => {
                    self.reports.entry(key.clone()).or_insert(found.clone()) == &found
                }
                _ => key == COUNT,
            };
            ensure!(
                whole,
                "expected whole records in pool {}; one is {key:?} with {found:?}",
                self.pool
            );
        }
    }

    /// What is in the file at the end: all that was written, once and whole, each
    /// writer's in the order in which it wrote.
    fn expect_all(
        &self,
        stage: &KvpStage<'_>,
        host: &mut KvpHost,
        rounds: usize,
        others: &[(&str, Vec<u8>)],
    ) -> Result<()> {
        let path = stage.pool(self.pool);
        let content = stage.files().read(&path)?;
        ensure!(
            content.len() % pool::RECORD == 0,
            "expected whole records in {}; it has {} bytes",
            path.display(),
            content.len()
        );
        let mut left: Vec<&[u8]> = content.chunks(pool::RECORD).collect();
        let mut take = |name: &str, expected: &[u8]| -> Result<()> {
            let expected: Vec<&[u8]> = expected.chunks(pool::RECORD).collect();
            let set: HashSet<&[u8]> = expected.iter().copied().collect();
            let (found, others) = left
                .iter()
                .partition::<Vec<&[u8]>, _>(|it| set.contains(*it));
            ensure!(
                found == expected,
                "expected the {} records of {name} in pool {} once and in order; found {}, {} of them the first time",
                expected.len(),
                self.pool,
                found.len(),
                found.iter().collect::<HashSet<_>>().len()
            );
            left = others;
            Ok(())
        };
        for (name, written) in others {
            take(name, written)?;
        }
        take(
            "the counters",
            &pool::record(COUNT.as_bytes(), (2 * COUNTS).to_string().as_bytes()),
        )?;
        let kept: Vec<u8> = (0..rounds)
            .filter(|number| number + DELETED_AFTER >= rounds || number % KEPT == 0)
            .flat_map(|number| pool::record(key(number).as_bytes(), value(number).as_bytes()))
            .collect();
        take("the host", &kept)?;
        ensure!(
            left.is_empty(),
            "{} records of pool {} are nobody's",
            left.len(),
            self.pool
        );
        let items = host.list(self.pool)?;
        ensure!(
            items.len() == content.len() / pool::RECORD,
            "expected {} items in pool {}; the guest has {}",
            content.len() / pool::RECORD,
            self.pool,
            items.len()
        );
        for (key, value) in &self.reports {
            ensure!(
                items.iter().any(|item| item.0 == *key && item.1 == *value),
                "{key:?} was {value:?}, and is no more"
            );
        }
        Ok(())
    }
}

/// Says why cloud-init is not to be had, where it is not.
fn need_cloud_init() -> Result<()> {
    let import = ["-c", "import cloudinit.reporting.handlers"];
    let output = Command::new("python3")
        .args(import)
        .output()
        .map_err(|error| Skip(format!("python3: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let why = errors.lines().next_back().unwrap_or_default();
    let reason = format!("no cloud-init ({why}): try PYTHONPATH=$(tests/cloud-init)");
    Err(Skip(reason).into())
}

pub(in super::super) fn at_once(stage: &mut KvpStage<'_>) -> Result<()> {
    need_cloud_init()?;
    let pools = [FLOCK, FCNTL];
    for pool in pools {
        let content = pool::records(&[(COUNT, "0")]);
        stage.files().write(&stage.pool(pool), &content)?;
    }
    let mut host = stage.connect()?;
    let [flock, fcntl] = [text(&stage.pool(FLOCK))?, text(&stage.pool(FCNTL))?];
    let start = |name, what: &str, times: usize, pool: &str| {
        let times = times.to_string();
        Peer::start(stage.directory(), name, &[what, &times, pool, name])
    };
    let mut peers = [
        start("reporter|0", "reporter", REPORTS, &flock)?,
        start("reporter|1", "reporter", REPORTS, &flock)?,
        start("flock|0", "flock", COUNTS, &flock)?,
        start("flock|1", "flock", COUNTS, &flock)?,
        start("fcntl|0", "fcntl", COUNTS, &fcntl)?,
        start("fcntl|1", "fcntl", COUNTS, &fcntl)?,
    ];

    let mut sides = pools.map(|pool| HostSide {
        pool,
        count: 0,
        reports: BTreeMap::new(),
    });
    let mut rounds = 0;
    until(LIMIT, "the end of the other programs", || {
        for side in &mut sides {
            side.play(&mut host, rounds)?;
        }
        rounds += 1;
        let mut ended = rounds >= ROUNDS;
        for peer in &mut peers {
            ended &= peer.has_ended()?;
        }
        Ok(ended.then_some(()))
    })?;

    let [reporters @ .., flock_0, flock_1, fcntl_0, fcntl_1] = &peers;
    let mut of_flock = [flock_0, flock_1].map(appended).to_vec();
    for reporter in reporters {
        of_flock.push((reporter.name, fs::read(&reporter.output)?));
    }
    let of_fcntl = [fcntl_0, fcntl_1].map(appended).to_vec();
    for (side, others) in sides.iter().zip([of_flock, of_fcntl]) {
        side.expect_all(stage, &mut host, rounds, &others)?;
    }
    stage.expect_working(&mut host)
}

pub(in super::super) fn new_boot(stage: &mut KvpStage<'_>) -> Result<()> {
    need_cloud_init()?;
    let old = pool::records(&[("CLOUD_INIT|old", "x")]);
    stage.files().write(&stage.pool(FLOCK), &old)?;
    let published = "[kvp.publish]\nRole = \"web\"\nSite = \"north\"";
    stage.machine().configure(published)?;
    let mut host = stage.connect()?;
    expect_value(&mut host, FLOCK, "Role", "web")?;
    expect_value(&mut host, FLOCK, "CLOUD_INIT|old", "x")?;

    let pool = text(&stage.pool(FLOCK))?;
    let arguments = ["boot", "3", &pool, "new"];
    let mut peer = Peer::start(stage.directory(), "boot|0", &arguments)?;
    until(LIMIT, "cloud-init's handler to end", || {
        Ok(peer.has_ended()?.then_some(()))
    })?;
    let items = host.list(FLOCK)?;
    let of_this_boot = items.iter().filter(|item| item.0.starts_with(REPORT));
    ensure!(of_this_boot.count() == 3, "expected 3 reports: {items:?}");
    ensure!(
        items.iter().all(|item| item.0 != "CLOUD_INIT|old"),
        "what cloud-init removed is back: {items:?}"
    );
    expect_value(&mut host, FLOCK, "Role", "web")?;
    expect_value(&mut host, FLOCK, "Site", "north")?;
    stage.expect_working(&mut host)?;
    // For the next scenario.
    stage.machine().configure("")
}

/// What a counter has appended.
fn appended(counter: &Peer) -> (&'static str, Vec<u8>) {
    let name = counter.name;
    let record = |number| pool::record(format!("{name}|{number}").as_bytes(), &[b'#'; 1000]);
    (name, (0..COUNTS).flat_map(record).collect())
}
