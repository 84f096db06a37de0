//! The host's side of the synthetic interrupt controller: messages go into the
//! message page of a virtual processor, event flags into its event page, and
//! then a SINT is raised. KVM keeps the registers and raises the interrupt.
//!
//! A message slot holds one message. While the guest has not emptied it, further
//! messages wait here, and the slot's "message pending" flag asks the guest to
//! say when it is done. It does so with the end-of-message register, which KVM
//! reports (as it does an end of interrupt) through the resample event of the
//! SINT's irqfd.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use kvm_bindings::{
    KVM_IRQ_ROUTING_HV_SINT, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KvmIrqRouting,
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_hv_sint,
    kvm_irq_routing_irqchip,
};
use kvm_ioctls::VmFd;
use vm_memory::{
    Address as _, Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryMmap,
    VolatileMemory as _,
};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::hypercall::Synic;

/// SINTs of a virtual processor.
const SINTS: usize = 16;
/// Bytes of a message's slot, and of a SINT's event flags.
const SLOT: usize = 256;
/// Most bytes that a message's payload has.
pub const PAYLOAD_MAX: usize = 240;
/// Offsets in a slot: size, flags, payload. The type stands first.
const SIZE: u64 = 4;
const FLAGS: usize = 5;
const PAYLOAD: u64 = 16;
/// Flag: another message waits for this slot.
const PENDING: u8 = 1;
/// Type of an empty slot.
const NONE: u32 = 0;
/// Bit of each of the registers that puts it into force.
const ENABLED: u64 = 1;
/// Pins of the I/O APIC; the SINTs' interrupts are numbered behind them.
const IO_APIC_PINS: u32 = 24;
/// Messages that wait for a slot at most. A guest that takes none of them gets
/// no more.
const QUEUE_MAX: usize = 4096;

/// The controllers of all virtual processors.
pub struct Controllers {
    memory: GuestMemoryMmap,
    processors: Vec<Processor>,
}

struct Processor {
    state: Mutex<State>,
    sints: Vec<Sint>,
}

struct Sint {
    raise: EventFd,
    /// The guest has taken a message or an interrupt.
    taken: EventFd,
}

#[derive(Default)]
struct State {
    message_page: Option<GuestAddress>,
    event_page: Option<GuestAddress>,
    queues: [VecDeque<Message>; SINTS],
}

struct Message {
    kind: u32,
    payload: Vec<u8>,
}

impl Controllers {
    /// Controllers for so many virtual processors, with their interrupts wired
    /// up in KVM.
    ///
    /// # Errors
    ///
    /// If KVM refuses.
    pub fn new(vm: &VmFd, memory: GuestMemoryMmap, processors: u8) -> Result<Self> {
        let controllers = Self::unwired(memory, processors)?;
        let mut routes: Vec<_> = (0..IO_APIC_PINS).map(io_apic_route).collect();
        let mut wires = Vec::new();
        for (vcpu, processor) in (0..).zip(&controllers.processors) {
            for (number, sint) in (0..).zip(&processor.sints) {
                let line = IO_APIC_PINS + u32::try_from(wires.len())?;
                routes.push(sint_route(line, vcpu, number));
                wires.push((sint, line));
            }
        }
        let routes = KvmIrqRouting::from_entries(&routes).context("too many routes")?;
        vm.set_gsi_routing(&routes)
            .context("KVM refuses interrupts of the SynIC")?;
        for (sint, line) in wires {
            vm.register_irqfd_with_resample(&sint.raise, &sint.taken, line)
                .context("KVM refuses an irqfd for a SINT")?;
        }
        Ok(controllers)
    }

    /// Controllers whose interrupts reach nobody yet.
    fn unwired(memory: GuestMemoryMmap, processors: u8) -> Result<Self> {
        let mut all = Vec::new();
        for _ in 0..processors {
            let mut sints = Vec::new();
            for _ in 0..SINTS {
                sints.push(Sint {
                    raise: EventFd::new(EFD_NONBLOCK)?,
                    taken: EventFd::new(EFD_NONBLOCK)?,
                });
            }
            all.push(Processor {
                state: Mutex::default(),
                sints,
            });
        }
        Ok(Controllers {
            memory,
            processors: all,
        })
    }

    /// The guest has written one of the registers of a processor.
    pub(crate) fn set(&self, vp: u32, control: u64, event_page: u64, message_page: u64) {
        let Some(processor) = self.processor(vp) else {
            return;
        };
        let page = |register: u64| {
            (control & register & ENABLED != 0).then_some(GuestAddress(register & !0xfff))
        };
        let mut state = processor.lock();
        state.message_page = page(message_page);
        state.event_page = page(event_page);
        for sint in 0..SINTS {
            self.deliver(processor, &mut state, sint);
        }
    }

