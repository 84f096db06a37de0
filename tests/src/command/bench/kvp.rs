//! `hyperv-sim bench kvp`: what a request takes, and what is kept in memory of a
//! pool with many records.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hyperv_sim::fcopy::Fcopy;
use hyperv_sim::host::Protocol as _;
use hyperv_sim::kvp::{FACT_POOL, FACTS, Kvp, KvpHost, Operation, pool};
use hyperv_sim::network::Adapter;
use hyperv_sim::port::Machine;
use hyperv_sim::results::{Group, Row, medians};
use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::Status;

use super::subject::Subject;
use super::{Common, DeviceKind, FCOPY, at_rest, trace};

/// The pool with many records: the one that the guest writes to.
const LARGE: u8 = 1;

/// A pool as hosts have them, and its records.
const SMALL: (u8, u32) = (0, 20);

/// Requests that a host makes one after the other, and how long it then makes none.
const BURST: (u32, Duration) = (30, Duration::from_millis(100));

/// The interface that the host asks about.
const ADAPTER: Adapter = Adapter {
    name: "hvsim0",
    mac: "00:15:5d:01:02:0a",
    device: Guid::from_u128(0xf8615163_df3e_46c5_913f_f2d2f965ed0e),
};

/// What it is configured with.
const CONFIGURE: [&[&str]; 3] = [
    &["addr", "add", "10.1.0.2/24", "dev", ADAPTER.name],
    &["-6", "addr", "add", "fd00:1::2/64", "dev", ADAPTER.name],
    &[
        "route",
        "add",
        "default",
        "via",
        "10.1.0.1",
        "dev",
        ADAPTER.name,
    ],
];

/// Makes the machine's name one that it can look up, so that nobody looks for it
/// while wake-ups are counted.
const NAME: [&str; 3] = [
    "sh",
    "-c",
    "echo 127.0.1.1 $(uname -n).example.org $(uname -n) >>/etc/hosts",
];

/// Both families.
const BOTH: u8 = 3;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(super) common: Common,
    /// Requests of each kind a round; a quarter of that where a program may read a large
    /// file, or start others, for each.
    #[arg(long, value_name = "N", default_value_t = 100)]
    requests: u32,
    /// Records in the large pool.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    records: u32,
    #[command(flatten)]
    way: DeviceKind,
}

/// Requests that are repeated.
struct Question {
    title: String,
    /// Asked in turns.
    operations: Vec<Operation>,
    /// Whether the guest has the requested keys.
    there: bool,
    /// Whether the host pauses in between.
    bursts: bool,
    /// How many are asked in a round.
    requests: u32,
}

pub(super) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments {
        ref common,
        requests,
        records,
        ref way,
    } = *arguments;
    ensure!(
        requests > 0 && records > 0,
        "no requests, nothing to measure"
    );
    let transport = way.transport();
    let mut subjects = common.programs.subjects::<Kvp>(transport)?;
    for subject in &mut subjects {
        prepare(subject).with_context(|| format!("starting {}", subject.name))?;
    }
    let before = at_rest(&mut subjects, "at rest, without records", common.idle)?;

    for subject in &subjects {
        for (number, records) in [(LARGE, records), SMALL] {
            let path = subject.machine.pools().join(pool::file(number));
            fs::write(&path, content(records)).with_context(|| path.display().to_string())?;
        }
    }
    let (mut times, mut calls) = (Vec::new(), Vec::new());
    for question in questions(requests, records) {
        times.push(time(&mut subjects, &question, common.rounds)?);
        calls.push(system_calls(&mut subjects, &question)?);
    }
    let after = format!("at rest, with {records} records");
    let after = at_rest(&mut subjects, &after, common.idle)?;

    let title = format!(
        "{} rounds of {requests} requests ({} of GET_IP_INFO and of a pool of {records} records), over {transport}",
        common.rounds,
        few(requests)
    );
    let groups = vec![
        Group::new("time of a request", times),
        Group::new("system calls of a request", calls),
        before,
        after,
    ];
    let programs = subjects.into_iter().map(|it| it.name).collect();
    common.programs.output.report(programs, title, groups)
}

