//! What a host never sends, and a guest has to live with.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::Status;
use hyperv_vmbus::ring::Word;

use super::stage::{FcopyStage, SETTLE_TIME, expect, expect_failure};
use super::{Pattern, Transport};
use crate::channel::HostChannel;
use crate::fcopy::{CHUNK, Fcopy, FcopyHost, Operation};
use crate::host::{FRAMEWORKS, Protocol as _};
use crate::ic::{FILE_COPY, NEGOTIATE, Request};
use crate::port::Event;
use crate::ring::Packet;
use crate::wait::until;

/// Sends a message and expects that the guest declines it.
fn expect_declined(host: &mut FcopyHost, message: Vec<u8>, what: &str) -> Result<()> {
    host.submit(message).with_context(|| what.to_owned())?;
    let reply = host
        .reply()
        .with_context(|| format!("expected an answer to {what}"))?;
    expect_failure(reply.status, what)
}

pub(super) fn messages(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    // Too short for a status: there is nothing to answer, and nothing to break.
    for len in [0, 8, 24] {
        let sent = host
            .channel()?
            .try_send(&Packet::in_band(5000, &vec![1; len]))?;
        ensure!(sent, "no room for a message of {len} bytes");
    }
    stage
        .expect_working(&mut host)
        .context("after messages without a header")?;

    let start = stage.start("never", 0, 10)?.encode_utf16();
    let write = Operation::write(0, &[1; 100]).encode_utf16();
    let cut = |body: &[u8], len: usize| body.get(..len).unwrap_or_default().to_vec();
    let operation = |number: u32| [&number.to_le_bytes()[..], &[0; 32]].concat();
    let bodies = [
        ("a body of no bytes", vec![]),
        ("a body of 8 bytes", vec![0; 8]),
        ("a START that ends in its header", cut(&start, 20)),
        ("a START without names", cut(&start, 36)),
        ("a START that ends in its path", cut(&start, 700)),
        ("a START without its size", cut(&start, 1080)),
        ("a WRITE without its fields", cut(&write, 36)),
        ("a WRITE that ends in its fields", cut(&write, 48)),
        ("operation 4", operation(4)),
        ("operation 0xffffffff", operation(u32::MAX)),
    ];
    for (what, body) in bodies {
        let request = Request::new(FILE_COPY, host.id(), body)?;
        expect_declined(&mut host, request.encode(), what)?;
        stage.expect_files(&[])?;
    }
    for kind in [1, 2, 3, 4, 5, 6, 8, 0xffff] {
        let request = Request::new(kind, host.id(), start.clone())?;
        expect_declined(
            &mut host,
            request.encode(),
            &format!("a message of type {kind}"),
        )?;
    }
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}

pub(super) fn negotiations(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let counts = |frameworks: u16, messages: u16, rest: usize| {
        let mut body = [frameworks.to_le_bytes(), messages.to_le_bytes()].concat();
        body.resize(8 + rest, 0);
        body
    };
    for (what, body) in [
        ("a negotiation of no bytes", vec![]),
        ("a negotiation of 3 bytes", vec![0; 3]),
        ("a negotiation of 4 bytes", vec![1, 0, 1, 0]),
        (
            "a negotiation that counts more than it has",
            counts(2, 2, 8),
        ),
        (
            "a negotiation whose counts overflow",
            counts(0xffff, 0xffff, 8),
        ),
        ("a negotiation of 101 versions", counts(100, 1, 404)),
        ("a negotiation of many versions", counts(500, 500, 4000)),
    ] {
        let request = Request::new(NEGOTIATE, host.id(), body)?;
        expect_declined(&mut host, request.encode(), what)?;
    }
    let chosen = host.negotiate(&FRAMEWORKS, Fcopy::VERSIONS)?;
    ensure!(
        chosen.is_some(),
        "expected a valid negotiation to succeed after invalid ones; it did not"
    );
    stage.expect_working(&mut host)
}

