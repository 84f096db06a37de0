//! What is tried with a guest. A scenario knows a machine only through
//! [`crate::port`], so the same one runs in process, black box and with a real
//! kernel in a virtual machine. What the program has of a device
//! ([`Transport`]) and what the host has ([`crate::port::Port`]) differ in the
//! last: the host always has rings there, and over the char device it is the
//! kernel that answers negotiations and hands over one request at a time.
//! Protocol section 6.3.

mod content;
mod disk_full;
mod flow;
mod hostile;
mod interrupted;
mod kvp;
mod log_limits;
mod names;
mod pattern;
mod planted;
mod reload;
mod replace;
mod runner;
mod stage;
pub(crate) mod vss;

use std::fmt;

use anyhow::Result;

use crate::fcopy::Fcopy;
use crate::host::{Protocol as _, Service};
use crate::kvp::Kvp;
use crate::vss::Vss;

pub use pattern::Pattern;
pub use runner::{Captures, Factory, Options, Outcome, Runner, Verdict, run_one};
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
    /// It kills the program, sets up a network or file systems for it, or runs
    /// others beside it. The program has to be a separate process for that.
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
    /// As `Either`; where all scenarios are played, with the newest kernel only.
    Newest,
    /// Never, and why not.
    Never(&'static str),
}

/// With a real kernel the host has rings over both transports.
const EITHER: Kernel = Kernel::Either;

/// For what takes long in a virtual machine, or hardly depends on the kernel.
const NEWEST: Kernel = Kernel::Newest;

const TOO_LATE: Kernel =
    Kernel::Never("the kernel refuses a reply only after its own timeout of 30 s");

const KERNELS_OWN: Kernel =
    Kernel::Never("the kernel builds these messages itself, and none of this kind");

const TOOLS: Kernel = Kernel::Never("the virtual machine has no tools that configure interfaces");

const SAME: Kernel =
    Kernel::Never("a real kernel makes no difference, and virtual machines are slow");
const PYTHON: Kernel = Kernel::Never("the virtual machine has no Python for cloud-init");

const HERE: Kernel = Kernel::Never("the simulator has no process in the virtual machine");

const ONE_DEVICE: Kernel = Kernel::Never("the virtual machine offers one device at a time");

const SLOW_LINE: Kernel = Kernel::Never("the serial line to the guest's files is too slow");

