//! How packets flow: several at a time, rings that fill up, versions.

use anyhow::{Context, Error, Result, ensure};
use hyperv_vmbus::ic::{Status, Version};
use hyperv_vmbus::ring::Word;

use super::stage::{FcopyStage, SETTLE_TIME, expect, expect_closed, expect_failure};
use super::{Pattern, Transport};
use crate::fcopy::{CHUNK, Fcopy, FcopyHost, Operation, Start};
use crate::host::{FRAMEWORKS, Protocol as _};
use crate::ic::{FILE_COPY, Request};
use crate::port::Machine;
use crate::ring::{HEADER_LEN, Packet, TRAILER_LEN};
use crate::wait::until;

pub(super) fn in_flight(stage: &mut FcopyStage<'_>) -> Result<()> {
    if stage.transport() == Transport::HvUtil {
        return short_in_flight(stage);
    }
    let mut host = stage.connect()?;
    for at_a_time in [2, 3, 8] {
        let data = Pattern::bytes(at_a_time, 200 * CHUNK + 1);
        let name = format!("{at_a_time} at a time");
        let start = Start::new(&stage.path()?, &name, 0, data.len() as u64);
        let status = host.copy(
            &start,
            &mut &*data,
            usize::try_from(at_a_time)?,
            &mut |_| {},
        )?;
        expect(status, Status::OK, &name)?;
        stage.expect_content(&stage.directory().join(&name), &data)?;
    }
    stage.expect_files(&["2 at a time", "3 at a time", "8 at a time"])
}

