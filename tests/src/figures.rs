//! The tables and pictures of the README, made from the results of benchmarks.
//!
//! `docs/figures/NAME.json` has results. `docs/figures/NAME.svg`, and in the README what is
//! between these comments, are made from them:
//!
//! ```text
//! <!-- figures NAME: PATTERN | PATTERN… -->
//! <!-- end of figures -->
//! ```
//!
//! A pattern selects the groups whose titles it matches, or, after a `/`, some rows of
//! them: `at rest*/KiB resident`. Programs without any value there are left out. Another
//! table of the same results is called `NAME.PART`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use wildmatch::WildMatch;

use crate::chart::{self, times};
use crate::results::{Group, Results, Row};

/// Where results and pictures are.
pub const DIRECTORY: &str = "docs/figures";

const README: &str = "README.md";
const BEGIN: &str = "<!-- figures ";
const END: &str = "<!-- end of figures -->";

/// The files made from the results, each with its path and content.
///
/// # Errors
///
/// If a file cannot be read, or the README's comments are not as they should be.
pub fn files(root: &Path) -> Result<Vec<(PathBuf, String)>> {
    let path = root.join(README);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut pictures = Vec::new();
    let mut names = BTreeSet::new();
    let mut readme = String::new();
    let mut rest = &*text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (selection, after) = after.split_once("-->").context("a comment does not end")?;
        let (name, patterns) = selection
            .split_once(':')
            .with_context(|| format!("{BEGIN}{selection}: no pattern"))?;
        let (old, after) = after
            .split_once(END)
            .with_context(|| format!("{name}: there is no {END}"))?;
        ensure!(names.insert(name), "there are two tables of {name}");
        let _ = write!(readme, "{before}{BEGIN}{selection}-->");
        rest = after;
        let of = name.split('.').next().unwrap_or(name);
        let results = root.join(DIRECTORY).join(format!("{of}.json"));
        if results.exists() {
            let results = Results::load(&results)?;
            let selected = select(&results, patterns).with_context(|| name.to_owned())?;
            let picture = format!("{DIRECTORY}/{name}.svg");
            pictures.push((root.join(&picture), chart::draw(&selected)?));
            let _ = write!(readme, "\n{}\n", section(&selected, &picture));
        } else {
            readme.push_str(old);
        }
        readme.push_str(END);
    }
    readme.push_str(rest);
    pictures.push((path, readme));
    Ok(pictures)
}

/// The groups and rows that one of the patterns names, in the order of the results.
fn select(results: &Results, patterns: &str) -> Result<Results> {
    let patterns: Vec<_> = patterns.split('|').map(str::trim).collect();
    let matches = |pattern: &str, group: &Group, row: &Row| {
        let (groups, rows) = pattern.split_once('/').unwrap_or((pattern, "*"));
        WildMatch::new(groups).matches(&group.title) && WildMatch::new(rows).matches(&row.name())
    };
    for pattern in &patterns {
        let mut groups = results.groups.iter();
        if !groups.any(|it| it.rows.iter().any(|row| matches(pattern, it, row))) {
            bail!("there is no {pattern:?} in the results");
        }
    }
    let groups = results.groups.iter().map(|group| Group {
        title: group.title.clone(),
        rows: (group.rows.iter())
            .filter(|row| patterns.iter().any(|it| matches(it, group, row)))
            .cloned()
            .collect(),
    });
    let mut groups: Vec<_> = groups.filter(|group| !group.rows.is_empty()).collect();
    let measured = |program| {
        let mut rows = groups.iter().flat_map(|group| &group.rows);
        program == 0 || rows.any(|row| matches!(row.values.get(program), Some(Ok(_))))
    };
    let kept: Vec<_> = (0..results.programs.len()).map(measured).collect();
    for row in groups.iter_mut().flat_map(|group| &mut group.rows) {
        row.values = keep(&row.values, &kept);
    }
    Ok(Results {
        title: results.title.clone(),
        programs: keep(&results.programs, &kept),
        groups,
    })
}

fn keep<T: Clone>(all: &[T], kept: &[bool]) -> Vec<T> {
    let all = all.iter().zip(kept);
    all.filter(|(_, kept)| **kept)
        .map(|(it, _)| it.clone())
        .collect()
}

