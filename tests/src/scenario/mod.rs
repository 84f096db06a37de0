//! What is tried with a guest. A scenario knows a machine only through
//! [`crate::port`], so the same one runs in process, black box and with a real
//! kernel in a virtual machine. What the program has of a device
//! ([`Transport`]) and what the host has ([`crate::port::Port`]) differ in the
//! last: the host always has rings there, and over the char device it is the
//! kernel that answers negotiations and hands over one request at a time.
//! Protocol section 6.3.

mod breaks;
mod chatty;
mod flow;
mod hostile;
mod kvp;
mod names;
mod pattern;
mod planted;
mod reload;
mod replace;
mod runner;
mod space;
mod stage;
pub(crate) mod vss;
mod whole;

use std::fmt;

use anyhow::Result;

use crate::fcopy::Fcopy;
use crate::host::{Protocol as _, Service};
use crate::kvp::Kvp;
use crate::vss::Vss;

pub use pattern::Pattern;
pub use runner::{Factory, Options, Outcome, Runner, Verdict, run_one};
pub use stage::{FcopyStage, KvpStage, OPEN_TIME, SETTLE_TIME, Stage, VssStage};

/// How the guest has its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `/dev/uioN`, with rings of so many bytes each.
    Uio(usize),
    /// `/dev/vmbus/hv_*`.
    HvUtil,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uio(ring_len) if *ring_len >= 1 << 20 => write!(f, "uio-{}m", ring_len >> 20),
            Self::Uio(ring_len) => write!(f, "uio-{}k", ring_len >> 10),
            Self::HvUtil => f.write_str("hvutil"),
        }
    }
}

/// The ring of the first kernels that had fcopy over UIO.
const SMALLEST: Transport = Transport::Uio(16 << 10);

/// The ring of current kernels for fcopy.
const USUAL: Transport = Transport::Uio(20 << 10);

/// A ring in which whole messages of KVP and VSS fit; `uio_hv_generic` makes
/// larger ones.
const FOR_KVP: Transport = Transport::Uio(68 << 10);

/// Which transports a scenario is tried over.
const RINGS: &[Transport] = &[
    SMALLEST,
    USUAL,
    Transport::Uio(68 << 10),
    Transport::Uio(2 << 20),
];
/// Rings of every kind of size, from the smallest that there is.
const RING_SIZES: &[Transport] = &[
    SMALLEST,
    USUAL,
    Transport::Uio(24 << 10),
    Transport::Uio(64 << 10),
    Transport::Uio(68 << 10),
    Transport::Uio(2 << 20),
];
const EVERY: &[Transport] = &[
    SMALLEST,
    USUAL,
    Transport::Uio(68 << 10),
    Transport::Uio(2 << 20),
    Transport::HvUtil,
];
const BOTH: &[Transport] = &[USUAL, Transport::HvUtil];
const UIO: &[Transport] = &[USUAL];
const SMALL_RINGS: &[Transport] = &[SMALLEST, USUAL];
const KVP_EVERY: &[Transport] = &[FOR_KVP, Transport::Uio(2 << 20), Transport::HvUtil];
const KVP_BOTH: &[Transport] = &[FOR_KVP, Transport::HvUtil];
const KVP_UIO: &[Transport] = &[FOR_KVP];
const VSS_BOTH: &[Transport] = KVP_BOTH;
const VSS_UIO: &[Transport] = KVP_UIO;
/// For what the other levels have no drivers for.
const KERNEL_ONLY: &[Transport] = &[];
const HVUTIL: &[Transport] = &[Transport::HvUtil];

/// One thing that is tried.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is tried, and what is expected, in a line.
    pub summary: &'static str,
    /// Which transports it is tried over.
    pub transports: &'static [Transport],
    /// It kills the program, gives it a network or file systems, or has others
    /// beside it: the program has to be a process of its own for that.
    pub own_process: bool,
    /// Whether it is tried with a real kernel between host and program.
    pub kernel: Kernel,
    /// Plays it.
    pub play: Play,
}

