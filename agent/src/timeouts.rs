//! Time limits of the agent that depend on each other, and how they nest. A limit that no
//! other depends on stands in the file that uses it.

use std::time::Duration;

use hyperv_services::timeouts::{GUARD_EXIT, THAW_AND_HOOKS_AT_EXIT, fit};

/// How long workers may take to end. Then the process exits without them.
pub(crate) const STOP: Duration = Duration::from_millis(700);

/// How long workers may take to end while file systems are frozen: the watchdog thaws
/// them in any case, but hooks may have to run.
pub(crate) const STOP_FROZEN: Duration = Duration::from_secs(8);

/// How long the client of a capture may take to receive the rest at the end.
pub(crate) const CAPTURE_FLUSH: Duration = Duration::from_millis(200);

/// How long the last log records may take to be written at the end.
pub(crate) const LOG_FLUSH: Duration = Duration::from_millis(200);

/// When systemd kills an agent that does not end: `TimeoutStopSec` of the unit.
const SERVICE_MANAGER_STOP: Duration = Duration::from_secs(10);

/// How long creating what other programs expect of the services may take. Then the agent
/// is ready without it.
pub(crate) const PREPARE: Duration = Duration::from_secs(2);

/// When systemd kills an agent that does not get ready: `TimeoutStartSec` of the unit.
const SERVICE_MANAGER_START: Duration = Duration::from_secs(30);

/// How long an operation of a worker may take before a warning says what it waits for.
pub(crate) const OVERDUE: Duration = Duration::from_secs(5);

/// How long the search for another program that has a device open may take.
pub(crate) const HOLDER_SEARCH: Duration = Duration::from_secs(2);

/// The backoff after the first failure of a device. Each further failure doubles it.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The longest backoff.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// How long a device is open before it counts as healthy, which resets its backoff.
pub(crate) const HEALTHY: Duration = Duration::from_secs(60);

/// The same after a request that succeeded. It is not zero: a host may send one request
/// and then break the ring, over and over.
pub(crate) const HEALTHY_AFTER_SUCCESS: Duration = Duration::from_secs(10);

const _: () = {
    assert!(fit(&[GUARD_EXIT], STOP));
    assert!(fit(&[THAW_AND_HOOKS_AT_EXIT], STOP_FROZEN));
    assert!(fit(&[STOP], STOP_FROZEN));
    assert!(fit(
        &[STOP_FROZEN, CAPTURE_FLUSH, LOG_FLUSH],
        SERVICE_MANAGER_STOP
    ));
    assert!(fit(&[PREPARE], SERVICE_MANAGER_START));
    assert!(fit(&[HOLDER_SEARCH], OVERDUE));
    assert!(fit(&[BACKOFF_MIN], BACKOFF_MAX));
    assert!(fit(&[BACKOFF_MAX], HEALTHY));
    assert!(fit(&[HEALTHY_AFTER_SUCCESS], HEALTHY));
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_has_the_limits_of_the_service_manager() {
        let unit = include_str!("../../packaging/systemd/hyperv-agent.service");
        for (key, limit) in [
            ("TimeoutStartSec", SERVICE_MANAGER_START),
            ("TimeoutStopSec", SERVICE_MANAGER_STOP),
        ] {
            let line = format!("\n{key}={}s\n", limit.as_secs());
            assert!(unit.contains(&line), "{line}");
        }
    }
}
