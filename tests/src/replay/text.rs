//! Differences in words.

use hyperv_agent::capture::{Kind, Record, Transport};
use hyperv_services::description::{Context, Side};
use hyperv_vmbus::ic::Version;

use super::{Capture, Difference};
use crate::ic::HEADER_LEN;

impl Capture {
    /// The record with this number in a line.
    pub(super) fn text(&self, number: usize) -> String {
        let record = number
            .checked_sub(1)
            .and_then(|place| self.records.get(place));
        record.map_or_else(String::new, |record| self.line(record))
    }

    fn line(&self, record: &Record) -> String {
        let bytes = &record.bytes;
        let body = match record.header.transport {
            Transport::Ring => bytes.get(HEADER_LEN..).unwrap_or_default(),
            Transport::Device => bytes,
        };
        let context = Context {
            encoding: record.header.transport.encoding(),
            side: match record.header.kind {
                Kind::Host => Side::Host,
                Kind::Guest | Kind::Event => Side::Guest,
            },
            version: record
                .header
                .negotiated
                .map_or(Version::new(0, 0), |it| it.message),
            request: None,
            status: None,
        };
        let entry = record.header.entry();
        let described = entry.map(|entry| (entry.describe)(&context, body));
        described.map_or_else(String::new, |described| described.operation.into_owned())
    }

    /// A difference in some lines: the request, the reply of the capture, and that of the
    /// guest.
    pub fn describe(&self, difference: &Difference) -> String {
        let Difference {
            request,
            reply,
            what,
            came,
        } = difference;
        let expected = reply.map_or_else(String::new, |reply| {
            format!("    record {reply}, the reply: {}\n", self.text(reply))
        });
        format!(
            "    {what}\n    record {request}, the request: {}\n{expected}    the guest's reply: {}",
            self.text(*request),
            self.line(came)
        )
    }
}
