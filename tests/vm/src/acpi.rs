//! ACPI tables of a machine of the reduced-hardware kind, as a generation-2
//! virtual machine of Hyper-V is one: processors, an I/O APIC, two serial ports,
//! a `VMBUS` device, power-off and reset through a register each.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package,
    ResourceTemplate, Scope, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use anyhow::{Context as _, Result, ensure};
use vm_memory::{Address as _, Bytes as _, GuestAddress, GuestMemoryMmap};

use crate::memory::{ACPI, HIGH, IO_APIC, LOCAL_APIC, MMIO};
use crate::ports::{RESET, RESET_VALUE, SERIAL_PORTS, SLEEP_CONTROL, SLEEP_STATUS};

const OEM: [u8; 6] = *b"HVTEST";
const TABLE: [u8; 8] = *b"HVTESTVM";
/// Sleep type of power-off in the sleep control register.
pub const POWER_OFF: u8 = 5;
/// Boot flags: there is neither a VGA nor a CMOS clock (and no 8042 either).
const NO_VGA_NO_RTC: u16 = 1 << 2 | 1 << 5;

/// Writes the tables for so many processors, with or without a VMBus.
///
/// # Errors
///
/// If they do not fit.
pub fn write(memory: &GuestMemoryMmap, processors: u8, vmbus: bool) -> Result<()> {
    // The root pointer's place is kept free until the last address is known.
    let mut at = ACPI.unchecked_add(64);
    let mut put = |table: &dyn Aml| -> Result<GuestAddress> {
        let bytes = bytes_of(table);
        let here = at;
        at = here
            .checked_add(bytes.len().next_multiple_of(16) as u64)
            .filter(|end| *end <= HIGH)
            .context("the ACPI tables are too large")?;
        memory.write_slice(&bytes, here)?;
        Ok(here)
    };
    let dsdt = put(&dsdt(processors, vmbus))?;
    let fadt = put(&fadt(dsdt))?;
    let madt = put(&madt(processors))?;
    let mut root = XSDT::new(OEM, TABLE, 1);
    root.add_entry(fadt.raw_value());
    root.add_entry(madt.raw_value());
    let root = put(&root)?;
    let pointer = bytes_of(&Rsdp::new(OEM, root.raw_value()));
    ensure!(pointer.len() <= 64, "the root pointer is too large");
    memory.write_slice(&pointer, ACPI)?;
    Ok(())
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// What a table's own code describes: devices, and how to power off.
fn dsdt(processors: u8, vmbus: bool) -> Sdt {
    let mut code = Vec::new();
    for number in 0..processors {
        Device::new(
            format!("_SB_.C{number:03}").as_str().into(),
            vec![
                &Name::new("_HID".into(), &"ACPI0007"),
                &Name::new("_UID".into(), &number),
            ],
        )
        .to_aml_bytes(&mut code);
    }
    for (number, (base, irq)) in (0u8..).zip(SERIAL_PORTS) {
        Device::new(
            format!("_SB_.COM{}", number + 1).as_str().into(),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                &Name::new("_UID".into(), &number),
                &Name::new("_DDN".into(), &format!("COM{}", number + 1)),
                &Name::new(
                    "_CRS".into(),
                    &ResourceTemplate::new(vec![
                        &Interrupt::new(true, true, false, false, irq),
                        &IO::new(base, base, 0, 8),
                    ]),
                ),
            ],
        )
        .to_aml_bytes(&mut code);
    }
    if vmbus {
        add_vmbus(&mut code);
    }
    Name::new("_S5_".into(), &Package::new(vec![&POWER_OFF])).to_aml_bytes(&mut code);

    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, 1);
    table.append_slice(&code);
    table
}

fn add_vmbus(code: &mut Vec<u8>) {
    // The range of the devices' memory is the parent's, as in Hyper-V's own
    // firmware; the bus has resources as well, or the driver refuses it.
    let space = range();
    let range = ResourceTemplate::new(vec![&space]);
    let range = Name::new("_CRS".into(), &range);
    let none = ResourceTemplate::new(vec![]);
    let none = Name::new("_CRS".into(), &none);
    let hid = Name::new("_HID".into(), &"VMBUS");
    let uid = Name::new("_UID".into(), &ZERO);
    let description = Name::new("_DDN".into(), &"VMBUS");
    let bus = Device::new("VMBS".into(), vec![&hid, &uid, &description, &none]);
    let module_hid = Name::new("_HID".into(), &"ACPI0004");
    let module_uid = Name::new("_UID".into(), &ZERO);
    let module = Device::new("VMOD".into(), vec![&module_hid, &module_uid, &range, &bus]);
    Scope::new("_SB_".into(), vec![&module]).to_aml_bytes(code);
}

fn range() -> AddressSpace<u32> {
    AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        MMIO.0,
        MMIO.1,
        None,
    )
}

/// The machine's fixed features: none but the three registers.
fn fadt(dsdt: GuestAddress) -> acpi_tables::fadt::FADT {
    let mut table = FADTBuilder::new(OEM, TABLE, 1)
        .dsdt_64(dsdt.raw_value())
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup);
    table.iapc_boot_arch = NO_VGA_NO_RTC.into();
    table.reset_reg = register(RESET);
    table.reset_value = RESET_VALUE;
    table.sleep_control_reg = register(SLEEP_CONTROL);
    table.sleep_status_reg = register(SLEEP_STATUS);
    table.finalize()
}

fn register(port: u16) -> GAS {
    GAS::new(
        Space::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(port),
    )
}

fn madt(processors: u8) -> MADT {
    let mut table = MADT::new(OEM, TABLE, 1, LocalInterruptController::Address(LOCAL_APIC));
    for number in 0..processors {
        table.add_structure(ProcessorLocalApic::new(
            number,
            number,
            EnabledStatus::Enabled,
        ));
    }
    table.add_structure(IoApic::new(0, IO_APIC, 0));
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{CONSOLE, CONTROL};

    #[test]
    fn the_serial_ports_are_the_console_and_the_control_channel() {
        assert_eq!(SERIAL_PORTS.map(|(base, _)| base), [CONSOLE, CONTROL]);
    }

    #[test]
    fn each_table_sums_up_to_zero() {
        for table in [
            &dsdt(2, true) as &dyn Aml,
            &dsdt(1, false),
            &fadt(GuestAddress(0xe0040)),
            &madt(2),
            &Rsdp::new(OEM, 0xe1000),
        ] {
            let sum = bytes_of(table)
                .iter()
                .fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0);
        }
    }
}
