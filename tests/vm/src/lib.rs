//! A virtual machine monitor that is a Hyper-V host as far as VMBus goes.

pub mod hypercall;
pub mod vmbus;
