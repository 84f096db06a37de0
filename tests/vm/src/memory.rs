//! Where things lie in the guest's physical memory.

use anyhow::{Context as _, Result, ensure};
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// Bytes in a mebibyte.
const MIB: usize = 1 << 20;

/// Global descriptor table for the first instructions.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// Linux' boot parameters ("zero page").
pub const BOOT_PARAMETERS: GuestAddress = GuestAddress(0x7000);
/// First page table; the others follow.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// Stack for the first instructions.
pub const STACK: u64 = 0x8ff0;
/// Kernel command line.
pub const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
/// Bytes that the command line may have.
pub const COMMAND_LINE_LEN: usize = 0x1000;
/// End of conventional memory.
pub const LOW_END: u64 = 0x9_fc00;
/// ACPI tables, the root pointer first: where a kernel would search for it.
pub const ACPI: GuestAddress = GuestAddress(0xe_0000);
/// End of the room for ACPI tables, start of high memory.
pub const HIGH: GuestAddress = GuestAddress(0x10_0000);
/// Where the kernel is put, which is where it wants to run: it need not move.
pub const KERNEL: GuestAddress = GuestAddress(0x100_0000);
/// Address range that VMBus devices could have for their memory.
pub const MMIO: (u32, u32) = (0xe000_0000, 0xefff_ffff);
/// I/O APIC.
pub const IO_APIC: u32 = 0xfec0_0000;
/// Local APICs.
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM wants for itself on Intel's processors.
pub const KVM_TSS: usize = 0xfffb_d000;

/// Makes the guest's memory: one region of so many MiB from address 0.
///
/// # Errors
///
/// If the amount makes no sense, or the machine has not so much.
pub fn create(mebibytes: usize) -> Result<GuestMemoryMmap> {
    ensure!(
        (128..=2048).contains(&mebibytes),
        "the guest's memory is {mebibytes} MiB, but 128 to 2048 MiB are supported"
    );
    let regions = [(GuestAddress(0), mebibytes.saturating_mul(MIB))];
    GuestMemoryMmap::from_ranges(&regions).context("no memory for the guest")
}
