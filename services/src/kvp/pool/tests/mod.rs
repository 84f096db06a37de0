use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use zerocopy::{FromBytes, IntoBytes};

use super::record::KEY_LEN;
use super::*;

fn raws(bytes: &[u8]) -> Vec<RawRecord> {
    let pad = |record: &[u8]| {
        let mut raw = RawRecord::ZERO;
        raw.as_mut_bytes()[..record.len()].copy_from_slice(record);
        raw
    };
    bytes.chunks(LEN).map(pad).collect()
}

mod concurrency;
mod crashes;
mod memory;
mod properties;

const LEN: usize = size_of::<RawRecord>();

/// A directory with pool 1 in it.
struct Place {
    directory: TempDir,
}

impl Place {
    fn empty() -> Self {
        // In memory if possible: thousands of syncs would keep a disk busy for a minute.
        let directory = tempfile::tempdir_in("/dev/shm");
        let directory = directory.or_else(|_| tempfile::tempdir()).unwrap();
        Self { directory }
    }

    fn new(bytes: &[u8]) -> Self {
        let place = Self::empty();
        fs::write(place.path(), bytes).unwrap();
        place
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(".kvp_pool_1")
    }

    fn journal(&self) -> PathBuf {
        self.directory.path().join(".kvp_pool_1.journal")
    }

    fn pools(&self) -> Pools {
        Pools::new(self.directory.path())
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    fn list(&self) -> Vec<(String, String)> {
        list(&mut self.pools())
    }
}

fn list(pools: &mut Pools) -> Vec<(String, String)> {
    let records = pools.list(PoolId::Guest).unwrap();
    records
        .into_iter()
        .map(|record| (record.key, record.value))
        .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn file(pairs: &[(&str, &str)]) -> Vec<u8> {
    pairs
        .iter()
        .flat_map(|(key, value)| RawRecord::new(key, value).unwrap().as_bytes().to_vec())
        .collect()
}

/// A record with other bytes than NULs after key and value.
fn dirty(key: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![b'#'; LEN];
    bytes[..key.len()].copy_from_slice(key.as_bytes());
    bytes[key.len()] = 0;
    bytes[KEY_LEN..KEY_LEN + value.len()].copy_from_slice(value.as_bytes());
    bytes[KEY_LEN + value.len()] = 0;
    bytes
}

#[test]
fn a_cleared_pool_has_no_record() {
    // One has no key, and the last one is incomplete.
    let place = Place::new(&[dirty("a", "1"), dirty("", "2"), b"b".to_vec()].concat());
    let mut pools = place.pools();
    assert_eq!(pools.get(PoolId::Guest, "a").unwrap().as_deref(), Some("1"));
    pools.clear(PoolId::Guest).unwrap();
    pools.clear(PoolId::External).unwrap();
    assert_eq!(place.bytes(), b"");
    assert_eq!(pools.get(PoolId::Guest, "a").unwrap(), None);
    assert!(!pools.rollback().unwrap());
}

#[test]
fn a_missing_file_is_an_empty_pool_and_stays_missing() {
    let place = Place::empty();
    let mut pools = place.pools();
    assert_eq!(pools.get(PoolId::Guest, "a").unwrap(), None);
    assert_eq!(pools.at(PoolId::Guest, 0).unwrap(), None);
    assert!(!pools.delete(PoolId::Guest, "a").unwrap());
    assert!(list(&mut pools).is_empty());
    assert!(!place.path().exists());
}

#[test]
fn missing_pools_are_created_and_others_left() {
    let place = Place::empty();
    let directory = place.directory.path().join("hyperv");
    let file = |pool: usize| directory.join(format!(".kvp_pool_{pool}"));
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
    Pools::new(&directory).create_missing().unwrap();
    assert_eq!(mode(&directory), 0o755);
    assert!((0..5).all(|pool| mode(&file(pool)) == 0o644));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 5);

    // A pool with records and another mode, one with a mode that nobody can use, a
    // dangling link, a directory, and one that is missing.
    fs::write(file(0), self::file(&[("k", "v")])).unwrap();
    fs::set_permissions(file(0), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(file(1), fs::Permissions::from_mode(0o000)).unwrap();
    for pool in 2..5 {
        fs::remove_file(file(pool)).unwrap();
    }
    symlink("nowhere", file(2)).unwrap();
    fs::create_dir(file(3)).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    let stamps = || {
        [0, 1, 2, 3].map(|pool| {
            let seen = fs::symlink_metadata(file(pool)).unwrap();
            (
                seen.ino(),
                seen.mode(),
                seen.mtime_nsec(),
                seen.ctime_nsec(),
                seen.size(),
            )
        })
    };
    let before = stamps();
    Pools::new(&directory)
        .with_mode(Some(0o640))
        .create_missing()
        .unwrap();
    assert_eq!(stamps(), before);
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&file(4)), 0o640);
    assert!(!directory.join("nowhere").exists());
}

