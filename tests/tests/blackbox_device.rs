//! What a program in the black box finds there: devices that behave like the
//! kernel's.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hyperv_needs::skip;
use hyperv_sim::blackbox::{BlackBox, unavailable};
use hyperv_sim::port::{Bell, Event, Machine, Offer, Pipe, Port, Ring};
use hyperv_vmbus::Guid;
use hyperv_vmbus::packet::HEADER_LEN;
use hyperv_vmbus::ring::{Reader, Writer, Written};

const CLASS: Guid = Guid::from_u128(0x34d14be3_dee4_41c8_9ae7_6b174977c192);
const INSTANCE: Guid = Guid::from_u128(0xeb765408_105f_49b6_b4aa_c123b64d17d4);
const GUEST: &str = env!("CARGO_BIN_EXE_test-guest");
const RING_LEN: usize = 16 * 1024;
/// Far beyond what anything here takes; nothing waits that long unless broken.
const LONG: Duration = Duration::from_secs(20);

fn uio(number: u32) -> Offer {
    Offer::Uio {
        class: CLASS,
        instance: INSTANCE,
        number,
        ring_len: RING_LEN,
    }
}

/// Whether these tests can run here; where they must, it is an error that they
/// cannot.
fn available() -> bool {
    let why = unavailable();
    if let Some(why) = &why {
        skip(why);
    }
    why.is_none()
}

/// The host's end of a channel.
struct Host {
    reader: Reader<Ring>,
    writer: Writer<Ring>,
    bell: Arc<dyn Bell>,
}

impl Host {
    fn new(port: Port) -> Result<Self> {
        let Port::Uio(port) = port else {
            bail!("not a UIO device");
        };
        Ok(Self {
            reader: Reader::new(port.rings.outgoing)?,
            writer: Writer::new(port.rings.incoming)?,
            bell: port.bell,
        })
    }

    /// Sends a message and returns the guest's reply, without its padding.
    fn call(&mut self, transaction: u64, payload: &[u8]) -> Result<Vec<u8>> {
        let Written::Done { signal } = self.writer.send(transaction, payload)? else {
            bail!("the ring is full");
        };
        if signal {
            self.bell.interrupt();
        }
        let mut buffer = vec![0; RING_LEN];
        let deadline = Instant::now() + LONG;
        loop {
            if self.reader.recv(&mut buffer)?.is_some() {
                let reply = buffer.get(HEADER_LEN..HEADER_LEN + payload.len());
                return Ok(reply.context("a short reply")?.to_vec());
            }
            if self.reader.arm() {
                continue;
            }
            ensure!(Instant::now() < deadline, "no reply in {LONG:?}");
            ensure!(self.bell.wait(LONG) == Event::Signalled, "no signal");
        }
    }
}

/// Waits until the program has logged `text`.
fn logged(machine: &impl Machine, text: &str) -> Result<()> {
    let deadline = Instant::now() + LONG;
    while !machine.log().contains(text) {
        ensure!(
            Instant::now() < deadline,
            "{text:?} is not logged: {}",
            machine.log()
        );
        std::thread::yield_now();
    }
    Ok(())
}

#[test]
fn the_program_finds_its_device_where_a_kernel_has_it() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let before = std::fs::read_to_string("/proc/self/mountinfo")?;
    let script = format!(
        "cd /sys/bus/vmbus/devices/{INSTANCE} && \
         cat class_id device_id uio/uio7/maps/map0/size /sys/class/uio/uio7/maps/map0/size && \
         basename $(readlink -f driver) && stat -c %s channels/*/ring && \
         ls -d /dev/uio* /dev/vmbus/* && ls -d /sys/class/net/lo/mtu && \
         echo x >/dev/null && head -c 4 /dev/zero | wc -c && logger -s -t guest hello; echo done"
    );
    let mut machine = BlackBox::new(&shell_words::join(["sh", "-c", &script]))?;
    machine.offer(uio(7))?;
    machine.offer(Offer::HvUtil {
        class: CLASS,
        instance: Guid::from_u128(1),
        node: "vmbus/hv_fcopy",
    })?;
    machine.start()?;
    logged(&machine, "done")?;
    let log = machine.log();
    let expected = format!(
        "{{{CLASS}}}\n{{{INSTANCE}}}\n0x0000000000008000\n0x0000000000008000\n\
         uio_hv_generic\n32768\n/dev/uio7\n/dev/vmbus/hv_fcopy\n/sys/class/net/lo/mtu\n4\n"
    );
    assert!(log.starts_with(&expected), "{log}");
    assert!(log.contains("guest: hello"), "{log}");
    assert!(!Path::new("/sys/bus/vmbus").exists());
    let after = std::fs::read_to_string("/proc/self/mountinfo")?;
    assert_eq!(before, after, "the machine's own mounts have changed");
    Ok(())
}

