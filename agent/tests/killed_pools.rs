//! Kills programs that change the pools at random points, many at a time, and puts hostile
//! journals beside the pools. A pool must keep whole records, each with its old or its new
//! value, and lose none.
//!
//! SOAK_SECONDS sets the duration (default 15 s), CHAOS_SEED repeats a run.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use hyperv_needs::random::{self, Random};
use rustix::fs::{FlockOperation, flock};

const RECORD_LEN: usize = 2560;
const KEY_LEN: usize = 512;

/// Records that nobody changes. Each must stay the same, in any place.
const STILL: usize = 120;

/// Number of programs at a time.
const WORKERS: u64 = 4;

/// Number of keys of each.
const KEYS: u64 = 5;

/// Number of programs that each thread starts before the pools are checked.
const ROUND: usize = 12;

fn record(key: &str, value: &str) -> Vec<u8> {
    let mut record = vec![0; RECORD_LEN];
    record[..key.len()].copy_from_slice(key.as_bytes());
    record[KEY_LEN..KEY_LEN + value.len()].copy_from_slice(value.as_bytes());
    record
}

/// Returns a value that shows whether it is whole.
fn value(key: &str, random: &mut Random) -> String {
    let part = format!("{key} {:016x};", random.number());
    let times = 1 + random.below(1000 / part.len() as u64);
    part.repeat(usize::try_from(times).unwrap())
}

/// The possible values of each key; `None` if the key may be missing.
type Possible = HashMap<String, Vec<Option<String>>>;

