//! A virtual processor: its state at the first instruction, and what it stops
//! for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use kvm_bindings::{
    KVM_CAP_HYPERV_SYNIC2, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, kvm_enable_cap, kvm_regs, kvm_segment,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use crate::hypercall::Host;
use crate::memory::{BOOT_PARAMETERS, GDT, PAGE_TABLES, STACK};
use crate::monitor::Ending;
use crate::ports::{Ports, Request};
use crate::synic::{Controllers, PAYLOAD_MAX};
use crate::sys::{self, HypervExit};

/// Code of `HvCallPostMessage`.
const POST_MESSAGE: u64 = 0x5c;
/// Code of `HvCallSignalEvent`.
const SIGNAL_EVENT: u64 = 0x5d;
/// The bits of a hypercall's input that hold its code.
const CODE: u64 = 0xffff;
/// The bit that says that the parameter is the input, not its address.
const FAST: u64 = 1 << 16;
/// `HV_STATUS_INVALID_HYPERCALL_CODE`.
const INVALID_CODE: u16 = 2;
/// `HV_STATUS_INVALID_HYPERCALL_INPUT`.
const INVALID_INPUT: u16 = 3;
/// `HV_STATUS_INVALID_ALIGNMENT`.
const INVALID_ALIGNMENT: u16 = 4;
/// Bytes before a message's payload in the input.
const MESSAGE_HEADER: u64 = 16;

/// Selectors and flags of the segments that Linux expects at its 64-bit entry.
const CODE_SEGMENT: (u16, u64) = (0x10, 0x00af_9b00_0000_ffff);
const DATA_SEGMENT: (u16, u64) = (0x18, 0x00cf_9300_0000_ffff);
/// Control registers of 64-bit mode.
const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Flags of a page table's entry: present, writable; a large page.
const PRESENT: u64 = 0x3;
const LARGE: u64 = 0x80;
/// GiB that are mapped one to one for the first instructions.
const MAPPED: u64 = 4;

/// Turns a processor's synthetic interrupt controller on.
///
/// # Errors
///
/// If KVM refuses.
pub fn enable_synic(vcpu: &VcpuFd) -> Result<()> {
    let capability = kvm_enable_cap {
        cap: KVM_CAP_HYPERV_SYNIC2,
        ..kvm_enable_cap::default()
    };
    vcpu.enable_cap(&capability)
        .context("KVM does not turn the SynIC on")
}

/// Readies the first processor to run a kernel from its 64-bit entry.
///
/// # Errors
///
/// If KVM refuses.
pub fn set_up(vcpu: &VcpuFd, memory: &GuestMemoryMmap, entry: GuestAddress) -> Result<()> {
    let descriptors = [0, 0, CODE_SEGMENT.1, DATA_SEGMENT.1];
    for (index, descriptor) in (0..).zip(descriptors) {
        memory.write_obj(descriptor, GuestAddress(GDT.0 + index * 8))?;
    }
    page_tables(memory)?;

    let mut special = vcpu.get_sregs()?;
    special.gdt.base = GDT.0;
    special.gdt.limit = 8 * 4 - 1;
    special.cs = segment(CODE_SEGMENT, true);
    let data = segment(DATA_SEGMENT, false);
    special.ds = data;
    special.es = data;
    special.fs = data;
    special.gs = data;
    special.ss = data;
    special.cr3 = PAGE_TABLES.0;
    special.cr4 |= CR4_PAE;
    special.cr0 |= CR0_PE | CR0_PG;
    special.efer |= EFER_LME | EFER_LMA;
    vcpu.set_sregs(&special)?;
    vcpu.set_regs(&kvm_regs {
        rflags: 2,
        rip: entry.0,
        rsp: STACK,
        rsi: BOOT_PARAMETERS.0,
        ..kvm_regs::default()
    })?;
    Ok(())
}

/// One top-level table, one below it, and one with pages of 2 MiB for each GiB.
fn page_tables(memory: &GuestMemoryMmap) -> Result<()> {
    let page = |number: u64| PAGE_TABLES.0 + number * 0x1000;
    memory.write_obj(page(1) | PRESENT, PAGE_TABLES)?;
    for gib in 0..MAPPED {
        let table = page(2 + gib);
        memory.write_obj(table | PRESENT, GuestAddress(page(1) + gib * 8))?;
        for index in 0..512 {
            let entry = gib << 30 | index << 21 | PRESENT | LARGE;
            memory.write_obj(entry, GuestAddress(table + index * 8))?;
        }
    }
    Ok(())
}