pub(super) fn device_messages(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let start = stage.start("never", 0, 10)?.encode_utf8();
    let write = Operation::write(0, &[1; 100]).encode_utf8();
    let cut = |message: &[u8], len: usize| message.get(..len).unwrap_or_default().to_vec();
    let mut unterminated = start.clone();
    if let Some(name) = unterminated.get_mut(36..36 + 520) {
        name.fill(b'n');
    }
    let mut no_utf8 = start.clone();
    if let Some(name) = no_utf8.get_mut(36..39) {
        name.copy_from_slice(&[b'a', 0xff, 0]);
    }
    for (what, message) in [
        ("a message of 1 byte", vec![0]),
        ("a message of 4 bytes", vec![0; 4]),
        ("a START without names", cut(&start, 36)),
        ("a START without its size", cut(&start, 1080)),
        ("a WRITE without its fields", cut(&write, 36)),
        ("operation 4", [&[4, 0, 0, 0][..], &[0; 32]].concat()),
        (
            "operation 4, 8 KiB",
            [&[4, 0, 0, 0][..], &[0; 8188]].concat(),
        ),
        ("a name without a NUL", unterminated),
        ("a name that is not UTF-8", no_utf8),
    ] {
        expect_declined(&mut host, message, what)?;
        stage.expect_files(&[])?;
    }
    stage.expect_working(&mut host)
}

/// Messages whose headers state what they do not have. The replies do not: see
/// [`crate::ic::Reply::to`].
fn headers_that_lie(host: &mut FcopyHost, body: &[u8]) -> Result<()> {
    let len = body.len();
    // A packet has up to 7 bytes of padding.
    for stated in [len + 8, 0xffff] {
        let mut request = Request::new(FILE_COPY, host.id(), body.to_vec())?;
        request.stated = u16::try_from(stated)?;
        let what = format!("a body of {len} bytes that says it has {stated}");
        expect_declined(host, request.encode(), &what)?;
        request.piped = u32::MAX;
        expect_declined(host, request.encode(), &what)?;
    }
    for piped in [0, 7, 19, u32::try_from(len)? + 29, 1 << 31, u32::MAX] {
        for kind in [NEGOTIATE, FILE_COPY] {
            let mut request = Request::new(kind, host.id(), vec![0xff; len])?;
            request.piped = piped;
            let what = format!("a body of {len} bytes in a pipe that says {piped}");
            expect_declined(host, request.encode(), &what)?;
        }
        let mut request = Request::negotiation(host.id(), &FRAMEWORKS, Fcopy::VERSIONS)?;
        request.piped = piped;
        host.submit(request.encode())?;
        ensure!(
            host.reply()?.settled()?.is_some(),
            "expected a negotiation whose pipe header has the size {piped} to succeed; it did not"
        );
    }
    Ok(())
}

pub(super) fn sizes(stage: &mut FcopyStage<'_>) -> Result<()> {
    let mut host = stage.connect()?;
    let chunk = u32::try_from(CHUNK)?;
    for (offset, size) in [
        (0, chunk + 1),
        (0, u32::MAX),
        (0, 1 << 31),
        (u64::MAX, 1),
        (u64::MAX - 10, 100),
        (i64::MAX as u64, chunk),
        (u64::MAX, u32::MAX),
    ] {
        let start = stage.start("lies", 0, 2 * CHUNK as u64)?;
        expect(host.request(&start)?, Status::OK, "a START")?;
        let lie = Operation::Write {
            offset,
            size,
            data: Pattern::bytes(1, CHUNK),
        };
        let what = format!("a WRITE of {size} bytes at {offset}");
        expect_failure(host.request(&lie)?, &what)?;
        host.request(&Operation::Cancel)?;
        stage.expect_files(&[])?;
    }
    stage.expect_working(&mut host)?;
    if stage.transport() == Transport::HvUtil {
        return Ok(());
    }
    let start = stage.start("never", 0, 10)?.encode_utf16();
    headers_that_lie(&mut host, &start)?;
    stage.expect_files(&[])?;
    // More data is claimed than the message carries.
    let start = stage.start("lies", 0, 2 * CHUNK as u64)?;
    expect(host.request(&start)?, Status::OK, "a START")?;
    let mut body = Operation::write(0, &Pattern::bytes(1, CHUNK)).encode_utf16();
    body.truncate(36 + 16 + 100);
    let cut = Request::new(FILE_COPY, host.id(), body)?;
    expect_declined(
        &mut host,
        cut.encode(),
        "a WRITE of 6144 bytes that carries 100",
    )?;
    host.request(&Operation::Cancel)?;
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}

type Spoil = fn(&mut HostChannel) -> Result<()>;