/// How a scenario is played, and with which service.
#[derive(Debug, Clone, Copy)]
pub enum Play {
    /// With file copy.
    Fcopy(fn(&mut FcopyStage<'_>) -> Result<()>),
    /// With key-value pairs.
    Kvp(fn(&mut KvpStage<'_>) -> Result<()>),
    /// With backups.
    Vss(fn(&mut VssStage<'_>) -> Result<()>),
}

impl Play {
    /// The service.
    pub fn service(self) -> Service {
        match self {
            Self::Fcopy(_) => Fcopy::SERVICE,
            Self::Kvp(_) => Kvp::SERVICE,
            Self::Vss(_) => Vss::SERVICE,
        }
    }
}

/// Whether a scenario is tried with a real kernel between host and program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Over the transports of its list; the kernel chooses the ring's size.
    Listed,
    /// Over `hv_utils` too: there the host has rings, whatever the program has.
    Either,
    /// Never, and why not.
    Never(&'static str),
}

/// With a real kernel the host has rings over both transports.
const EITHER: Kernel = Kernel::Either;

const TOO_LATE: Kernel = Kernel::Never(
    "a kernel refuses a reply only where it comes later than its own limit of half a minute",
);

const KERNELS_OWN: Kernel =
    Kernel::Never("the kernel makes these messages itself, and makes none of this kind");

const TOOLS: Kernel = Kernel::Never("the guest there has no tools that configure interfaces");

const SAME: Kernel =
    Kernel::Never("the kernel in between changes nothing about it, and time is short there");
const PYTHON: Kernel = Kernel::Never("the guest there has no Python for cloud-init");

const HERE: Kernel = Kernel::Never("the simulator has no process in the guest there");

const ONE_DEVICE: Kernel = Kernel::Never("the machine there offers one device at a time");

const SLOW_LINE: Kernel = Kernel::Never("the line to the guest's files is too slow for so many");

impl Scenario {
    /// Whether it is tried with a real kernel that has the device this way; an
    /// error says why not where one might expect it.
    ///
    /// # Errors
    ///
    /// Where it is listed, and yet cannot be tried.
    pub fn with_kernel(&self, transport: Transport) -> Result<bool, Skip> {
        if let Kernel::Never(reason) = self.kernel {
            return match self.kernel_has(transport) {
                true => Err(Skip(reason.to_owned())),
                false => Ok(false),
            };
        }
        if self.transports.contains(&transport) || self.kernel_has(transport) {
            return Ok(true);
        }
        let rings = |listed: &Transport| matches!(listed, Transport::Uio(_));
        if rings(&transport) && self.transports.iter().any(rings) {
            return Err(Skip("the kernel's ring has another size".to_owned()));
        }
        Ok(false)
    }

    fn kernel_has(&self, transport: Transport) -> bool {
        match transport {
            Transport::Uio(_) => {
                self.transports.contains(&USUAL) || self.transports.contains(&FOR_KVP)
            }
            Transport::HvUtil => {
                self.kernel == Kernel::Either || self.transports.contains(&Transport::HvUtil)
            }
        }
    }
}

/// A scenario that cannot be tried here, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Skip(pub String);

macro_rules! own_process {
    () => {
        false
    };
    (own_process) => {
        true
    };
}

macro_rules! kernel {
    () => {
        Kernel::Listed
    };
    ($kernel:ident) => {
        $kernel
    };
}

macro_rules! scenarios {
    ($($service:ident { $($name:literal $transports:ident $play:path $(, $own:ident)? $(=> $kernel:ident)? : $summary:literal;)* })*) => {
        &[$($(Scenario {
            name: $name,
            summary: $summary,
            transports: $transports,
            own_process: own_process!($($own)?),
            kernel: kernel!($($kernel)?),
            play: Play::$service($play),
        }),*),*]
    };
}

/// Every scenario there is.
pub static SCENARIOS: &[Scenario] = scenarios! {
    Fcopy {
        "small-copy" EVERY whole::small: "files around the size of one message arrive as they are, mode 0744";
        "large-copy" EVERY whole::large: "a file of 1 GiB arrives as it is";
        "empty-file" BOTH whole::empty: "a file of no bytes is made";
        "any-order" BOTH whole::any_order: "WRITEs in any order make the file whole";
        "hole" BOTH whole::hole: "a COMPLETE with bytes missing fails and leaves nothing";
        "size-differs" BOTH whole::size_differs: "a START that states another size harms nothing";
        "in-flight" RINGS flow::in_flight => EITHER: "two, three and eight requests at a time";
        "replies-held-back" SMALL_RINGS flow::replies_held_back: "a guest whose ring is full waits for room, and goes on";
        "sends-first" RING_SIZES flow::sends_first: "a host that sends all that both rings hold before it looks at replies gets each";
        "sends-apart" RING_SIZES flow::apart: "a host whose sender and receiver know nothing of each other gets each reply";
        "no-flow-control" RING_SIZES flow::without_flow_control: "with a host that signals no room the guest looks again by itself";
        "replies-not-read" UIO flow::not_read: "a host that reads no replies is logged with the device, once, and so is that it does again";
        "gone-while-full" UIO flow::gone_while_full: "a device that goes away while a reply waits for room is served when it returns";
        "masked-host" UIO flow::masked_host: "a host that masked its interrupt is not signalled";
        "spurious-interrupts" UIO flow::spurious_interrupts: "interrupts without a packet harm nothing";
        "longer-header" UIO flow::longer_header: "a packet with descriptors behind its header is read behind them";
        "other-packets" UIO flow::other_packets: "packets that are no requests are passed over";
        "renegotiation" UIO flow::renegotiation: "a negotiation in the middle of a copy ends it";
        "versions" UIO flow::versions: "only versions that both sides know are settled on, or none";
        "overwrite-shorter" BOTH replace::shorter: "overwriting by a shorter file leaves nothing of the longer one; mode and owner stay";
        "exists" BOTH replace::exists: "without the overwrite flag what is there stays, and the host is told";
        "overwrite-dropped" BOTH replace::dropped: "a copy that is called off leaves what it was to replace";
        "symbolic-link" BOTH replace::symbolic_link: "overwriting a symbolic link writes its target";
        "not-a-file" BOTH replace::not_a_file: "what is no regular file is not overwritten";
        "immutable-target" BOTH replace::immutable: "a target that cannot be replaced fails and leaves no trace";
        "planted-link" BOTH planted::links => SAME: "a link of an ordinary user, where everybody may write, is not followed";
        "planted-file" BOTH planted::files => SAME: "a file or directory of an ordinary user, where everybody may write, is neither replaced nor entered";
        "create-path" BOTH names::create_path: "with the create flag every missing directory is made";
        "missing-path" BOTH names::missing_path: "without it a missing directory is an error";
        "long-names" BOTH names::long: "the longest names that a file system takes";
        "unicode-names" BOTH names::unicode: "names beyond ASCII, surrogate pairs too";
        "refused-names" BOTH names::refused: "names that would leave the directory are refused";
        "windows-path" BOTH names::windows: "a drive letter or a backslash is an invalid argument, and no file or directory has it in its name";
        "lone-surrogate" UIO names::lone_surrogate: "half a surrogate pair is an invalid argument";
        "disk-full-at-start" BOTH space::at_start: "a file that cannot fit is refused at START as disk full";
        "disk-full-midway" BOTH space::midway: "a disk that fills up fails a WRITE as disk full and leaves nothing";
        "disk-reserve" BOTH space::reserve => SAME: "the last of a disk stays free, and the host is told that it is full";
        "stalled-copy" BOTH reload::stalled => SAME: "a copy of which no more comes is dropped after a while";
        "reload-midway" BOTH reload::midway => SAME: "a configuration that is read in the middle of a copy counts for it, or ends it";
        "cancel" BOTH breaks::cancel: "a CANCEL drops the file; one for nothing harms nothing";
        "new-start" BOTH breaks::new_start: "a new START drops the file before it";
        "device-gone" BOTH breaks::device_gone: "a device that goes away midway leaves no file, and is served when it returns under another number";
        "stopped-midway" BOTH breaks::stopped: "an agent that ends midway leaves no file";
        "killed-midway" BOTH breaks::killed, own_process: "an agent that is killed midway leaves no file once it runs again";
        "reply-refused" HVUTIL breaks::reply_refused => TOO_LATE: "a kernel that refuses a reply makes the guest open the device again";
        "toggles" BOTH breaks::toggles: "twenty rounds of the device coming and going leak nothing";
        "malformed-messages" UIO hostile::messages: "bad messages get a failure reply each, and the channel lives";
        "malformed-negotiation" UIO hostile::negotiations: "bad negotiations get a failure reply each, and the channel lives";
        "malformed-device-messages" HVUTIL hostile::device_messages => KERNELS_OWN: "bad messages on the char device get a failure reply each";
        "sizes-that-lie" BOTH hostile::sizes: "WRITEs whose sizes and offsets cannot be get a failure reply each, and no reply keeps a size that lied";
        "corrupt-ring" RINGS hostile::corrupt: "after each kind of corrupt ring the guest opens the device again and works";
        "garbage-ring" UIO hostile::garbage: "random bytes in a ring close the channel or are passed over";
        "log-requests" UIO chatty::requests => SAME: "a host whose requests fail by the thousand gets few lines into the log, none of them long, with a summary, and a copy that works is there";
        "log-toggles" UIO chatty::toggled => SAME: "a device that comes and goes has no new log limit each time";
        "log-corrupt-rings" UIO chatty::corrupts => SAME: "a device that is corrupt each time it is opened is opened after longer and longer pauses, and told of once";
    }
    Kvp {
        "kvp-pools" KVP_EVERY kvp::pools::pools: "in every pool keys are set, got, overwritten, enumerated in order, and deleted";
        "kvp-get" KVP_BOTH kvp::pools::get: "what is in a pool is got by its key, the first of two alike";
        "kvp-missing-keys" KVP_BOTH kvp::pools::missing: "a key that is not there fails, and a place behind the last is no more items";
        "kvp-places-beyond" KVP_BOTH kvp::pools::beyond: "places far beyond the end are no more items";
        "kvp-numbers" KVP_BOTH kvp::pools::numbers: "numbers of 32 and 64 bits become decimal text";
        "kvp-longest" KVP_BOTH kvp::pools::longest: "the longest key and the longest value are kept as they are";
        "kvp-unicode" KVP_BOTH kvp::pools::unicode: "keys and values beyond ASCII, surrogate pairs too";
        "kvp-too-long" KVP_UIO kvp::pools::too_long: "what does not fit into a record fails and changes nothing";
        "kvp-lone-surrogate" KVP_UIO kvp::pools::lone_surrogate: "half a surrogate pair fails and changes nothing";
        "kvp-first-boot" KVP_BOTH kvp::files::first_boot: "what is in the files before the program starts stays, and so does their mode";
        "kvp-torn-record" KVP_BOTH kvp::files::torn: "a record that is not whole harms no other";
        "kvp-foreign-records" KVP_BOTH kvp::files::foreign: "records without NULs, with bytes behind them, or in no UTF-8, are read";
        "kvp-duplicates" KVP_BOTH kvp::files::duplicates: "of keys that are there twice the first counts, and both go";
        "kvp-other-writers" KVP_BOTH kvp::files::other_writers: "what another program appends or rewrites is there at once";
        "kvp-peers" KVP_BOTH kvp::peers::at_once, own_process => PYTHON: "cloud-init, programs with POSIX locks and the host write at once, and nothing is lost or torn";
        "kvp-locked" KVP_BOTH kvp::files::locked => HERE: "a pool that another program keeps locked is read without the lock, nothing is written to it, and the log names the program";
        "kvp-file-removed" KVP_BOTH kvp::files::removed: "a file that somebody removed is empty, and made again";
        "kvp-many-records" KVP_BOTH kvp::files::many => SLOW_LINE: "ten thousand records are enumerated";
        "kvp-facts" KVP_BOTH kvp::facts::facts: "the guest's ten facts, in order, as its files have them, and no more";
        "kvp-driver-version" HVUTIL kvp::facts::driver_version: "the version that the kernel's driver states is that of the integration services";
        "kvp-get-ip-info" KVP_BOTH kvp::network::get, own_process: "the addresses, subnets and gateways of an interface, found by its MAC address";
        "kvp-get-ip-family" KVP_BOTH kvp::network::family, own_process: "of one family, where one is asked for";
        "kvp-get-ip-unknown" KVP_BOTH kvp::network::unknown, own_process: "an interface that is not there is not found";
        "kvp-set-ip-info" KVP_BOTH kvp::network::set, own_process => TOOLS: "what is set is written down, applied, and got back";
        "kvp-set-ip-dhcp" KVP_BOTH kvp::network::dhcp, own_process => TOOLS: "DHCP takes the place of addresses";
        "kvp-set-ip-malformed" KVP_BOTH kvp::network::malformed, own_process => TOOLS: "what is no configuration is an invalid argument, and changes nothing";
        "kvp-set-ip-fails" KVP_BOTH kvp::network::fails, own_process => TOOLS: "a tool that fails is a failure";
        "kvp-set-ip-hangs" KVP_BOTH kvp::network::hangs, own_process => TOOLS: "a tool that does not end is a failure in time, and leaves no process";
        "kvp-malformed-messages" KVP_UIO kvp::messages::rings: "bad messages get a failure reply each, change nothing, and the channel lives";
        "kvp-malformed-device" HVUTIL kvp::messages::device => KERNELS_OWN: "bad messages on the char device get a failure reply each";
        "kvp-random-bodies" KVP_BOTH kvp::messages::random: "random bytes get an answer each, and the program works";
        "kvp-renegotiation" KVP_UIO kvp::lifetime::renegotiation: "negotiations at any time change nothing";
        "kvp-device-gone" KVP_BOTH kvp::lifetime::device_gone: "a device that goes away is served when it returns, and keys are kept";
        "kvp-stopped" KVP_BOTH kvp::lifetime::stopped: "a program that is stopped and started again has the keys";
        "kvp-killed" KVP_BOTH kvp::lifetime::killed, own_process: "a program that is killed and started again has the keys";
        "kvp-reply-refused" HVUTIL kvp::lifetime::reply_refused => TOO_LATE: "a kernel that refuses a reply makes the guest open the device again, and what was set is taken back";
    }
    Vss {
        "vss-hot-backup" VSS_BOTH vss::messages::hot_backup: "a HOT_BACKUP says that no recovery is needed";
        "vss-dm-info" VSS_UIO vss::messages::dm_info => EITHER: "a GET_DM_INFO has no flags";
        "vss-thaw-without-freeze" VSS_BOTH vss::messages::thaw_without_freeze: "a THAW of nothing, and a second one, succeed";
        "vss-long-messages" VSS_UIO vss::messages::long_messages: "a FREEZE of 6,260 bytes freezes, and an AUTO_RECOVER of 12,500 is answered";
        "vss-malformed-messages" VSS_UIO vss::messages::rings: "bad messages and unknown operations get a failure reply each, and the channel lives";
        "vss-malformed-device" HVUTIL vss::messages::device => KERNELS_OWN: "unknown operations on the char device get a failure reply each";
        "vss-random-bodies" VSS_BOTH vss::messages::random => SAME: "random bytes get an answer each, and the program works";
        "vss-renegotiation" VSS_UIO vss::messages::renegotiation: "a negotiation while all is frozen changes nothing";
        "vss-device-gone" VSS_BOTH vss::messages::device_gone: "a device that goes away is served when it returns";
        "vss-kinds" VSS_BOTH vss::freeze::kinds, own_process: "ext4, xfs and btrfs are frozen and thawed";
        "vss-mounted-often" VSS_BOTH vss::freeze::mounted_often, own_process: "a file system that is mounted twice, bound, or in subvolumes is frozen once";
        "vss-many-mounts" VSS_BOTH vss::freeze::many_mounts, own_process => SAME: "2,000 bind mounts are one file system";
        "vss-loop-files" VSS_BOTH vss::freeze::loop_files, own_process: "a file system in a file of another is frozen before it";
        "vss-others" VSS_BOTH vss::freeze::others, own_process: "read-only, in memory, and overlay: left as they are";
        "vss-external-log" VSS_BOTH vss::stacks::external_log, own_process: "a file system with its log in a file of another is frozen before it";
        "vss-layers" KERNEL_ONLY vss::stacks::layers, own_process => EITHER: "`vss plan` tells a stack of devices, and a link to one excludes it";
        "vss-patterns" VSS_BOTH vss::stacks::patterns, own_process => SAME: "patterns mean what they say, and those that mean nothing are told";
        "vss-device-mapper" KERNEL_ONLY vss::freeze::device_mapper, own_process => EITHER: "a file system on a stack of devices is frozen before the one that carries it";
        "vss-fat" KERNEL_ONLY vss::freeze::fat, own_process => EITHER: "a FAT is left as it is";
        "vss-frozen-beforehand" VSS_BOTH vss::freeze::beforehand, own_process: "what somebody else has frozen counts, and stays frozen after the THAW";
        "vss-twice" VSS_BOTH vss::freeze::twice, own_process: "a second FREEZE needs no second THAW";
        "vss-made-read-only" VSS_BOTH vss::reach::made_read_only, own_process: "an ext4 that the kernel made read-only after an error is left out";
        "vss-shut-down" VSS_BOTH vss::reach::shut_down, own_process: "a file system that was shut down is left out with a warning";
        "vss-path-hangs" VSS_BOTH vss::reach::path_hangs, own_process => SAME: "a loop file whose path hangs is named in time, and nothing is frozen";
        "vss-write-out-hangs" VSS_BOTH vss::reach::write_out_hangs, own_process: "what cannot be written out fails the FREEZE in time, by name, and nothing is frozen later";
        "vss-write-out-stopped" VSS_BOTH vss::reach::write_out_stopped, own_process: "the program ends although a file system cannot be written out, and the next one serves";
        "vss-hidden" VSS_BOTH vss::reach::hidden, own_process: "a file system that is mounted under another is frozen too, and stays where it is";
        "vss-other-namespaces" VSS_BOTH vss::reach::other_namespaces, own_process: "a file system that is mounted in another mount namespace only is frozen, unless the configuration says not to";
        "vss-include" VSS_BOTH vss::freeze::configured, own_process => SAME: "only what the configuration includes, and does not exclude";
        "vss-image" VSS_BOTH vss::image::consistent, own_process: "with writers running, a copy of the frozen image is whole and has what was on the disk";
        "vss-killed" VSS_BOTH vss::faults::killed, own_process: "a program that is killed leaves nothing frozen";
        "vss-guard-killed" VSS_BOTH vss::faults::guard_killed, own_process: "when the guard dies all is thawed, and the THAW fails";
        "vss-guard-stopped" VSS_BOTH vss::faults::guard_stopped, own_process => SAME: "a guard that answers nothing keeps nothing frozen";
        "vss-killed-in-turn" VSS_BOTH vss::faults::one_after_the_other, own_process => SAME: "guard and agent are killed one after the other";
        "vss-killed-at-once" VSS_BOTH vss::faults::both_at_once, own_process => SAME: "what two that died at once left frozen the next agent thaws";
        "vss-killed-in-haste" VSS_BOTH vss::faults::both_in_haste, own_process => SAME: "a kernel that two that died at once left in haste is told by the next agent, or by hand";
        "vss-stopped" VSS_BOTH vss::faults::stopped, own_process: "an agent that is stopped thaws";
        "vss-upgraded" VSS_BOTH vss::faults::upgraded, own_process: "with another file in its place the program's next guard still comes from its own";
        "vss-out-of-memory" VSS_BOTH vss::faults::out_of_memory, own_process: "a program that the kernel kills for want of memory leaves nothing frozen";
        "vss-rescinded" VSS_BOTH vss::faults::device_gone, own_process: "a device that goes away while all is frozen thaws it";
        "vss-reply-refused" HVUTIL vss::faults::reply_refused, own_process => TOO_LATE: "a kernel that refuses the reply to a FREEZE thaws";
        "vss-hibernates" HVUTIL vss::faults::hibernates, own_process => TOO_LATE: "a THAW whose reply the kernel refuses thaws";
        "vss-time-limit" VSS_BOTH vss::faults::time_limit, own_process: "after the time limit all is thawed, and the host is told";
        "vss-thaw-by-hand" VSS_BOTH vss::faults::by_hand, own_process => SAME: "`hyperv-agent thaw` thaws, and the host is told";
        "vss-syslog-full" VSS_BOTH vss::faults::syslog_full, own_process: "a syslog that nobody reads holds up no THAW";
        "vss-stuck-freeze" VSS_BOTH vss::stuck::in_freeze, own_process: "a FREEZE that waits for a disk fails in time, names it, and leaves nothing else frozen";
        "vss-stuck-thaw" VSS_BOTH vss::stuck::in_thaw, own_process: "a THAW that waits for a disk thaws all others, and fails in time";
        "vss-stuck-disk" KERNEL_ONLY vss::stuck::disk, own_process => EITHER: "the same for a disk of device mapper that is suspended";
        "vss-stuck-for-a-while" VSS_BOTH vss::stuck::for_a_while, own_process => SAME: "a disk that answers in time fails no FREEZE";
        "vss-stuck-time-limit" VSS_BOTH vss::stuck::time_limit, own_process => SAME: "nor does the time limit wait for a disk";
        "vss-stuck-killed" VSS_BOTH vss::stuck::killed, own_process: "a program that is killed while a FREEZE hangs leaves no other one frozen, and serves when it is started again";
        "vss-stuck-stopped" VSS_BOTH vss::stuck::stopped, own_process: "one that is stopped then ends in time";
        "vss-stuck-upgraded" VSS_BOTH vss::stuck::upgraded, own_process => SAME: "one that is upgraded then serves";
        "vss-stuck-guard-killed" VSS_BOTH vss::stuck::guard_killed, own_process: "one whose guard is killed then thaws";
        "vss-stuck-both-killed" VSS_BOTH vss::stuck::both_killed, own_process: "what two that died then left frozen the next agent thaws, and serves";
        "vss-stuck-by-hand" VSS_BOTH vss::stuck::by_hand, own_process: "`hyperv-agent thaw` thaws the others, names the one that hangs, and ends";
        "vss-stuck-all-by-hand" VSS_BOTH vss::stuck::all_by_hand, own_process => SAME: "`hyperv-agent thaw --all` thaws what they lie on, too";
        "vss-copy-waits" VSS_BOTH vss::waits::copy_waits, own_process => ONE_DEVICE: "a file copy to a frozen file system waits, and holds up nothing else";
        "vss-copy-waits-stopped" VSS_BOTH vss::waits::copy_waits_stopped, own_process => ONE_DEVICE: "an agent that is stopped while a copy waits thaws";
        "vss-copy-waits-killed" VSS_BOTH vss::waits::copy_waits_killed, own_process => ONE_DEVICE: "one that is killed then leaves nothing frozen";
        "vss-kvp-waits" VSS_BOTH vss::waits::kvp_waits, own_process => ONE_DEVICE: "a key that is set while its pool is frozen waits, and holds up nothing else";
        "vss-hooks" VSS_BOTH vss::hooks::in_order, own_process: "hooks run in order before a FREEZE, and in reverse after the THAW";
        "vss-hook-unsafe" VSS_BOTH vss::hooks::unsafe_one, own_process => SAME: "a hook that others may write to, or that is not root's, stops the FREEZE and is not run";
        "vss-hook-fails" VSS_BOTH vss::hooks::fails, own_process => SAME: "a hook that fails stops the FREEZE";
        "vss-hook-hangs" VSS_BOTH vss::hooks::hangs, own_process => SAME: "a hook that hangs stops the FREEZE, and leaves no process";
        "vss-hook-stopped" VSS_BOTH vss::hooks::stopped, own_process => SAME: "an agent that is stopped waits for no hook, and tells it that there is no freeze";
        "vss-hook-killed" VSS_BOTH vss::hooks::killed_then_started, own_process => SAME: "hooks that a killed agent has not told of the thaw the next one tells";
        "vss-hook-outlives" VSS_BOTH vss::hooks::outlives, own_process => SAME: "a hook that still runs with freeze after its agent was killed lets no application rest after the thaw";
        "vss-hook-by-hand" VSS_BOTH vss::hooks::killed_then_by_hand, own_process => SAME: "where there is no next one, `hyperv-agent thaw` tells them";
        "vss-hook-by-hand-unheard" VSS_BOTH vss::hooks::killed_then_unheard, own_process => SAME: "it does so where its output reaches nobody";
        "vss-hook-not-started" VSS_BOTH vss::hooks::not_started, own_process => SAME: "a hook that cannot be started stops the FREEZE, and is told nothing";
        "vss-hook-ignored" VSS_BOTH vss::hooks::goes_on, own_process => SAME: "with on-failure = \"go-on\" a hook that fails does not";
        "vss-last-backup" VSS_BOTH vss::telling::last_backup, own_process => SAME: "`status` tells what is frozen, and how the last backup went";
        "vss-last-time-limit" VSS_UIO vss::telling::time_limit, own_process => SAME: "one that the time limit ended is told as not consistent";
        "vss-rehearsal" VSS_BOTH vss::rehearsal::works, own_process: "`vss rehearse` freezes and thaws, and says how it went";
        "vss-rehearsal-hooks" VSS_UIO vss::rehearsal::hooks, own_process => SAME: "with --hooks-only the hooks are run, and nothing is frozen";
        "vss-rehearsal-host" VSS_BOTH vss::rehearsal::host_first, own_process: "a backup of the host refuses a rehearsal, or ends it and takes place";
        "vss-rehearsal-ended" VSS_BOTH vss::rehearsal::ended_early, own_process => SAME: "one that its client, the time limit or the agent's end cuts short thaws";
        "vss-rehearsal-alone" VSS_UIO vss::rehearsal::without_device, own_process => SAME: "without a device an administrator can rehearse too, until the host offers one";
        "vss-last-killed" VSS_UIO vss::telling::killed, own_process => SAME: "one whose agent was killed is told by the next agent";
    }
};
