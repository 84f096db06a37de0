//! Writes a capture of devices that come while it is written.

use std::io::{self, Write};
use std::time::SystemTime;

use super::pcapng::Writer;
use super::{EventKind, Interface, Record, Section};

/// A capture that is being written. Each block is one write.
#[derive(Debug)]
pub struct Recording<W> {
    writer: Writer<W>,
    /// The devices so far, and how many of their records were dropped.
    interfaces: Vec<(Interface, u64)>,
}

impl<W: Write> Recording<W> {
    /// Begins a capture.
    ///
    /// # Errors
    ///
    /// Any error of the write.
    pub fn new(out: W, section: &Section) -> io::Result<Self> {
        Ok(Self {
            writer: Writer::new(out, section)?,
            interfaces: Vec::new(),
        })
    }

    /// Adds a message or an event of this device.
    ///
    /// # Errors
    ///
    /// Any error of the write.
    pub fn add(&mut self, interface: &Interface, mut record: Record) -> io::Result<()> {
        let known = self.interfaces.iter().position(|(it, _)| it == interface);
        record.interface = match known {
            Some(index) => index,
            None => {
                self.interfaces.push((interface.clone(), 0));
                self.writer.interface(interface)?
            }
        };
        let event = record.event();
        if let Some(event) = event.filter(|event| event.kind == EventKind::Dropped) {
            if let Some((_, dropped)) = self.interfaces.get_mut(record.interface) {
                *dropped = dropped.saturating_add(event.text.parse().unwrap_or(0));
            }
        }
        self.writer.record(&record)
    }

    /// Ends the capture with how many records of each device were dropped.
    ///
    /// # Errors
    ///
    /// Any error of the write.
    pub fn finish(&mut self) -> io::Result<()> {
        for (index, (_, dropped)) in self.interfaces.iter().enumerate() {
            self.writer.dropped(index, SystemTime::now(), *dropped)?;
        }
        Ok(())
    }

    /// Returns the number of devices so far.
    pub fn interfaces(&self) -> usize {
        self.interfaces.len()
    }

    /// Returns what is written to.
    pub fn get_mut(&mut self) -> &mut W {
        self.writer.get_mut()
    }
}
