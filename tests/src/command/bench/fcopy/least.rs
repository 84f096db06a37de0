//! `hyperv-sim copy-and-pwrite`: the least that a program does for a WRITE. It copies the
//! message out of the ring, writes the data to a file, copies the message back with the
//! reply's two fields in it, and signals the host. Nothing is checked and nothing can go
//! wrong: the table says how near the programs are to it.

use std::fs::{self, File, OpenOptions};
use std::hint;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use hyperv_vmbus::mapping::{MappedRing, MappedRings};
use hyperv_vmbus::ring::{RingMemory, Word};

/// The class of UIO devices in a guest.
const CLASS: &str = "/sys/class/uio";

/// The character device in a guest.
const DEVICE: &str = "/dev/vmbus/hv_fcopy";

const PAGE: usize = 4096;

/// Bytes of a packet's header, and of those of the message in it.
const PACKET_HEADER: usize = 16;
const MESSAGE_HEADER: usize = 28;

/// The operation of a WRITE.
const WRITE: u32 = 1;

/// For how long it looks for the next message before it sleeps, if it does.
const POLL: Duration = Duration::from_micros(200);

/// Looks at the ring between two looks at the clock.
const LOOKS: u32 = 64;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Look at the ring for some time before going to sleep.
    #[arg(long)]
    poll: bool,
}

/// How it is started.
pub(super) fn command(poll: bool) -> Result<String> {
    let simulator = std::env::current_exe()?;
    let simulator = simulator.to_str().context("its path is not UTF-8")?;
    let poll = if poll { " --poll" } else { "" };
    Ok(format!(
        "{} copy-and-pwrite{poll}",
        shell_words::quote(simulator)
    ))
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let file = tempfile::tempfile().context("a file to write to")?;
    match fs::read_dir(CLASS)?.next() {
        Some(device) => {
            let device = device?;
            let size = fs::read_to_string(device.path().join("maps/map0/size"))?;
            let size = usize::from_str_radix(size.trim().trim_start_matches("0x"), 16)?;
            let node = format!("/dev/{}", device.file_name().to_string_lossy());
            rings(&open(&node)?, &file, size / 2, arguments.poll)
        }
        None => device(&open(DEVICE)?, &file),
    }
}

fn open(node: &str) -> Result<File> {
    let options = OpenOptions::new().read(true).write(true).open(node);
    options.with_context(|| node.to_owned())
}

/// Over the character device.
fn device(mut device: &File, file: &File) -> Result<()> {
    device.write_all(&1u32.to_ne_bytes())?;
    let mut buffer = [0; 8192];
    let _registered = device.read(&mut buffer)?;
    loop {
        let len = device.read(&mut buffer)?;
        save(buffer.get(..len).unwrap_or_default(), file)?;
        device.write_all(&0u32.to_ne_bytes())?;
    }
}

/// Over rings.
fn rings(mut device: &File, file: &File, ring_len: usize, poll: bool) -> Result<()> {
    let rings = MappedRings::map(device, ring_len, PAGE)?;
    let (incoming, outgoing) = (&rings.incoming, &rings.outgoing);
    let size = incoming.data_len();
    let mut read = incoming.load(Word::ReadIndex);
    let mut write = outgoing.load(Word::WriteIndex);
    let mut buffer = vec![0; ring_len];
    loop {
        wait(device, incoming, read, poll)?;
        let mut head = [0; 8];
        incoming.copy_out(read, &mut head);
        let words = u32_at(&head, 4) & 0xffff;
        let len = words * 8;
        let packet = buffer.get_mut(..len as usize).context("no packet")?;
        let first = packet.len().min((size - read) as usize);
        let (to, rest) = packet.split_at_mut(first);
        incoming.copy_out(read, to);
        incoming.copy_out(0, rest);
        read = (read + len + 8) % size;
        incoming.store(Word::ReadIndex, read);
        incoming.fence();
        let mut signal = incoming.load(Word::PendingSendSize) != 0;

        let message = packet.get_mut(PACKET_HEADER..).unwrap_or_default();
        answer(message, file)?;

        let room = || (outgoing.load(Word::ReadIndex) + size - write - 1) % size;
        while room() < len + 8 {
            thread::yield_now();
        }
        let first = packet.len().min((size - write) as usize);
        let (from, rest) = packet.split_at(first);
        outgoing.copy_in(write, from);
        outgoing.copy_in(0, rest);
        let trailer = u64::from(write) << 32;
        outgoing.copy_in((write + len) % size, &trailer.to_le_bytes());
        let start = write;
        write = (write + len + 8) % size;
        outgoing.store(Word::WriteIndex, write);
        outgoing.fence();
        signal |=
            outgoing.load(Word::InterruptMask) == 0 && outgoing.load(Word::ReadIndex) == start;
        if signal {
            device.write_all(&1u32.to_ne_bytes())?;
        }
    }
}

/// Waits for a packet.
fn wait(mut device: &File, incoming: &MappedRing, read: u32, poll: bool) -> Result<()> {
    let there = || incoming.load(Word::WriteIndex) != read;
    if poll {
        incoming.store(Word::InterruptMask, 1);
        let begun = Instant::now();
        while begun.elapsed() < POLL {
            for _ in 0..LOOKS {
                if there() {
                    return Ok(());
                }
                hint::spin_loop();
            }
        }
        incoming.store(Word::InterruptMask, 0);
        incoming.fence();
    }
    while !there() {
        device.read_exact(&mut [0; 4])?;
    }
    Ok(())
}

/// Does what a message wants, and makes it the reply.
fn answer(message: &mut [u8], file: &File) -> Result<()> {
    let negotiation = message.get(12..14) == Some(&[0, 0]);
    let (header, body) = message
        .split_at_mut_checked(MESSAGE_HEADER)
        .context("no message")?;
    if negotiation {
        // The last version of each kind.
        let counts = u32_at(body, 0);
        let (frameworks, versions) = ((counts & 0xffff) as usize, (counts >> 16) as usize);
        let chosen = [frameworks, frameworks + versions].map(|it| u32_at(body, 4 + 4 * it));
        put(body, 0, 0x0001_0001);
        put(body, 8, chosen[0]);
        put(body, 12, chosen[1]);
    } else {
        save(body, file)?;
    }
    if let Some(flags) = header.get_mut(25) {
        *flags = 1 | 4;
    }
    Ok(())
}

/// Writes the data of a WRITE.
fn save(body: &[u8], file: &File) -> Result<()> {
    if u32_at(body, 0) != WRITE {
        return Ok(());
    }
    let offset = u64::from(u32_at(body, 40)) | u64::from(u32_at(body, 44)) << 32;
    let len = u32_at(body, 48) as usize;
    let data = body.get(52..52 + len).context("no data")?;
    Ok(file.write_all_at(data, offset)?)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
    word.copied().map(u32::from_le_bytes).unwrap_or_default()
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(word) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *word = value.to_le_bytes();
    }
}