#[test]
fn packets_go_both_ways_and_the_device_goes_and_returns() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut machine = BlackBox::new(&format!("{GUEST} echo /dev/uio0 {RING_LEN}"))?;
    for masks in [false, true] {
        machine.set_driver_masks(masks);
        let device = machine.offer(uio(0))?;
        machine.start()?;
        let mut host = Host::new(device.accept(LONG)?)?;
        for (transaction, byte) in (0..2000).zip((0..=u8::MAX).cycle()) {
            let payload = vec![byte; 1 + 17 * usize::from(byte)];
            assert_eq!(host.call(transaction, &payload)?, payload);
        }
        device.rescind()?;
        logged(&machine, "gone")?;
        // The last reply's signal may have come after the reply was seen.
        let event = match host.bell.wait(LONG) {
            Event::Signalled => host.bell.wait(LONG),
            event => event,
        };
        assert_eq!(event, Event::Closed);
        machine.stop()?;
        assert!(host.bell.signals() > 0 && host.bell.interrupts() > 0);
        assert!(device.accept(LONG).is_err());
    }
    Ok(())
}

#[test]
fn each_interrupt_is_an_edge_though_nothing_is_read() -> Result<()> {
    if !available() {
        return Ok(());
    }
    const EDGES: u32 = 200;
    let mut machine = BlackBox::new(&format!("{GUEST} edges /dev/uio3 {EDGES}"))?;
    let device = machine.offer(uio(3))?;
    machine.start()?;
    let host = Host::new(device.accept(LONG)?)?;
    for _ in 0..EDGES {
        assert_eq!(host.bell.wait(LONG), Event::Signalled);
        host.bell.interrupt();
    }
    assert_eq!(host.bell.wait(LONG), Event::Signalled);
    assert_eq!(host.bell.wait(LONG), Event::Closed);
    assert_eq!(host.bell.signals(), u64::from(EDGES) + 1);
    let end = format!(
        "count {EDGES}\nthen Err(\"EAGAIN\")\neight bytes Err(\"EINVAL\")\n\
         write of three Err(\"EINVAL\")\n"
    );
    assert!(machine.log().ends_with(&end), "{}", machine.log());
    Ok(())
}

#[test]
fn a_reader_that_waits_can_be_stopped_and_killed() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut machine = BlackBox::new(&format!("{GUEST} block /dev/uio0"))?;
    let device = machine.offer(uio(0))?;
    for round in 1..=3 {
        machine.start()?;
        let host = Host::new(device.accept(LONG)?)?;
        host.bell.interrupt();
        logged(&machine, &format!("count {round}"))?;
        if round == 2 {
            machine.kill()?;
        } else {
            machine.stop()?;
        }
        assert!(!machine.is_running());
        assert_eq!(host.bell.wait(LONG), Event::Closed);
    }
    Ok(())
}

#[test]
fn the_kernel_announces_what_comes_and_goes() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut machine = BlackBox::new(&format!("{GUEST} announcements"))?;
    machine.start()?;
    logged(&machine, "listening")?;
    // Other tests' announcements arrive here too: more is as good.
    let announced = |machine: &BlackBox| machine.log().matches("misc from Some(0)").count();
    let device = machine.offer(uio(0))?;
    logged(&machine, "misc from Some(0)")?;
    let before = announced(&machine);
    device.rescind()?;
    let deadline = Instant::now() + LONG;
    while announced(&machine) == before {
        ensure!(Instant::now() < deadline, "no announcement");
        std::thread::yield_now();
    }
    Ok(())
}

#[test]
fn a_device_taken_away_stays_dead_while_another_takes_its_place() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut machine = BlackBox::new(&format!("{GUEST} hold /dev/uio0"))?;
    let device = machine.offer(uio(0))?;
    machine.start()?;
    device.accept(LONG)?;
    device.rescind()?;
    let returned = machine.offer(uio(1))?;
    logged(&machine, "held")?;
    let expected = "poll PollFlags(POLLIN | POLLERR | POLLHUP)\n\
                    read Err(\"EIO\")\nwrite Err(\"EIO\")\n\
                    read Err(\"EIO\")\nwrite Err(\"EIO\")\n\
                    open Err(\"ENOENT\")\nheld\n";
    assert_eq!(machine.log(), expected);
    // The first one's second end does not take the second one along.
    device.rescind()?;
    assert!(machine.offer(uio(1)).is_err());
    returned.rescind()?;
    Ok(())
}

#[test]
fn a_character_device_carries_messages() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let mut machine = BlackBox::new(&format!("{GUEST} pipe /dev/vmbus/hv_kvp"))?;
    let device = machine.offer(Offer::HvUtil {
        class: CLASS,
        instance: INSTANCE,
        node: "vmbus/hv_kvp",
    })?;
    machine.start()?;
    let Port::HvUtil(pipe) = device.accept(LONG)? else {
        bail!("not a character device");
    };
    let call = |pipe: &Arc<dyn Pipe>| -> Result<_> {
        pipe.send(b"abc")?;
        pipe.recv(LONG)
    };
    assert_eq!(call(&pipe)?.as_deref(), Some(&b"cba"[..]));
    assert_eq!(call(&pipe)?.as_deref(), Some(&b"cba"[..]));
    pipe.refuse_writes();
    pipe.send(b"abc")?;
    logged(&machine, "write \"EINVAL\"")?;
    device.rescind()?;
    logged(&machine, "write Err(\"EBADF\")")?;
    let log = machine.log();
    assert!(log.starts_with("second open Err(\"EBUSY\")\n"), "{log}");
    assert!(log.contains("short read Err(\"EINVAL\")\n"), "{log}");
    let gone = "poll Some(PollFlags(POLLERR | POLLHUP))\nread Err(\"EBADF\")\n";
    assert!(log.contains(gone), "{log}");
    assert!(pipe.send(b"abc").is_err());
    Ok(())
}

