//! Decides by owners and modes whether an ordinary user may have planted a file. Pure logic.
//!
//! An ordinary user who can write to a directory may plant links, files and directories
//! there before the host copies a file. Such links are not followed, such files not
//! replaced and such directories not entered, whatever the kernel's own settings
//! (`fs.protected_symlinks` and the like) are.

use rustix::process::geteuid;

const STICKY: u32 = 0o1000;
const WRITE_BY_GROUP: u32 = 0o020;
const WRITE_BY_OTHERS: u32 = 0o002;
const SEARCH_BY_OTHERS: u32 = 0o001;

/// Owner, mode and link count of a file, directory or link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ownership {
    pub(super) uid: u32,
    /// Permission bits, the sticky bit among them.
    pub(super) mode: u32,
    /// Number of hard links.
    pub(super) links: u32,
}

/// Why a file, directory or link is not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Distrust {
    #[error(
        "it belongs to user {0}, who may have planted it, as others may write to its directory; \
         give it to root or remove it"
    )]
    OtherUser(u32),

    #[error(
        "any user may have planted it, as its directory is writable by all and has no sticky bit; \
         `chmod o-w` or `chmod +t` the directory"
    )]
    AnyUser,

    #[error(
        "it is a hard link that a user who may write to its directory may have created; remove \
         it"
    )]
    HardLink,

    #[error("user {0} or user {1} may have created it")]
    TwoUsers(u32, u32),

    #[error("a symbolic link of user {0} leads there, and it does not belong to that user")]
    NotLinkOwners(u32),
}

/// Whether a user is root or the user of the agent.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

impl Ownership {
    /// Whether users whom its owner does not trust may write to this directory. The members
    /// of its group are trusted, unless a sticky bit shows that they do not trust each other.
    fn is_open(self) -> bool {
        let writable = match self.mode & STICKY {
            0 => WRITE_BY_OTHERS,
            _ => WRITE_BY_OTHERS | WRITE_BY_GROUP,
        };
        self.mode & writable != 0
    }

    /// Checks that the agent may enter `child`, a directory in this one.
    pub(super) fn may_enter(self, child: Self) -> Result<(), Distrust> {
        if self.is_open() && !self.is_own_or_trusted(child) {
            return Err(Distrust::OtherUser(child.uid));
        }
        Ok(())
    }

    /// Checks that the agent may follow `link` in this directory; returns the ordinary user
    /// who may have created it, if there is one.
    pub(super) fn may_follow(self, link: Self) -> Result<Option<u32>, Distrust> {
        if self.is_open() {
            if self.mode & STICKY == 0 {
                return Err(Distrust::AnyUser);
            }
            if !self.is_own_or_trusted(link) {
                return Err(Distrust::OtherUser(link.uid));
            }
        }
        if link.links > 1 && (self.is_open() || !is_trusted(self.uid)) {
            return Err(Distrust::HardLink);
        }
        match (is_trusted(self.uid), is_trusted(link.uid)) {
            (true, true) => Ok(None),
            (false, true) => Ok(Some(self.uid)),
            (true, false) => Ok(Some(link.uid)),
            (false, false) if self.uid == link.uid => Ok(Some(link.uid)),
            (false, false) => Err(Distrust::TwoUsers(self.uid, link.uid)),
        }
    }

    /// Checks that the agent may replace `file` in this directory by one with the same owner
    /// and mode.
    pub(super) fn may_replace(self, file: Self) -> Result<(), Distrust> {
        if self.is_open() && !self.is_own_or_trusted(file) {
            return Err(Distrust::OtherUser(file.uid));
        }
        let put_by_owner = !is_trusted(self.uid) && file.uid != self.uid;
        if file.links > 1 && (self.is_open() || put_by_owner) {
            return Err(Distrust::HardLink);
        }
        Ok(())
    }

    /// Whether a file in this directory belongs to root or to the directory's owner.
    fn is_own_or_trusted(self, it: Self) -> bool {
        is_trusted(it.uid) || it.uid == self.uid
    }

