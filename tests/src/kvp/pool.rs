//! Pool files, as other programs read and write them. Protocol section 7.

/// Bytes of a record's key.
pub const KEY: usize = 512;

/// Bytes of a record's value.
pub const VALUE: usize = 2048;

/// Bytes of a record.
pub const RECORD: usize = KEY + VALUE;

/// The name of a pool's file.
pub fn file(pool: u8) -> String {
    format!(".kvp_pool_{pool}")
}

/// A record; what does not fit is cut off.
pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = key.to_vec();
    bytes.resize(KEY, 0);
    bytes.extend(value.iter().take(VALUE));
    bytes.resize(RECORD, 0);
    bytes
}

/// The records of keys and values.
pub fn records(items: &[(&str, &str)]) -> Vec<u8> {
    items
        .iter()
        .flat_map(|(key, value)| record(key.as_bytes(), value.as_bytes()))
        .collect()
}
