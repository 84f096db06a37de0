//! What a comparison of programs measured, and the table of it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result as Outcome};
use serde::{Deserialize, Serialize};

/// What was measured of several programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// What was measured, and how, in a line.
    pub title: String,
    /// The programs; the others are compared with the first.
    pub programs: Vec<String>,
    /// The figures.
    pub groups: Vec<Group>,
}

/// Figures that belong together, under a title of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// What they are about.
    pub title: String,
    /// The figures.
    pub rows: Vec<Row>,
}

/// One figure of each program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What the figure is of, for example "a message".
    pub title: String,
    /// Its unit, or what is counted, for example "µs" or "system calls".
    pub unit: Cow<'static, str>,
    /// For each program the figure, or why it has none; those of the last programs may be
    /// missing.
    pub values: Vec<Result<f64, String>>,
}

impl Group {
    /// Figures under a title.
    pub fn new(title: &str, rows: Vec<Row>) -> Self {
        Self {
            title: title.to_owned(),
            rows,
        }
    }
}

impl Row {
    /// A figure with its unit.
    pub fn new(title: &str, unit: &'static str, values: Vec<Result<f64, String>>) -> Self {
        Self {
            title: title.to_owned(),
            unit: Cow::Borrowed(unit),
            values,
        }
    }

    /// The ratio of a program's figure to the first one's; `None` for the first, and
    /// where one of them is missing or the first is zero.
    pub fn ratio(&self, program: usize) -> Option<f64> {
        let value = |at: usize| self.values.get(at)?.as_ref().ok().copied();
        let first = value(0).filter(|first| program > 0 && *first > 0.0)?;
        Some(value(program)? / first)
    }

    /// The unit and what it is of.
    pub fn name(&self) -> String {
        format!("{} {}", self.unit, self.title).trim().to_owned()
    }
}

/// The value in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value in the middle of each program's rounds, or why a round has none.
pub fn medians<T>(
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

impl Results {
    /// Reads results that were written to a file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or has none.
    pub fn load(path: &Path) -> Outcome<Self> {
        let text = fs::read(path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| path.display().to_string())
    }

    /// Writes the results to a file, as JSON.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Outcome<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// The title and the table in Markdown, with each program's ratio to the first, and
    /// below it why figures are missing.
    #[must_use]
    pub fn render(&self) -> String {
        let mut table = format!("{}; ratios to the first\n\n", self.title);
        let mut notes: Vec<&str> = Vec::new();
        // Writing to a string does not fail.
        let _ = write!(table, "| {:32} |", "");
        for name in &self.programs {
            let _ = write!(table, " {name:>24} |");
        }
        let _ = write!(table, "\n| {} |", "-".repeat(32));
        for _ in &self.programs {
            let _ = write!(table, " {}: |", "-".repeat(23));
        }
        table.push('\n');
        for group in &self.groups {
            let _ = write!(table, "| {:32} |", format!("**{}**", group.title));
            for _ in &self.programs {
                let _ = write!(table, " {:24} |", "");
            }
            table.push('\n');
            for row in &group.rows {
                let _ = write!(table, "| {:32} |", row.name());
                for program in 0..self.programs.len() {
                    let text = match (row.values.get(program), row.ratio(program)) {
                        (Some(Ok(value)), Some(ratio)) => format!("{value:.2} ({ratio:.2}×)"),
                        (Some(Ok(value)), None) => format!("{value:.2}"),
                        (Some(Err(reason)), _) => format!("none [{}]", note(&mut notes, reason)),
                        (None, _) => String::new(),
                    };
                    let _ = write!(table, " {text:>24} |");
                }
                table.push('\n');
            }
        }
        for (number, note) in notes.iter().enumerate() {
            let _ = write!(table, "\n[{}] {note}\n", number + 1);
        }
        table
    }
}

/// The number of this note, which is added where it is not there yet.
fn note<'a>(notes: &mut Vec<&'a str>, reason: &'a str) -> usize {
    if let Some(at) = notes.iter().position(|note| *note == reason) {
        return at + 1;
    }
    notes.push(reason);
    notes.len()
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
        let values = vec![Ok(2.0), Ok(3.0), Err("it died".into())];
        let row = Row::new("a message", "µs", values);
        assert_eq!(
            [0, 1, 2, 3].map(|it| row.ratio(it)),
            [None, Some(1.5), None, None]
        );
        let results = Results {
            title: "a bench".to_owned(),
            programs: ["a", "b", "c"].map(str::to_owned).to_vec(),
            groups: vec![Group::new("speed", vec![row.clone(), row])],
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        results.save(file.path()).unwrap();
        assert_eq!(Results::load(file.path()).unwrap(), results);
        let table = results.render();
        assert!(table.contains("| µs a message "), "{table}");
        assert!(table.contains("3.00 (1.50×)"), "{table}");
        assert!(table.ends_with("|\n\n[1] it died\n"), "{table}");
    }
}