/// A kernel's driver drops a reply for which its ring has no room, and does
/// not report that. It takes a further request while the last reply is not read. Only
/// one reply to a full WRITE fits, but eight replies to short ones.
fn short_in_flight(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let data = Pattern::bytes(1, 60 * SHORT);
    let mut names = Vec::new();
    for at_a_time in [2, 3, 8] {
        let name = format!("{at_a_time} at a time");
        let start = stage.start(&name, 0, data.len() as u64)?;
        expect(host.request(&start)?, Status::OK, "a START")?;
        let mut chunks = (0u64..).step_by(SHORT).zip(data.chunks(SHORT)).peekable();
        while chunks.peek().is_some() || host.in_flight() > 0 {
            match chunks.next_if(|_| host.in_flight() < at_a_time) {
                Some((offset, chunk)) => {
                    let mut body = Operation::write(offset, chunk).encode_utf16();
                    body.truncate(body.len() - CHUNK + SHORT);
                    let request = Request::new(FILE_COPY, host.id(), body)?;
                    host.submit(request.encode())?;
                }
                None => expect(host.reply()?.status, Status::OK, "a short WRITE")?,
            }
        }
        let status = host.request(&Operation::Complete)?;
        expect(status, Status::OK, "a COMPLETE")?;
        stage.expect_content(&stage.directory().join(&name), &data)?;
        names.push(name);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    stage.expect_files(&names)
}

/// Bytes of a short WRITE.
const SHORT: usize = 1000;

/// How many WRITEs, or their replies, a ring holds.
fn fit(host: &mut FcopyHost) -> Result<usize> {
    let reply = Request::new(FILE_COPY, 0, Operation::write(0, &[]).encode_utf16())?;
    let reply = Packet::in_band(0, &reply.encode()).encode()?.len() + TRAILER_LEN;
    let ring = host.channel()?.from_guest.raw().data_len() as usize;
    Ok((ring - 1) / reply)
}

/// The WRITEs of a file of so many chunks.
fn writes(data: &[u8]) -> Vec<Operation> {
    (0u64..)
        .step_by(CHUNK)
        .zip(data.chunks(CHUNK))
        .map(|(offset, chunk)| Operation::write(offset, chunk))
        .collect()
}

/// A host that looks at no reply before all its requests are in the ring. As many
/// as both rings and the guest hold are in the ring at last; one more would be a
/// fault of the host.
pub(super) fn sends_first(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    host.alone = true;
    let most = 2 * fit(&mut host)? + 1;
    let data = Pattern::bytes(1, most * CHUNK);
    let start = stage.start("sent first", 0, data.len() as u64)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    for count in [most; 5]
        .into_iter()
        .chain(most.saturating_sub(6).max(1)..most)
    {
        for write in writes(&data).iter().take(count) {
            host.send(write)
                .with_context(|| format!("{} of {count} requests are sent", host.in_flight()))?;
        }
        while host.in_flight() > 0 {
            expect(host.reply()?.status, Status::OK, "a WRITE")?;
        }
    }
    complete(stage, &mut host, "sent first", &data)
}

pub(super) fn apart(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let data = Pattern::bytes(1, 3 * (fit(&mut host)? + 10) * CHUNK);
    let start = stage.start("apart", 0, data.len() as u64)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    for _ in 0..3 {
        for reply in host.exchange(&writes(&data))? {
            expect(reply.status, Status::OK, "a WRITE")?;
        }
    }
    complete(stage, &mut host, "apart", &data)
}

pub(super) fn without_flow_control(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    host.channel()?.without_flow_control();
    let most = 2 * fit(&mut host)? + 1;
    let data = Pattern::bytes(1, most * CHUNK);
    let start = stage.start("looked for", 0, data.len() as u64)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    for alone in [true, false, true] {
        host.alone = alone;
        for write in &writes(&data) {
            host.send(write)?;
        }
        while host.in_flight() > 0 {
            expect(host.reply()?.status, Status::OK, "a WRITE")?;
        }
    }
    for reply in host.exchange(&writes(&data))? {
        expect(reply.status, Status::OK, "a WRITE")?;
    }
    complete(stage, &mut host, "looked for", &data)
}

/// Completes the copy, and looks at the file.
fn complete(stage: &FcopyStage<'_>, host: &mut FcopyHost, name: &str, data: &[u8]) -> Result<()> {
    let completed = host.request(&Operation::Complete)?;
    expect(completed, Status::OK, "a COMPLETE")?;
    stage.expect_files(&[name])?;
    stage.expect_content(&stage.directory().join(name), data)
}

/// Lets the guest answer until a reply finds no room.
fn fill(host: &mut FcopyHost) -> Result<()> {
    let waits = |host: &mut FcopyHost| Ok::<_, Error>(host.channel()?.from_guest.guest_waits_for());
    while waits(host)? == 0 {
        let before = host.channel()?.from_guest.raw().load(Word::WriteIndex);
        host.send(&Operation::Cancel)?;
        until(SETTLE_TIME, "the guest to answer, or to wait", || {
            let written = host.channel()?.from_guest.raw().load(Word::WriteIndex);
            Ok((written != before || waits(host)? > 0).then_some(()))
        })?;
    }
    Ok(())
}

pub(super) fn not_read(stage: &mut FcopyStage<'_>) -> Result<()> {
    const WAITS: &str = "has found no room in the ring of";
    const CONTINUES: &str = "has found room in the ring of";
    let mut host = stage.connect()?;
    let machine = stage.machine();
    let counts = |machine: &dyn Machine| {
        let log = machine.log();
        let of_a_device =
            |text| move |line: &&str| line.contains(text) && line.contains("/dev/uio");
        [WAITS, CONTINUES].map(|text| log.lines().filter(of_a_device(text)).count())
    };
    let [waits, continues] = counts(machine);
    for round in 1..=2 {
        fill(&mut host)?;
        until(SETTLE_TIME, "a warning", || {
            let [now, _] = counts(machine);
            Ok((now > waits + round - 1).then_some(()))
        })?;
        while host.in_flight() > 0 {
            host.reply()?;
        }
        until(SETTLE_TIME, "a log line that the guest continues", || {
            let [_, now] = counts(machine);
            Ok((now > continues + round - 1).then_some(()))
        })?;
        let (came, expected) = (counts(machine), [waits + round, continues + round]);
        ensure!(
            came == expected,
            "expected each to be logged once, {expected:?} in all; it is {came:?}"
        );
    }
    stage.expect_working(&mut host)
}

pub(super) fn gone_while_full(stage: &mut FcopyStage<'_>) -> Result<()> {
    for _ in 0..3 {
        let mut host = stage.connect()?;
        fill(&mut host)?;
        // Neither the ring nor a signal shows it.
        stage.rescind_unannounced()?;
        expect_closed(&mut host)?;
        stage.rescind()?;
    }
    let mut host = stage.connect()?;
    stage.expect_working(&mut host)
}

pub(super) fn replies_held_back(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let fit = fit(&mut host)?;
    let data = Pattern::bytes(1, (fit + 2) * CHUNK);
    let start = stage.start("held back", 0, data.len() as u64)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    for round in 0..20 {
        let mut chunks = (0u64..).step_by(CHUNK).zip(data.chunks(CHUNK));
        for (offset, chunk) in chunks.by_ref().take(fit + 1) {
            host.send(&Operation::write(offset, chunk))?;
            // Not read: the last reply finds no room.
            let channel = host.channel()?;
            until(SETTLE_TIME, "the guest to take the request", || {
                Ok(channel.to_guest.is_drained().then_some(()))
            })?;
        }
        let channel = host.channel()?;
        until(
            SETTLE_TIME,
            "the guest to say that it waits for room",
            || Ok((channel.from_guest.guest_waits_for() > 0).then_some(())),
        )?;
        for (offset, chunk) in chunks {
            host.send(&Operation::write(offset, chunk))?;
        }
        while host.in_flight() > 0 {
            expect(
                host.reply()?.status,
                Status::OK,
                &format!("a WRITE of round {round}"),
            )?;
        }
    }
    expect(
        host.request(&Operation::Complete)?,
        Status::OK,
        "a COMPLETE",
    )?;
    stage.expect_files(&["held back"])?;
    stage.expect_content(&stage.directory().join("held back"), &data)
}

pub(super) fn masked_host(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let start = stage.start("quiet", 0, 100)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    let channel = host.channel()?;
    channel.from_guest.mask(true);
    let mut write = || -> Result<u64> {
        host.send(&Operation::write(0, &[7; 100]))?;
        let channel = host.channel()?;
        until(SETTLE_TIME, "a reply in the ring", || {
            Ok(channel.from_guest.pending().then_some(()))
        })?;
        expect(host.reply()?.status, Status::OK, "a WRITE")?;
        Ok(host.channel()?.bell().signals())
    };
    // The reply to the START may have been read before its signal came.
    let before = write()?;
    let mut signals = 0;
    for _ in 0..10 {
        signals = write()? - before;
    }
    let channel = host.channel()?;
    channel.from_guest.mask(false);
    ensure!(
        signals == 0,
        "expected no signal to a host that masked them; {signals} came for 10 replies"
    );
    expect(
        host.request(&Operation::Complete)?,
        Status::OK,
        "a COMPLETE",
    )
}

pub(super) fn spurious_interrupts(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    for _ in 0..100 {
        host.channel()?.bell().interrupt();
    }
    stage.expect_working(&mut host)?;
    let start = stage.start("interrupted", 0, 50 * CHUNK as u64)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    let data = Pattern::bytes(5, 50 * CHUNK);
    for (offset, chunk) in (0u64..).step_by(CHUNK).zip(data.chunks(CHUNK)) {
        host.send(&Operation::write(offset, chunk))?;
        host.channel()?.bell().interrupt();
        expect(host.reply()?.status, Status::OK, "a WRITE")?;
        host.channel()?.bell().interrupt();
    }
    expect(
        host.request(&Operation::Complete)?,
        Status::OK,
        "a COMPLETE",
    )?;
    stage.expect_files(&["interrupted"])?;
    stage.expect_content(&stage.directory().join("interrupted"), &data)
}

pub(super) fn longer_header(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let request = Request::negotiation(99, &FRAMEWORKS, Fcopy::VERSIONS)?.encode();
    let mut packet = Packet::in_band(99, &request).encode()?;
    // Two more words of header, and the total says so.
    packet.splice(HEADER_LEN..HEADER_LEN, [0xee; 16]);
    let words = u16::try_from(packet.len() / 8)?;
    packet.splice(2..6, [4, 0].into_iter().chain(words.to_le_bytes()));
    host.channel()?.send_bytes(&packet)?;
    let reply = host.channel()?.recv(crate::host::REPLY_TIME)?;
    let reply = reply.map(|packet| (packet.transaction, packet.payload.len()));
    let expected = (99, request.len().next_multiple_of(8));
    ensure!(
        reply == Some(expected),
        "expected a reply with transaction and length {expected:?}; {reply:?} came"
    );
    stage.expect_working(&mut host)
}

pub(super) fn other_packets(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    for kind in [0, 1, 7, 8, 9, 10, 11, 12, 0xffff] {
        let packet = Packet {
            kind,
            flags: 0,
            transaction: 1000,
            payload: vec![0xff; 64],
        };
        let sent = host.channel()?.try_send(&packet)?;
        ensure!(sent, "no room for a packet of type {kind}");
    }
    stage.expect_working(&mut host)
}

pub(super) fn renegotiation(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let data = Pattern::bytes(6, 2 * CHUNK);
    let start = stage.start("renegotiated", 0, data.len() as u64)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    let status = host.request(&Operation::write(0, &Pattern::bytes(6, CHUNK)))?;
    expect(status, Status::OK, "a WRITE before the negotiation")?;
    expect_chosen(&mut host, &FRAMEWORKS, Fcopy::VERSIONS, Some(OURS))?;
    let status = host.request(&Operation::write(CHUNK as u64, &[1; CHUNK]))?;
    expect_failure(status, "a WRITE after the negotiation")?;
    expect_failure(host.request(&Operation::Complete)?, "a COMPLETE")?;
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}

const OURS: (Version, Version) = (Version::new(3, 0), Version::new(1, 1));

pub(super) fn versions(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let v = Version::new;
    for (frameworks, messages, expected) in [
        (vec![v(3, 0)], vec![v(1, 1)], Some(OURS)),
        (vec![v(1, 0)], vec![v(1, 1)], None),
        (vec![v(3, 0)], vec![v(9, 9)], None),
        (vec![v(3, 1)], vec![v(1, 0)], None),
        (vec![], vec![], None),
        (vec![v(3, 0)], vec![], None),
        (
            vec![v(9, 0), v(3, 0), v(1, 0)],
            vec![v(2, 0), v(1, 1), v(1, 0)],
            Some(OURS),
        ),
        (vec![v(3, 0); 99], vec![v(1, 1)], Some(OURS)),
        (vec![v(7, 7); 50], vec![v(7, 7); 50], None),
    ] {
        expect_chosen(&mut host, &frameworks, &messages, expected)?;
    }
    expect_chosen(&mut host, &FRAMEWORKS, Fcopy::VERSIONS, Some(OURS))?;
    stage.expect_working(&mut host)
}

fn expect_chosen(
    host: &mut FcopyHost,
    frameworks: &[Version],
    messages: &[Version],
    expected: Option<(Version, Version)>,
) -> Result<()> {
    let chosen = host.negotiate(frameworks, messages)?;
    ensure!(
        chosen == expected,
        "expected the offer of {frameworks:?} and {messages:?} to result in {expected:?}; the guest chose {chosen:?}"
    );
    Ok(())
}
