//! The shipped binary among other programs: who else has its device, how it was
//! started, and what the programs that it starts find of it.

#![expect(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use hyperv_needs::skip;
use hyperv_services::{fcopy, vss};
use hyperv_sim::blackbox::{BlackBox, root_unavailable, unavailable};
use hyperv_sim::fcopy::{FcopyHost, Start};
use hyperv_sim::port::{Machine, Offer};
use hyperv_sim::vss::VssHost;
use hyperv_sim::wait::until;
use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::Status;

use common::agent;

const GUEST: &str = env!("CARGO_BIN_EXE_test-guest");

/// Far beyond what anything here takes.
const LONG: Duration = Duration::from_secs(20);

const FCOPY: Offer = Offer::Uio {
    class: fcopy::ENTRY.class,
    instance: Guid::from_u128(0x1000),
    number: 0,
    ring_len: 20 * 1024,
};

const VSS: Offer = Offer::Uio {
    class: vss::ENTRY.class,
    instance: Guid::from_u128(0x1001),
    number: 1,
    ring_len: 68 * 1024,
};

/// Waits for a line of the log with these words.
fn wait_for(machine: &BlackBox, words: &str) -> String {
    until(LONG, &format!("{words:?} in the log"), || {
        let log = machine.log();
        Ok(log
            .lines()
            .find(|line| line.contains(words))
            .map(str::to_owned))
    })
    .unwrap_or_else(|error| panic!("{error:#}; the log is:\n{}", machine.log()))
}

/// A program has something open whose server never answers; nobody waits for that.
#[test]
fn another_program_that_has_the_device_is_named_whatever_others_have_open() {
    if let Some(why) = root_unavailable() {
        return skip(&why);
    }
    let mut machine = BlackBox::with_root(&format!("{} run", agent().display())).unwrap();
    let guest = machine.install(GUEST).unwrap();
    let mut hangs = machine.spawn(&[&guest, "hang", "/mnt"]).unwrap();
    let mut line = String::new();
    BufReader::new(hangs.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "hangs\n");
    let device = machine.offer(FCOPY).unwrap();
    let mut holder = machine.spawn(&[&guest, "hold", "/dev/uio0"]).unwrap();
    device.accept(LONG).unwrap();

    machine.start().unwrap();
    let complaint = wait_for(&machine, "has the device open");
    let words = complaint.split_once("cannot be opened: test-guest (process ");
    let (pid, rest) = words.unwrap().1.split_once(')').unwrap();
    assert!(
        rest.starts_with(" has the device open: stop that program"),
        "{complaint}"
    );
    machine
        .volumes()
        .unwrap()
        .run(&["kill", "-9", pid])
        .unwrap();
    holder.wait().unwrap();
    FcopyHost::connect(device.accept(LONG).unwrap()).unwrap();
    assert!(!machine.log().contains("in time"), "{}", machine.log());
    // Its input is closed first.
    hangs.wait().unwrap();
}

#[test]
fn a_program_that_opens_the_device_at_the_same_moment_is_named() {
    if let Some(why) = root_unavailable() {
        return skip(&why);
    }
    let mut machine = BlackBox::with_root(&format!("{} run", agent().display())).unwrap();
    let guest = machine.install(GUEST).unwrap();
    let device = machine.offer(FCOPY).unwrap();
    let mut other = machine.spawn(&[&guest, "hold", "/dev/uio0"]).unwrap();
    device.accept(LONG).unwrap();
    // What the agent sees before it opens the device itself.
    let closed = "echo 2 >/sys/class/uio/uio0/device/state";
    machine.volumes().unwrap().script(closed, &["sh"]).unwrap();
    machine.start().unwrap();
    let complaint = wait_for(&machine, "has the device open");
    assert!(complaint.contains("test-guest (process "), "{complaint}");
    // It ends with its root.
    drop(machine);
    other.wait().unwrap();
}

