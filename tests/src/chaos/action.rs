//! What happens to the agent in a round: made from the dice alone, so that a seed
//! gives the same list each time.

use super::dice::Dice;
use super::said::{self, Places, Said, Which};
use crate::scenario::Transport;

/// Actions in a round.
pub(super) const ACTIONS: usize = 80;

/// Devices that the host may offer: two of each service, the second one over rings
/// only.
pub(super) const SEATS: [Which; 6] = [
    Which::Fcopy,
    Which::Kvp,
    Which::Vss,
    Which::Fcopy,
    Which::Kvp,
    Which::Vss,
];

/// The first of the devices that are over rings only.
pub(super) const SECOND: usize = 3;

/// One thing that happens.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// At a device, by its place in [`SEATS`].
    At(usize, Move),
    /// To the agent.
    Agent(Order),
    /// By a local user or another program.
    Local(Deed),
    /// Nothing, for so many milliseconds.
    Pause(u8),
}

/// What the host does at a device. One that is not there is passed over.
#[derive(Debug, Clone)]
pub(super) enum Move {
    /// Offers it, if it is not there; the number is that of `/dev/uioN`, within
    /// the device's own.
    Offer(Transport, u32),
    Rescind,
    /// Waits a little for the guest to open it.
    Await,
    /// Sends a message, so many times, without a look at replies.
    Say(Said, usize),
    /// Sends a message and forgets to interrupt the guest.
    SayQuietly(Said),
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
pub(super) enum Order {
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
pub(super) enum Deed {
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
pub(super) fn round(dice: &mut Dice, places: &Places) -> Vec<Action> {
    // Most devices are there from the beginning.
    let mut actions = Vec::new();
    for seat in 0..SEATS.len() {
        if !dice.one_in(3) {
            actions.push(Action::At(seat, offer(dice, seat)));
        }
    }
    // What comes before the guest has opened a device says nothing.
    for seat in 0..SEATS.len() {
        if !dice.one_in(4) {
            actions.push(Action::At(seat, Move::Await));
        }
    }
    let mut step = 0;
    while actions.len() < ACTIONS {
        actions.push(match dice.below(40) {
            0 => Action::Agent(order(dice)),
            1 => Action::Local(deed(dice)),
            2 => Action::Pause(dice.byte() % 6),
            3..=9 => {
                step = (step + 1) % 6;
                let said = said::copy_step(dice, step, places);
                Action::At(0, Move::Say(said, 1))
            }
            _ => {
                let seat = dice.below(SEATS.len());
                Action::At(seat, made(dice, seat, places))
            }
        });
    }
    actions
}

fn offer(dice: &mut Dice, seat: usize) -> Move {
    let rings = dice.pick(68 << 10, &[16 << 10, 20 << 10, 68 << 10, 256 << 10]);
    let transport = match seat < SECOND && dice.one_in(3) {
        true => Transport::HvUtil,
        false => Transport::Uio(rings),
    };
    Move::Offer(transport, u32::from(dice.byte() % 3))
}

fn made(dice: &mut Dice, seat: usize, places: &Places) -> Move {
    let which = SEATS.get(seat).copied().unwrap_or(Which::Fcopy);
    match dice.below(40) {
        0 | 1 => offer(dice, seat),
        2 => Move::Await,
        3 => Move::Rescind,
        4 => Move::SayQuietly(said::request(dice, which, places)),
        5 | 6 => Move::Interrupt,
        7 => Move::Mask(dice.one_in(2)),
        8 => Move::NoFlowControl,
        9 => Move::AwaitRoom(dice.pick(u32::MAX, &[0, 8, 4096, 1 << 20])),
        10 => Move::Packet(u16::from(dice.byte() % 12), dice.bytes(64)),
        11 => Move::Packet(6, vec![1; 8 * (seat % 4)]),
        12 => Move::Refuse,
        13 | 14 => Move::Spoil(spoil(dice)),
        15 | 16 => Move::Say(said::request(dice, which, places), 1 + dice.below(60)),
        17..=21 => Move::Say(said::negotiation(dice, which), 1),
        22..=27 => Move::Read(1 + dice.below(20)),
        _ => Move::Say(said::request(dice, which, places), 1),
    }
}

fn spoil(dice: &mut Dice) -> Spoil {
    let index = dice.pick(u32::MAX, &[0, 4, 8, 16, 0x8000_0000, 0xffff_fff8]);
    let index = match dice.one_in(2) {
        true => index,
        false => dice.word() % (1 << 18),
    };
    match dice.below(6) {
        0 => Spoil::WriteIndex(index),
        1 => Spoil::ReadIndex(index),
        2 => {
            let mut len = || u16::from(dice.byte() % 12);
            Spoil::Lengths(len(), len())
        }
        3 => Spoil::Part(8 * dice.below(12)),
        4 => Spoil::Garbage(dice.bytes(2048), index % (1 << 14)),
        _ => Spoil::Headers(std::array::from_fn(|_| match dice.one_in(2) {
            true => dice.word(),
            false => (dice.word() % (1 << 16)) & !7,
        })),
    }
}

fn order(dice: &mut Dice) -> Order {
    match dice.below(8) {
        0 => Order::Stop,
        1 => Order::Start,
        2 | 3 => Order::Rescan,
        _ => Order::Reload(Change {
            services: match dice.one_in(2) {
                true => dice.byte(),
                false => u8::MAX,
            },
            unreadable: dice.one_in(8),
            sync: dice.one_in(2),
            max_size: dice.pick(None, &[Some(0), Some(1000), Some(1 << 20)]),
            published: dice.below(5),
            freeze_limit: dice.pick(600_000, &[1, 20]),
        }),
    }
}

fn deed(dice: &mut Dice) -> Deed {
    let pool = dice.byte() % 5;
    match dice.below(8) {
        0 => Deed::Clear,
        1 => Deed::Link,
        2 => Deed::DirectoryLink,
        3 => Deed::Fifo,
        4 => Deed::Directory(dice.below(5)),
        5 => Deed::Pool {
            pool,
            bytes: dice.below(6000),
            append: dice.one_in(2),
        },
        6 => Deed::CutPool(pool, dice.below(6000) as u64),
        _ => Deed::RemovePool(pool),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn actions(seed: u64, number: u64) -> String {
        let places = Places::new(Path::new("/inside"), Path::new("/outside"));
        format!("{:?}", round(&mut Dice::new(seed, number), &places))
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
            "SayQuietly",
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