fn segment((selector, _): (u16, u64), code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: if code { 0xb } else { 0x3 },
        present: 1,
        s: 1,
        l: u8::from(code),
        db: u8::from(!code),
        g: 1,
        ..kvm_segment::default()
    }
}

/// What a processor needs of the machine that it is in.
pub(crate) struct Surroundings {
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) ports: Arc<Ports>,
    pub(crate) synic: Arc<Controllers>,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) stop: AtomicBool,
}

impl Surroundings {
    /// Runs a processor until the machine ends, and says how.
    pub(crate) fn run(&self, number: u32, vcpu: &mut VcpuFd) -> Result<Ending> {
        while !self.stop.load(Ordering::SeqCst) {
            let exit = match vcpu.run() {
                Ok(exit) => exit,
                // EINTR: somebody wants it to look at `stop`. EAGAIN: a second
                // processor that has not been started yet.
                Err(error) if matches!(error.errno(), 4 | 11) => continue,
                Err(error) => return Err(error).context("the processor cannot run"),
            };
            match exit {
                VcpuExit::IoOut(port, data) => match self.ports.write(port, data) {
                    Some(Request::PowerOff) => return Ok(Ending::PoweredOff),
                    Some(Request::Reset) => return Ok(Ending::Reset),
                    None => {}
                },
                VcpuExit::IoIn(port, data) => self.ports.read(port, data),
                VcpuExit::MmioRead(_, data) => data.fill(0xff),
                VcpuExit::MmioWrite(..) | VcpuExit::Hlt | VcpuExit::Intr => {}
                VcpuExit::Hyperv => self.hyperv(number, vcpu),
                VcpuExit::Shutdown => return Ok(Ending::TripleFault),
                VcpuExit::SystemEvent(kind, _) => match kind {
                    KVM_SYSTEM_EVENT_CRASH => return Ok(Ending::Crashed),
                    KVM_SYSTEM_EVENT_RESET => return Ok(Ending::Reset),
                    KVM_SYSTEM_EVENT_SHUTDOWN => return Ok(Ending::PoweredOff),
                    other => bail!("unknown system event {other}"),
                },
                other => bail!("the processor stopped: {other:?}"),
            }
        }
        Ok(Ending::Stopped)
    }

    fn hyperv(&self, number: u32, vcpu: &mut VcpuFd) {
        match sys::hyperv_exit(vcpu) {
            HypervExit::Synic {
                control,
                event_page,
                message_page,
            } => self.synic.set(number, control, event_page, message_page),
            HypervExit::Hypercall { input, parameter } => {
                let status = match (input & CODE, input & FAST != 0) {
                    (POST_MESSAGE, false) => self.post_message(parameter),
                    (SIGNAL_EVENT, fast) => self.signal_event(parameter, fast),
                    (POST_MESSAGE, true) => INVALID_INPUT,
                    _ => INVALID_CODE,
                };
                sys::hypercall_result(vcpu, status);
            }
            HypervExit::Other(_) => {}
        }
    }

    /// Input: connection, reserved, type, length (32 bits each), payload.
    fn post_message(&self, address: u64) -> u16 {
        let input = GuestAddress(address);
        if !address.is_multiple_of(8) {
            return INVALID_ALIGNMENT;
        }
        let Ok([connection, _, kind, length]) = self.memory.read_obj::<[u32; 4]>(input) else {
            return INVALID_INPUT;
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let mut payload = [0; PAYLOAD_MAX];
        let Some(payload) = payload.get_mut(..length) else {
            return INVALID_INPUT;
        };
        let from = GuestAddress(address.saturating_add(MESSAGE_HEADER));
        if self.memory.read_slice(payload, from).is_err() {
            return INVALID_INPUT;
        }
        self.host.post_message(connection, kind, payload)
    }

    /// Input: connection (32 bits), flag (16 bits).
    fn signal_event(&self, parameter: u64, fast: bool) -> u16 {
        let input = if fast {
            parameter
        } else if !parameter.is_multiple_of(8) {
            return INVALID_ALIGNMENT;
        } else {
            match self.memory.read_obj(GuestAddress(parameter)) {
                Ok(input) => input,
                Err(_) => return INVALID_INPUT,
            }
        };
        let [connection @ .., flag_low, flag_high, _, _] = input.to_le_bytes();
        self.host.signal_event(
            u32::from_le_bytes(connection),
            u16::from_le_bytes([flag_low, flag_high]),
        )
    }
}
