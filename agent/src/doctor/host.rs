//! The VMBus, what the host offers on it, and the drivers.

use hyperv_services::service::Entry;

use super::finding::Finding;
use super::machine::Machine;
use crate::locate::{has_node, locate};

/// Whether there is a VMBus.
pub(super) fn hypervisor(machine: &Machine) -> Vec<Finding> {
    let bus = machine.roots.sys.join("bus/vmbus");
    if bus.exists() {
        return Vec::new();
    }
    let bus = bus.display();
    if machine.has_vmbus() {
        let text = format!(
            "{bus} does not exist, although there are nodes of its devices: a container hides it"
        );
        return vec![Finding::note(
            text,
            "for file copy over UIO, mount sysfs in the container",
        )];
    }
    if machine.is_hyperv_guest() {
        return vec![Finding::error(
            format!("this is a Hyper-V guest, but {bus} does not exist"),
            "load the module with `modprobe hv_vmbus`",
        )];
    }
    vec![Finding::error(
        format!("this machine is not a Hyper-V guest: {bus} does not exist"),
        "run the agent in a virtual machine of Hyper-V or Azure",
    )]
}

/// Whether the host offers a device for each service.
pub(super) fn offered(machine: &Machine) -> Vec<Finding> {
    if !machine.has_vmbus() {
        return Vec::new();
    }
    let devices = machine.devices();
    let is_offered = |entry: &Entry| {
        devices.iter().any(|it| it.class == entry.class) || has_node(entry, &machine.roots)
    };
    let mut findings = Vec::new();
    for entry in machine.services.iter().filter(|entry| !is_offered(entry)) {
        let name = match entry.name {
            "fcopy" => "Guest Service Interface",
            "kvp" => "Key-Value Pair Exchange",
            _ => "VSS",
        };
        let mut text = format!("{}: the host does not offer the service", entry.name);
        let remedy = format!(
            "on the host: Enable-VMIntegrationService -VMName NAME -Name '{name}'; or switch the \
             service off: `{} = false` in [services]",
            entry.name
        );
        findings.push(if entry.name == "fcopy" {
            text += ", which is switched off on Hyper-V by default and does not exist on Azure";
            Finding::note(text, remedy)
        } else {
            Finding::warning(text, remedy)
        });
    }
    findings
}

/// Whether the modules are loaded that the devices without a driver need.
pub(super) fn modules(machine: &Machine) -> Vec<Finding> {
    let devices = machine.devices();
    let release = machine
        .read("proc/sys/kernel/osrelease")
        .unwrap_or_default();
    let release = release.trim();
    let modules = format!("lib/modules/{release}");
    let listed = |list: &str, module: &str| {
        let list = machine
            .read(&format!("{modules}/{list}"))
            .unwrap_or_default();
        list.contains(&format!("/{module}.ko"))
    };
    let mut findings: Vec<Finding> = Vec::new();
    for entry in &machine.services {
        let found = locate(
            entry,
            &devices,
            &machine.roots,
            has_node(entry, &machine.roots),
        );
        if found
            .unreachable
            .iter()
            .all(|device| device.driver.is_some())
        {
            continue;
        }
        let module = if entry.name == "fcopy" {
            "uio_hv_generic"
        } else {
            "hv_utils"
        };
        let driver = machine.roots.sys.join("bus/vmbus/drivers").join(module);
        if driver.exists() {
            continue;
        }
        let is_known = !machine.root.join(&modules).exists()
            || listed("modules.dep", module)
            || listed("modules.builtin", module);
        let finding = if is_known {
            match blacklist(machine, module) {
                Some(file) => Finding::error(
                    format!("the module {module} is not loaded: {file} forbids it"),
                    format!("remove the line with {module} from {file}, then `modprobe {module}`"),
                ),
                None => Finding::error(
                    format!("the module {module} is not loaded"),
                    format!("load it with `modprobe {module}`"),
                ),
            }
        } else {
            Finding::error(
                format!("the kernel {release} has no module {module}"),
                format!(
                    "install the package of the kernel that has it: Ubuntu \
                     linux-modules-extra-{release}; Fedora, RHEL and relatives \
                     kernel-modules-{release} or kernel-modules-extra-{release}; Debian \
                     linux-image-amd64 in place of a cloud kernel"
                ),
            )
        };
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    findings
}

/// Returns the file that forbids loading a module.
fn blacklist(machine: &Machine, module: &str) -> Option<String> {
    let directories = [
        "etc/modprobe.d",
        "run/modprobe.d",
        "usr/lib/modprobe.d",
        "lib/modprobe.d",
    ];
    directories.iter().find_map(|directory| {
        let entries = machine.root.join(directory).read_dir().ok()?;
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        names.into_iter().find_map(|name| {
            let path = format!("{directory}/{}", name.to_str()?);
            let text = machine.read(&path)?;
            let mut lines = text.lines().map(str::split_whitespace);
            let forbids = lines.any(|mut words| {
                matches!(words.next(), Some("blacklist" | "install"))
                    && words
                        .next()
                        .is_some_and(|it| it.replace('-', "_") == module)
            });
            forbids.then(|| format!("/{path}"))
        })
    })
}

/// Whether the devices can be opened.
pub(super) fn devices(machine: &Machine) -> Vec<Finding> {
    let devices = machine.devices();
    let mut findings = Vec::new();
    for entry in &machine.services {
        let has_node = has_node(entry, &machine.roots);
        let found = locate(entry, &devices, &machine.roots, has_node);
        let service = entry.name;
        for device in found.unreachable {
            let instance = device.instance;
            let node = machine.roots.dev.join(entry.hvutil.node);
            let node = node.display();
            findings.push(match device.driver.as_deref() {
                Some("hv_utils") => Finding::error(
                    format!("{service}: hv_utils has the device {instance}, but there is no {node}"),
                    "let udev or devtmpfs complete /dev (`udevadm trigger --subsystem-match=misc`); \
                     in a container, pass the node in",
                ),
                Some("uio_hv_generic") => Finding::error(
                    format!("{service}: uio_hv_generic has the device {instance} without a UIO device"),
                    "see `dmesg | grep uio_hv_generic`",
                ),
                Some(driver) => Finding::error(
                    format!("{service}: the driver {driver} has the device {instance}"),
                    format!(
                        "release it: `echo {instance} >/sys/bus/vmbus/drivers/{driver}/unbind`; the \
                         agent binds it then"
                    ),
                ),
                None if machine.config.bind_uio => Finding::error(
                    format!("{service}: no driver has the device {instance}"),
                    "load the module (see `modules`), and start the agent, which binds the device",
                ),
                None => Finding::error(
                    format!(
                        "{service}: no driver has the device {instance}, and bind-uio is false"
                    ),
                    "install the udev rule 60-hyperv-agent.rules, or set `bind-uio = true`",
                ),
            });
        }
        let missing = found.located.iter().filter(|it| !it.node().exists());
        findings.extend(missing.map(|it| {
            Finding::error(
                format!("{service}: there is no {}", it.node().display()),
                "let udev or devtmpfs complete /dev (`udevadm trigger --subsystem-match=uio`); in \
                 a container, pass the node in",
            )
        }));
        if found.settling {
            findings.push(Finding::note(
                format!("{service}: the kernel is setting up the device"),
                "",
            ));
        }
    }
    findings
}
