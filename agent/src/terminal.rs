//! Text for terminals: escaped, in columns.

/// Wider cells than this do not widen their column.
const MAX_WIDTH: usize = 40;

/// Returns `rows` as lines, with their cells in columns.
pub(crate) fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().min(MAX_WIDTH).max(*width);
        }
    }
    rows.iter()
        .map(|row| {
            let cells: Vec<_> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            cells.join("  ").trim_end().to_owned() + "\n"
        })
        .collect()
}

/// Escapes the control characters of a name or a text from outside, newlines
/// included, and what would be invisible or reorder other text. Escaping twice
/// makes no difference.
pub(crate) fn escaped(text: &str) -> String {
    // `escape_debug` would escape these as well.
    const KEPT: [char; 3] = ['\'', '"', '\\'];
    let mut kept = text.matches(KEPT);
    text.split(KEPT)
        .map(|part| format!("{}{}", part.escape_debug(), kept.next().unwrap_or_default()))
        .collect()
}

/// Escapes each line of `text`, and keeps the newlines.
pub(crate) fn escaped_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(escaped).collect();
    lines.join("\n")
}

/// Returns a number of bytes with a unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    match UNITS.into_iter().find(|(unit, _)| count >= *unit) {
        // Cut off after one decimal: 100 % only when it is done.
        Some((unit, name)) => {
            let tenths = u128::from(count) * 10 / u128::from(unit);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{count} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        for (text, shown) in [
            ("plain: äöü 東京 हिन्दी 100 %", "plain: äöü 東京 हिन्दी 100 %"),
            ("\u{1b}[2Jred", "\\u{1b}[2Jred"),
            ("two\nlines\r\t", "two\\nlines\\r\\t"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
            (r#"{"a": 'b'}"#, r#"{"a": 'b'}"#),
            (r"C:\path", r"C:\path"),
            (r#"\""#, r#"\""#),
            (r"\'", r"\'"),
        ] {
            assert_eq!(escaped(text), shown);
            assert_eq!(escaped(&escaped(text)), shown);
        }
        assert_eq!(escaped_lines("a\u{7}\nb\n"), "a\\u{7}\nb\n");
    }
}
