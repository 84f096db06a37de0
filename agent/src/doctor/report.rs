//! What all checks have found, as text and as JSON.

use serde::Serialize;

use super::finding::{Finding, Level};
use crate::terminal::escaped;

/// Records what host and guest say, for a report.
const CAPTURE: &str = "hyperv-agent capture --for 5min FILE";

/// What all checks have found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// The worst level of all checks.
    pub result: Level,
    /// The checks, in the order in which they are described.
    pub checks: Vec<Checked>,
    /// A command that records what host and guest say, if that would show more of a finding.
    pub capture: Option<&'static str>,
}

/// What a check has found.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// Its name.
    pub name: &'static str,
    /// The question that it answers.
    pub question: &'static str,
    /// The worst level of its findings.
    pub result: Level,
    /// What it has found.
    pub findings: Vec<Finding>,
}

impl Checked {
    pub(super) fn new(name: &'static str, question: &'static str, findings: Vec<Finding>) -> Self {
        let worst = findings.iter().map(|it| it.level).max();
        Self {
            name,
            question,
            result: worst.unwrap_or(Level::Ok),
            findings,
        }
    }

    pub(super) fn skipped(name: &'static str, question: &'static str) -> Self {
        Self {
            name,
            question,
            result: Level::Skipped,
            findings: Vec::new(),
        }
    }
}

impl Report {
    pub(super) fn new(checks: Vec<Checked>) -> Self {
        let worst = checks.iter().map(|it| it.result).max();
        let mut findings = checks.iter().flat_map(|it| &it.findings);
        let is_said = findings.any(|it| it.is_said);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            result: worst.unwrap_or(Level::Ok),
            capture: is_said.then_some(CAPTURE),
            checks,
        }
    }

    /// Returns whether something is wrong: a note, or what could not be checked, is not.
    pub fn is_bad(&self) -> bool {
        self.result >= Level::Warning
    }

    /// Returns the findings as text, the worst first; with `verbose`, also a line for each
    /// check. Where a capture would show more, or with `verbose`, the last line offers one.
    pub fn text(&self, verbose: bool) -> String {
        let mut text = String::new();
        if verbose {
            for check in &self.checks {
                let (result, name) = (word(check.result), check.name);
                text += &format!("{result:12} {name:17} {}\n", check.question);
            }
            text += "\n";
        }
        let all = self.checks.iter();
        let all = all.flat_map(|check| check.findings.iter().map(move |it| (check.name, it)));
        let mut all: Vec<_> = all.collect();
        all.sort_by_key(|(_, finding)| std::cmp::Reverse(finding.level));
        for (name, finding) in &all {
            let mut lines = finding.text.lines().map(escaped);
            let first = lines.next().unwrap_or_default();
            text += &format!("{}: {name}: {first}\n", word(finding.level));
            for line in lines {
                text += &format!("  {line}\n");
            }
            if !finding.remedy.is_empty() {
                text += &format!("  remedy: {}\n", escaped(&finding.remedy));
            }
        }
        let count = |level| all.iter().filter(|(_, it)| it.level == level).count();
        let gap = if all.is_empty() { "" } else { "\n" };
        text += &format!(
            "{gap}{} checks; errors: {}, warnings: {}, notes: {}, not checked: {}\n",
            self.checks.len(),
            count(Level::Error),
            count(Level::Warning),
            count(Level::Note),
            count(Level::Unchecked)
        );
        if self.capture.is_some() || verbose {
            text += &format!(
                "To report what goes wrong between host and guest, record it with `{CAPTURE}`: see \
                 REPORTING A PROBLEM in hyperv-agent(8)\n"
            );
        }
        text
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Skipped => "skipped",
        Level::Ok => "ok",
        Level::Note => "note",
        Level::Unchecked => "not checked",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}
