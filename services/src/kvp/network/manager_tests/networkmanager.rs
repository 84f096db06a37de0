//! NetworkManager.

use super::*;

#[test]
fn networkmanager() {
    test("networkmanager", "networkmanager::networkmanager", || {
        configurations(dns, None);
    });
}

/// Returns the DNS servers of the device.
pub(super) fn dns() -> String {
    output(
        "nmcli",
        &["--get-values", "IP4.DNS,IP6.DNS", "device", "show", "eth0"],
    )
    .replace('\\', "")
}
