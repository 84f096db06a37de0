//! What the guest's processors say that they are: KVM's processor, under
//! Hyper-V, or under KVM as itself.

use anyhow::{Context as _, Result};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Kvm, VcpuFd};

use crate::monitor::Config;
use crate::sys;

/// Leaves of hypervisors.
const HYPERVISOR: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4000_ffff;
/// Vendor and highest leaf, interface, version, features, recommendations, and
/// limits: what a Hyper-V has at least, and all that a guest gets here.
const FIRST: u32 = 0x4000_0000;
const FEATURES: u32 = 0x4000_0003;
const RECOMMENDATIONS: u32 = 0x4000_0004;
const LAST: u32 = 0x4000_0005;
/// "Microsoft Hv" in registers.
const VENDOR: [u32; 3] = [0x7263_694d, 0x666f_736f, 0x7648_2074];
/// Access to: reference counter, `SynIC`, its timers, hypercalls, processor
/// index, reference clock page, frequencies.
const ACCESS: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 11;
/// Privileges: post messages, signal events.
const PRIVILEGES: u32 = 1 << 4 | 1 << 5;
/// Features: frequencies, crash registers, timers with a vector of their own.
const OTHER: u32 = 1 << 8 | 1 << 10 | 1 << 19;
/// Recommended: an explicit end of interrupt, as the in-kernel APIC is quicker
/// so.
const EXPLICIT_EOI: u32 = 1 << 9;
/// Of KVM as itself: its signature and its features, of which the guest gets the clock.
const KVM_LEAVES: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4000_0001;
const KVM_FEATURES: u32 = 0x4000_0001;
const KVM_CLOCK: u32 = 1 << 3 | 1 << 24;
/// Never notify the hypervisor of a lock that is waited for.
const NO_SPIN_NOTICE: u32 = u32::MAX;

/// Says to a virtual processor what it is.
///
/// # Errors
///
/// If KVM refuses.
pub fn set_up(kvm: &Kvm, vcpu: &VcpuFd, number: u8, config: &Config) -> Result<()> {
    let own = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let own = own.as_slice();
    let mut leaves: Vec<_> = own
        .iter()
        .filter(|leaf| !HYPERVISOR.contains(&leaf.function) && leaf.function != 0x1f)
        .map(|leaf| ordinary(*leaf, number, config))
        .collect();
    if config.hyperv {
        let hyperv = sys::hyperv_cpuid(vcpu).context("KVM has no CPUID leaves of Hyper-V")?;
        let some = hyperv.as_slice().iter();
        let some = some.filter(|leaf| (FIRST..=LAST).contains(&leaf.function));
        leaves.extend(some.map(|leaf| of_hyperv(*leaf)));
    } else {
        let some = own.iter();
        let some = some.filter(|leaf| KVM_LEAVES.contains(&leaf.function));
        leaves.extend(some.map(|leaf| of_kvm(*leaf)));
    }
    let leaves = CpuId::from_entries(&leaves).context("too many CPUID leaves")?;
    vcpu.set_cpuid2(&leaves)?;
    Ok(())
}

/// A leaf of the processor itself: which one of how many it is.
fn ordinary(mut leaf: kvm_cpuid_entry2, number: u8, config: &Config) -> kvm_cpuid_entry2 {
    let (number, processors) = (u32::from(number), u32::from(config.processors));
    match (leaf.function, leaf.index) {
        (1, _) => {
            leaf.ebx = leaf.ebx & 0x0000_ffff | processors << 16 | number << 24;
            // A hypervisor is present.
            leaf.ecx |= 1 << 31;
            // The deadline of the local APIC's timer. Its period could be measured with
            // another timer only, and there is none; Hyper-V states it.
            if !config.hyperv {
                leaf.ecx |= 1 << 24;
            }
        }
        (0xb, 0) => {
            (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0, 1, 1 << 8, number);
        }
        (0xb, 1) => {
            let bits = processors.next_power_of_two().trailing_zeros();
            (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (bits, processors, 2 << 8 | 1, number);
        }
        // No virtualization in the guest.
        (0x8000_0001, _) => leaf.ecx &= !(1 << 2),
        _ => {}
    }
    leaf
}

/// A leaf of the hypervisor: what VMBus needs, of what KVM offers.
fn of_hyperv(mut leaf: kvm_cpuid_entry2) -> kvm_cpuid_entry2 {
    match leaf.function {
        FIRST => {
            leaf.eax = LAST;
            [leaf.ebx, leaf.ecx, leaf.edx] = VENDOR;
        }
        FEATURES => {
            leaf.eax &= ACCESS;
            leaf.ebx &= PRIVILEGES;
            leaf.edx &= OTHER;
        }
        RECOMMENDATIONS => {
            leaf.eax = EXPLICIT_EOI;
            leaf.ebx = NO_SPIN_NOTICE;
            leaf.ecx = 0;
            leaf.edx = 0;
        }
        _ => {}
    }
    leaf
}

/// A leaf of KVM as itself.
fn of_kvm(mut leaf: kvm_cpuid_entry2) -> kvm_cpuid_entry2 {
    match leaf.function {
        KVM_FEATURES => (leaf.eax, leaf.edx) = (leaf.eax & KVM_CLOCK, 0),
        _ => leaf.eax = KVM_FEATURES,
    }
    leaf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendor_is_spelt_as_guests_look_for_it() {
        let text: Vec<u8> = VENDOR.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(text, b"Microsoft Hv");
    }
}
