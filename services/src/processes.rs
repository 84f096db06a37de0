//! The processes of the machine, from `/proc`.

use std::path::Path;
use std::{fs, io};

/// Lists process IDs in the kernel's order.
///
/// # Errors
///
/// Returns an error if `proc` cannot be read.
pub fn numbers(proc: &Path) -> io::Result<impl Iterator<Item = u32> + use<>> {
    let entries = fs::read_dir(proc)?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// Returns the parent of a process; `None` if the process is gone.
pub fn parent(pid: u32) -> Option<u32> {
    Stat::of(pid)?.parent.try_into().ok()
}

/// A process as `/proc/PID/stat` describes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Whether it has ended and its parent has not reaped it.
    pub(crate) is_zombie: bool,
    /// Process ID of its parent.
    pub(crate) parent: i32,
    /// ID of its process group.
    pub(crate) group: i32,
}

impl Stat {
    /// Reads the status of a process; `None` if it is gone.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Parses the fields after the name, which is in parentheses and may itself contain
    /// parentheses and spaces.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        Some(Self {
            is_zombie: fields.next()? == "Z",
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parentheses_in_a_name_hide_no_field() {
        let stat = |is_zombie, parent, group| {
            Some(Stat {
                is_zombie,
                parent,
                group,
            })
        };
        assert_eq!(Stat::parse("8 (a) Z 1) S 7 99 99 0"), stat(false, 7, 99));
        assert_eq!(Stat::parse("8 (S 7 7) Z 1 98 99 0"), stat(true, 1, 98));
        assert_eq!(Stat::parse("8 (a) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn this_process_is_listed() {
        let own = std::process::id();
        let mut all = numbers(Path::new("/proc")).unwrap();
        assert!(all.any(|pid| pid == own));
        let stat = Stat::of(own).unwrap();
        assert!(!stat.is_zombie);
        assert_eq!(parent(own), Some(std::os::unix::process::parent_id()));
    }
}
