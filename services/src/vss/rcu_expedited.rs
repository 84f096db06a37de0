//! Expedited RCU grace periods while file systems are being frozen.
//!
//! `FIFREEZE` waits for three grace periods of RCU, ten milliseconds or more each, while
//! writers are blocked already. An expedited grace period interrupts each processor
//! instead of waiting for it and takes microseconds.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The switch, for the whole machine. A kernel for one processor has none and does not
/// wait; `rcu_normal` overrides it.
pub(super) const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// Grace periods are expedited until this is dropped. The file stays open, since no path is
/// looked up while file systems are frozen.
#[derive(Debug)]
pub(super) struct ExpeditedRcu(File);

impl ExpeditedRcu {
    /// Calls `announce` and sets the switch. Returns `None` if it is set already or cannot
    /// be: the freeze is slower then.
    pub(super) fn enable(switch: &Path, announce: impl FnOnce()) -> Option<Self> {
        let file = File::options().read(true).write(true).open(switch).ok()?;
        let mut set = [0];
        file.read_exact_at(&mut set, 0).ok()?;
        if set != *b"0" {
            return None;
        }
        announce();
        file.write_all_at(b"1", 0).ok()?;
        Some(Self(file))
    }
}

impl Drop for ExpeditedRcu {
    fn drop(&mut self) {
        // It was writable before, and nothing depends on it.
        let _ = self.0.write_all_at(b"0", 0);
    }
}

/// Returns whether [`ExpeditedRcu::enable`] would set the switch.
pub(super) fn is_off(switch: &Path) -> bool {
    fs::read(switch).is_ok_and(|set| set.starts_with(b"0"))
}

/// Resets the switch in place of a guard that is gone. Returns whether it was set.
///
/// # Errors
///
/// If the switch cannot be read or reset.
pub(super) fn disable(switch: &Path) -> io::Result<bool> {
    let was_on = match fs::read(switch) {
        Ok(set) => set.starts_with(b"1"),
        // The kernel has no switch.
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if was_on {
        fs::write(switch, "0")?;
    }
    Ok(was_on)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_is_on_for_a_while_and_left_alone_where_somebody_else_has_it_on() {
        let directory = tempfile::tempdir().unwrap();
        let switch = directory.path().join("switch");
        assert!(ExpeditedRcu::enable(&switch, || ()).is_none());
        fs::write(&switch, "0\n").unwrap();
        let expedited = ExpeditedRcu::enable(&switch, || ()).unwrap();
        assert_eq!(fs::read(&switch).unwrap(), b"1\n");
        assert!(ExpeditedRcu::enable(&switch, || ()).is_none());
        drop(expedited);
        assert_eq!(fs::read(&switch).unwrap(), b"0\n");
        assert!(is_off(&switch));
        assert!(!disable(&switch).unwrap());
        fs::write(&switch, "1\n").unwrap();
        assert!(ExpeditedRcu::enable(&switch, || ()).is_none());
        assert_eq!(fs::read(&switch).unwrap(), b"1\n");
        assert!(!is_off(&switch));
        assert!(disable(&switch).unwrap() && is_off(&switch));
        fs::remove_file(&switch).unwrap();
        assert!(!disable(&switch).unwrap() && !is_off(&switch));
    }
}
