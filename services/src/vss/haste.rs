//! Haste in the kernel while file systems are being frozen.
//!
//! For each file system that it freezes, the kernel waits three times until no
//! processor can be in the middle of a write any more (grace periods of RCU). It
//! takes its time for that, ten milliseconds or more for each, while whoever
//! wants to write stands still already. Told to hurry, it asks each processor
//! instead, which takes microseconds.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The switch, for the whole machine. A kernel for one processor has none and
/// does not wait; on one that is never to hurry (`rcu_normal`) it does nothing.
pub(super) const SWITCH: &str = "/sys/kernel/rcu_expedited";

/// The kernel hurries until this is dropped. The switch is open meanwhile: no
/// path is looked up while file systems are frozen.
#[derive(Debug)]
pub(super) struct Haste(File);

impl Haste {
    /// Lets the kernel hurry, and says so by `announce` before. `None` where it does
    /// so anyway, or cannot be told: then a freeze takes as long as it takes.
    pub(super) fn begin(switch: &Path, announce: impl FnOnce()) -> Option<Self> {
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

impl Drop for Haste {
    fn drop(&mut self) {
        // It could be told before, and nothing depends on it.
        let _ = self.0.write_all_at(b"0", 0);
    }
}

/// Lets the kernel take its time again, in the place of an agent that is gone.
pub(super) fn end(switch: &Path) {
    let _ = fs::write(switch, "0");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_is_on_for_a_while_and_left_alone_where_somebody_else_has_it_on() {
        let directory = tempfile::tempdir().unwrap();
        let switch = directory.path().join("switch");
        assert!(Haste::begin(&switch, || ()).is_none());
        fs::write(&switch, "0\n").unwrap();
        let haste = Haste::begin(&switch, || ()).unwrap();
        assert_eq!(fs::read(&switch).unwrap(), b"1\n");
        assert!(Haste::begin(&switch, || ()).is_none());
        drop(haste);
        assert_eq!(fs::read(&switch).unwrap(), b"0\n");
        fs::write(&switch, "1\n").unwrap();
        assert!(Haste::begin(&switch, || ()).is_none());
        assert_eq!(fs::read(&switch).unwrap(), b"1\n");
    }
}