#[test]
fn pools_are_created_only_where_root_alone_can_write() {
    let place = Place::empty();
    let open = place.directory.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    Pools::new(&open).create_missing().unwrap_err();
    Pools::new(&open.join("hyperv"))
        .create_missing()
        .unwrap_err();
    assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
}

#[test]
fn a_new_file_can_be_read_by_all_users() {
    let place = Place::empty();
    let directory = place.directory.path().join("a/b");
    let mut pools = Pools::new(&directory);
    pools.set(PoolId::External, "key", "value").unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(directory.clone()), 0o755);
    assert_eq!(mode(directory.join(".kvp_pool_0")), 0o644);
    let bytes = fs::read(directory.join(".kvp_pool_0")).unwrap();
    assert_eq!(bytes, file(&[("key", "value")]));
}

#[test]
fn an_existing_file_keeps_its_mode_and_records() {
    let place = Place::new(&file(&[("a", "1")]));
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o600)).unwrap();
    let before = fs::metadata(place.path()).unwrap().ino();
    let mut pools = place.pools();
    pools.set(PoolId::Guest, "b", "2").unwrap();
    pools.set(PoolId::Guest, "c", "3").unwrap();
    assert!(pools.delete(PoolId::Guest, "a").unwrap());
    let after = fs::metadata(place.path()).unwrap();
    assert_eq!((after.mode() & 0o7777, after.ino()), (0o600, before));
    assert_eq!(place.list(), pairs(&[("b", "2"), ("c", "3")]));
    assert!(!place.journal().exists());
}

#[test]
fn a_set_writes_the_value_of_the_first_record_and_nothing_else() {
    let before = [dirty("a", "1"), dirty("k", "old"), dirty("k", "second")].concat();
    let place = Place::new(&before);
    place.pools().set(PoolId::Guest, "k", "new").unwrap();
    let mut after = before;
    let field = &mut after[LEN + KEY_LEN..2 * LEN];
    field.fill(0);
    field[..3].copy_from_slice(b"new");
    assert_eq!(place.bytes(), after);
}

#[test]
fn of_duplicates_get_returns_the_first_and_delete_removes_all() {
    let place = Place::new(&file(&[
        ("k", "1"),
        ("a", "2"),
        ("k", "3"),
        ("b", "4"),
        ("k", "5"),
    ]));
    let mut pools = place.pools();
    assert_eq!(pools.get(PoolId::Guest, "k").unwrap().unwrap(), "1");
    assert_eq!(list(&mut pools).len(), 5);
    assert!(pools.delete(PoolId::Guest, "k").unwrap());
    assert_eq!(place.bytes(), file(&[("a", "2"), ("b", "4")]));
    assert_eq!(pools.get(PoolId::Guest, "k").unwrap(), None);
    assert!(!pools.delete(PoolId::Guest, "k").unwrap());
}

