//! VMBus channels from user space: everything between a file descriptor and a
//! message.
//!
//! [`discovery`] finds a class's devices in sysfs; [`uio`] and [`hvutil`] open
//! them as a [`Channel`]; [`ic`] reads and answers what comes out of it.

pub mod channel;
pub mod classes;
pub mod discovery;
pub mod guid;
pub mod hvutil;
pub mod ic;
pub mod mapping;
pub mod message;
pub mod packet;
pub mod ring;
pub mod uio;

pub use channel::{Channel, ChannelError, Sent};
pub use guid::Guid;
pub use message::{Encoding, Message, Reply, Request};