impl Scenario {
    /// Whether it is tried with a real kernel that has the device this way; an
    /// error says why not where one might expect it.
    ///
    /// # Errors
    ///
    /// If it is listed, and yet cannot be tried.
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
            return Err(Skip("the kernel uses another ring size".to_owned()));
        }
        Ok(false)
    }

    fn kernel_has(&self, transport: Transport) -> bool {
        match transport {
            Transport::Uio(_) => {
                self.transports.contains(&USUAL) || self.transports.contains(&FOR_KVP)
            }
            Transport::HvUtil => {
                matches!(self.kernel, Kernel::Either | Kernel::Newest)
                    || self.transports.contains(&Transport::HvUtil)
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
        "small-copy" EVERY content::small: "files of about one message's size arrive unchanged, with mode 0744";
        "large-copy" EVERY content::large: "a file of 1 GiB arrives unchanged";
        "empty-file" BOTH content::empty: "an empty file is created";
        "any-order" BOTH content::any_order: "WRITEs in any order make a complete file";
        "hole" BOTH content::hole: "a COMPLETE with bytes missing fails and leaves no file";
        "size-differs" BOTH content::size_differs: "a START that states a wrong size does no harm";
        "in-flight" RINGS flow::in_flight => EITHER: "two, three and eight requests in flight are all answered";
        "replies-held-back" SMALL_RINGS flow::replies_held_back: "a guest whose ring is full waits for room, then continues";
        "sends-first" RING_SIZES flow::sends_first: "a host that fills both rings before it reads replies gets every reply";
        "sends-apart" RING_SIZES flow::apart: "a host with independent sender and receiver gets every reply";
        "no-flow-control" RING_SIZES flow::without_flow_control: "the guest polls for room where the host does not signal it";
        "replies-not-read" UIO flow::not_read: "a host that does not read replies is logged once, and so is its recovery";
        "gone-while-full" UIO flow::gone_while_full: "a device that is removed while a reply waits for room is served when it returns";
        "masked-host" UIO flow::masked_host: "a host that masked its interrupt is not signalled";
        "spurious-interrupts" UIO flow::spurious_interrupts: "interrupts without a packet do no harm";
        "longer-header" UIO flow::longer_header: "a packet with descriptors after its header is read correctly";
        "other-packets" UIO flow::other_packets: "packets that are not requests are skipped";
        "renegotiation" UIO flow::renegotiation: "a negotiation during a copy ends the copy";
        "versions" UIO flow::versions: "only a version that both sides support is negotiated, otherwise none";
        "overwrite-shorter" BOTH replace::shorter: "overwriting with a shorter file leaves no old bytes; mode and owner stay";
        "exists" BOTH replace::exists: "without the overwrite flag an existing file stays, and the host gets an error";
        "overwrite-dropped" BOTH replace::dropped: "a cancelled copy leaves the file that it would have replaced";
        "symbolic-link" BOTH replace::symbolic_link: "overwriting a symbolic link writes to its target";
        "not-a-file" BOTH replace::not_a_file: "anything but a regular file is not overwritten";
        "immutable-target" BOTH replace::immutable: "a target that cannot be replaced fails and leaves no temporary file";
        "planted-link" BOTH planted::links => SAME: "a link that an ordinary user put into a world-writable directory is not followed";
        "planted-file" BOTH planted::files => SAME: "a file or directory that an ordinary user put into a world-writable directory is neither replaced nor entered";
        "create-path" BOTH names::create_path: "with the create flag all missing directories are created";
        "missing-path" BOTH names::missing_path: "without the create flag a missing directory is an error";
        "long-names" BOTH names::long: "the longest names that a file system supports";
        "unicode-names" BOTH names::unicode: "names beyond ASCII, surrogate pairs included";
        "refused-names" BOTH names::refused: "names that would leave the directory are refused";
        "windows-path" BOTH names::windows: "a drive letter or a backslash is an invalid argument, and no file or directory gets it in its name";
        "lone-surrogate" UIO names::lone_surrogate: "a lone surrogate is an invalid argument";
        "disk-full-at-start" BOTH disk_full::at_start: "a file that cannot fit is refused at START as disk full";
        "disk-full-midway" BOTH disk_full::midway: "a WRITE to a full disk fails as disk full and leaves no file";
        "disk-reserve" BOTH disk_full::reserve => SAME: "the disk's reserve stays free, and the host gets disk full";
        "stalled-copy" BOTH reload::stalled => SAME: "a copy that stops receiving WRITEs is dropped after a timeout";
        "reload-midway" BOTH reload::midway => SAME: "a configuration reloaded during a copy applies to it, or ends it";
        "cancel" BOTH interrupted::cancel: "a CANCEL removes the file; a CANCEL without a copy does no harm";
        "new-start" BOTH interrupted::new_start: "a new START drops the copy before it";
        "device-gone" BOTH interrupted::device_gone: "a device that is removed midway leaves no file, and is served when it returns under another number";
        "stopped-midway" BOTH interrupted::stopped: "an agent that is stopped midway leaves no file";
        "killed-midway" BOTH interrupted::killed, own_process: "an agent that is killed midway leaves no file once it runs again";
        "reply-refused" HVUTIL interrupted::reply_refused => TOO_LATE: "the guest reopens the device when the kernel refuses a reply";
        "toggles" BOTH interrupted::toggles: "removing and offering the device twenty times leaks nothing";
        "malformed-messages" UIO hostile::messages: "each malformed message gets a failure reply, and the channel stays open";
        "malformed-negotiation" UIO hostile::negotiations: "each malformed negotiation gets a failure reply, and the channel stays open";
        "malformed-device-messages" HVUTIL hostile::device_messages => KERNELS_OWN: "each malformed message on the character device gets a failure reply";
        "sizes-that-lie" BOTH hostile::sizes: "WRITEs with impossible sizes and offsets get failure replies, and no reply repeats a false size";
        "corrupt-ring" RINGS hostile::corrupt: "after each kind of ring corruption the guest reopens the device and works";
        "garbage-ring" UIO hostile::garbage: "random bytes in a ring close the channel or are skipped";
        "log-requests" UIO log_limits::requests => SAME: "thousands of failing requests cause few and short log lines with a summary, and a successful copy is still logged";
        "log-toggles" UIO log_limits::toggled => SAME: "a device that is removed and offered again does not get a new log limit";
        "log-corrupt-rings" UIO log_limits::corrupts => SAME: "a device that is corrupt at each opening is reopened with growing backoff and logged once";
    }
    Kvp {
        "kvp-pools" KVP_EVERY kvp::pools::pools: "in every pool keys are set, read, overwritten, enumerated in order, and deleted";
        "kvp-get" KVP_BOTH kvp::pools::get => NEWEST: "GET returns the value of a key, the first of two equal ones";
        "kvp-missing-keys" KVP_BOTH kvp::pools::missing: "a missing key fails, and an index past the end means no more items";
        "kvp-places-beyond" KVP_BOTH kvp::pools::beyond: "indexes far past the end mean no more items";
        "kvp-numbers" KVP_BOTH kvp::pools::numbers => NEWEST: "32-bit and 64-bit numbers become decimal text, and text with variables is text";
        "kvp-longest" KVP_BOTH kvp::pools::longest => NEWEST: "the longest key and the longest value are stored unchanged";
        "kvp-unicode" KVP_BOTH kvp::pools::unicode => NEWEST: "keys and values beyond ASCII, surrogate pairs included";
        "kvp-too-long" KVP_UIO kvp::pools::too_long: "what does not fit into a record fails and changes nothing";
        "kvp-lone-surrogate" KVP_UIO kvp::pools::lone_surrogate: "a lone surrogate fails and changes nothing";
        "kvp-pools-at-start" KVP_BOTH kvp::files::at_start => NEWEST: "missing pool files exist once the program runs, before there is a device";
        "kvp-first-boot" KVP_BOTH kvp::files::first_boot => NEWEST: "pool files that exist before the program starts keep their content and mode";
        "kvp-torn-record" KVP_BOTH kvp::files::torn => NEWEST: "a torn record does not affect the others";
        "kvp-foreign-records" KVP_BOTH kvp::files::foreign => NEWEST: "records without NULs, with bytes after them, or not in UTF-8, are read";
        "kvp-duplicates" KVP_BOTH kvp::files::duplicates => NEWEST: "of duplicate keys the first counts, and DELETE removes both";
        "kvp-other-writers" KVP_BOTH kvp::files::other_writers => NEWEST: "records that another program appends or rewrites are visible at once";
        "kvp-peers" KVP_BOTH kvp::peers::at_once, own_process => PYTHON: "cloud-init, programs with POSIX locks and the host write concurrently, and no record is lost or torn";
        "kvp-new-boot" KVP_BOTH kvp::peers::new_boot, own_process => PYTHON: "cloud-init empties pool 1 in a new boot, and the keys that the configuration publishes are there again";
        "kvp-locked" KVP_BOTH kvp::files::locked => HERE: "a pool that another program keeps locked is read without the lock and not written, and the log names the program";
        "kvp-file-removed" KVP_BOTH kvp::files::removed => NEWEST: "a removed pool file counts as empty, and is created again";
        "kvp-many-records" KVP_BOTH kvp::files::many => SLOW_LINE: "ten thousand records are enumerated";
        "kvp-facts" KVP_BOTH kvp::facts::facts: "the guest's ten facts are enumerated in order, with the values of its files";
        "kvp-driver-version" HVUTIL kvp::facts::driver_version: "the integration services version is the one that the kernel's driver reports";
        "kvp-get-ip-info" KVP_BOTH kvp::network::get, own_process: "addresses, subnets and gateways of an interface, found by its MAC address";
        "kvp-get-ip-family" KVP_BOTH kvp::network::family, own_process => NEWEST: "addresses of one family only, when the host asks for one";
        "kvp-get-ip-unknown" KVP_BOTH kvp::network::unknown, own_process => NEWEST: "an unknown interface is reported as not found";
        "kvp-set-ip-info" KVP_BOTH kvp::network::set, own_process => TOOLS: "an IP configuration is written, applied, and read back";
        "kvp-ip-command" KVP_UIO kvp::network_command::works, own_process => TOOLS: "`kvp ip` shows what the host reads and would set, and undoes what it has set";
        "kvp-generalize" KVP_UIO kvp::network_command::generalize, own_process => TOOLS: "`generalize` removes what the host has set, while no agent runs";
        "kvp-set-ip-early" KVP_BOTH kvp::network_early::early, own_process => TOOLS: "an IP configuration that comes before the network manager runs is in force once it does";
        "kvp-set-ip-dhcp" KVP_BOTH kvp::network::dhcp, own_process => TOOLS: "DHCP replaces static addresses";
        "kvp-set-ip-malformed" KVP_BOTH kvp::network::malformed, own_process => TOOLS: "an invalid IP configuration is an invalid argument and changes nothing";
        "kvp-versions" KVP_UIO kvp::network::versions, own_process => TOOLS: "IP configurations are binary in version 5.0 and text in older ones, after each negotiation";
        "kvp-set-ip-fails" KVP_BOTH kvp::network::fails, own_process => TOOLS: "the request fails when a tool fails";
        "kvp-set-ip-hangs" KVP_BOTH kvp::network::hangs, own_process => TOOLS: "the request fails in time when a tool hangs, and no process is left";
        "kvp-malformed-messages" KVP_UIO kvp::messages::rings: "each malformed message gets a failure reply and changes nothing, and the channel stays open";
        "kvp-malformed-device" HVUTIL kvp::messages::device => KERNELS_OWN: "each malformed message on the character device gets a failure reply";
        "kvp-random-bodies" KVP_BOTH kvp::messages::random => NEWEST: "random bytes are answered, and the program works afterwards";
        "kvp-renegotiation" KVP_UIO kvp::lifetime::renegotiation: "negotiations at any time change nothing";
        "kvp-device-gone" KVP_BOTH kvp::lifetime::device_gone: "a device that is removed is served when it returns, and keys stay";
        "kvp-stopped" KVP_BOTH kvp::lifetime::stopped: "keys stay when the program is stopped and started again";
        "kvp-killed" KVP_BOTH kvp::lifetime::killed, own_process: "keys stay when the program is killed and started again";
        "kvp-reply-refused" HVUTIL kvp::lifetime::reply_refused => TOO_LATE: "the guest reopens the device when the kernel refuses a reply, and rolls back what it set";
    }
    Vss {
        "vss-hot-backup" VSS_BOTH vss::messages::hot_backup: "the reply to HOT_BACKUP says that no recovery is needed";
        "vss-dm-info" VSS_UIO vss::messages::dm_info => EITHER: "the reply to GET_DM_INFO has no flags";
        "vss-thaw-without-freeze" VSS_BOTH vss::messages::thaw_without_freeze: "a THAW without a FREEZE succeeds, twice";
        "vss-long-messages" VSS_UIO vss::messages::long_messages: "a FREEZE of 6,260 bytes freezes, and an AUTO_RECOVER of 12,500 bytes is answered";
        "vss-malformed-messages" VSS_UIO vss::messages::rings: "malformed messages and unknown operations get a failure reply each, and the channel stays open";
        "vss-malformed-device" HVUTIL vss::messages::device => KERNELS_OWN: "unknown operations on the character device get a failure reply each";
        "vss-random-bodies" VSS_BOTH vss::messages::random => SAME: "random bytes are answered, and the program works afterwards";
        "vss-renegotiation" VSS_UIO vss::messages::renegotiation: "a negotiation during a freeze changes nothing";
        "vss-device-gone" VSS_BOTH vss::messages::device_gone: "a device that is removed is served when it returns";
        "vss-kinds" VSS_BOTH vss::freeze::kinds, own_process: "ext4, xfs and btrfs are frozen and thawed";
        "vss-mounted-often" VSS_BOTH vss::freeze::mounted_often, own_process => NEWEST: "a file system with several mounts, bind mounts or subvolumes is frozen once";
        "vss-many-mounts" VSS_BOTH vss::freeze::many_mounts, own_process => SAME: "2,000 bind mounts count as one file system";
        "vss-loop-files" VSS_BOTH vss::freeze::loop_files, own_process: "a file system in a loop file is frozen before the file system of that file";
        "vss-others" VSS_BOTH vss::freeze::others, own_process: "read-only, in-memory and overlay file systems are not frozen";
        "vss-external-log" VSS_BOTH vss::layers::external_log, own_process => NEWEST: "a file system whose log is in a loop file is frozen before the file system of that file";
        "vss-layers" KERNEL_ONLY vss::layers::layers, own_process => EITHER: "`vss plan` shows a stack of devices, and a link to one of them excludes it";
        "vss-patterns" VSS_BOTH vss::layers::patterns, own_process => SAME: "patterns match as documented, and those that match nothing are reported";
        "vss-device-mapper" KERNEL_ONLY vss::freeze::device_mapper, own_process => EITHER: "a file system on a stack of devices is frozen before the one that carries it";
        "vss-fat" KERNEL_ONLY vss::freeze::fat, own_process => EITHER: "FAT is not frozen";
        "vss-frozen-beforehand" VSS_BOTH vss::freeze::beforehand, own_process: "a file system that something else has frozen counts as frozen, and stays frozen after the THAW";
        "vss-twice" VSS_BOTH vss::freeze::twice, own_process: "a second FREEZE needs no second THAW";
        "vss-made-read-only" VSS_BOTH vss::inaccessible::made_read_only, own_process: "an ext4 that the kernel remounted read-only after an error is skipped";
        "vss-shut-down" VSS_BOTH vss::inaccessible::shut_down, own_process: "a file system that was shut down is skipped with a warning";
        "vss-path-hangs" VSS_BOTH vss::inaccessible::path_hangs, own_process => SAME: "a loop file whose path hangs is named in time, and nothing is frozen";
        "vss-write-out-hangs" VSS_BOTH vss::inaccessible::write_out_hangs, own_process => NEWEST: "a file system that cannot write its dirty pages fails the FREEZE in time and is named, and nothing is frozen later";
        "vss-write-out-stopped" VSS_BOTH vss::inaccessible::write_out_stopped, own_process => NEWEST: "the program ends although a file system cannot write its dirty pages, and the next one serves";
        "vss-hidden" VSS_BOTH vss::inaccessible::hidden, own_process: "a file system that is mounted over is frozen, and its mount stays";
        "vss-other-namespaces" VSS_BOTH vss::inaccessible::other_namespaces, own_process: "a file system that is mounted in another mount namespace only is frozen, unless the configuration excludes those";
        "vss-include" VSS_BOTH vss::freeze::configured, own_process => SAME: "only file systems that the configuration includes and does not exclude are frozen";
        "vss-image" VSS_BOTH vss::image::consistent, own_process => NEWEST: "with writers running, a copy of the frozen image is consistent and has what was on the disk";
        "vss-early" VSS_BOTH vss::early::early, own_process => SAME: "early in the boot the device is opened when systemd has mounted all local file systems, or at once if a killed agent left some frozen";
        "vss-killed" VSS_BOTH vss::faults::killed, own_process: "nothing stays frozen when the program is killed";
        "vss-guard-killed" VSS_BOTH vss::faults::guard_killed, own_process => NEWEST: "when the guard is killed everything thaws, and the THAW fails";
        "vss-guard-stopped" VSS_BOTH vss::faults::guard_stopped, own_process => SAME: "nothing stays frozen when the guard does not answer";
        "vss-killed-in-turn" VSS_BOTH vss::faults::one_after_the_other, own_process => SAME: "nothing stays frozen when guard and agent are killed one after the other";
        "vss-killed-at-once" VSS_BOTH vss::faults::both_at_once, own_process => SAME: "the next agent thaws what agent and guard left frozen when both were killed at once";
        "vss-killed-expedited" VSS_BOTH vss::faults::both_with_rcu_expedited, own_process => SAME: "the next agent, or `hyperv-agent thaw`, resets rcu_expedited when agent and guard were killed at once";
        "vss-stopped" VSS_BOTH vss::faults::stopped, own_process: "an agent that is stopped thaws";
        "vss-upgraded" VSS_BOTH vss::faults::upgraded, own_process => NEWEST: "after an upgrade of the binary the running program still starts its guard from its own file";
        "vss-out-of-memory" VSS_BOTH vss::faults::out_of_memory, own_process => NEWEST: "nothing stays frozen when the kernel's OOM killer kills the program";
        "vss-rescinded" VSS_BOTH vss::faults::device_gone, own_process: "removing the device during a freeze thaws";
        "vss-reply-refused" HVUTIL vss::faults::reply_refused, own_process => TOO_LATE: "the guest thaws when the kernel refuses the reply to a FREEZE";
        "vss-hibernates" HVUTIL vss::faults::hibernates, own_process => TOO_LATE: "the guest thaws when the kernel refuses the reply to a THAW";
        "vss-time-limit" VSS_BOTH vss::faults::time_limit, own_process => NEWEST: "after the time limit everything thaws, and the THAW fails";
        "vss-thaw-by-hand" VSS_BOTH vss::faults::by_hand, own_process => SAME: "`hyperv-agent thaw` thaws, and the host's THAW fails";
        "vss-syslog-full" VSS_BOTH vss::faults::syslog_full, own_process => NEWEST: "a syslog socket that nobody reads does not delay a THAW";
        "vss-stuck-freeze" VSS_BOTH vss::stuck::in_freeze, own_process => NEWEST: "a FREEZE that waits for a disk fails in time, names the file system, and leaves no other one frozen";
        "vss-stuck-thaw" VSS_BOTH vss::stuck::in_thaw, own_process => NEWEST: "a THAW that waits for a disk thaws all other file systems, and fails in time";
        "vss-stuck-disk" KERNEL_ONLY vss::stuck::disk, own_process => NEWEST: "freeze and thaw with a suspended device-mapper disk";
        "vss-stuck-for-a-while" VSS_BOTH vss::stuck::for_a_while, own_process => SAME: "a FREEZE succeeds when a slow disk answers in time";
        "vss-stuck-side-by-side" VSS_BOTH vss::stuck::side_by_side, own_process => SAME: "file systems on different disks are frozen at the same time, each before the one that carries it";
        "vss-stuck-time-limit" VSS_BOTH vss::stuck::time_limit, own_process => SAME: "the time limit thaws without waiting for a disk";
        "vss-stuck-killed" VSS_BOTH vss::stuck::killed, own_process => NEWEST: "a program that is killed during a hanging FREEZE leaves no other file system frozen, and serves when it is started again";
        "vss-stuck-stopped" VSS_BOTH vss::stuck::stopped, own_process => NEWEST: "a program that is stopped during a hanging FREEZE ends in time";
        "vss-stuck-upgraded" VSS_BOTH vss::stuck::upgraded, own_process => SAME: "a program that is upgraded during a hanging FREEZE serves afterwards";
        "vss-stuck-guard-killed" VSS_BOTH vss::stuck::guard_killed, own_process => NEWEST: "a program whose guard is killed during a hanging FREEZE thaws";
        "vss-stuck-both-killed" VSS_BOTH vss::stuck::both_killed, own_process => NEWEST: "the next agent thaws and serves when agent and guard were killed during a hanging FREEZE";
        "vss-stuck-by-hand" VSS_BOTH vss::stuck::by_hand, own_process => NEWEST: "`hyperv-agent thaw` thaws the others, names the file system that hangs, and ends";
        "vss-stuck-all-by-hand" VSS_BOTH vss::stuck::all_by_hand, own_process => SAME: "`hyperv-agent thaw --all` also thaws the file systems that carry them";
        "vss-copy-waits" VSS_BOTH vss::other_services::copy_waits, own_process => ONE_DEVICE: "a file copy to a frozen file system waits, and delays nothing else";
        "vss-copy-waits-stopped" VSS_BOTH vss::other_services::copy_waits_stopped, own_process => ONE_DEVICE: "an agent that is stopped while a copy waits thaws";
        "vss-copy-waits-killed" VSS_BOTH vss::other_services::copy_waits_killed, own_process => ONE_DEVICE: "nothing stays frozen when the agent is killed while a copy waits";
        "vss-kvp-waits" VSS_BOTH vss::other_services::kvp_waits, own_process => ONE_DEVICE: "a SET to a frozen pool waits, and delays nothing else";
        "vss-hooks" VSS_BOTH vss::hooks::in_order, own_process: "hooks run in order before a FREEZE, and in reverse order after the THAW";
        "vss-hook-unsafe" VSS_BOTH vss::hooks::writable_by_others, own_process => SAME: "a hook that is not owned by root, or that others can write to, fails the FREEZE and is not run";
        "vss-hook-fails" VSS_BOTH vss::hooks::fails, own_process => SAME: "a failing hook fails the FREEZE";
        "vss-hook-hangs" VSS_BOTH vss::hooks::hangs, own_process => SAME: "a hanging hook fails the FREEZE, and no process is left";
        "vss-hook-stopped" VSS_BOTH vss::hooks::stopped, own_process => SAME: "an agent that is stopped does not wait for a hook, and runs it with thaw";
        "vss-hook-killed" VSS_BOTH vss::hooks::killed_then_started, own_process => SAME: "the next agent runs the thaw hooks that a killed agent did not run";
        "vss-hook-outlives" VSS_BOTH vss::hooks::outlives, own_process => SAME: "a freeze hook that outlives its killed agent does not leave an application stopped after the thaw";
        "vss-hook-by-hand" VSS_BOTH vss::hooks::killed_then_by_hand, own_process => SAME: "`hyperv-agent thaw` runs the thaw hooks when no agent is started again";
        "vss-hook-by-hand-unheard" VSS_BOTH vss::hooks::killed_then_unheard, own_process => SAME: "`hyperv-agent thaw` runs the thaw hooks when its output is closed";
        "vss-hook-not-started" VSS_BOTH vss::hooks::not_started, own_process => SAME: "a hook that cannot be started fails the FREEZE, and is not run with thaw";
        "vss-hook-ignored" VSS_BOTH vss::hooks::goes_on, own_process => SAME: "with on-failure = \"go-on\" a failing hook does not fail the FREEZE";
        "vss-last-backup" VSS_BOTH vss::backup_status::last_backup, own_process => SAME: "`status` shows what is frozen, and the result of the last backup";
        "vss-last-time-limit" VSS_UIO vss::backup_status::time_limit, own_process => SAME: "`status` shows a backup that the time limit ended as inconsistent";
        "vss-rehearsal" VSS_BOTH vss::rehearsal::works, own_process => NEWEST: "`vss rehearse` freezes, thaws, and reports the result";
        "vss-rehearsal-hooks" VSS_UIO vss::rehearsal::hooks, own_process => SAME: "`vss rehearse --hooks-only` runs the hooks and freezes nothing";
        "vss-rehearsal-host" VSS_BOTH vss::rehearsal::host_first, own_process => NEWEST: "a backup of the host prevents a rehearsal, or ends it and takes place";
        "vss-rehearsal-ended" VSS_BOTH vss::rehearsal::ended_early, own_process => SAME: "a rehearsal that its client, the time limit or the agent's end interrupts thaws";
        "vss-rehearsal-alone" VSS_UIO vss::rehearsal::without_device, own_process => SAME: "an administrator can rehearse without a device, until the host offers one";
        "vss-last-killed" VSS_UIO vss::backup_status::killed, own_process => SAME: "the next agent reports the backup of an agent that was killed";
    }
};