    /// Delivers what waits, each time that the guest has emptied a slot, until
    /// `stop` is written to.
    ///
    /// # Errors
    ///
    /// If the events cannot be waited for.
    pub(crate) fn run(&self, stop: &EventFd) -> Result<()> {
        let epoll = Epoll::new()?;
        let all = self.processors.iter().flat_map(|it| &it.sints);
        for (token, sint) in (0..).zip(all) {
            epoll.ctl(
                ControlOperation::Add,
                std::os::fd::AsRawFd::as_raw_fd(&sint.taken),
                EpollEvent::new(EventSet::IN, token),
            )?;
        }
        epoll.ctl(
            ControlOperation::Add,
            std::os::fd::AsRawFd::as_raw_fd(stop),
            EpollEvent::new(EventSet::IN, u64::MAX),
        )?;
        let mut events = [EpollEvent::default(); SINTS];
        loop {
            let count = match epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            for event in events.iter().take(count) {
                let Ok(token) = usize::try_from(event.data()) else {
                    return Ok(());
                };
                let (vp, sint) = (token / SINTS, token % SINTS);
                let Some(processor) = self.processors.get(vp) else {
                    return Ok(());
                };
                if let Some(it) = processor.sints.get(sint) {
                    let _ = it.taken.read();
                }
                self.deliver(processor, &mut processor.lock(), sint);
            }
        }
    }

    fn processor(&self, vp: u32) -> Option<&Processor> {
        self.processors.get(usize::try_from(vp).ok()?)
    }

    /// Puts the next message into its slot, if there is one and the slot is
    /// free.
    fn deliver(&self, processor: &Processor, state: &mut State, sint: usize) {
        let (Some(page), Some(queue)) = (state.message_page, state.queues.get_mut(sint)) else {
            return;
        };
        let Some(message) = queue.front() else {
            return;
        };
        let slot = slot_of(page, sint);
        let more = queue.len() > 1;
        match self.fill(slot, message, more) {
            Ok(true) => {
                queue.pop_front();
            }
            // The guest says when the slot is free.
            Ok(false) => return,
            // The page is not in memory: messages to nowhere.
            Err(_) => queue.clear(),
        }
        processor.raise(sint);
    }

    /// Writes a message into a slot; `false` where it is taken.
    fn fill(&self, slot: GuestAddress, message: &Message, more: bool) -> Result<bool> {
        let bytes = self.memory.get_slice(slot, SLOT)?;
        let kind = bytes.get_atomic_ref::<AtomicU32>(0)?;
        let flags = bytes.get_atomic_ref::<AtomicU8>(FLAGS)?;
        if kind.load(Ordering::Acquire) != NONE {
            flags.fetch_or(PENDING, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            // The guest may have emptied it without having seen the flag.
            if kind.load(Ordering::SeqCst) != NONE {
                return Ok(false);
            }
        }
        self.memory
            .write_slice(&message.payload, GuestAddress(slot.0 + PAYLOAD))?;
        let length = u8::try_from(message.payload.len())?;
        self.memory.write_obj(length, GuestAddress(slot.0 + SIZE))?;
        flags.store(if more { PENDING } else { 0 }, Ordering::Release);
        kind.store(message.kind, Ordering::Release);
        Ok(true)
    }

    fn set_flag(&self, page: GuestAddress, sint: u8, flag: u32) -> Result<bool> {
        let flags = self
            .memory
            .get_slice(slot_of(page, usize::from(sint)), SLOT)?;
        let word = flags.get_atomic_ref::<AtomicU64>((flag / 64) as usize * 8)?;
        let bit = 1 << (flag % 64);
        Ok(word.fetch_or(bit, Ordering::SeqCst) & bit == 0)
    }
}

impl Synic for Controllers {
    fn post(&self, vp: u32, sint: u8, kind: u32, payload: &[u8]) {
        let Some(processor) = self.processor(vp) else {
            return;
        };
        let mut state = processor.lock();
        let sint = usize::from(sint);
        let Some(queue) = state.queues.get_mut(sint) else {
            return;
        };
        if payload.len() > PAYLOAD_MAX || queue.len() >= QUEUE_MAX || kind == NONE {
            return;
        }
        queue.push_back(Message {
            kind,
            payload: payload.to_vec(),
        });
        self.deliver(processor, &mut state, sint);
    }

    fn signal(&self, vp: u32, sint: u8, flag: u32) {
        let Some(processor) = self.processor(vp) else {
            return;
        };
        let Some(page) = processor.lock().event_page else {
            return;
        };
        if usize::from(sint) < SINTS && self.set_flag(page, sint, flag).unwrap_or(false) {
            processor.raise(usize::from(sint));
        }
    }
}

impl Processor {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn raise(&self, sint: usize) {
        if let Some(sint) = self.sints.get(sint) {
            // Full only where an interrupt is on its way already.
            let _ = sint.raise.write(1);
        }
    }
}

/// A SINT's place in a message page or an event page.
fn slot_of(page: GuestAddress, sint: usize) -> GuestAddress {
    page.unchecked_add((sint * SLOT) as u64)
}

fn io_apic_route(pin: u32) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi: pin,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            irqchip: kvm_irq_routing_irqchip {
                irqchip: KVM_IRQCHIP_IOAPIC,
                pin,
            },
        },
        ..kvm_irq_routing_entry::default()
    }
}

fn sint_route(gsi: u32, vcpu: u32, sint: u32) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_HV_SINT,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            hv_sint: kvm_irq_routing_hv_sint { vcpu, sint },
        },
        ..kvm_irq_routing_entry::default()
    }
}

#[cfg(test)]
mod tests;
