//! The names of the stock daemons, which the agent replaces.

use std::ffi::OsStr;
use std::path::Path;

use hyperv_services::registry::SERVICES;
use hyperv_services::service::Entry;

/// Returns the service of the stock daemon that is called by this name or path.
pub(crate) fn service(program: &OsStr) -> Option<&'static Entry> {
    let name = Path::new(program).file_name()?.to_str()?;
    SERVICES.into_iter().find(|entry| {
        let service = entry.name;
        [
            format!("hv_{service}_daemon"),
            format!("hv_{service}_uio_daemon"),
            format!("hyperv{service}d"),
        ]
        .contains(&name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stock_daemon_has_its_service() {
        for (name, expected) in [
            ("hv_fcopy_daemon", Some("fcopy")),
            ("/usr/sbin/hv_fcopy_uio_daemon", Some("fcopy")),
            ("hypervfcopyd", Some("fcopy")),
            ("./hv_kvp_daemon", Some("kvp")),
            ("/usr/sbin/hypervkvpd", Some("kvp")),
            ("hv_vss_daemon", Some("vss")),
            ("hypervvssd", Some("vss")),
            ("/hv_kvp_daemon/hyperv-agent", None),
            ("hypervd", None),
            ("", None),
        ] {
            let found = service(OsStr::new(name)).map(|entry| entry.name);
            assert_eq!(found, expected, "{name}");
        }
    }
}
