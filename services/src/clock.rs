//! Times in whole seconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;

/// The last second of the year 9999.
const LAST: u64 = 253_402_300_799;

/// Rounds a time down to seconds, within the years 1970 to 9999: the clock may be wrong.
pub fn clock(at: SystemTime) -> SystemTime {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs().min(LAST))
}

/// Formats a time for people.
pub fn utc(at: SystemTime) -> String {
    let text = format_rfc3339_seconds(clock(at)).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

/// The format of times in JSON.
pub mod rfc3339 {
    use std::time::SystemTime;

    use humantime::{format_rfc3339_seconds, parse_rfc3339};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Serializes a time.
    ///
    /// # Errors
    ///
    /// If the serializer fails.
    pub fn serialize<S: Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_rfc3339_seconds(super::clock(*at)))
    }

    /// Deserializes a time.
    ///
    /// # Errors
    ///
    /// If the text is no time.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        parse_rfc3339(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_a_text() {
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(utc(UNIX_EPOCH - day), "1970-01-01 00:00:00 UTC");
        let at = UNIX_EPOCH + Duration::from_millis(1_772_618_412_999);
        assert_eq!(utc(at), "2026-03-04 10:00:12 UTC");
        assert_eq!(
            utc(UNIX_EPOCH + day * 100_000_000),
            "9999-12-31 23:59:59 UTC"
        );
    }
}
