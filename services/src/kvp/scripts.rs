//! The scripts of a distribution or a site (`hv_get_dns_info`, `hv_get_dhcp_info`,
//! `hv_set_ifconfig`): they are run as root, so root alone may have put them there.

use std::path::{Path, PathBuf};

use crate::trusted::{self, Refusal};

/// The script's path, where it may be run. It keeps its name, by which some programs
/// tell what they are to do; a link to it is root's own.
///
/// # Errors
///
/// Any [`Refusal`].
pub(super) fn trusted(directory: &Path, name: &str) -> Result<PathBuf, Refusal> {
    let script = trusted::trusted(directory)?.join(name);
    trusted::trusted(&script)?;
    Ok(script)
}
