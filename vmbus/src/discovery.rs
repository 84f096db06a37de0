//! The VMBus devices in sysfs, and their binding to a driver. Protocol section 1.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::Guid;

const DEVICES: &str = "bus/vmbus/devices";
const DRIVERS: &str = "bus/vmbus/drivers";
const UIO_DRIVER: &str = "uio_hv_generic";

/// Where the kernel's file systems are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Sysfs.
    pub sys: PathBuf,
    /// Device nodes.
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            dev: "/dev".into(),
        }
    }
}

/// Returns whether the firmware describes a VMBus, which exists in sysfs once the kernel
/// module `hv_vmbus` is loaded.
pub fn firmware_has_vmbus(roots: &Roots) -> bool {
    let devices = names(&roots.sys.join("bus/acpi/devices"));
    let mut devices = devices.ok().flatten().into_iter().flatten();
    devices.any(|name| {
        // Both spellings exist, and a number follows.
        name.get(..6)
            .is_some_and(|id| id.eq_ignore_ascii_case("VMBUS:"))
    })
}

/// `state` of a device whose channel is open.
const STATE_OPEN: &str = "3";

/// `state` of a device whose channel is being opened.
const STATE_OPENING: &str = "1";

/// A VMBus device that the host offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Instance of the device.
    pub instance: Guid,
    /// Class of the device.
    pub class: Guid,
    /// Name of its driver, if it has one.
    pub driver: Option<String>,
    /// Its UIO device, if `uio_hv_generic` is its driver.
    pub uio: Option<Uio>,
    /// Whether its channel is open; `None` if the kernel does not say. `hv_utils` creates
    /// its character device before it opens the channel, and some kernels crash if a
    /// program registers in between.
    pub open: Option<bool>,
}

/// The UIO device of a VMBus device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uio {
    /// Name of its node under `/dev`, such as `uio0`.
    pub name: String,
    /// Bytes of each of its two rings, header page included; `None` while the attribute is
    /// missing. The kernel announces a device before it creates the attribute, and sends
    /// no further uevent: scan again shortly after.
    pub ring_len: Option<usize>,
}

/// Why devices cannot be listed, or one cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The kernel has no VMBus: this is not a Hyper-V guest, or `hv_vmbus` is not loaded.
    #[error("{} does not exist: the kernel has no VMBus", .0.display())]
    NoVmbus(PathBuf),
    /// `uio_hv_generic` is not loaded.
    #[error("{} does not exist: load the module with `modprobe {UIO_DRIVER}`", .0.display())]
    NoUioDriver(PathBuf),
    /// A file in sysfs cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the call.
        source: io::Error,
    },
}

/// Returns all VMBus devices, sorted by instance, except those that vanish meanwhile.
///
/// # Errors
///
/// [`DiscoveryError::NoVmbus`] if the kernel has no VMBus, [`DiscoveryError::Io`] if a
/// file cannot be read.
pub fn devices(roots: &Roots) -> Result<Vec<Device>, DiscoveryError> {
    let directory = roots.sys.join(DEVICES);
    let mut found = Vec::new();
    for name in names(&directory)?.ok_or_else(|| DiscoveryError::NoVmbus(directory.clone()))? {
        // Only a name that is a GUID is a device.
        if let Ok(instance) = name.parse() {
            if let Some(device) = device(roots, &directory.join(&name), instance)? {
                found.push(device);
            }
        }
    }
    found.sort_by_key(|device| device.instance);
    Ok(found)
}

/// Returns whether the channel of a UIO device, such as `uio0`, is open or being opened;
/// `None` if the kernel does not say. The kernel opens the channel when the first program
/// opens the device, and closes it with the last; before Linux 5.0 it is always open.
pub fn is_open(roots: &Roots, uio: &OsStr) -> Option<bool> {
    let device = roots.sys.join("class/uio").join(uio).join("device");
    let state = attribute(&device.join("state")).ok()??;
    Some([STATE_OPEN, STATE_OPENING].contains(&state.as_str()))
}

fn device(roots: &Roots, path: &Path, instance: Guid) -> Result<Option<Device>, DiscoveryError> {
    let class_id = path.join("class_id");
    let Some(class) = attribute(&class_id)? else {
        return Ok(None);
    };
    let Ok(class) = class.parse() else {
        return Err(invalid(&class_id, format!("invalid GUID {class:?}")));
    };
    let driver = fs::read_link(path.join("driver"))
        .ok()
        .and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
    Ok(Some(Device {
        instance,
        class,
        driver,
        uio: uio(roots, path)?,
        open: attribute(&path.join("state"))?.map(|state| state == STATE_OPEN),
    }))
}

fn uio(roots: &Roots, device: &Path) -> Result<Option<Uio>, DiscoveryError> {
    let Some(name) = names(&device.join("uio"))?
        .unwrap_or_default()
        .into_iter()
        .find(|name| name.starts_with("uio"))
    else {
        return Ok(None);
    };
    let size = roots
        .sys
        .join("class/uio")
        .join(&name)
        .join("maps/map0/size");
    let text = attribute(&size)?;
    let ring_len = text.as_deref().and_then(parse_size).map(|both| both / 2);
    match (text, ring_len) {
        (Some(text), None) => {
            let words = format!("invalid size {text:?}: expected a number of bytes");
            Err(invalid(&size, words))
        }
        _ => Ok(Some(Uio { name, ring_len })),
    }
}