/// Starts the program in a private network. A file-copy device is there as
/// well: an agent that serves both has both in memory.
fn prepare(subject: &mut Subject<Kvp>) -> Result<()> {
    let network = subject.machine.network()?;
    network.add(&ADAPTER)?;
    for arguments in CONFIGURE {
        network.run(&[&["ip"], arguments].concat())?;
    }
    network.run(&NAME)?;
    let (number, ring_len) = FCOPY;
    subject
        .machine
        .offer(Fcopy::SERVICE.uio(number, ring_len))?;
    subject.host().map(drop)
}

/// A pool file with so many records.
fn content(records: u32) -> Vec<u8> {
    (0..records)
        .flat_map(|number| pool::record(key(number).as_bytes(), b"a value"))
        .collect()
}

fn key(number: u32) -> String {
    format!("key {number}")
}

fn few(requests: u32) -> u32 {
    requests.div_ceil(4)
}

fn questions(requests: u32, records: u32) -> Vec<Question> {
    let ask = |title: &str, operations| Question {
        title: title.to_owned(),
        operations,
        there: true,
        bursts: false,
        requests,
    };
    let get = |title: &str, (pool, records), number| {
        let title = format!("GET, {title} of {records} records");
        Question {
            there: number < records,
            ..ask(&title, vec![Operation::get(pool, &key(number))])
        }
    };
    let slow = |question| Question {
        requests: few(requests),
        ..question
    };
    let facts = (0..).zip(FACTS).map(|(index, _)| Operation::Enumerate {
        pool: FACT_POOL,
        index,
    });
    let facts: Vec<_> = facts.collect();
    let in_bursts = format!("ENUMERATE of a fact, bursts of {}", BURST.0);
    let info = Operation::get_ip_info(&ADAPTER.mac.to_uppercase(), BOTH);
    let all = (0..few(requests)).map(|number| Operation::Enumerate {
        pool: LARGE,
        index: number * (records / few(requests)).max(1) % records,
    });
    let large = (LARGE, records);
    vec![
        ask("ENUMERATE of a fact", facts.clone()),
        Question {
            bursts: true,
            ..ask(&in_bursts, facts)
        },
        get("first", SMALL, 0),
        get("missing one", SMALL, SMALL.1),
        slow(ask("GET_IP_INFO", vec![info])),
        slow(get("first", large, 0)),
        slow(get("last", large, records - 1)),
        slow(get("missing one", large, records)),
        slow(ask(
            &format!("ENUMERATE, any of {records} records"),
            all.collect(),
        )),
    ]
}

/// The time that a request takes.
fn time(subjects: &mut [Subject<Kvp>], question: &Question, rounds: usize) -> Result<Row> {
    let mut measured: Vec<Vec<_>> = subjects.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (subject, measured) in subjects.iter_mut().zip(&mut measured) {
            let time = subject.attempt(|host| ask(host, question))?;
            measured.push(time.map(|time| time.as_secs_f64() * 1e6 / f64::from(question.requests)));
        }
    }
    Ok(Row::new(
        &question.title,
        "µs",
        medians(&measured, |time| *time),
    ))
}

/// The system calls that a request takes, counted apart from the time.
fn system_calls(subjects: &mut [Subject<Kvp>], question: &Question) -> Result<Row> {
    let mut counted = Vec::new();
    for subject in subjects {
        let pid = subject.pid()?;
        let calls = subject
            .attempt(|host| trace::system_calls(pid, host, |host| ask(host, question).map(drop)))?;
        let calls = calls.and_then(|calls| calls);
        counted.push(calls.map(|calls| calls as f64 / f64::from(question.requests)));
    }
    Ok(Row::new(&question.title, "system calls", counted))
}

/// Sends requests, each when the one before is answered; returns the time without pauses.
fn ask(host: &mut KvpHost, question: &Question) -> Result<Duration> {
    let mut busy = Duration::ZERO;
    let operations = question.operations.iter().cycle();
    for (number, operation) in (0..question.requests).zip(operations) {
        if question.bursts && number > 0 && number % BURST.0 == 0 {
            thread::sleep(BURST.1);
        }
        let begun = Instant::now();
        let status = host.request(operation)?;
        busy += begun.elapsed();
        ensure!(
            (status == Status::OK) == question.there,
            "{}: {operation:?} was answered with {status:?}",
            question.title
        );
    }
    Ok(busy)
}
