//! The processes that there are, as `/proc` has them.

use std::path::Path;
use std::{fs, io};

/// Their numbers, in the order in which the kernel lists them.
///
/// # Errors
///
/// Where this `/proc` cannot be read.
pub fn numbers(proc: &Path) -> io::Result<impl Iterator<Item = u32> + use<>> {
    let entries = fs::read_dir(proc)?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Whether it has ended, and nobody has asked how.
    pub(crate) is_zombie: bool,
    /// The number of its parent.
    pub(crate) parent: i32,
    /// The number of its process group.
    pub(crate) group: i32,
}

impl Stat {
    /// Of this process; `None` where it has gone.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name in the text is in parentheses, and may have any letter: the fields
    /// follow its last one.
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
    fn names_with_parentheses_hide_no_field() {
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
    fn this_one_is_among_them() {
        let own = std::process::id();
        let mut all = numbers(Path::new("/proc")).unwrap();
        assert!(all.any(|pid| pid == own));
        let stat = Stat::of(own).unwrap();
        assert!(!stat.is_zombie);
        assert_eq!(stat.parent as u32, std::os::unix::process::parent_id());
    }
}