fn parse_size(text: &str) -> Option<usize> {
    match text.strip_prefix("0x") {
        Some(digits) => usize::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Returns the names in a directory; `None` if it does not exist.
fn names(directory: &Path) -> Result<Option<Vec<String>>, DiscoveryError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if vanished(&error) => return Ok(None),
        Err(error) => return Err(io_error(directory)(error)),
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()
        .map(Some)
        .map_err(io_error(directory))
}

/// Returns the content of an attribute, without the newline; `None` if it does not
/// exist.
fn attribute(path: &Path) -> Result<Option<String>, DiscoveryError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if vanished(&error) => Ok(None),
        Err(error) => Err(io_error(path)(error)),
    }
}

fn vanished(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
        || error.raw_os_error().map(Errno::from_raw) == Some(Errno::ENODEV)
}

/// Binds a device to `uio_hv_generic`: unbinds it from its driver, if it has one, and adds
/// its class to those of the UIO driver.
///
/// # Errors
///
/// [`DiscoveryError::NoUioDriver`] if the module is not loaded, [`DiscoveryError::Io`] if
/// a file cannot be written. If the UIO driver does not take the device, it is bound to
/// its former driver again.
pub fn bind_to_uio(roots: &Roots, device: &Device) -> Result<(), DiscoveryError> {
    let drivers = roots.sys.join(DRIVERS);
    let uio = drivers.join(UIO_DRIVER);
    if !uio.exists() {
        return Err(DiscoveryError::NoUioDriver(uio));
    }
    let instance = device.instance.to_string();
    if device.driver.as_deref() == Some(UIO_DRIVER) {
        return Ok(());
    }
    if let Some(driver) = &device.driver {
        write(&drivers.join(driver).join("unbind"), &instance)?;
    }
    // The kernel then binds all devices of the class that have no driver.
    let bound = match write(&uio.join("new_id"), &device.class.to_string()) {
        Err(DiscoveryError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
            write(&uio.join("bind"), &instance)
        }
        bound => bound,
    };
    if let (Err(_), Some(driver)) = (&bound, &device.driver) {
        write(&drivers.join(driver).join("bind"), &instance)?;
    }
    bound
}

fn write(path: &Path, text: &str) -> Result<(), DiscoveryError> {
    fs::write(path, text).map_err(io_error(path))
}

