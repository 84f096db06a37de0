//! What happens to the agent in a round: made from the rng alone, so that a seed
//! determines the list.

use super::messages::{self, Message, Places, ServiceKind};
use super::rng::Rng;
use crate::scenario::Transport;

/// Actions in a round.
pub(super) const ACTIONS: usize = 80;

/// Devices that the host may offer: two of each service, the second one over rings
/// only.
pub(super) const DEVICES: [ServiceKind; 6] = [
    ServiceKind::Fcopy,
    ServiceKind::Kvp,
    ServiceKind::Vss,
    ServiceKind::Fcopy,
    ServiceKind::Kvp,
    ServiceKind::Vss,
];

/// The first of the devices that are over rings only.
pub(super) const SECOND: usize = 3;

/// One thing that happens.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// At a device, by its place in [`DEVICES`].
    At(usize, HostAction),
    /// To the agent.
    Agent(AgentAction),
    /// By a local user or another program.
    Local(LocalAction),
    /// Nothing, for so many milliseconds.
    Pause(u8),
}

/// What the host does at a device. One that is not there is passed over.
#[derive(Debug, Clone)]
pub(super) enum HostAction {
    /// Offers it, if it is not there; the number is that of `/dev/uioN`, within
    /// the device's own.
    Offer(Transport, u32),
    Rescind,
    /// Waits a little for the guest to open it.
    Await,
    /// Sends a message, so many times, without a look at replies.
    Send(Message, usize),
    /// Sends a message and forgets to interrupt the guest.
    SendQuietly(Message),
    /// Takes up to so many replies; a little is waited for the first.
    Read(usize),
    /// Sends a packet of this type, which is no message.
    Packet(u16, Vec<u8>),
    Interrupt,
    /// Masks the guest's signals, or not.
    Mask(bool),
    /// Has no flow control any more.
    NoFlowControl,
    /// States that it waits for so much room.
    AwaitRoom(u32),
    /// Refuses the guest's replies, as a kernel does.
    Refuse,
    Spoil(Spoil),
}

/// How a host spoils a ring.
#[derive(Debug, Clone)]
pub(super) enum Spoil {
    /// The ring to the guest is filled up to there, it says.
    WriteIndex(u32),
    /// It has read the ring from the guest up to there, it says.
    ReadIndex(u32),
    /// A packet with these lengths in words.
    Lengths(u16, u16),
    /// A packet of which only this much is there.
    Part(usize),
    /// These bytes at the ring's start, and an index.
    Garbage(Vec<u8>, u32),
    /// Header words of both rings at random, and those between them.
    Headers([u32; 10]),
}

/// What happens to the agent.
#[derive(Debug, Clone)]
pub(super) enum AgentAction {
    Start,
    Stop,
    Rescan,
    /// Reads its configuration again, with these changes.
    Reload(Change),
}

/// What changes in the configuration.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// The services that are switched on, as bits.
    pub(super) services: u8,
    pub(super) unreadable: bool,
    pub(super) sync: bool,
    pub(super) max_size: Option<u64>,
    pub(super) published: usize,
    /// Milliseconds that file systems may stay frozen.
    pub(super) freeze_limit: u64,
}

/// What somebody else does on the machine.
#[derive(Debug, Clone, Copy)]
pub(super) enum LocalAction {
    /// Removes all that was copied.
    Clear,
    /// A link to outside, where the host may copy to.
    Link,
    /// A link to a directory outside.
    DirectoryLink,
    Fifo,
    /// A directory of the name that a file may get.
    Directory(usize),
    /// Random bytes at a pool's end, or at its start.
    Pool {
        pool: u8,
        bytes: usize,
        append: bool,
    },
    /// A pool is cut to this size.
    CutPool(u8, u64),
    RemovePool(u8),
}

/// The actions of a round.
pub(super) fn round(rng: &mut Rng, places: &Places) -> Vec<Action> {
    // Most devices are there from the beginning.
    let mut actions = Vec::new();
    for device in 0..DEVICES.len() {
        if !rng.one_in(3) {
            actions.push(Action::At(device, offer(rng, device)));
        }
    }
    // What comes before the guest has opened a device proves nothing.
    for device in 0..DEVICES.len() {
        if !rng.one_in(4) {
            actions.push(Action::At(device, HostAction::Await));
        }
    }
    let mut step = 0;
    while actions.len() < ACTIONS {
        actions.push(match rng.below(40) {
            0 => Action::Agent(order(rng)),
            1 => Action::Local(local_action(rng)),
            2 => Action::Pause(rng.byte() % 6),
            3..=9 => {
                step = (step + 1) % 6;
                let message = messages::copy_step(rng, step, places);
                Action::At(0, HostAction::Send(message, 1))
            }
            _ => {
                let device = rng.below(DEVICES.len());
                Action::At(device, made(rng, device, places))
            }
        });
    }
    actions
}

fn offer(rng: &mut Rng, device: usize) -> HostAction {
    let rings = rng.pick(68 << 10, &[16 << 10, 20 << 10, 68 << 10, 256 << 10]);
    let transport = match device < SECOND && rng.one_in(3) {
        true => Transport::HvUtil,
        false => Transport::Uio(rings),
    };
    HostAction::Offer(transport, u32::from(rng.byte() % 3))
}