    /// Whether `user` may search this directory.
    pub(super) fn is_searchable_by(self, user: u32) -> bool {
        self.uid == user || self.mode & SEARCH_BY_OTHERS != 0
    }

    /// Whether only root may write to this directory.
    pub(super) fn is_private(self) -> bool {
        is_trusted(self.uid) && self.mode & (WRITE_BY_GROUP | WRITE_BY_OTHERS) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOB: u32 = 4_000_001;
    const EVE: u32 = 4_000_002;

    fn ownership(uid: u32, mode: u32) -> Ownership {
        Ownership {
            uid,
            mode,
            links: 1,
        }
    }

    fn twice(uid: u32) -> Ownership {
        Ownership {
            links: 2,
            ..ownership(uid, 0o644)
        }
    }

    #[test]
    fn where_others_may_write_only_root_and_the_owner_are_trusted() {
        for mode in [0o1777, 0o1757, 0o1775, 0o0777, 0o0757] {
            let tmp = ownership(0, mode);
            for (uid, reason) in [(0, None), (BOB, Some(Distrust::OtherUser(BOB)))] {
                let it = ownership(uid, 0o777);
                assert_eq!(tmp.may_enter(it).err(), reason, "{mode:o}");
                assert_eq!(tmp.may_replace(it).err(), reason, "{mode:o}");
            }
            assert_eq!(
                ownership(BOB, mode).may_replace(ownership(BOB, 0o600)),
                Ok(())
            );
            let eves = ownership(BOB, mode).may_replace(ownership(EVE, 0o600));
            assert_eq!(eves, Err(Distrust::OtherUser(EVE)));
            assert_eq!(tmp.may_replace(twice(0)), Err(Distrust::HardLink));
        }
    }

    #[test]
    fn links_where_others_may_write() {
        let tmp = ownership(0, 0o1777);
        assert_eq!(tmp.may_follow(ownership(0, 0o777)), Ok(None));
        let bobs = tmp.may_follow(ownership(BOB, 0o777));
        assert_eq!(bobs, Err(Distrust::OtherUser(BOB)));
        assert_eq!(tmp.may_follow(twice(0)), Err(Distrust::HardLink));
        // There, anybody renames what is root's.
        let renamed = ownership(0, 0o777).may_follow(ownership(0, 0o777));
        assert_eq!(renamed, Err(Distrust::AnyUser));
    }

    #[test]
    fn where_nobody_else_may_write_all_is_as_its_owner_wants() {
        for mode in [0o755, 0o700, 0o775, 0o2775, 0o1755] {
            let directory = ownership(0, mode);
            for uid in [0, BOB] {
                assert_eq!(directory.may_enter(ownership(uid, 0o777)), Ok(()));
                assert_eq!(directory.may_replace(ownership(uid, 0o666)), Ok(()));
                assert_eq!(directory.may_replace(twice(uid)), Ok(()));
            }
        }
        let home = ownership(BOB, 0o755);
        assert_eq!(home.may_replace(twice(BOB)), Ok(()));
        assert_eq!(home.may_replace(twice(0)), Err(Distrust::HardLink));
        assert_eq!(home.may_replace(ownership(0, 0o600)), Ok(()));
        assert_eq!(home.may_enter(ownership(0, 0o700)), Ok(()));
    }

    #[test]
    fn a_link_is_of_whoever_may_have_made_it() {
        let (root, home) = (ownership(0, 0o755), ownership(BOB, 0o755));
        let follow = |directory: Ownership, uid| directory.may_follow(ownership(uid, 0o777));
        assert_eq!(follow(root, 0), Ok(None));
        assert_eq!(follow(root, BOB), Ok(Some(BOB)));
        assert_eq!(follow(home, BOB), Ok(Some(BOB)));
        assert_eq!(follow(home, 0), Ok(Some(BOB)));
        assert_eq!(follow(home, EVE), Err(Distrust::TwoUsers(BOB, EVE)));
        assert_eq!(home.may_follow(twice(0)), Err(Distrust::HardLink));
    }
}
