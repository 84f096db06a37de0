//! Copies the metadata of a replaced file to the new one: owner, mode, access control
//! lists, security labels and other extended attributes.
//!
//! What the file system does not support is skipped. Any other failure must fail the copy:
//! the new file must not be less protected than the one it replaces.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::buffer::spare_capacity;
use rustix::fs::{
    Gid, Mode, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr, fremovexattr, fsetxattr,
    fstat,
};
use rustix::io::Errno;

/// The kernel's limit for a value, and for the list of names.
const XATTR_MAX: usize = 65536;

const ACL: &CStr = c"system.posix_acl_access";

/// Attributes about a file's content, which is new: the capabilities of a program, and
/// signatures.
const ABOUT_CONTENT: [&CStr; 3] = [c"security.capability", c"security.ima", c"security.evm"];

/// What could not be copied, and why.
pub(super) type Lost = (String, Errno);

/// Copies the metadata of `old` to `new`.
pub(super) fn copy(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> Result<(), Lost> {
    let lost = |what: &str| {
        let what = what.to_owned();
        move |error| (what, error)
    };
    let before = fstat(old).map_err(lost("the owner and mode"))?;
    let after = fstat(new).map_err(lost("the owner and mode"))?;
    if (before.st_uid, before.st_gid) != (after.st_uid, after.st_gid) {
        let (owner, group) = (Uid::from_raw(before.st_uid), Gid::from_raw(before.st_gid));
        fchown(new, Some(owner), Some(group)).map_err(lost("the owner"))?;
    }
    let names = names(old).map_err(lost("the extended attributes"))?;
    // The new file may have an access control list from its directory's default list.
    let has_list = names.iter().any(|name| name.as_c_str() == ACL);
    let list = || lost("the access control list");
    if !has_list && value(new, ACL).map_err(list())?.is_some() {
        fremovexattr(new, ACL).map_err(list())?;
    }
    for name in &names {
        let what = || format!("the attribute {name:?}");
        if ABOUT_CONTENT.contains(&name.as_c_str()) {
            continue;
        }
        let Some(value) = value(old, name).map_err(|error| (what(), error))? else {
            continue;
        };
        // Setting an attribute needs more privileges than reading it.
        if self::value(new, name).is_ok_and(|there| there.as_ref() == Some(&value)) {
            continue;
        }
        match fsetxattr(new, name.as_c_str(), &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err((what(), error)),
        }
    }
    // Last, as changing the owner or the list changes mode bits. A file system that
    // simulates modes refuses changes, and simulates the same mode for both.
    let after = fstat(new).map_err(lost("the mode"))?;
    if before.st_mode != after.st_mode {
        fchmod(new, Mode::from_raw_mode(before.st_mode)).map_err(lost("the mode"))?;
    }
    Ok(())
}

fn names(file: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut list = Vec::with_capacity(XATTR_MAX);
    match flistxattr(file, spare_capacity(&mut list)) {
        Ok(_) => {}
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    let names = list.split_inclusive(|&byte| byte == 0);
    Ok(names
        .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
        .map(CStr::to_owned)
        .collect())
}

/// Reads an attribute; `None` if it does not exist.
fn value(file: BorrowedFd<'_>, name: &CStr) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = Vec::with_capacity(XATTR_MAX);
    match fgetxattr(file, name, spare_capacity(&mut value)) {
        Ok(_) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}
