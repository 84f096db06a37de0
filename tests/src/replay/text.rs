//! Differences in words: the lines of `hyperv-agent capture show`.

use hyperv_agent::capture::text::{Times, line};
use hyperv_agent::capture::{Decoder, Record};

use super::{Capture, Difference};

impl Capture {
    /// The record with this number in a line.
    pub(super) fn text(&self, number: usize) -> String {
        self.line(&mut Decoder::default(), self.record(number))
    }

    fn record(&self, number: usize) -> Option<&Record> {
        self.records.get(number.checked_sub(1)?)
    }

    fn line(&self, decoder: &mut Decoder, record: Option<&Record>) -> String {
        let Some((record, first)) = record.zip(self.records.first()) else {
            return String::new();
        };
        let interface = self.interfaces.get(record.interface);
        let description = decoder.describe(record);
        let line = line(Times::Relative, first.time, interface, record, &description);
        line.trim_start().to_owned()
    }

    /// A difference in some lines: the request, the reply of the capture, and that of the
    /// guest.
    pub fn describe(&self, difference: &Difference) -> String {
        let Difference {
            request,
            reply,
            what,
            sent,
            came,
        } = difference;
        // A reply is decoded after its request.
        let mut decoder = Decoder::default();
        let asked = self.line(&mut decoder, self.record(*request));
        let expected = match reply {
            Some(reply) => self.line(&mut decoder, self.record(*reply)),
            None => "none".to_owned(),
        };
        self.line(&mut decoder, Some(sent));
        let came = self.line(&mut decoder, Some(came));
        let number = reply.map_or_else(String::new, |reply| format!(" (record {reply})"));
        format!(
            "    {what}\n    the request (record {request}):\n        {asked}\n    \
             the reply in the capture{number}:\n        {expected}\n    \
             the reply of the guest:\n        {came}"
        )
    }
}
