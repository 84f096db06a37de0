//! A guest program for the tests of the black box: it shows, from inside, how
//! device files behave.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyperv_sim::blackbox::BlackBox;
use hyperv_sim::port::{Machine, Offer};
use hyperv_vmbus::uio::UioChannel;
use hyperv_vmbus::{Channel, ChannelError, Guid};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, socket,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["echo", path, ring_len] => match echo(path, ring_len.parse()?) {
            Err(error) if matches!(error.downcast_ref(), Some(ChannelError::Gone)) => {
                println!("gone");
                Ok(())
            }
            ended => ended,
        },
        ["edges", path, edges] => count_edges(path, edges.parse()?),
        ["block", path] => block(path),
        ["hold", path] => hold(path),
        ["hang", path] => hang(path),
        ["pipe", path] => pipe(path),
        ["announcements"] => announcements(),
        ["host"] => host(),
        ["frozen-host"] => frozen_host(),
        _ => bail!("no such guest: {arguments:?}"),
    }
}

/// Sends back each message, and ends when the device goes.
fn echo(path: &str, ring_len: usize) -> Result<()> {
    let mut channel = UioChannel::open(Path::new(path), ring_len)?;
    let mut buffer = vec![0; channel.buffer_len()];
    let mut poll = Poll::new()?;
    let fd = channel.as_fd().as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&fd), Token(0), Interest::READABLE)?;
    let mut events = Events::with_capacity(4);
    loop {
        let mut received = false;
        while let Some(packet) = channel.recv_packet(&mut buffer)? {
            received = true;
            let sent = channel.send_packet(packet.transaction, packet.payload)?;
            assert_eq!(sent, hyperv_vmbus::Sent::Done);
        }
        // Before the look at the ring that `arm` takes: an interrupt that is
        // consumed after it would be one that nobody acts on.
        if !received {
            channel.acknowledge()?;
        }
        if channel.arm() {
            continue;
        }
        poll.poll(&mut events, None)?;
    }
}

/// Counts edges without ever reading, and signals the host at each.
fn count_edges(path: &str, edges: u32) -> Result<()> {
    let mut file = open(path, libc::O_NONBLOCK)?;
    let mut poll = Poll::new()?;
    poll.registry().register(
        &mut SourceFd(&file.as_raw_fd()),
        Token(0),
        Interest::READABLE,
    )?;
    let mut events = Events::with_capacity(4);
    file.write_all(&1u32.to_ne_bytes())?;
    for edge in 1..=edges {
        poll.poll(&mut events, None)?;
        println!("edge {edge}");
        file.write_all(&1u32.to_ne_bytes())?;
    }
    // Nothing has been read: the count has to be there still.
    println!("count {}", read_count(&mut file)?);
    println!("then {:?}", read_count(&mut file).map_err(errno));
    let size = file.read(&mut [0; 8]).map_err(errno);
    println!("eight bytes {size:?}");
    let write = file.write(&[0; 3]).map_err(errno);
    println!("write of three {write:?}");
    Ok(())
}

/// Waits in `read`.
fn block(path: &str) -> Result<()> {
    let mut file = open(path, 0)?;
    loop {
        println!("count {}", read_count(&mut file)?);
    }
}

/// Waits for the device to go and keeps it open after that.
fn hold(path: &str) -> Result<()> {
    let mut file = open(path, 0)?;
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::NONE)?;
    println!(
        "poll {:?}",
        fds.first()
            .and_then(PollFd::revents)
            .unwrap_or_else(PollFlags::empty)
    );
    for _ in 0..2 {
        println!("read {:?}", read_count(&mut file).map_err(errno));
        let written = file.write(&1u32.to_ne_bytes()).map_err(errno);
        println!("write {written:?}");
    }
    println!("open {:?}", open(path, 0).map(drop).map_err(errno));
    println!("held");
    // Until it is killed.
    poll(&mut [], PollTimeout::NONE)?;
    Ok(())
}

/// Has something open on a file system whose server never answers, until its input
/// ends: whoever looks at all that is mounted waits as long.
fn hang(path: &str) -> Result<()> {
    let server = open("/dev/fuse", 0)?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        server.as_raw_fd()
    );
    let (flags, options) = (MsFlags::empty(), Some(options.as_str()));
    mount(Some("hangs"), path, Some("fuse"), flags, options)?;
    // To open it otherwise would ask the server.
    let _open = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    println!("hangs");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Prints which subsystems the kernel announces something of.
fn announcements() -> Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::empty(),
        SockProtocol::NetlinkKObjectUEvent,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
    println!("listening");
    let mut buffer = [0; 8192];
    loop {
        let (len, from) = recvfrom::<NetlinkAddr>(socket.as_raw_fd(), &mut buffer)?;
        let event = buffer.get(..len).context("more than was asked for")?;
        let subsystem = event
            .split(|byte| *byte == 0)
            .find_map(|field| field.strip_prefix(b"SUBSYSTEM="));
        let subsystem = String::from_utf8_lossy(subsystem.unwrap_or_default()).into_owned();
        println!("{subsystem} from {:?}", from.map(|from| from.pid()));
    }
}

/// The other way round: a host whose guest waits in `read`, until it is killed.
fn host() -> Result<()> {
    let program = std::env::current_exe()?;
    let program = shell_words::quote(&program.to_string_lossy()).into_owned();
    let mut machine = BlackBox::new(&format!("{program} block /dev/uio0"))?;
    let device = machine.offer(Offer::Uio {
        class: Guid::from_u128(1),
        instance: Guid::from_u128(2),
        number: 0,
        ring_len: 16384,
    })?;
    machine.start()?;
    device.accept(Duration::from_secs(20))?;
    println!("{}", machine.pid().context("no process")?);
    poll(&mut [], PollTimeout::NONE)?;
    Ok(())
}

/// A host whose guest has frozen all of its file systems, until it is killed.
fn frozen_host() -> Result<()> {
    let name = format!("killed-{}.img", std::process::id());
    let mut machine = BlackBox::with_root("sleep 1000")?;
    machine.start()?;
    let script = include_str!("../../tests/freeze-one");
    machine.volumes()?.script(script, &[&name])?;
    println!("{} {name}", machine.pid().context("no process")?);
    poll(&mut [], PollTimeout::NONE)?;
    Ok(())
}

/// Sends back each message of a character device, reversed.
fn pipe(path: &str) -> Result<()> {
    let mut file = open(path, libc::O_NONBLOCK)?;
    println!("second open {:?}", open(path, 0).map(drop).map_err(errno));
    let mut buffer = [0; 64];
    loop {
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE)?;
        let events = fds.first().and_then(PollFd::revents);
        if events != Some(PollFlags::POLLIN) {
            println!("poll {events:?}");
            println!("read {:?}", file.read(&mut buffer).map_err(errno));
            println!("write {:?}", file.write(&buffer).map_err(errno));
            return Ok(());
        }
        println!("short read {:?}", file.read(&mut [0; 1]).map_err(errno));
        let len = file.read(&mut buffer)?;
        let message = buffer.get_mut(..len).context("more than was asked for")?;
        message.reverse();
        if let Err(error) = file.write_all(message) {
            println!("write {:?}", errno(error));
        }
    }
}

fn open(path: &str, flags: i32) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
}

fn read_count(file: &mut File) -> std::io::Result<u32> {
    let mut count = [0; 4];
    file.read_exact(&mut count)?;
    Ok(u32::from_ne_bytes(count))
}

fn errno(error: std::io::Error) -> String {
    error.raw_os_error().map_or(error.to_string(), |code| {
        format!("{:?}", nix::errno::Errno::from_raw(code))
    })
}