fn made(rng: &mut Rng, device: usize, places: &Places) -> HostAction {
    let which = DEVICES.get(device).copied().unwrap_or(ServiceKind::Fcopy);
    match rng.below(40) {
        0 | 1 => offer(rng, device),
        2 => HostAction::Await,
        3 => HostAction::Rescind,
        4 => HostAction::SendQuietly(messages::request(rng, which, places)),
        5 | 6 => HostAction::Interrupt,
        7 => HostAction::Mask(rng.one_in(2)),
        8 => HostAction::NoFlowControl,
        9 => HostAction::AwaitRoom(rng.pick(u32::MAX, &[0, 8, 4096, 1 << 20])),
        10 => HostAction::Packet(u16::from(rng.byte() % 12), rng.bytes(64)),
        11 => HostAction::Packet(6, vec![1; 8 * (device % 4)]),
        12 => HostAction::Refuse,
        13 | 14 => HostAction::Spoil(spoil(rng)),
        15 | 16 => HostAction::Send(messages::request(rng, which, places), 1 + rng.below(60)),
        17..=21 => HostAction::Send(messages::negotiation(rng, which), 1),
        22..=27 => HostAction::Read(1 + rng.below(20)),
        _ => HostAction::Send(messages::request(rng, which, places), 1),
    }
}

fn spoil(rng: &mut Rng) -> Spoil {
    let index = rng.pick(u32::MAX, &[0, 4, 8, 16, 0x8000_0000, 0xffff_fff8]);
    let index = match rng.one_in(2) {
        true => index,
        false => rng.word() % (1 << 18),
    };
    match rng.below(6) {
        0 => Spoil::WriteIndex(index),
        1 => Spoil::ReadIndex(index),
        2 => {
            let mut len = || u16::from(rng.byte() % 12);
            Spoil::Lengths(len(), len())
        }
        3 => Spoil::Part(8 * rng.below(12)),
        4 => Spoil::Garbage(rng.bytes(2048), index % (1 << 14)),
        _ => Spoil::Headers(std::array::from_fn(|_| match rng.one_in(2) {
            true => rng.word(),
            false => (rng.word() % (1 << 16)) & !7,
        })),
    }
}

fn order(rng: &mut Rng) -> AgentAction {
    match rng.below(8) {
        0 => AgentAction::Stop,
        1 => AgentAction::Start,
        2 | 3 => AgentAction::Rescan,
        _ => AgentAction::Reload(Change {
            services: match rng.one_in(2) {
                true => rng.byte(),
                false => u8::MAX,
            },
            unreadable: rng.one_in(8),
            sync: rng.one_in(2),
            max_size: rng.pick(None, &[Some(0), Some(1000), Some(1 << 20)]),
            published: rng.below(5),
            freeze_limit: rng.pick(600_000, &[1, 20]),
        }),
    }
}

fn local_action(rng: &mut Rng) -> LocalAction {
    let pool = rng.byte() % 5;
    match rng.below(8) {
        0 => LocalAction::Clear,
        1 => LocalAction::Link,
        2 => LocalAction::DirectoryLink,
        3 => LocalAction::Fifo,
        4 => LocalAction::Directory(rng.below(5)),
        5 => LocalAction::Pool {
            pool,
            bytes: rng.below(6000),
            append: rng.one_in(2),
        },
        6 => LocalAction::CutPool(pool, rng.below(6000) as u64),
        _ => LocalAction::RemovePool(pool),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn actions(seed: u64, number: u64) -> String {
        let places = Places::new(Path::new("/inside"), Path::new("/outside"));
        format!("{:?}", round(&mut Rng::new(seed, number), &places))
    }

    #[test]
    fn a_seed_gives_the_same_actions_again() {
        assert_eq!(actions(7, 3), actions(7, 3));
        assert_ne!(actions(7, 3), actions(7, 4));
        assert_ne!(actions(7, 3), actions(8, 3));
    }

    #[test]
    fn each_kind_of_action_comes_within_a_hundred_rounds() {
        let all: String = (0..100).map(|number| actions(1, number)).collect();
        for kind in [
            "Offer",
            "Rescind",
            "SendQuietly",
            "Read(",
            "Packet(",
            "Interrupt",
            "Mask(",
            "NoFlowControl",
            "AwaitRoom",
            "Refuse",
            "WriteIndex",
            "ReadIndex",
            "Lengths",
            "Part(",
            "Garbage",
            "Headers",
            "Start)",
            "Stop)",
            "Rescan",
            "Reload",
            "Clear",
            "Link",
            "DirectoryLink",
            "Fifo",
            "Directory(",
            "Pool {",
            "CutPool",
            "RemovePool",
            "Pause",
            "START",
            "WRITE",
            "COMPLETE",
            "CANCEL",
            "Freeze",
            "Thaw",
            "HotBackup",
            "Enumerate",
            "SetIpInfo",
            "negotiation",
            "step 4 of a copy",
        ] {
            assert!(all.contains(kind), "{kind}");
        }
    }
}
