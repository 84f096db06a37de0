//! Time limits that depend on each other, what each bounds, and how they nest: the host
//! or the kernel gives up at the outermost.
//!
//! A limit that no other depends on stands in the file that uses it.

use std::time::Duration;

/// How long `hv_utils` waits for the reply to a request of file copy or KVP, and to
/// HOT_BACKUP and THAW of VSS. Protocol section 6.
pub const KERNEL_REPLY: Duration = Duration::from_secs(30);

/// How long `hv_utils` waits for the reply to a FREEZE. Protocol section 6.
pub const KERNEL_FREEZE: Duration = Duration::from_secs(15 * 60);

/// How long the end of a killed program is waited for before a thread is left to reap it.
pub(crate) const KILL: Duration = Duration::from_millis(500);

// Key-value pairs.

/// How long a request may take until the host gets a failure.
pub(crate) const KVP_REPLY: Duration = Duration::from_secs(25);

/// How long the result is waited for of a request that was done just as its time ran out.
pub(crate) const KVP_LAST_RESULT: Duration = Duration::from_secs(2);

/// How long an IP configuration may take until it is in effect or rolled back.
pub(crate) const IP_CONFIGURATION: Duration = Duration::from_secs(20);

/// How much of the request's time must be left to begin with an IP configuration: with
/// less, network managers would be killed in the middle of their work.
pub(crate) const IP_CONFIGURATION_MIN: Duration = Duration::from_secs(10);

/// How long undoing an IP configuration at an administrator's request may take: no host waits.
pub const IP_UNDO: Duration = Duration::from_secs(60);

/// How much of [`IP_CONFIGURATION`] is kept for the rollback; half of what is left, if
/// that is less.
pub(crate) const IP_ROLLBACK: Duration = Duration::from_secs(8);

/// How long every address and route is waited for once the required ones are there: an
/// IPv6 address takes some two seconds of duplicate address detection.
pub(crate) const IP_VERIFY: Duration = Duration::from_secs(4);

/// How long an interface that is being set up is waited for.
pub(crate) const IP_INTERFACE: Duration = Duration::from_secs(2);

/// How long a network manager that is about to start is waited for.
pub(crate) const IP_MANAGER_START: Duration = Duration::from_secs(5);

/// How long the distribution's scripts may take together to answer one query.
pub(crate) const IP_SCRIPTS: Duration = Duration::from_secs(8);

/// How long the lock of a pool is waited for.
pub(crate) const POOL_LOCK: Duration = Duration::from_secs(5);

/// How long a pool that stays locked is waited for to be [`POOL_STABLE`] after that.
pub(crate) const POOL_READ_LOCKED: Duration = Duration::from_secs(3);

/// How long a locked pool must not have changed to be read without the lock: a program
/// that writes a record does not pause in the middle of it.
pub(crate) const POOL_STABLE: Duration = Duration::from_secs(1);

// Backups.

/// How long hooks may take before a freeze.
pub const HOOKS_BEFORE_FREEZE: Duration = Duration::from_secs(12 * 60);

/// How long after the request the first file system is frozen at the latest.
pub const FREEZE_START: Duration = Duration::from_secs(13 * 60);

/// How long freezing all file systems may take. One that is frozen already can hold up
/// another in ways that the plan does not know.
pub(crate) const FREEZE: Duration = Duration::from_secs(60);

/// How much later than [`FREEZE`] the guard may report that it took too long.
pub(crate) const FREEZE_REPORT: Duration = Duration::from_secs(2);

/// How long a thaw may take for which the host asks.
pub const THAW: Duration = Duration::from_secs(10);

/// How long any other thaw is waited for; the guard continues after that.
pub(crate) const THAW_BRIEF: Duration = Duration::from_secs(3);

/// How long a thaw and the hooks after it may take together.
pub const THAW_AND_HOOKS: Duration = Duration::from_secs(26);

/// The same where the service is being stopped. The supervisor's limit must be longer.
pub const THAW_AND_HOOKS_AT_EXIT: Duration = Duration::from_secs(7);

/// How much of either is for the hooks that are left then, which run side by side: an
/// application must not stay quiesced because the hook of another one hangs.
pub(crate) const HOOKS_SIDE_BY_SIDE: Duration = Duration::from_secs(5);

/// How much of either is for the hooks that are killed then to be gone.
pub(crate) const HOOKS_KILL: Duration = Duration::from_secs(1);

/// How long one file system's path is looked up, or opened.
pub(crate) const LOOKUP: Duration = Duration::from_secs(2);

/// How long all look-ups of a plan may take together.
pub(crate) const LOOKUPS: Duration = Duration::from_secs(10);

/// How long each look-up may take once [`LOOKUPS`] is over.
pub(crate) const LOOKUP_LATE: Duration = Duration::from_millis(100);

/// How long a guard that holds nothing frozen is waited for to exit. The supervisor's
/// limit for a service that has nothing frozen must be longer.
pub const GUARD_EXIT: Duration = Duration::from_millis(300);

/// Whether the `parts`, one after another, are over before `whole` is.
#[must_use]
pub const fn fit(parts: &[Duration], whole: Duration) -> bool {
    let mut rest = parts;
    let mut sum = Duration::ZERO;
    while let [first, others @ ..] = rest {
        sum = sum.saturating_add(*first);
        rest = others;
    }
    sum.as_millis() < whole.as_millis()
}

const _: () = {
    assert!(fit(&[KVP_REPLY, KVP_LAST_RESULT], KERNEL_REPLY));
    assert!(fit(&[IP_CONFIGURATION], KVP_REPLY));
    assert!(fit(&[IP_CONFIGURATION_MIN], IP_CONFIGURATION));
    assert!(fit(
        &[IP_INTERFACE, IP_MANAGER_START, IP_VERIFY, IP_ROLLBACK],
        IP_CONFIGURATION
    ));
    assert!(fit(&[IP_SCRIPTS], KVP_REPLY));
    assert!(fit(&[POOL_LOCK, POOL_READ_LOCKED], KVP_REPLY));
    assert!(fit(&[POOL_STABLE], POOL_READ_LOCKED));

    assert!(fit(&[HOOKS_BEFORE_FREEZE], FREEZE_START));
    assert!(fit(
        &[FREEZE_START, FREEZE, FREEZE_REPORT, THAW_AND_HOOKS],
        KERNEL_FREEZE
    ));
    assert!(fit(&[THAW, HOOKS_SIDE_BY_SIDE, HOOKS_KILL], THAW_AND_HOOKS));
    assert!(fit(&[THAW_AND_HOOKS], KERNEL_REPLY));
    assert!(fit(
        &[HOOKS_SIDE_BY_SIDE, HOOKS_KILL],
        THAW_AND_HOOKS_AT_EXIT
    ));
    assert!(fit(&[THAW_BRIEF], THAW_AND_HOOKS_AT_EXIT));
    assert!(fit(&[KILL], HOOKS_KILL));
    assert!(fit(&[LOOKUP], LOOKUPS));
};
