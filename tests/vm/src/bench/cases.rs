//! What is sent.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyperv_sim::fcopy::{CHUNK, OVERWRITE, Operation as Copy, Start};
use hyperv_sim::files::Files as _;
use hyperv_sim::kvp::{FACT_POOL, FACTS, Operation as Pair, Value, pool};
use hyperv_sim::network::{Adapter, Network as _};
use hyperv_sim::port::Machine as _;
use hyperv_sim::vss::Operation as Backup;
use hyperv_vm::guest::{Guest, GuestNetwork, RemoteFiles};
use hyperv_vm::machine::VmMachine;
use hyperv_vmbus::Guid;

use super::WARM_UP;

/// Longer than any program looks for the next message before it sleeps.
const PAUSE: Duration = Duration::from_millis(20);

/// The pool that the guest writes to, and how many records it has.
const POOL: u8 = 1;
const RECORDS: u32 = 20;

/// The interface that the host asks about.
const ADAPTER: Adapter = Adapter {
    name: "hvsim0",
    mac: "00:15:5d:01:02:0a",
    device: Guid::from_u128(0xf8615163_df3e_46c5_913f_f2d2f965ed0e),
};

/// Both families of addresses.
const BOTH: u8 = 3;

/// File systems that are frozen.
const FILE_SYSTEMS: usize = 4;

/// Messages of one kind, and how they are sent.
pub(super) struct Case<O> {
    pub(super) title: String,
    /// What is sent before them and after them.
    pub(super) before: Option<O>,
    pub(super) after: Option<O>,
    /// Sent in turns.
    pub(super) operations: Vec<O>,
    pub(super) messages: usize,
    /// How long the program has nothing to do before each.
    pub(super) pause: Option<Duration>,
}

impl<O> Case<O> {
    /// Messages one after another.
    fn new(title: &str, operations: Vec<O>, messages: usize) -> Self {
        Self {
            title: title.to_owned(),
            before: None,
            after: None,
            operations,
            messages,
            pause: None,
        }
    }

    /// Each message after a pause.
    fn after_pause(mut self) -> Self {
        self.pause = Some(PAUSE);
        self
    }
}

/// A file copy.
pub(super) fn fcopy(
    machine: &VmMachine,
    way: &str,
    (messages, slow): (usize, usize),
) -> Result<Vec<Case<Copy>>> {
    let directory = machine.directory().to_str();
    let directory = directory.context("the directory's name is not UTF-8")?;
    let copy = |title: &str, messages| {
        let all = messages + WARM_UP;
        let data = vec![0x5a; CHUNK];
        let writes = (0..all).map(|at| Copy::write((at * CHUNK) as u64, &data));
        let title = format!("{title} over {way}");
        let mut case = Case::new(&title, writes.collect(), messages);
        let size = (all * CHUNK) as u64;
        case.before = Some(Copy::Start(Start::new(directory, "bench", OVERWRITE, size)));
        case.after = Some(Copy::Complete);
        case
    };
    Ok(vec![
        copy("WRITE", messages),
        copy("WRITE after a pause", slow).after_pause(),
    ])
}

/// Makes a pool and an interface.
pub(super) fn prepare_kvp(guest: &Arc<Guest>) -> Result<()> {
    let records: Vec<u8> = (0..RECORDS)
        .flat_map(|number| pool::record(key(number).as_bytes(), b"a value"))
        .collect();
    let path = Path::new("/var/lib/hyperv").join(pool::file(POOL));
    RemoteFiles(Arc::clone(guest)).write(&path, &records)?;
    let network = GuestNetwork {
        guest: Arc::clone(guest),
        program: String::new(),
    };
    network.add(&ADAPTER)?;
    for address in [["-4", "10.1.0.2/24"], ["-6", "fd00:1::2/64"]] {
        let [family, address] = address;
        network.run(&["ip", family, "addr", "add", address, "dev", ADAPTER.name])?;
    }
    Ok(())
}

fn key(number: u32) -> String {
    format!("key {number}")
}

/// Key-value pairs and addresses.
pub(super) fn kvp((messages, slow): (usize, usize)) -> Vec<Case<Pair>> {
    let facts = || {
        let indices = (0..).zip(FACTS).map(|(index, _)| index);
        indices.map(|index| Pair::Enumerate {
            pool: FACT_POOL,
            index,
        })
    };
    let keys = || (0..RECORDS).map(key);
    let gets = keys().map(|key| Pair::get(POOL, &key)).collect();
    let sets = keys().map(|key| Pair::set(POOL, &key, Value::text("a value")));
    let info = Pair::get_ip_info(&ADAPTER.mac.to_uppercase(), BOTH);
    vec![
        Case::new("ENUMERATE of a fact", facts().collect(), messages),
        Case::new("ENUMERATE after a pause", facts().collect(), slow).after_pause(),
        Case::new("GET in a pool of 20 records", gets, messages),
        Case::new("SET in a pool of 20 records", sets.collect(), slow),
        Case::new("GET_IP_INFO", vec![info], slow),
    ]
}

/// Makes file systems.
pub(super) fn prepare_vss(guest: &Guest) -> Result<()> {
    for number in 0..FILE_SYSTEMS {
        let (disk, point) = (format!("/dev/ram{number}"), format!("/root/{number}"));
        guest.run(&["mkfs.ext4", "-q", "-F", &disk])?;
        guest.run(&["mkdir", "-p", &point])?;
        guest.run(&["mount", "-t", "ext4", "-o", "noinit_itable", &disk, &point])?;
    }
    Ok(())
}

/// Backups.
pub(super) fn vss((_, slow): (usize, usize)) -> Vec<Case<Backup>> {
    let turns = vec![Backup::Freeze, Backup::Thaw];
    let title = format!("FREEZE or THAW of {FILE_SYSTEMS} ext4 file systems");
    // As many of one as of the other.
    vec![Case::new(&title, turns, slow.next_multiple_of(2))]
}