/// In the agent's PID namespace, no other process can be seen.
#[test]
fn another_agent_that_cannot_be_seen_keeps_the_device() {
    if let Some(why) = root_unavailable() {
        return skip(&why);
    }
    let command = "unshare --pid --fork --kill-child --mount-proc hyperv-agent run";
    let mut machine = BlackBox::with_root(command).unwrap();
    machine.install(agent().to_str().unwrap()).unwrap();
    let device = machine.offer(FCOPY).unwrap();
    let flock = machine.install("flock").unwrap();
    // As an agent does.
    let mut other = machine
        .spawn(&[&flock, "/dev/uio0", "sh", "-c", "read _"])
        .unwrap();
    device.accept(LONG).unwrap();
    machine.start().unwrap();
    wait_for(
        &machine,
        "another hyperv-agent, perhaps in a container, has the device open",
    );
    drop(other.stdin.take());
    other.wait().unwrap();
    FcopyHost::connect(device.accept(LONG).unwrap()).unwrap();
}

#[test]
fn a_file_size_limit_fails_a_copy_and_does_not_end_the_agent() {
    if let Some(why) = unavailable() {
        return skip(&why);
    }
    let script = format!("ulimit -f 64; exec {} run", agent().display());
    let mut machine = BlackBox::new(&shell_words::join(["sh", "-c", &script])).unwrap();
    let device = machine.offer(FCOPY).unwrap();
    machine.start().unwrap();
    let mut host = FcopyHost::connect(device.accept(LONG).unwrap()).unwrap();
    let target = machine.directory().to_str().unwrap().to_owned();
    for (name, len) in [("long", 100_000), ("short", 1000)] {
        let start = Start::new(&target, name, 0, len);
        let data = vec![7; usize::try_from(len).unwrap()];
        let status = host.copy(&start, &mut &*data, 1, &mut |_| {}).unwrap();
        assert_eq!(status == Status::OK, name == "short", "{name}: {status:?}");
    }
    wait_for(&machine, "File too large");
}

/// Says what the shell that runs it, or the process `$1`, has been left. While a shell
/// starts a program it may block signals, so that it reads its own status itself.
const SAY: &str = r#"
    process=${1:-$$}
    ls -l "/proc/$process/fd"
    while read -r line; do
        case $line in SigBlk* | SigIgn*) echo "$line" ;; esac
    done <"/proc/$process/status"
    grep 'open files' "/proc/$process/limits"
"#;

#[test]
fn programs_that_it_starts_find_no_trace_of_it() {
    if let Some(why) = root_unavailable() {
        return skip(&why);
    }
    // As an administrator may start it, with something left open.
    let script = "trap '' HUP USR1; ulimit -S -n 300; exec 7</etc/hostname; \
                  exec hyperv-agent run --log stderr";
    let mut machine = BlackBox::with_root(&shell_words::join(["sh", "-c", script])).unwrap();
    machine.install(agent().to_str().unwrap()).unwrap();
    let volumes = machine.volumes().unwrap();
    let prepare = r#"
        set -e
        mkdir -p /etc/hyperv-agent/vss.d
        printf '[services]\nvss = true\n' >/etc/hyperv-agent/config.toml
        hook=/etc/hyperv-agent/vss.d/10-say
        printf '#!/bin/sh\n[ "$1" = freeze ] || exit 0\nexec >/run/said\nset --\n%s' "$0" >"$hook"
        chmod 755 "$hook"
    "#;
    volumes.script(prepare, &[SAY]).unwrap();
    let device = machine.offer(VSS).unwrap();
    machine.start().unwrap();
    let mut host = VssHost::connect(device.accept(LONG).unwrap()).unwrap();
    assert_eq!(host.freeze().unwrap(), Status::OK, "{}", machine.log());
    assert_eq!(host.thaw().unwrap(), Status::OK, "{}", machine.log());

    let stray = ["/etc/hostname", "/dev/uio", "/run/hyperv-agent"];
    let hook = volumes.run(&["cat", "/run/said"]).unwrap();
    let soft = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("Max open files"));
        line.unwrap().split_whitespace().nth(3).unwrap().to_owned()
    };
    assert_eq!(soft(&hook), "300", "{hook}");
    // All but those that only the C library uses.
    let ignored = hook.lines().find_map(|line| line.strip_prefix("SigIgn:\t"));
    let ignored = u64::from_str_radix(ignored.unwrap(), 16).unwrap();
    assert_eq!(ignored & !(3 << 31), 0, "{hook}");
    assert!(hook.contains("SigBlk:\t0000000000000000"), "{hook}");

    let find = "for it in /proc/[0-9]*; do \
                    grep -q vss-guard \"$it/cmdline\" && [ ${it#/proc/} != $$ ] && echo ${it#/proc/}; \
                done; :";
    let guards = volumes.script(find, &[]).unwrap();
    let guard = volumes.script(SAY, &["say", guards.trim()]).unwrap();
    // One for each file system.
    assert_ne!(soft(&guard), "300", "{guard}");
    for text in [hook, guard] {
        assert!(text.contains("0 -> "), "{text}");
        for name in stray {
            assert!(!text.contains(name), "{name} in\n{text}");
        }
    }
}

