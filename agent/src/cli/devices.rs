//! `hyperv-agent devices`: what the host offers.

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use hyperv_vmbus::discovery::{DiscoveryError, Roots};

use super::output::EXIT_NOT_HYPERV;
use crate::devices;

pub(super) fn list(json: bool) -> anyhow::Result<ExitCode> {
    let roots = Roots::default();
    let devices = match devices::list(&roots) {
        Ok(devices) => devices,
        Err(DiscoveryError::NoVmbus(_)) => {
            return Ok(no_vmbus(&roots));
        }
        Err(error) => return Err(error.into()),
    };
    let mut out = io::stdout();
    if json {
        serde_json::to_writer_pretty(&mut out, &devices)?;
        writeln!(out)?;
    } else if devices.is_empty() {
        writeln!(out, "The host offers no VMBus device.")?;
    } else {
        write!(out, "{}", devices::table(&devices))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Says that there is no VMBus, and what that means here.
pub(super) fn no_vmbus(roots: &Roots) -> ExitCode {
    let vendor = fs::read_to_string(roots.sys.join("class/dmi/id/sys_vendor"));
    let product = fs::read_to_string(roots.sys.join("class/dmi/id/product_name"));
    let on_hyperv = vendor.is_ok_and(|vendor| vendor.trim_end() == "Microsoft Corporation")
        && product.is_ok_and(|product| product.trim_end() == "Virtual Machine");
    let vmbus = roots.sys.join("bus/vmbus");
    if on_hyperv {
        let _ = writeln!(
            io::stderr(),
            "hyperv-agent: this is a Hyper-V guest, but {} does not exist: load the module with \
             `modprobe hv_vmbus`",
            vmbus.display()
        );
        ExitCode::FAILURE
    } else {
        let _ = writeln!(
            io::stderr(),
            "hyperv-agent: this machine is not a Hyper-V guest ({} does not exist), there is \
             nothing to serve",
            vmbus.display()
        );
        ExitCode::from(EXIT_NOT_HYPERV)
    }
}