/// A packet header with these lengths in words, as the first of a packet of 64
/// bytes.
fn lengths(channel: &mut HostChannel, header: u16, total: u16) -> Result<()> {
    let mut packet = Packet::in_band(1, &[0xaa; 48]).encode()?;
    packet.splice(
        2..6,
        header.to_le_bytes().into_iter().chain(total.to_le_bytes()),
    );
    channel.send_bytes(&packet)
}

fn publish(channel: &mut HostChannel, index: u32) -> Result<()> {
    channel.to_guest.publish(index);
    Ok(())
}

/// Lets the guest answer something while its view of the host's reading is
/// wrong.
fn read_index(channel: &mut HostChannel, index: u32) -> Result<()> {
    channel.from_guest.raw().store(Word::ReadIndex, index);
    let request = Request::negotiation(1, &FRAMEWORKS, Fcopy::VERSIONS)?.encode();
    channel.try_send(&Packet::in_band(1, &request)).map(drop)
}

const SPOILS: [(&str, Spoil); 14] = [
    ("a write index at the ring's end", |channel| {
        let end = channel.to_guest.raw().data_len();
        publish(channel, end)
    }),
    ("a write index far outside", |channel| {
        publish(channel, 0x8000_0000)
    }),
    ("a write index of all ones", |channel| {
        publish(channel, u32::MAX)
    }),
    ("a write index within a word", |channel| {
        let at = channel.to_guest.position();
        publish(channel, at + 28)
    }),
    ("fewer bytes than any packet has", |channel| {
        let at = channel.to_guest.position();
        publish(channel, at + 16)
    }),
    ("a header of no bytes", |channel| lengths(channel, 0, 8)),
    ("a header of 8 bytes", |channel| lengths(channel, 1, 8)),
    ("a packet of no bytes", |channel| lengths(channel, 2, 0)),
    ("a packet shorter than its header", |channel| {
        lengths(channel, 4, 3)
    }),
    ("a header longer than the packet", |channel| {
        lengths(channel, 0xffff, 8)
    }),
    ("a packet longer than what is there", |channel| {
        lengths(channel, 2, 9)
    }),
    ("a packet of the greatest length", |channel| {
        lengths(channel, 2, 0xffff)
    }),
    ("a read index outside", |channel| {
        read_index(channel, 0xffff_fff8)
    }),
    ("a read index within a word", |channel| {
        read_index(channel, 4)
    }),
];

pub(super) fn corrupt(stage: &mut FcopyStage<'_>) -> Result<()> {
    for (what, spoil) in SPOILS {
        let mut host = stage.connect()?;
        let start = stage.start("unfinished", 0, 100)?;
        expect(host.request(&start)?, Status::OK, "a START")?;
        let channel = host.channel()?;
        spoil(channel).context(what)?;
        channel.bell().interrupt();
        channel
            .wait_closed(SETTLE_TIME)
            .with_context(|| format!("after {what}"))?;
        let mut host = stage.connect().with_context(|| format!("after {what}"))?;
        stage.expect_files(&[])?;
        stage
            .expect_working(&mut host)
            .with_context(|| format!("after {what}"))?;
        // A device that is offered again starts without failures.
        stage.rescind()?;
    }
    Ok(())
}

pub(super) fn garbage(stage: &mut FcopyStage<'_>) -> Result<()> {
    for seed in 0..12 {
        let mut host = stage.connect()?;
        let channel = host.channel()?;
        let size = channel.to_guest.raw().data_len();
        let bytes = Pattern::bytes(seed, size as usize);
        channel.to_guest.place(0, &bytes);
        let index = bytes
            .first_chunk()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes));
        // Half of them in the ring, where the packets are to be looked at.
        publish(
            channel,
            if seed % 2 == 0 {
                index % (size / 8) * 8
            } else {
                index
            },
        )?;
        channel.bell().interrupt();
        // What the bytes happen to say decides whether the guest finds them
        // wrong or passes over them as packets.
        until(
            SETTLE_TIME,
            "the guest to close the channel or empty it",
            || {
                while let Ok(Some(_)) = channel.from_guest.try_recv() {}
                let closed = channel.bell().wait(Duration::ZERO) == Event::Closed;
                Ok((closed || channel.to_guest.is_drained()).then_some(()))
            },
        )
        .with_context(|| format!("garbage number {seed}"))?;
        stage.rescind()?;
        channel
            .wait_closed(SETTLE_TIME)
            .with_context(|| format!("garbage number {seed}"))?;
    }
    let mut host = stage.connect()?;
    stage.expect_files(&[])?;
    stage.expect_working(&mut host)
}
