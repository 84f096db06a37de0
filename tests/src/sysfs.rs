//! A made-up `/sys` and `/dev`, with what the kernel shows of VMBus devices.
//! Protocol section 1.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::port::Offer;

const UIO_DRIVER: &str = "uio_hv_generic";
const HV_UTILS: &str = "hv_utils";

/// The two directories.
#[derive(Debug, Clone)]
pub struct Tree {
    /// In place of `/sys`.
    pub sys: PathBuf,
    /// In place of `/dev`.
    pub dev: PathBuf,
}

impl Tree {
    /// Makes both under `root`, as in a guest to which nothing is offered.
    ///
    /// # Errors
    ///
    /// If a directory cannot be made.
    pub fn new(root: &Path) -> Result<Self> {
        let tree = Self {
            sys: root.join("sys"),
            dev: root.join("dev"),
        };
        fs::create_dir_all(tree.sys.join("bus/vmbus/devices"))?;
        for driver in [UIO_DRIVER, HV_UTILS] {
            let driver = tree.sys.join("bus/vmbus/drivers").join(driver);
            fs::create_dir_all(&driver)?;
            for file in ["bind", "unbind", "new_id"] {
                fs::write(driver.join(file), "")?;
            }
        }
        fs::create_dir_all(tree.sys.join("class/uio"))?;
        fs::create_dir_all(tree.dev.join("vmbus"))?;
        Ok(tree)
    }

    /// Where the device's node is.
    pub fn node(&self, offer: &Offer) -> PathBuf {
        match offer {
            Offer::Uio { number, .. } => self.dev.join(format!("uio{number}")),
            Offer::HvUtil { node, .. } => self.dev.join(node),
        }
    }

    fn device(&self, offer: &Offer) -> PathBuf {
        let (Offer::Uio { instance, .. } | Offer::HvUtil { instance, .. }) = offer;
        self.sys
            .join("bus/vmbus/devices")
            .join(instance.to_string())
    }

    /// Makes a device appear; its node is an empty file.
    ///
    /// # Errors
    ///
    /// If a file cannot be made.
    pub fn add(&self, offer: &Offer) -> Result<()> {
        let (class, driver) = match offer {
            Offer::Uio { class, .. } => (class, UIO_DRIVER),
            Offer::HvUtil { class, .. } => (class, HV_UTILS),
        };
        let device = self.device(offer);
        // The device's directory comes last: who looks meanwhile sees all of it
        // or none.
        let hidden = self.sys.join("bus/vmbus").join("appearing");
        fs::create_dir_all(&hidden)?;
        fs::write(hidden.join("class_id"), format!("{{{class}}}\n"))?;
        let instance = device.file_name().unwrap_or_default().to_string_lossy();
        fs::write(hidden.join("device_id"), format!("{{{instance}}}\n"))?;
        // Open: a driver opens the channel when it takes the device.
        fs::write(hidden.join("state"), "3\n")?;
        symlink(
            Path::new("../../drivers").join(driver),
            hidden.join("driver"),
        )?;
        if let Offer::Uio {
            number, ring_len, ..
        } = offer
        {
            let map = self.sys.join(format!("class/uio/uio{number}/maps/map0"));
            fs::create_dir_all(&map)?;
            fs::write(map.join("size"), format!("0x{:016x}\n", 2 * ring_len))?;
            fs::create_dir_all(hidden.join(format!("uio/uio{number}")))?;
        }
        fs::write(self.node(offer), "")?;
        fs::rename(&hidden, &device).with_context(|| format!("making {}", device.display()))
    }

    /// Makes a device disappear.
    ///
    /// # Errors
    ///
    /// If a file cannot be removed.
    pub fn remove(&self, offer: &Offer) -> Result<()> {
        let gone = self.sys.join("bus/vmbus").join("disappearing");
        fs::rename(self.device(offer), &gone)?;
        fs::remove_dir_all(&gone)?;
        if let Offer::Uio { number, .. } = offer {
            fs::remove_dir_all(self.sys.join(format!("class/uio/uio{number}")))?;
        }
        match fs::remove_file(self.node(offer)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}