/// An agent whose standard error goes to the journal, and the journal's socket.
fn with_journal() -> (BlackBox, UnixDatagram) {
    let script = "JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec hyperv-agent run";
    let mut machine = BlackBox::with_root(&shell_words::join(["sh", "-c", script])).unwrap();
    machine.install("stat").unwrap();
    machine.install(agent().to_str().unwrap()).unwrap();
    let directory = ["mkdir", "-p", "/run/systemd/journal"];
    machine.volumes().unwrap().run(&directory).unwrap();
    let journal = machine
        .socket(Path::new("/run/systemd/journal/socket"))
        .unwrap();
    journal.set_read_timeout(Some(LONG)).unwrap();
    (machine, journal)
}

/// Reads records of the journal until one has these words.
fn record(journal: &UnixDatagram, words: &[&str]) -> String {
    let mut datagram = vec![0; 1 << 16];
    loop {
        let len = journal
            .recv(&mut datagram)
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let text = String::from_utf8_lossy(datagram.get(..len).unwrap()).into_owned();
        if words.iter().all(|words| text.contains(words)) {
            return text;
        }
    }
}

#[test]
fn the_journal_gets_records_with_fields_and_priorities() {
    if let Some(why) = root_unavailable() {
        return skip(&why);
    }
    let (mut machine, journal) = with_journal();
    let device = machine.offer(FCOPY).unwrap();
    machine.start().unwrap();
    let mut host = FcopyHost::connect(device.accept(LONG).unwrap()).unwrap();
    for (directory, message, priority, outcome) in [
        ("/root", "copy finished", 6, "finished"),
        ("/nowhere", "copy failed", 4, "failed"),
    ] {
        let start = Start::new(directory, "file", 0, 5);
        let status = host.copy(&start, &mut &b"hello"[..], 1, &mut |_| {});
        assert_eq!(status.unwrap() == Status::OK, outcome == "finished");
        let text = record(&journal, &[message]);
        for field in [
            &*format!("PRIORITY={priority}"),
            "SYSLOG_IDENTIFIER=hyperv-agent",
            "HYPERV_SERVICE=fcopy",
            "HYPERV_EVENT=copy",
            &format!("HYPERV_OUTCOME={outcome}"),
        ] {
            assert!(text.lines().any(|line| line == field), "{field} in\n{text}");
        }
    }
    assert_eq!(machine.log(), "");
}

#[test]
fn a_journal_that_nobody_reads_delays_no_copy_and_is_written_to_afterwards() {
    if let Some(why) = root_unavailable() {
        return skip(&why);
    }
    let (mut machine, journal) = with_journal();
    let device = machine.offer(FCOPY).unwrap();
    machine.start().unwrap();
    let mut host = FcopyHost::connect(device.accept(LONG).unwrap()).unwrap();
    record(&journal, &["starting"]);
    let address = journal.local_addr().unwrap();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler
        .send_to(b"filler", address.as_pathname().unwrap())
        .is_ok()
    {}
    let mut copy = |name: &str| {
        let start = Start::new("/root", name, 0, 5);
        let status = host.copy(&start, &mut &b"hello"[..], 1, &mut |_| {});
        assert_eq!(status.unwrap(), Status::OK);
    };
    (0..5).for_each(|number| copy(&format!("full-{number}")));
    // From here on somebody reads.
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| record(&journal, &["read-again", "copy finished"]));
        copy("read-again");
        reader.join().unwrap();
    });
}
