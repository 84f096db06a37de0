//! `packaging/examples/hardened.toml`: what it says the host cannot do, the shipped
//! binary refuses.

#![expect(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hyperv_needs::skip;
use hyperv_sim::blackbox::{BlackBox, unavailable};
use hyperv_sim::fcopy::{CREATE_PATH, Fcopy, FcopyHost, OVERWRITE, Start};
use hyperv_sim::host::Protocol as _;
use hyperv_sim::kvp::{FACT_POOL, IpInfo, Kvp, KvpHost};
use hyperv_sim::port::Machine;
use hyperv_sim::wait;
use hyperv_vmbus::ic::Status;

use common::agent;

/// Far beyond what anything here takes.
const LONG: Duration = Duration::from_secs(20);

const RING: usize = 68 << 10;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/examples/hardened.toml")
}

/// Runs the agent in a guest with this configuration, where this machine can have one.
fn in_guest(config: &Path, test: impl FnOnce(&mut BlackBox)) {
    if let Some(why) = unavailable() {
        return skip(&why);
    }
    let command = format!("{} run --config {}", agent().display(), config.display());
    test(&mut BlackBox::new(&command).unwrap());
}

#[test]
fn it_is_right() {
    let output = Command::new(agent())
        .args(["check-config", "--config"])
        .arg(example())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn the_host_copies_nothing() {
    in_guest(&example(), |machine| {
        let fcopy = machine.offer(Fcopy::SERVICE.uio(0, RING)).unwrap();
        let kvp = machine.offer(Kvp::SERVICE.uio(1, RING)).unwrap();
        machine.start().unwrap();
        // The one that is on is served, and the other was there before it.
        KvpHost::connect(kvp.accept(LONG).unwrap()).unwrap();
        assert!(fcopy.accept(Duration::ZERO).is_err());
    });
}

#[test]
fn where_copying_is_on_files_stay_in_their_directory() {
    let home = tempfile::tempdir().unwrap();
    let (inside, outside) = (home.path().join("inside"), home.path().join("outside"));
    fs::create_dir(&inside).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "old").unwrap();
    symlink(&outside, inside.join("link")).unwrap();
    symlink(outside.join("file"), inside.join("file-link")).unwrap();

    let example = fs::read_to_string(example()).unwrap();
    let config = home.path().join("config.toml");
    let text = example
        .replace("fcopy = false", "fcopy = true")
        .replace("/srv/from-host", inside.to_str().unwrap());
    fs::write(&config, text).unwrap();
    in_guest(&config, |machine| {
        let device = machine.offer(Fcopy::SERVICE.uio(0, RING)).unwrap();
        machine.start().unwrap();
        let mut host = FcopyHost::connect(device.accept(LONG).unwrap()).unwrap();
        let mut copy = |directory: &Path, name: &str, size: u64| {
            let directory = directory.to_str().unwrap();
            let start = Start::new(directory, name, OVERWRITE | CREATE_PATH, size);
            host.copy(&start, &mut &b"hello"[..], 1, &mut |_| {})
                .unwrap()
        };
        for (directory, name) in [
            (&*outside, "file"),
            (&*outside, "new"),
            (&outside.join("new"), "file"),
            (&inside.join("link"), "file"),
            (&inside.join("link"), "new"),
            (&*inside, "file-link"),
            (&inside.join(".."), "file"),
            (Path::new("/"), "hyperv-agent-test"),
        ] {
            let status = copy(directory, name, 5);
            assert_ne!(status, Status::OK, "{} {name}", directory.display());
        }
        assert_ne!(copy(&inside, "large", (64 << 20) + 1), Status::OK);
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"old");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read_dir(&inside).unwrap().count(), 2);

        assert_eq!(copy(&inside, "file", 5), Status::OK);
        let file = inside.join("file");
        assert_eq!(fs::read(&file).unwrap(), b"hello");
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
    });
}

#[test]
fn the_host_writes_its_own_keys_only_and_learns_no_addresses() {
    in_guest(&example(), |machine| {
        let device = machine.offer(Kvp::SERVICE.uio(0, RING)).unwrap();
        machine.start().unwrap();
        let mut host = KvpHost::connect(device.accept(LONG).unwrap()).unwrap();
        for (pool, expected) in [
            (0, Status::OK),
            (1, Status::NOT_SUPPORTED),
            (FACT_POOL, Status::NOT_SUPPORTED),
            (3, Status::OK),
            (4, Status::NOT_SUPPORTED),
        ] {
            assert_eq!(host.set(pool, "key", "value").unwrap(), expected, "{pool}");
            let status = host.delete(pool, "key").unwrap();
            assert_eq!(status, expected, "a DELETE in {pool}");
        }
        let pool = fs::metadata(machine.pools().join(".kvp_pool_0")).unwrap();
        assert_eq!(pool.permissions().mode() & 0o7777, 0o600);
        let facts = host.list(FACT_POOL).unwrap().into_iter();
        let facts: Vec<_> = facts.filter(|fact| !fact.1.is_empty()).collect();
        let keys: Vec<_> = facts.iter().map(|fact| fact.0.as_str()).collect();
        let all = [
            "IntegrationServicesVersion",
            "OSName",
            "OSMajorVersion",
            "ProcessorArchitecture",
        ];
        // A machine without os-release has no version to tell.
        assert!(keys.contains(&"OSName"), "{facts:?}");
        assert!(keys.iter().all(|key| all.contains(key)), "{facts:?}");

        let asked = host.get_ip_info("00:15:5D:01:02:03", 3).unwrap();
        assert_eq!(asked, Err(Status::NOT_SUPPORTED));
        let set = host.set_ip_info(&IpInfo {
            adapter: "{00000000-0000-0000-0000-00000000abcd}".to_owned(),
            family: 3,
            dhcp: true,
            ..IpInfo::default()
        });
        assert_eq!(set.unwrap(), Status::NOT_SUPPORTED);
        // Each is logged once, with the line of the configuration.
        for words in ["writable-pools", "ip-info = false", "backend = \"off\""] {
            wait::until(LONG, words, || {
                Ok(machine.log().contains(words).then_some(()))
            })
            .unwrap_or_else(|error| panic!("{error:#}; the log is:\n{}", machine.log()));
        }
    });
}
