//! The guest's I/O ports: two serial ports, and the registers that power it off
//! and reset it. Everything else reads as if nothing were there.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::acpi::POWER_OFF;
use crate::control::Control;

/// First port of the console.
pub const CONSOLE: u16 = 0x3f8;
/// First port of the control channel.
pub const CONTROL: u16 = 0x2f8;
/// The serial ports in order, with their interrupts.
pub const SERIAL_PORTS: [(u16, u32); 2] = [(CONSOLE, 4), (CONTROL, 3)];
/// Ports that a serial port has.
const SERIAL_LEN: u16 = 8;
/// Bytes that a serial port holds for the guest.
const FIFO: usize = 64;
/// ACPI's sleep control register.
pub const SLEEP_CONTROL: u16 = 0x600;
/// ACPI's sleep status register.
pub const SLEEP_STATUS: u16 = 0x601;
/// ACPI's reset register.
pub const RESET: u16 = 0x602;
/// What is written to it.
pub const RESET_VALUE: u8 = 1;
/// The keyboard controller's command port, and the command that resets.
const KEYBOARD: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;
/// The bit of the sleep control register that makes it so.
const SLEEP_ENABLE: u8 = 1 << 5;

/// What a write to a port asks the machine to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Power off.
    PowerOff,
    /// Reset.
    Reset,
}

/// The interrupt line of a serial port.
pub(crate) struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

type Uart<W> = Mutex<Serial<Line, NoEvents, W>>;

/// The ports of a machine.
pub struct Ports {
    console: Uart<Vec<u8>>,
    control_port: Uart<ToHost>,
    control: Arc<Control>,
}

/// The control channel's bytes on their way out of the guest.
pub(crate) struct ToHost(Arc<Control>);

impl Write for ToHost {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.add_from_guest(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Ports {
    /// Ports with their interrupts in the order of [`SERIAL_PORTS`].
    #[must_use]
    pub fn new(control: Arc<Control>, interrupts: [EventFd; 2]) -> Self {
        let [console_line, control_line] = interrupts;
        Ports {
            console: Mutex::new(Serial::new(Line(console_line), Vec::new())),
            control_port: Mutex::new(Serial::new(
                Line(control_line),
                ToHost(Arc::clone(&control)),
            )),
            control,
        }
    }

    /// The guest writes.
    pub fn write(&self, port: u16, data: &[u8]) -> Option<Request> {
        let value = *data.first()?;
        match port {
            SLEEP_CONTROL if value == (POWER_OFF << 2 | SLEEP_ENABLE) => {
                return Some(Request::PowerOff);
            }
            RESET if value == RESET_VALUE => return Some(Request::Reset),
            KEYBOARD if value == KEYBOARD_RESET => return Some(Request::Reset),
            _ => {}
        }
        // A byte that cannot be written is lost, as on a cut cable.
        if let Some(offset) = offset(port, CONSOLE) {
            let _ = lock(&self.console).write(offset, value);
        } else if let Some(offset) = offset(port, CONTROL) {
            let _ = lock(&self.control_port).write(offset, value);
        }
        None
    }

    /// The guest reads.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(first) = data.first_mut() else {
            return;
        };
        if let Some(offset) = offset(port, CONSOLE) {
            *first = lock(&self.console).read(offset);
        } else if let Some(offset) = offset(port, CONTROL) {
            let mut serial = lock(&self.control_port);
            *first = serial.read(offset);
            feed(&self.control, &mut serial);
        } else if port == SLEEP_STATUS {
            *first = 0;
        }
    }

    /// The host has put something into the control channel.
    pub fn control_ready(&self) {
        feed(&self.control, &mut lock(&self.control_port));
    }

    /// Takes what the guest has written to its console since the last time.
    pub fn take_console(&self) -> Vec<u8> {
        std::mem::take(lock(&self.console).writer_mut())
    }
}

/// Moves a byte to the guest where it has read the last one. A driver stops
/// reading after some 256 bytes, and reading one takes the interrupt back: what
/// is left in a queue of several would lie there until something else comes.
fn feed(control: &Control, serial: &mut Serial<Line, NoEvents, ToHost>) {
    if serial.fifo_capacity() < FIFO {
        return;
    }
    let bytes = control.take_for_guest(1);
    if !bytes.is_empty() {
        let _ = serial.enqueue_raw_bytes(&bytes);
    }
}

fn offset(port: u16, base: u16) -> Option<u8> {
    let offset = port.checked_sub(base).filter(|it| *it < SERIAL_LEN)?;
    u8::try_from(offset).ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
