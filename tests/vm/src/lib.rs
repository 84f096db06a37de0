//! A virtual machine monitor that is a Hyper-V host as far as VMBus goes.
//!
//! It is test equipment: it boots a Linux kernel with an initramfs in a machine
//! with a serial console, a serial control channel and a `VMBUS` device, and
//! reaches what the kernel's `hv_vmbus` does with it. What it leaves out: disks,
//! networks, PCI, a clock of the day, any firmware, migration, more than one
//! machine a process, and every enlightenment that VMBus does without.

pub mod acpi;
pub mod boot;
pub mod booted;
pub mod control;
pub mod cpu;
pub mod cpuid;
pub mod devices;
pub mod guest;
pub mod hypercall;
pub mod machine;
pub mod memory;
pub mod monitor;
pub mod ports;
pub mod suite;
pub mod synic;
pub mod sys;
pub mod vmbus;