fn invalid(path: &Path, words: String) -> DiscoveryError {
    io_error(path)(io::Error::new(ErrorKind::InvalidData, words))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DiscoveryError {
    let path = path.to_owned();
    move |source| DiscoveryError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const CLASS: &str = "34d14be3-dee4-41c8-9ae7-6b174977c192";
    const INSTANCE: &str = "eb765408-105f-49b6-b4aa-c123b64d17d4";

    struct Sysfs(tempfile::TempDir);

    impl Sysfs {
        fn new() -> Self {
            let sysfs = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(sysfs.path("bus/vmbus/devices")).unwrap();
            sysfs
        }

        fn path(&self, relative: &str) -> PathBuf {
            self.0.path().join(relative)
        }

        fn write(&self, relative: &str, text: &str) {
            let path = self.path(relative);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn roots(&self) -> Roots {
            Roots {
                sys: self.0.path().into(),
                dev: "/nonexistent".into(),
            }
        }

        fn fcopy(&self) {
            self.write(
                &format!("bus/vmbus/devices/{INSTANCE}/class_id"),
                &format!("{{{CLASS}}}\n"),
            );
        }

        fn uio(&self, size: &str) {
            fs::create_dir_all(self.path(&format!("bus/vmbus/devices/{INSTANCE}/uio/uio3")))
                .unwrap();
            self.write("class/uio/uio3/maps/map0/size", size);
            fs::create_dir_all(self.path("bus/vmbus/drivers/uio_hv_generic")).unwrap();
            symlink(
                "../../drivers/uio_hv_generic",
                self.path(&format!("bus/vmbus/devices/{INSTANCE}/driver")),
            )
            .unwrap();
        }

        fn read(&self, relative: &str) -> Option<String> {
            fs::read_to_string(self.path(relative)).ok()
        }
    }

    fn bare(driver: Option<&str>) -> Device {
        Device {
            instance: INSTANCE.parse().unwrap(),
            class: CLASS.parse().unwrap(),
            driver: driver.map(str::to_owned),
            uio: None,
            open: None,
        }
    }

    #[test]
    fn a_kernel_without_vmbus_is_reported() {
        let roots = Roots {
            sys: "/nonexistent".into(),
            dev: "/nonexistent".into(),
        };
        assert!(matches!(devices(&roots), Err(DiscoveryError::NoVmbus(_))));
    }

    #[test]
    fn the_firmware_tells_of_a_vmbus_before_the_kernel_does() {
        let sysfs = Sysfs::new();
        assert!(!firmware_has_vmbus(&sysfs.roots()));
        for (device, vmbus) in [("PNP0A03:00", false), ("VMBUS", false), ("VMBus:01", true)] {
            fs::create_dir_all(sysfs.path(&format!("bus/acpi/devices/{device}"))).unwrap();
            assert_eq!(firmware_has_vmbus(&sysfs.roots()), vmbus, "{device}");
        }
    }

    #[test]
    fn the_size_of_the_rings_is_read_from_sysfs() {
        for (size, ring_len) in [
            ("0x8000\n", 16 << 10),
            ("0x000000000000a000\n", 20 << 10),
            ("0x22000\n", 68 << 10),
            ("0x400000\n", 2 << 20),
        ] {
            let sysfs = Sysfs::new();
            sysfs.fcopy();
            sysfs.uio(size);
            let mut expected = bare(Some("uio_hv_generic"));
            expected.uio = Some(Uio {
                name: "uio3".into(),
                ring_len: Some(ring_len),
            });
            assert_eq!(devices(&sysfs.roots()).unwrap(), [expected]);
        }
    }

    #[test]
    fn devices_without_a_driver_and_incomplete_ones_are_listed() {
        let sysfs = Sysfs::new();
        assert_eq!(devices(&sysfs.roots()).unwrap(), []);
        sysfs.fcopy();
        fs::create_dir_all(sysfs.path("bus/vmbus/devices/not-a-guid")).unwrap();
        fs::create_dir_all(sysfs.path("bus/vmbus/devices/00000000-0000-0000-0000-000000000001"))
            .unwrap();
        assert_eq!(devices(&sysfs.roots()).unwrap(), [bare(None)]);
        for (state, open) in [("0\n", false), ("1\n", false), ("3\n", true)] {
            sysfs.write(&format!("bus/vmbus/devices/{INSTANCE}/state"), state);
            let found = devices(&sysfs.roots()).unwrap();
            assert_eq!(found[0].open, Some(open), "state {state:?}");
        }
        fs::remove_file(sysfs.path(&format!("bus/vmbus/devices/{INSTANCE}/state"))).unwrap();
        fs::create_dir_all(sysfs.path(&format!("bus/vmbus/devices/{INSTANCE}/uio/uio3"))).unwrap();
        let mut settling = bare(None);
        settling.uio = Some(Uio {
            name: "uio3".into(),
            ring_len: None,
        });
        assert_eq!(devices(&sysfs.roots()).unwrap(), [settling]);
        sysfs.write("class/uio/uio3/maps/map0/size", "many\n");
        let error = devices(&sysfs.roots()).unwrap_err().to_string();
        assert!(
            error.contains("map0/size: invalid size \"many\""),
            "{error}"
        );
    }

    #[test]
    fn binding_adds_the_class_to_the_uio_driver() {
        let sysfs = Sysfs::new();
        let roots = sysfs.roots();
        assert!(matches!(
            bind_to_uio(&roots, &bare(None)),
            Err(DiscoveryError::NoUioDriver(_))
        ));
        sysfs.write("bus/vmbus/drivers/uio_hv_generic/new_id", "");
        sysfs.write("bus/vmbus/drivers/hv_utils/unbind", "");
        bind_to_uio(&roots, &bare(Some("hv_utils"))).unwrap();
        assert_eq!(
            sysfs
                .read("bus/vmbus/drivers/uio_hv_generic/new_id")
                .as_deref(),
            Some(CLASS)
        );
        assert_eq!(
            sysfs.read("bus/vmbus/drivers/hv_utils/unbind").as_deref(),
            Some(INSTANCE)
        );
    }

    #[test]
    fn a_device_that_cannot_be_bound_is_bound_to_its_driver_again() {
        let sysfs = Sysfs::new();
        fs::create_dir_all(sysfs.path("bus/vmbus/drivers/uio_hv_generic/new_id")).unwrap();
        sysfs.write("bus/vmbus/drivers/hv_utils/unbind", "");
        let error = bind_to_uio(&sysfs.roots(), &bare(Some("hv_utils"))).unwrap_err();
        assert!(error.to_string().contains("new_id"), "{error}");
        assert_eq!(
            sysfs.read("bus/vmbus/drivers/hv_utils/bind").as_deref(),
            Some(INSTANCE)
        );
    }

    #[test]
    fn the_state_says_whether_a_channel_is_open() {
        let sysfs = Sysfs::new();
        let roots = Roots {
            sys: sysfs.path(""),
            ..Roots::default()
        };
        let uio = OsStr::new("uio0");
        assert_eq!(is_open(&roots, uio), None);
        fs::create_dir_all(sysfs.path("class/uio/uio0/device")).unwrap();
        for (state, open) in [("0", false), ("1", true), ("2", false), ("3", true)] {
            fs::write(
                sysfs.path("class/uio/uio0/device/state"),
                format!("{state}\n"),
            )
            .unwrap();
            assert_eq!(is_open(&roots, uio), Some(open), "{state}");
        }
    }
}
