//! Finds the VMBus devices of interfaces, and the other way round, in sysfs.

use std::fs;
use std::path::{Path, PathBuf};

use hyperv_vmbus::Guid;

/// Returns the instance GUID of an interface's VMBus device, if it has one. `root` stands for `/`.
pub(super) fn vmbus_device(root: &Path, interface: &str) -> Option<Guid> {
    let file = class(root).join(interface).join("device/device_id");
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Returns the name of the interface whose VMBus device has this instance GUID. `root` stands for
/// `/`.
pub(in crate::kvp) fn interface_by_device(root: &Path, guid: Guid) -> Option<String> {
    fs::read_dir(class(root))
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find(|name| vmbus_device(root, name) == Some(guid))
}

fn class(root: &Path) -> PathBuf {
    root.join("sys/class/net")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const GUID: Guid = Guid::from_u128(0xf8615163_df3e_46c5_913f_f2d2f965ed0e);

    /// Makes the links of `/sys` as the kernel does.
    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let sys = root.path().join("sys");
        let class = sys.join("class/net");
        fs::create_dir_all(&class).unwrap();
        let devices = [
            (
                "vmbus/0/net/eth0",
                Some("{F8615163-DF3E-46C5-913F-F2D2F965ED0E}\n"),
            ),
            (
                "vmbus/1/net/eth1",
                Some("{00000000-df3e-46c5-913f-f2d2f965ed0e}\n"),
            ),
            ("vmbus/2/net/eth2", Some("0x1004\n")),
            ("virtual/net/lo", None),
        ];
        for (path, id) in devices {
            let interface = sys.join("devices").join(path);
            fs::create_dir_all(&interface).unwrap();
            if let Some(id) = id {
                fs::write(interface.join("../../device_id"), id).unwrap();
                symlink("../..", interface.join("device")).unwrap();
            }
            let name = interface.file_name().unwrap();
            let target = Path::new("../../devices").join(path);
            symlink(target, class.join(name)).unwrap();
        }
        root
    }

    #[test]
    fn an_interface_is_found_by_its_device() {
        let root = root();
        assert_eq!(
            interface_by_device(root.path(), GUID).as_deref(),
            Some("eth0")
        );
        assert_eq!(interface_by_device(root.path(), Guid::from_u128(7)), None);
        assert_eq!(interface_by_device(Path::new("/nowhere"), GUID), None);
    }

    #[test]
    fn only_vmbus_devices_have_a_guid() {
        let root = root();
        assert_eq!(vmbus_device(root.path(), "eth0"), Some(GUID));
        assert_eq!(vmbus_device(root.path(), "eth2"), None);
        assert_eq!(vmbus_device(root.path(), "lo"), None);
    }
}
