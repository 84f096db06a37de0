//! Bytes as they are sent over the serial port, which is slow: runs of zeros, of
//! which files of records have many, are left out.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Shorter runs of zeros are sent as they are.
const SHORTEST: usize = 16;

/// The largest number of bytes that is believed.
const LONGEST: usize = 1 << 30;

#[derive(Serialize, Deserialize)]
struct Sparse {
    len: usize,
    /// What is not zero, and where.
    parts: Vec<(usize, Vec<u8>)>,
}

pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    let mut parts: Vec<(usize, Vec<u8>)> = Vec::new();
    for (at, byte) in bytes
        .iter()
        .copied()
        .enumerate()
        .filter(|(_, byte)| *byte != 0)
    {
        match parts.last_mut() {
            Some((start, part)) if at - *start < part.len() + SHORTEST => {
                part.resize(at - *start, 0);
                part.push(byte);
            }
            _ => parts.push((at, vec![byte])),
        }
    }
    let len = bytes.len();
    Sparse { len, parts }.serialize(to)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    let Sparse { len, parts } = Sparse::deserialize(from)?;
    if len > LONGEST {
        return Err(de::Error::custom(format!("{len} bytes are too many")));
    }
    let mut bytes = vec![0; len];
    for (start, part) in parts {
        let place = bytes
            .get_mut(start..)
            .and_then(|rest| rest.get_mut(..part.len()));
        let place = place.ok_or_else(|| de::Error::custom("a part is beyond the end"))?;
        place.copy_from_slice(&part);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct ReceivedMessage(#[serde(with = "super")] Vec<u8>);

    #[test]
    fn bytes_come_as_they_were_and_zeros_cost_little() {
        let mut record = vec![0; 2560];
        record[..3].copy_from_slice(b"key");
        record[512..517].copy_from_slice(b"value");
        record[2559] = 1;
        let short = [
            &[1; 3][..],
            &[0; SHORTEST - 1],
            &[2],
            &[0; SHORTEST + 1],
            &[3],
        ]
        .concat();
        for bytes in [
            vec![],
            vec![0],
            vec![0; 5000],
            short,
            record,
            (0..=255).collect(),
        ] {
            let text = serde_json::to_string(&ReceivedMessage(bytes.clone())).unwrap();
            assert_eq!(
                serde_json::from_str::<ReceivedMessage>(&text).unwrap().0,
                bytes
            );
            let few = bytes.iter().filter(|byte| **byte != 0).count();
            assert!(text.len() < 100 + few * 6, "{text}");
        }
    }

    #[test]
    fn parts_that_cannot_be_are_refused() {
        for text in [
            r#"{"len":2,"parts":[[1,[1,2]]]}"#,
            r#"{"len":2,"parts":[[3,[]]]}"#,
            r#"{"len":99999999999,"parts":[]}"#,
        ] {
            assert!(
                serde_json::from_str::<ReceivedMessage>(text).is_err(),
                "{text}"
            );
        }
    }
}
