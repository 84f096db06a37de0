//! Puts a kernel, its initramfs and its parameters into the guest's memory, by
//! the Linux boot protocol for a 64-bit entry.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{BzImage, Cmdline, KernelLoader as _, load_cmdline};
use vm_memory::{Address as _, Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap};

use crate::memory::{ACPI, BOOT_PARAMETERS, COMMAND_LINE, COMMAND_LINE_LEN, HIGH, KERNEL, LOW_END};

/// The default command line of a guest's kernel. Each character
/// on the console is an exit from the guest, so it has warnings and what is worse;
/// the kernel's log has the rest.
pub const KERNEL_OPTIONS: &str = "console=ttyS0 panic=-1 mitigations=off loglevel=5";

/// Offset of the 64-bit entry in the kernel's protected-mode part.
const ENTRY_64: u64 = 0x200;
/// Kind of loader: none that has a number.
const LOADER_UNDEFINED: u8 = 0xff;
/// Offset of `xloadflags` in the image, and its bit for a 64-bit entry.
const XLOADFLAGS: u64 = 0x236;
const XLF_KERNEL_64: u8 = 1;
/// Kinds of memory in the map.
const USABLE: u32 = 1;
const RESERVED: u32 = 2;

/// Loads everything, and returns the address of the first instruction.
///
/// # Errors
///
/// If a file cannot be read, the kernel has no 64-bit entry, or the guest's
/// memory is too small.
pub fn load(
    memory: &GuestMemoryMmap,
    kernel: &Path,
    initramfs: &Path,
    command_line: &str,
) -> Result<GuestAddress> {
    let name = kernel.display();
    let mut image = File::open(kernel).with_context(|| format!("{name} cannot be opened"))?;
    let mut flags = [0];
    image.seek(std::io::SeekFrom::Start(XLOADFLAGS))?;
    image.read_exact(&mut flags)?;
    ensure!(
        flags[0] & XLF_KERNEL_64 != 0,
        "{name} has no 64-bit entry point"
    );
    let loaded = BzImage::load(memory, Some(KERNEL), &mut image, Some(HIGH))
        .with_context(|| format!("{name} cannot be loaded"))?;
    let mut header = loaded
        .setup_header
        .with_context(|| format!("{name} has no setup header"))?;

    let mut words = Cmdline::new(COMMAND_LINE_LEN)?;
    words.insert_str(command_line)?;
    // The machine has no clock of the day: the first program sets it from this.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    words.insert("now", &now.as_secs().to_string())?;
    load_cmdline(memory, COMMAND_LINE, &words).context("the command line cannot be loaded")?;

    let name = initramfs.display();
    let mut archive = File::open(initramfs).with_context(|| format!("{name} cannot be opened"))?;
    let len = archive.metadata()?.len();
    // The kernel unpacks itself over this much from its load address.
    let kernel_end = KERNEL.raw_value() + u64::from(header.init_size);
    let end = memory.last_addr().raw_value() + 1;
    let at = end
        .checked_sub(len)
        .map(|at| at & !0xfff)
        .filter(|at| *at >= kernel_end)
        .context("the guest's memory is too small for its initramfs")?;
    // Straight into the guest's memory: a whole system is too large to have twice.
    memory
        .read_exact_volatile_from(GuestAddress(at), &mut archive, usize::try_from(len)?)
        .with_context(|| format!("{name} cannot be read"))?;

    header.type_of_loader = LOADER_UNDEFINED;
    header.cmd_line_ptr = u32::try_from(COMMAND_LINE.raw_value())?;
    header.ramdisk_image = u32::try_from(at)?;
    header.ramdisk_size = u32::try_from(len)?;
    let mut parameters = boot_params {
        hdr: header,
        acpi_rsdp_addr: ACPI.raw_value(),
        ..boot_params::default()
    };
    let map = [
        (0, LOW_END, USABLE),
        (ACPI.raw_value(), HIGH.raw_value(), RESERVED),
        (HIGH.raw_value(), end, USABLE),
    ];
    for (entry, (start, end, kind)) in parameters.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry {
            addr: start,
            size: end - start,
            r#type: kind,
        };
    }
    parameters.e820_entries = u8::try_from(map.len())?;
    memory.write_obj(parameters, BOOT_PARAMETERS)?;
    Ok(loaded.kernel_load.unchecked_add(ENTRY_64))
}