struct Place {
    directory: tempfile::TempDir,
    /// How long a program takes if it is not killed.
    usual: Duration,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let still: Vec<u8> = (0..STILL)
            .flat_map(|number| record(&format!("still {number}"), &number.to_string()))
            .collect();
        fs::write(directory.path().join(".kvp_pool_1"), still).unwrap();
        let mut place = Self {
            directory,
            usual: Duration::ZERO,
        };
        let began = Instant::now();
        for round in 0..8 {
            let arguments: [&str; 3] = ["set", "measured", &round.to_string()];
            assert!(place.start(&arguments).wait().unwrap().success());
            let deleted = place.start(&["delete", "measured"]).wait().unwrap();
            assert!(deleted.success());
        }
        place.usual = began.elapsed() / 16;
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&self, arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_hyperv-agent"))
            .arg("kvp")
            .args(arguments)
            .arg("--directory")
            .arg(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Returns the pool as the program lists it.
    fn list(&self) -> Vec<(String, String)> {
        let output = Command::new(env!("CARGO_BIN_EXE_hyperv-agent"))
            .args(["kvp", "list", "--json", "--pool", "1", "--directory"])
            .arg(self.directory.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let items: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |item: &serde_json::Value, field: &str| item[field].as_str().unwrap().to_owned();
        let items = items.as_array().unwrap().iter();
        items
            .map(|item| (text(item, "key"), text(item, "value")))
            .collect()
    }

    /// Starts programs, one after another, and kills most of them.
    fn work(&self, worker: u64, random: &mut Random, possible: &Mutex<Possible>) {
        for _ in 0..ROUND {
            let key = format!("worker {worker} key {}", random.below(KEYS));
            let wanted = (random.below(3) > 0).then(|| value(&key, random));
            let mut program = match &wanted {
                Some(value) => self.start(&["set", &key, value]),
                None => self.start(&["delete", &key]),
            };
            let spared = random.below(8) == 0;
            if !spared {
                let usual = u64::try_from(self.usual.as_micros()).unwrap();
                let delay = usual / 4 + random.below(usual);
                thread::sleep(Duration::from_micros(delay));
                program.kill().unwrap();
            }
            let status = program.wait().unwrap();
            let mut possible = possible.lock().unwrap();
            let values = possible.entry(key).or_insert_with(|| vec![None]);
            match status.code() {
                // Killed: the change was made or not.
                None => values.push(wanted),
                Some(0) => *values = vec![wanted],
                // There was no such key.
                Some(1) if wanted.is_none() => *values = vec![None],
                Some(code) => {
                    let errors = io::read_to_string(program.stderr.take().unwrap()).unwrap();
                    panic!("the program failed with {code}: {errors}");
                }
            }
        }
    }

    /// Appends records as a program that knows no journal.
    fn append(&self, appended: &mut u64, random: &mut Random) {
        for _ in 0..ROUND / 2 {
            thread::sleep(Duration::from_millis(random.below(10)));
            let path = self.path(".kvp_pool_1");
            let mut file = File::options().append(true).open(path).unwrap();
            flock(&file, FlockOperation::LockExclusive).unwrap();
            let record = record(&format!("appended {appended}"), "x");
            file.write_all(&record).unwrap();
            *appended += 1;
        }
    }

    /// Checks all pools, and records the values of the keys.
    fn check(&self, possible: &mut Possible, appended: u64) {
        let listed = self.list();
        let journal = self.path(".kvp_pool_1.journal");
        assert!(!journal.exists(), "the journal is still there");
        let bytes = fs::read(self.path(".kvp_pool_1")).unwrap();
        assert_eq!(bytes.len(), listed.len() * RECORD_LEN);
        let mut found = HashMap::new();
        for (key, value) in listed {
            assert!(!key.is_empty(), "a record has no key");
            let before = found.insert(key.clone(), value);
            assert!(before.is_none(), "{key:?} is there twice");
        }
        for number in 0..STILL {
            let value = found.remove(&format!("still {number}"));
            assert_eq!(value, Some(number.to_string()), "record {number}");
        }
        for number in 0..appended {
            let value = found.remove(&format!("appended {number}"));
            assert_eq!(value.as_deref(), Some("x"), "appended record {number}");
        }
        for (key, values) in possible {
            let value = found.remove(key);
            assert!(values.contains(&value), "{key}: {value:?} of {values:?}");
            *values = vec![value];
        }
        assert!(found.is_empty(), "nobody wrote {found:?}");
    }

    /// Puts invalid journals beside the pool, and checks that it stays the same. `real` is
    /// a journal that a killed program has left.
    fn plant(&self, random: &mut Random, real: &[u8], victim: &Path) {
        let pool = self.path(".kvp_pool_1");
        let before = fs::read(&pool).unwrap();
        let kept = fs::read(victim).unwrap();
        for name in [".kvp_pool_1.journal", ".kvp_pool_1.journal.new"] {
            let path = self.path(name);
            // A killed program may have left an incomplete one.
            let _ = fs::remove_file(&path);
            let kind = random.below(6);
            match kind {
                0 => fs::write(&path, "").unwrap(),
                1 => {
                    let len = random.below(9000);
                    let garbage: Vec<u8> =
                        (0..len).map(|_| random.number().to_le_bytes()[0]).collect();
                    fs::write(&path, garbage).unwrap();
                }
                2 => {
                    let len = random.below(real.len() as u64);
                    fs::write(&path, &real[..usize::try_from(len).unwrap()]).unwrap();
                }
                3 => {
                    let mut bytes = real.to_vec();
                    if !bytes.is_empty() {
                        let mut at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
                        // The mark is not part of the checksum.
                        if at == 8 {
                            at = 0;
                        }
                        bytes[at] ^= 1 << random.below(8);
                    }
                    fs::write(&path, bytes).unwrap();
                }
                4 => symlink(victim, &path).unwrap(),
                _ => {
                    let made = rustix::fs::mknodat(
                        rustix::fs::CWD,
                        &path,
                        rustix::fs::FileType::Fifo,
                        rustix::fs::Mode::RWXU,
                        0,
                    );
                    made.unwrap();
                }
            }
            self.list();
            assert!(fs::read(&pool).unwrap() == before, "journal of kind {kind}");
        }
        assert!(!self.path(".kvp_pool_1.journal").exists());
        // A file in the place of a journal blocks nobody.
        let set = self.start(&["set", "planted", "x"]).wait().unwrap();
        assert!(set.success());
        let path = self.path(".kvp_pool_1");
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(&record("behind it", "x")).unwrap();
        for key in ["planted", "behind it"] {
            assert!(self.start(&["delete", key]).wait().unwrap().success());
        }
        assert!(fs::read(&pool).unwrap() == before);
        assert_eq!(fs::read(victim).unwrap(), kept, "a link was followed");
    }
}

#[test]
fn killed_programs_and_hostile_journals_lose_no_record() {
    let seed = random::seed().unwrap();
    let time = random::soak_time(15).unwrap();
    println!("CHAOS_SEED={seed}");
    let mut random = Random::new(seed);
    let end = Instant::now() + time;
    let mut place = Place::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let victim = elsewhere.path().join("victim");
    fs::write(&victim, "kept").unwrap();
    let mut real = Vec::new();
    let (mut rounds, mut journals, mut appended) = (0, 0, 0);
    let mut possible = Mutex::new(Possible::new());
    while Instant::now() < end {
        let seeds: Vec<_> = (0..=WORKERS).map(|_| random.number()).collect();
        thread::scope(|scope| {
            for (worker, seed) in (0..WORKERS).zip(&seeds) {
                let (place, possible) = (&place, &possible);
                scope.spawn(move || place.work(worker, &mut Random::new(*seed), possible));
            }
            let mut random = Random::new(seeds[seeds.len() - 1]);
            place.append(&mut appended, &mut random);
        });
        if let Ok(left) = fs::read(place.path(".kvp_pool_1.journal")) {
            journals += 1;
            real = left;
        }
        place.check(possible.get_mut().unwrap(), appended);
        place.plant(&mut random, &real, &victim);
        rounds += 1;
        // A large pool makes each program slow.
        if appended > 300 {
            (place, appended) = (Place::new(), 0);
            *possible.get_mut().unwrap() = Possible::new();
        }
    }
    let programs = rounds * usize::try_from(WORKERS).unwrap() * ROUND;
    println!("{programs} programs, {rounds} rounds, {journals} ended with a journal");
}
