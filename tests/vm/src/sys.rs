//! What KVM needs that the compiler cannot check, and nothing else: the only
//! unsafe code of the monitor.
#![expect(unsafe_code)]

use std::io;

use kvm_bindings::{
    CpuId, KVM_EXIT_HYPERV_HCALL, KVM_EXIT_HYPERV_SYNIC, KVMIO, kvm_cpuid2,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::{Address as _, GuestMemoryBackend as _, GuestMemoryMmap, GuestMemoryRegion as _};
use vmm_sys_util::ioctl::ioctl_with_mut_ptr;
use vmm_sys_util::ioctl_iowr_nr;

mod number {
    use super::{KVMIO, ioctl_iowr_nr, kvm_cpuid2};
    ioctl_iowr_nr!(KVM_GET_SUPPORTED_HV_CPUID, KVMIO, 0xc1, kvm_cpuid2);
}

/// As many CPUID leaves of Hyper-V as KVM could come to have.
const HYPERV_LEAVES: usize = 64;

/// Gives the guest its memory.
///
/// The caller keeps `memory` for as long as a virtual processor of `vm` runs.
///
/// # Errors
///
/// If KVM refuses a region.
pub fn map_memory(vm: &VmFd, memory: &GuestMemoryMmap) -> io::Result<()> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let host = region
            .get_host_address(vm_memory::MemoryRegionAddress(0))
            .map_err(io::Error::other)?;
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: host as u64,
        };
        // SAFETY: the region is a live mapping of that many bytes, no other
        // slot covers it, and it outlives the processors (`Monitor` owns both
        // and ends the processors first).
        unsafe { vm.set_user_memory_region(region) }.map_err(io::Error::from)?;
    }
    Ok(())
}

/// Asks an emulator that counts instructions for its counts: `tests/vm/count.c`
/// looks for this instruction, which does nothing.
pub fn ask_for_counts() {
    // SAFETY: the register keeps its value, and nothing else is touched.
    unsafe { std::arch::asm!("xchg bx, bx", options(nomem, nostack, preserves_flags)) };
}

/// The CPUID leaves of Hyper-V that KVM can serve.
///
/// # Errors
///
/// If KVM knows nothing of Hyper-V.
pub fn hyperv_cpuid(vcpu: &VcpuFd) -> io::Result<CpuId> {
    let mut leaves = CpuId::new(HYPERV_LEAVES).map_err(io::Error::other)?;
    // SAFETY: the structure says how many entries lie behind it, and KVM writes
    // no more than that, and the true number into its head.
    let status = unsafe {
        ioctl_with_mut_ptr(
            vcpu,
            number::KVM_GET_SUPPORTED_HV_CPUID(),
            leaves.as_mut_fam_struct_ptr(),
        )
    };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(leaves)
}

/// What the guest did that concerns Hyper-V.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HypervExit {
    /// It wrote a register of its interrupt controller; these are now their
    /// values.
    Synic {
        /// `HV_X64_MSR_SCONTROL`.
        control: u64,
        /// `HV_X64_MSR_SIEFP`.
        event_page: u64,
        /// `HV_X64_MSR_SIMP`.
        message_page: u64,
    },
    /// It made a hypercall that awaits a result.
    Hypercall {
        /// Call code, flags and counts.
        input: u64,
        /// Address of the input, or the input itself (fast calls).
        parameter: u64,
    },
    /// Something that is not asked for here.
    Other(u32),
}

/// Reads what stands behind an exit for Hyper-V. To be called right after such
/// an exit only.
pub fn hyperv_exit(vcpu: &mut VcpuFd) -> HypervExit {
    let run = vcpu.get_kvm_run();
    // SAFETY: every member of the union is plain integers, so any bytes are
    // valid; that this is the member KVM has filled follows from the exit.
    let exit = unsafe { run.__bindgen_anon_1.hyperv };
    match exit.type_ {
        KVM_EXIT_HYPERV_SYNIC => {
            // SAFETY: as above, and KVM says that this is the member in use.
            let synic = unsafe { exit.u.synic };
            HypervExit::Synic {
                control: synic.control,
                event_page: synic.evt_page,
                message_page: synic.msg_page,
            }
        }
        KVM_EXIT_HYPERV_HCALL => {
            // SAFETY: as above, and KVM says that this is the member in use.
            let call = unsafe { exit.u.hcall };
            HypervExit::Hypercall {
                input: call.input,
                parameter: call.params[0],
            }
        }
        other => HypervExit::Other(other),
    }
}

/// Answers a hypercall, right after its exit: the guest gets `status` when it runs on.
pub fn hypercall_result(vcpu: &mut VcpuFd, status: u16) {
    let run = vcpu.get_kvm_run();
    run.__bindgen_anon_1.hyperv.u.hcall.result = u64::from(status);
}
