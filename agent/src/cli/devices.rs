//! `hyperv-agent devices`: the VMBus devices that the host offers.

use hyperv_vmbus::discovery::{DiscoveryError, Roots};

use super::output::{self, Exit, complain};
use crate::devices;

pub(super) fn list(json: bool, verbose: bool) -> anyhow::Result<Exit> {
    let roots = Roots::default();
    let devices = match devices::list_detailed(&roots) {
        Ok(devices) => devices,
        Err(DiscoveryError::NoVmbus(_)) => return Ok(no_vmbus(&roots)),
        Err(error) => return Err(error.into()),
    };
    if json {
        output::print_json(&devices)?;
    } else if devices.is_empty() {
        output::print("The host offers no VMBus device.\n")?;
    } else {
        let text = match verbose {
            true => devices::details(&devices),
            false => devices::table(devices.iter().map(|it| &it.device)),
        };
        output::print(&text)?;
    }
    Ok(Exit::Success)
}

/// Says that there is no VMBus, and what that means on this machine.
pub(super) fn no_vmbus(roots: &Roots) -> Exit {
    let vmbus = roots.sys.join("bus/vmbus");
    let vmbus = vmbus.display();
    if devices::is_hyperv_guest(roots) {
        complain(&format!(
            "this is a Hyper-V guest, but {vmbus} does not exist: load the module with `modprobe \
             hv_vmbus`"
        ));
        Exit::Failure
    } else {
        complain(&format!(
            "this machine is not a Hyper-V guest: {vmbus} does not exist"
        ));
        Exit::NotHyperv
    }
}