#[test]
fn an_incomplete_last_record_is_a_record() {
    let whole = file(&[("a", "1"), ("torn", "value")]);
    // Cut in the value, at its start, and in the key.
    for (cut, key, value) in [
        (LEN + KEY_LEN + 3, "torn", "val"),
        (LEN + 100, "torn", ""),
        (LEN + 2, "to", ""),
    ] {
        let place = Place::new(&whole[..cut]);
        let mut pools = place.pools();
        assert_eq!(place.list(), pairs(&[("a", "1"), (key, value)]));
        let last = pools.at(PoolId::Guest, 1).unwrap().unwrap();
        assert_eq!((last.key.as_str(), last.value.as_str()), (key, value));
        assert_eq!(pools.at(PoolId::Guest, 2).unwrap(), None);
        assert_eq!(pools.get(PoolId::Guest, key).unwrap().unwrap(), value);

        pools.set(PoolId::Guest, "b", "2").unwrap();
        assert_eq!(place.list(), pairs(&[("a", "1"), (key, value), ("b", "2")]));
        assert_eq!(place.bytes().len(), 3 * LEN);

        let place = Place::new(&whole[..cut]);
        place.pools().set(PoolId::Guest, key, "new").unwrap();
        assert_eq!(place.list(), pairs(&[("a", "1"), (key, "new")]));

        let place = Place::new(&whole[..cut]);
        place.pools().delete(PoolId::Guest, "a").unwrap();
        assert_eq!(place.bytes(), &whole[LEN..cut]);

        let place = Place::new(&whole[..cut]);
        place.pools().delete(PoolId::Guest, key).unwrap();
        assert_eq!(place.bytes(), &whole[..LEN]);
    }
}

#[test]
fn a_key_that_is_not_utf8_is_listed_and_matches_no_text() {
    let mut bytes = file(&[("k?", "1"), ("k\u{fffd}", "2")]);
    bytes[1] = 0xff;
    let place = Place::new(&bytes);
    assert_eq!(
        place.list(),
        pairs(&[("k\u{fffd}", "1"), ("k\u{fffd}", "2")])
    );
    assert!(place.pools().delete(PoolId::Guest, "k\u{fffd}").unwrap());
    assert_eq!(place.bytes(), &bytes[..LEN]);
}

#[test]
fn records_without_a_key_are_listed_and_kept() {
    let bytes = [vec![0; LEN], file(&[("a", "1")]), dirty("", "value")].concat();
    let place = Place::new(&bytes);
    assert_eq!(place.list(), pairs(&[("", ""), ("a", "1"), ("", "value")]));
    let error = place.pools().delete(PoolId::Guest, "").unwrap_err();
    assert!(matches!(error, PoolError::EmptyKey), "{error}");
    assert_eq!(place.bytes(), bytes);
}

#[test]
fn only_a_regular_file_of_limited_size_is_used() {
    let place = Place::empty();
    fs::create_dir(place.path()).unwrap();
    let error = place.pools().list(PoolId::Guest).unwrap_err();
    assert!(matches!(error, PoolError::NotAFile(_)), "{error}");

    // Opening a FIFO would block.
    let place = Place::empty();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.path(),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let error = place.pools().list(PoolId::Guest).unwrap_err();
    assert!(matches!(error, PoolError::NotAFile(_)), "{error}");

    let place = Place::empty();
    let sparse = File::create(place.path()).unwrap();
    sparse.set_len(super::record::MAX_SIZE + 1).unwrap();
    let error = place.pools().get(PoolId::Guest, "a").unwrap_err();
    assert!(matches!(error, PoolError::TooLarge { .. }), "{error}");

    let place = Place::empty();
    symlink("nowhere/at/all", place.path()).unwrap();
    for done in [
        place.pools().set(PoolId::Guest, "a", "1"),
        place.pools().list(PoolId::Guest).map(drop),
    ] {
        let error = done.unwrap_err();
        assert!(matches!(error, PoolError::Untrusted { .. }), "{error}");
    }
}

