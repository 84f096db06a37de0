//! The guest's `/sys/bus/vmbus` and `/sys/class/uio`, in memory: the parts of
//! sysfs that a program looks at to find its device. Protocol section 1.
//!
//! Everything here runs in the guest's mount namespace.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::cover::cover;
use crate::port::Offer;

const BUS: &str = "/sys/bus/vmbus";
const CLASS: &str = "/sys/class/uio";

/// Replaces what the machine itself has of VMBus and UIO, and lets the rest of
/// `/sys/bus` and `/sys/class` through.
pub(super) fn prepare() -> Result<()> {
    cover("/sys/bus", &["vmbus"])?;
    cover("/sys/class", &["uio"])?;
    for driver in ["uio_hv_generic", "hv_utils"] {
        let directory = Path::new(BUS).join("drivers").join(driver);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        for file in ["bind", "unbind", "new_id"] {
            write(&directory.join(file), "")?;
        }
    }
    for directory in [&format!("{BUS}/devices"), CLASS] {
        fs::create_dir_all(directory).with_context(|| directory.to_owned())?;
    }
    Ok(())
}

/// Makes a device appear, at once and complete. Gives the file in which a UIO device's
/// channel shows whether it is open.
pub(super) fn add(offer: &Offer, relid: u32) -> Result<Option<File>> {
    let (class, instance, driver) = match offer {
        Offer::Uio {
            class, instance, ..
        } => (class, instance, "uio_hv_generic"),
        Offer::HvUtil {
            class, instance, ..
        } => (class, instance, "hv_utils"),
    };
    let place = PathBuf::from(format!("{BUS}/devices/{instance}"));
    let growing = PathBuf::from(format!("/sys/bus/.{instance}"));
    write(&growing.join("class_id"), &format!("{{{class}}}\n"))?;
    write(&growing.join("device_id"), &format!("{{{instance}}}\n"))?;
    write(&growing.join("id"), &format!("{relid}\n"))?;
    let driver = format!("../../drivers/{driver}");
    symlink(driver, growing.join("driver")).context("the driver's link")?;
    let channel = growing.join(format!("channels/{relid}"));
    fs::create_dir_all(&channel).with_context(|| channel.display().to_string())?;
    let mut shown = None;
    if let Offer::Uio {
        number, ring_len, ..
    } = offer
    {
        let state = growing.join("state");
        shown = Some(File::create(&state).with_context(|| state.display().to_string())?);
        let both = 2 * *ring_len as u64;
        let ring = channel.join("ring");
        File::create(&ring)
            .and_then(|file| file.set_len(both))
            .with_context(|| ring.display().to_string())?;
        let uio = growing.join(format!("uio/uio{number}"));
        write(&uio.join("name"), "vmbus-0000\n")?;
        write(&uio.join("maps/map0/name"), "txrx_rings\n")?;
        write(&uio.join("maps/map0/size"), &format!("{both:#018x}\n"))?;
        symlink("../..", uio.join("device")).context("the device's link")?;
    }
    fs::rename(&growing, &place).with_context(|| place.display().to_string())?;
    if let Offer::Uio { number, .. } = offer {
        let target = format!("../../bus/vmbus/devices/{instance}/uio/uio{number}");
        symlink(target, format!("{CLASS}/uio{number}")).context("the class's link")?;
    }
    Ok(shown)
}

/// Makes a device disappear, at once.
pub(super) fn remove(offer: &Offer) -> Result<()> {
    let instance = match offer {
        Offer::Uio {
            number, instance, ..
        } => {
            let link = format!("{CLASS}/uio{number}");
            fs::remove_file(&link).context(link)?;
            instance
        }
        Offer::HvUtil { instance, .. } => instance,
    };
    let place = format!("{BUS}/devices/{instance}");
    let going = format!("/sys/bus/.{instance}");
    fs::rename(&place, &going).context(place)?;
    fs::remove_dir_all(&going).context(going)
}

fn write(path: &Path, content: &str) -> Result<()> {
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(path, content))
        .with_context(|| path.display().to_string())
}

/// Lets the kernel announce something to who listens to it, as it does when a
/// device comes or goes: an event of the subsystem `misc`. Nobody but the kernel
/// can send these, but it can be asked to repeat one of its own.
pub(super) fn announce() -> Result<()> {
    const EVENT: &str = "/sys/devices/virtual/misc/fuse/uevent";
    fs::write(EVENT, "change").context(EVENT)
}