/// Whether any thread on the machine is in that mount namespace.
fn inhabited(namespace: &Path) -> bool {
    let list = |directory: PathBuf| std::fs::read_dir(directory).into_iter().flatten().flatten();
    list("/proc".into())
        .flat_map(|process| list(process.path().join("task")))
        .any(|thread| {
            let link = std::fs::read_link(thread.path().join("ns/mnt"));
            link.is_ok_and(|link| link == namespace)
        })
}

#[test]
fn nothing_is_left_when_the_machine_goes() -> Result<()> {
    if !available() {
        return Ok(());
    }
    // A child that ignores what it can, and a grandchild that has left it.
    let script = "trap '' TERM; setsid sleep 1000 & exec 3<>/dev/uio0; echo up; sleep 1000; :";
    let mut machine = BlackBox::new(&shell_words::join(["sh", "-c", script]))?;
    let device = machine.offer(uio(0))?;
    machine.start()?;
    device.accept(LONG)?;
    logged(&machine, "up")?;
    let pid = machine.pid().context("no process")?;
    let namespace = std::fs::read_link(format!("/proc/{pid}/ns/mnt"))?;
    let directory = machine.directory().to_owned();
    drop(machine);
    assert!(!directory.exists());
    assert!(device.rescind().is_err());
    // Threads that have been waited for may be in the kernel's hands a moment
    // longer, and another test's guest may get the number of this one's
    // namespace.
    let deadline = Instant::now() + LONG;
    while inhabited(&namespace) {
        ensure!(Instant::now() < deadline, "somebody lives in {namespace:?}");
        std::thread::yield_now();
    }
    Ok(())
}

#[test]
fn the_guest_dies_with_its_host() -> Result<()> {
    if !available() {
        return Ok(());
    }
    // What a killed host cannot remove any more goes in here.
    let directory = tempfile::tempdir()?;
    let mut host = Command::new(GUEST)
        .arg("host")
        .env("TMPDIR", directory.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(host.stdout.take().context("no output")?).read_line(&mut line)?;
    let guest = line.trim().to_owned();
    let exists = || Path::new(&format!("/proc/{guest}/ns/mnt")).exists();
    ensure!(exists(), "no process {guest:?}");
    host.kill()?;
    host.wait()?;
    // It waits in `read`, which ends with the file system, and is killed then.
    let deadline = Instant::now() + LONG;
    while std::fs::read_link(format!("/proc/{guest}/ns/mnt")).is_ok() {
        ensure!(Instant::now() < deadline, "{guest} lives on");
        std::thread::yield_now();
    }
    Ok(())
}

#[test]
fn the_stock_daemon_negotiates() -> Result<()> {
    if !available() {
        return Ok(());
    }
    let daemon = match hyperv_needs::fetched("stock-daemons") {
        Ok(daemon) => daemon,
        Err(why) => {
            skip(&why);
            return Ok(());
        }
    };
    let daemon = shell_words::quote(&daemon);
    let mut machine = BlackBox::new(&format!("{daemon} -n"))?;
    let device = machine.offer(uio(0))?;
    machine.start()?;
    let mut host = Host::new(device.accept(LONG)?)?;
    let reply = host.call(7, &negotiation())?;
    // Any time, as hosts do.
    assert_eq!(host.call(8, &negotiation())?, reply);
    let words: Vec<u16> = reply
        .chunks_exact(2)
        .map(|word| u16::from_le_bytes([word[0], word[1]]))
        .collect();
    // Status, then flags: a response; counts; the framework and the version of
    // the messages that both know.
    assert_eq!(words[10..12], [0, 0], "{words:?}");
    assert_eq!(words[12] >> 8, 5, "{words:?}");
    assert_eq!(words[14..16], [1, 1], "{words:?}");
    assert_eq!(words[18..22], [3, 0, 1, 1], "{words:?}");
    logged(&machine, "FCopy IC version 1.1")?;
    machine.stop()?;
    Ok(())
}

/// A negotiation as a host sends it: framework 3.0, messages 1.1.
fn negotiation() -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(1u32.to_le_bytes());
    message.extend(36u32.to_le_bytes());
    // Framework version, type, message version, size.
    for word in [3u16, 0, 0, 1, 1, 16] {
        message.extend(word.to_le_bytes());
    }
    // Status; transaction, flags, reserved.
    message.extend(0u32.to_le_bytes());
    message.extend([1, 3, 0, 0]);
    for word in [1u16, 1, 0, 0, 3, 0, 1, 1] {
        message.extend(word.to_le_bytes());
    }
    message
}