#[test]
fn changes_of_other_programs_are_seen_by_the_next_operation() {
    let place = Place::new(&file(&[("a", "1"), ("b", "2")]));
    let mut pools = place.pools();
    let other = File::options().write(true).open(place.path()).unwrap();
    for round in 0..200 {
        // In place, without a change of size, mostly within one clock tick.
        let key = format!("a{round}");
        other
            .write_all_at(RawRecord::new(&key, "new").unwrap().as_bytes(), 0)
            .unwrap();
        assert_eq!(pools.get(PoolId::Guest, &key).unwrap().unwrap(), "new");
        other
            .write_all_at(RawRecord::new("a", "1").unwrap().as_bytes(), 0)
            .unwrap();
        assert_eq!(pools.get(PoolId::Guest, &key).unwrap(), None);
        assert_eq!(pools.get(PoolId::Guest, "a").unwrap().unwrap(), "1");
        pools.set(PoolId::Guest, "b", &key).unwrap();
        // A key in the place of another.
        let moved = RawRecord::new("b", "moved").unwrap();
        other.write_all_at(moved.as_bytes(), 0).unwrap();
        assert_eq!(pools.get(PoolId::Guest, "b").unwrap().unwrap(), "moved");
    }
}

#[test]
fn a_replaced_or_removed_file_is_no_longer_used() {
    let place = Place::new(&file(&[("a", "1")]));
    let mut pools = place.pools();
    assert_eq!(pools.get(PoolId::Guest, "a").unwrap().unwrap(), "1");
    let new = place.directory.path().join("new");
    fs::write(&new, file(&[("a", "2")])).unwrap();
    fs::rename(&new, place.path()).unwrap();
    assert_eq!(pools.get(PoolId::Guest, "a").unwrap().unwrap(), "2");
    fs::remove_file(place.path()).unwrap();
    assert_eq!(pools.get(PoolId::Guest, "a").unwrap(), None);
    pools.set(PoolId::Guest, "a", "3").unwrap();
    assert_eq!(place.list(), pairs(&[("a", "3")]));
}

#[test]
fn a_file_has_the_configured_mode() {
    let place = Place::new(&file(&[("a", "1")]));
    let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o7777;
    let private = || place.pools().with_mode(Some(0o600));
    private().apply_mode().unwrap();
    assert_eq!(mode(place.path()), 0o600);
    private().set(PoolId::External, "b", "2").unwrap();
    assert_eq!(mode(place.directory.path().join(".kvp_pool_0")), 0o600);
    // Another program changes it.
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(private().get(PoolId::Guest, "a").unwrap().unwrap(), "1");
    assert_eq!(mode(place.path()), 0o600);
    // Without a configured mode the file keeps its own.
    place.pools().apply_mode().unwrap();
    assert_eq!(mode(place.path()), 0o600);
}

#[test]
fn files_that_other_users_could_have_planted_are_not_used() {
    let place = Place::new(&file(&[("a", "1")]));
    let directory = place.directory.path().to_owned();
    let elsewhere = tempfile::tempdir().unwrap();
    let victim = elsewhere.path().join("victim");
    let secret = file(&[("secret", "value"), ("k", "v"), ("x", "y")]);
    fs::write(&victim, &secret).unwrap();
    fs::remove_file(place.path()).unwrap();
    symlink(&victim, place.path()).unwrap();
    let set_mode = |mode| {
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
    };
    let mut open_before = place.pools();
    assert_eq!(open_before.get(PoolId::Guest, "k").unwrap().unwrap(), "v");
    for mode in [0o777, 0o1777, 0o775] {
        set_mode(mode);
        let refused = [
            place.pools().get(PoolId::Guest, "secret").map(drop),
            place.pools().set(PoolId::Guest, "secret", "changed"),
            place.pools().set(PoolId::Auto, "k", "v"),
            place.pools().delete(PoolId::Guest, "secret").map(drop),
        ];
        for refused in refused {
            let error = refused.unwrap_err();
            assert!(matches!(error, PoolError::Untrusted { .. }), "{error}");
            let words = crate::error_chain::display_chain(&error);
            assert!(words.contains("chmod go-w"), "{words}");
        }
    }
    assert_eq!(fs::read(&victim).unwrap(), secret);
    assert!(!directory.join(".kvp_pool_2").exists());

    // A pool that was opened before does not follow a link for its journal either.
    let mut open_before = Pools::new(&directory);
    set_mode(0o755);
    fs::remove_file(place.path()).unwrap();
    fs::write(place.path(), &secret).unwrap();
    open_before.set(PoolId::Guest, "k", "w").unwrap();
    set_mode(0o777);
    let new = directory.join(".kvp_pool_1.journal.new");
    symlink(&victim, &new).unwrap();
    assert!(open_before.delete(PoolId::Guest, "k").unwrap());
    assert_eq!(fs::read(&victim).unwrap(), secret);
    // Nor does it use a planted journal.
    symlink(&victim, place.journal()).unwrap();
    let error = open_before.get(PoolId::Guest, "x").unwrap_err();
    assert!(matches!(error, PoolError::Untrusted { .. }), "{error}");
    set_mode(0o755);
    assert_eq!(open_before.get(PoolId::Guest, "x").unwrap().unwrap(), "y");
    assert!(!place.journal().exists());
    assert_eq!(fs::read(&victim).unwrap(), secret);
}

