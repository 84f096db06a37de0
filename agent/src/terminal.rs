//! Tables for people.

/// Wider cells than this do not widen their column.
const MAX_WIDTH: usize = 40;

/// Rows in lines, their cells in columns.
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

/// Text for a terminal: what would not be seen, or be seen as something else, is
/// escaped.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\'' | '"' | '\\' => escaped.push(letter),
            letter => escaped.extend(letter.escape_debug()),
        }
    }
    escaped
}