/// The picture and the table.
fn section(results: &Results, picture: &str) -> String {
    let [first, others @ ..] = &*results.programs else {
        return String::new();
    };
    let mut text = format!("![{first} and {}]({picture})\n\n", others.join(", "));
    let _ = writeln!(text, "| | | {} |", results.programs.join(" | "));
    let _ = writeln!(
        text,
        "| --- | --- |{}",
        " ---: |".repeat(results.programs.len())
    );
    let mut notes: Vec<&str> = Vec::new();
    for group in &results.groups {
        let mut title = format!(" {}", group.title);
        for row in &group.rows {
            let _ = write!(text, "|{title} | {} |", row.name());
            title.clear();
            for (program, value) in row.values.iter().enumerate() {
                let cell = match (value, row.ratio(program)) {
                    (Ok(value), Some(ratio)) => format!("{} ({})", figure(*value), times(ratio)),
                    (Ok(value), None) => figure(*value),
                    (Err(reason), _) => {
                        let known = notes.iter().position(|note| note == reason);
                        let number = known.unwrap_or(notes.len());
                        if known.is_none() {
                            notes.push(reason);
                        }
                        format!("none [{}]", number + 1)
                    }
                };
                let _ = write!(text, " {cell} |");
            }
            text.push('\n');
        }
    }
    let _ = write!(text, "\n{}.", results.title);
    for (number, note) in (1..).zip(notes) {
        let _ = write!(text, " [{number}] {note}.");
    }
    text + "\n"
}

/// A number with the digits that say something, and commas between thousands.
fn figure(value: f64) -> String {
    let text = match value {
        0.0 => "0".to_owned(),
        value if value < 9.995 => format!("{value:.2}"),
        value if value < 99.95 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    };
    let digits = text.find('.').unwrap_or(text.len());
    let mut grouped = String::new();
    for (at, character) in text.chars().enumerate() {
        if at > 0 && at < digits && (digits - at) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(character);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Results {
        let row = |title, unit, values: [Option<f64>; 3]| {
            let values = values.map(|value| value.ok_or_else(|| "it ended".to_owned()));
            Row::new(title, unit, values.to_vec())
        };
        let fast = [Some(12.0), Some(1500.0), Some(6.0)];
        Results {
            title: "5 rounds".to_owned(),
            programs: ["agent", "daemon", "least"].map(str::to_owned).to_vec(),
            groups: vec![
                Group::new("a < b & c", vec![row("a message", "µs", fast)]),
                Group::new(
                    "another",
                    vec![
                        row("a message", "µs", [Some(100.0), Some(80.0), None]),
                        row(
                            "a message",
                            "system calls",
                            [Some(0.0), Some(1.0), Some(1.0)],
                        ),
                        row("of many messages", "µs", [Some(0.5), None, Some(0.25)]),
                    ],
                ),
            ],
        }
    }

    #[test]
    fn tables_and_pictures_have_what_is_selected() {
        let place = tempfile::tempdir().unwrap();
        let figures = place.path().join(DIRECTORY);
        fs::create_dir_all(&figures).unwrap();
        example().save(&figures.join("it.json")).unwrap();
        let readme = place.path().join(README);
        let text = "# Title\n\n<!-- figures it: a <* | another/µs*\n  | another/system* -->old\n<!-- end of figures -->\n\n\
                    <!-- figures later: * -->\nkept\n<!-- end of figures -->\nend\n";
        fs::write(&readme, text).unwrap();
        let made = files(place.path()).unwrap();
        let [(picture, svg), (_, new)] = &*made else {
            panic!("{made:?}");
        };
        assert_eq!(*picture, figures.join("it.svg"));
        for expected in [
            "| a < b & c | µs a message | 12.0 | 1,500 (125×) | 6.00 (0.5×) |\n",
            "| another | µs a message | 100 | 80.0 (0.8×) | none [1] |\n",
            "| | system calls a message | 0 | 1.00 | 1.00 |\n",
            "| | µs of many messages | 0.50 | none [1] | 0.25 (0.5×) |\n\n5 rounds. [1] it ended.\n",
            "![agent and daemon, least](docs/figures/it.svg)\n",
            "-->\nkept\n<!--",
        ] {
            assert!(new.contains(expected), "{expected} is not in {new}");
        }
        assert!(!new.contains("old"), "{new}");
        for expected in ["a &lt; b &amp; c", "125× daemon", "0.5× least"] {
            assert!(svg.contains(expected), "{expected} is not in {svg}");
        }
        assert!(!svg.contains("system calls"), "nothing is compared with 0");
        fs::write(&readme, new).unwrap();
        assert_eq!(files(place.path()).unwrap(), made);

        let part = "<!-- figures it.part: another/µs of many* --><!-- end of figures -->";
        fs::write(&readme, part).unwrap();
        let made = files(place.path()).unwrap();
        assert_eq!(made[0].0, figures.join("it.part.svg"));
        assert!(
            made[1]
                .1
                .contains("| another | µs of many messages | 0.50 | 0.25 (0.5×) |\n")
        );

        fs::write(&readme, text.replace("another/µs", "nothing")).unwrap();
        let error = format!("{:#}", files(place.path()).unwrap_err());
        assert!(error.contains("nothing*"), "{error}");
    }
}