/// The request is cancelled during each step of the change.
#[test]
fn a_change_of_a_cancelled_request_is_undone() {
    let time = std::time::Duration::from_secs(60);
    let before = [dirty("k", "old"), dirty("a", "1"), dirty("k", "second")].concat();
    let late = |change: &dyn Fn(&mut Pools) -> Result<(), PoolError>| {
        for step in 0.. {
            let place = Place::new(&before);
            let token = CancelToken::new(time);
            let mut pools = place.pools();
            let cancelled = token.clone();
            crash::call_at(step, move || assert!(cancelled.cancel()));
            let done = change(pools.for_request(&token));
            let called = crash::run().len() > step;
            if !called {
                done.unwrap();
                break;
            }
            let error = done.unwrap_err();
            assert!(matches!(error, PoolError::Cancelled(_)), "{error}");
            // A deleted record is appended again.
            let sorted = |bytes: &[u8]| {
                let mut records: Vec<_> = bytes.chunks(LEN).map(<[u8]>::to_vec).collect();
                records.sort();
                records
            };
            let left = place.bytes();
            assert!(
                sorted(&left) == sorted(&before),
                "step {step}: {:?}",
                place.list()
            );
            assert_eq!(
                pools.get(PoolId::Guest, "k").unwrap_err().to_string(),
                error.to_string()
            );
            assert_eq!(
                place.pools().get(PoolId::Guest, "k").unwrap().unwrap(),
                "old"
            );
        }
    };
    late(&|pools| pools.set(PoolId::Guest, "k", "new"));
    late(&|pools| pools.set(PoolId::Guest, "new", "value"));
    late(&|pools| pools.delete(PoolId::Guest, "k").map(drop));
    late(&|pools| pools.delete(PoolId::Guest, "a").map(drop));

    // A request past its deadline changes nothing.
    let place = Place::new(&before);
    let mut pools = place.pools();
    pools
        .for_request(&CancelToken::new(std::time::Duration::ZERO))
        .set(PoolId::Guest, "k", "new")
        .unwrap_err();
    assert_eq!(place.bytes(), before);
}

#[test]
fn a_change_is_rolled_back_unless_another_program_changed_the_record() {
    let before = [dirty("k", "old"), dirty("a", "1")].concat();
    let token = CancelToken::new(std::time::Duration::from_secs(60));
    let changes: [fn(&mut Pools); 3] = [
        |pools| pools.set(PoolId::Guest, "k", "new").unwrap(),
        |pools| pools.set(PoolId::Guest, "new", "value").unwrap(),
        |pools| assert!(pools.delete(PoolId::Guest, "a").unwrap()),
    ];
    for change in changes {
        let place = Place::new(&before);
        let mut pools = place.pools();
        change(pools.for_request(&token));
        assert_ne!(place.bytes(), before);
        assert!(pools.rollback().unwrap());
        assert_eq!(place.bytes(), before);
        assert!(!pools.rollback().unwrap());
    }
    let place = Place::new(&before);
    let mut pools = place.pools();
    pools
        .for_request(&token)
        .set(PoolId::Guest, "k", "new")
        .unwrap();
    place.pools().set(PoolId::Guest, "k", "of another").unwrap();
    pools.rollback().unwrap();
    assert_eq!(place.list(), pairs(&[("k", "of another"), ("a", "1")]));
}
