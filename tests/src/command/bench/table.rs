//! The table that a comparison ends in.

use std::fmt::Write as _;

/// A line of the table: a value for each program, or why there is none.
pub(super) struct Row {
    title: String,
    values: Vec<Result<f64, String>>,
}

impl Row {
    pub(super) fn new(title: &str, values: Vec<Result<f64, String>>) -> Self {
        Self {
            title: title.to_owned(),
            values,
        }
    }

    /// A line that says what the next ones are about.
    pub(super) fn heading(title: &str) -> Self {
        Self::new(title, Vec::new())
    }
}

/// The value in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value in the middle of each program's rounds, or why a round has none.
pub(super) fn medians<T>(
    rounds: &[Vec<Result<T, String>>],
    of: impl Fn(&T) -> f64,
) -> Vec<Result<f64, String>> {
    rounds
        .iter()
        .map(|rounds| {
            let values: Result<Vec<f64>, String> = rounds
                .iter()
                .map(|round| round.as_ref().map(&of).map_err(Clone::clone))
                .collect();
            values.map(median)
        })
        .collect()
}

/// The table in Markdown, with each program's ratio to the first, and below it
/// why values are missing.
pub(super) fn render(names: &[&str], rows: &[Row]) -> String {
    let mut table = String::new();
    let mut notes: Vec<&str> = Vec::new();
    // Writing to a string does not fail.
    let _ = write!(table, "| {:32} |", "");
    for name in names {
        let _ = write!(table, " {name:>24} |");
    }
    let _ = write!(table, "\n| {} |", "-".repeat(32));
    for _ in names {
        let _ = write!(table, " {}: |", "-".repeat(23));
    }
    table.push('\n');
    for row in rows {
        if row.values.is_empty() {
            let _ = write!(table, "| {:32} |", format!("**{}**", row.title));
            for _ in names {
                let _ = write!(table, " {:24} |", "");
            }
            table.push('\n');
            continue;
        }
        let first = row
            .values
            .first()
            .and_then(|value| value.as_ref().ok())
            .copied();
        let _ = write!(table, "| {:32} |", row.title);
        for (at, value) in row.values.iter().enumerate() {
            let text = match value {
                Ok(value) => match first.filter(|first| at > 0 && *first > 0.0) {
                    Some(first) => format!("{value:.2} ({:.2}×)", value / first),
                    None => format!("{value:.2}"),
                },
                Err(reason) => {
                    let number =
                        notes
                            .iter()
                            .position(|note| note == reason)
                            .unwrap_or_else(|| {
                                notes.push(reason);
                                notes.len() - 1
                            });
                    format!("fails [{}]", number + 1)
                }
            };
            let _ = write!(table, " {text:>24} |");
        }
        table.push('\n');
    }
    for (number, note) in notes.iter().enumerate() {
        let _ = write!(table, "\n[{}] {note}\n", number + 1);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        let rounds = [
            vec![Ok(1), Ok(9), Ok(2)],
            vec![Ok(3), Err("it died".into())],
        ];
        let medians = medians(&rounds, |round| f64::from(*round));
        assert_eq!(medians, [Ok(2.0), Err("it died".into())]);
        let rows = [
            Row::heading("speed"),
            Row::new("µs", vec![Ok(2.0), Ok(3.0), Err("it died".into())]),
        ];
        let table = render(&["a", "b", "c"], &rows);
        assert!(table.contains("3.00 (1.50×)"), "{table}");
        assert!(table.ends_with("[1] it died\n"), "{table}");
    }
}
