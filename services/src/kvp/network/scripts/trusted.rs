//! The scripts of a distribution or a site: `hv_get_dns_info`, `hv_get_dhcp_info` and
//! `hv_set_ifconfig`. They run as root, so only root may have put them there.

use std::path::{Path, PathBuf};

use crate::trusted::{self, Refusal};

/// Returns the path of the script if it may be run. The last component stays, even if it
/// is a link: some programs decide by that name what to do.
///
/// # Errors
///
/// [`Refusal`] if a user other than root could have put it there.
pub(super) fn trusted(directory: &Path, name: &str) -> Result<PathBuf, Refusal> {
    let script = trusted::trusted(directory)?.join(name);
    trusted::trusted(&script)?;
    Ok(script)
}
