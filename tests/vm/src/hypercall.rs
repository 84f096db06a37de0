//! What passes between the processors and the protocol: hypercalls of the guest
//! one way, messages and event flags the other. Neither side knows more of the
//! other than this.

/// What the guest's hypercalls reach.
pub trait Host: Send + Sync {
    /// `HvCallPostMessage`: connection id, message type and payload (240 bytes
    /// at most). Gives the `HV_STATUS`.
    fn post_message(&self, connection: u32, kind: u32, payload: &[u8]) -> u16;

    /// `HvCallSignalEvent`: connection id and flag number. Gives the
    /// `HV_STATUS`.
    fn signal_event(&self, connection: u32, flag: u16) -> u16;

    /// The guest was reset or powered off: nothing of it is to be touched any
    /// more.
    fn gone(&self);
}

/// How the host reaches the guest's processors.
pub trait Synic: Send + Sync {
    /// Queues a message (240 bytes at most) for a SINT of a virtual processor;
    /// it is delivered when the slot is free.
    fn post(&self, vp: u32, sint: u8, kind: u32, payload: &[u8]);

    /// Sets an event flag of a SINT of a virtual processor, and interrupts.
    fn signal(&self, vp: u32, sint: u8, flag: u32);
}
