//! An `ifcfg` file whose lines stay as they are, except for those that are replaced.

use std::fmt::{self, Display};

use crate::kvp::assignments;

/// Assignments in shell syntax, comments and empty lines.
pub(super) struct Variables(Vec<String>);

impl Variables {
    pub(super) fn parse(text: &str) -> Self {
        Self(text.lines().map(str::to_owned).collect())
    }

    /// Returns the value of the last assignment to the key.
    pub(super) fn last(&self, key: &str) -> Option<String> {
        let values = self.assignments().filter(|(found, _)| found == key);
        values.last().map(|(_, value)| value)
    }

    /// Returns all assignments.
    pub(super) fn assignments(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().filter_map(|line| assignment(line))
    }

    /// Removes the assignments whose key fulfils the condition, and returns them.
    pub(super) fn remove(&mut self, mut which: impl FnMut(&str) -> bool) -> Vec<(String, String)> {
        let mut removed = Vec::new();
        self.0.retain(|line| match assignment(line) {
            Some(found) if which(&found.0) => {
                removed.push(found);
                false
            }
            _ => true,
        });
        removed
    }

    /// Replaces all assignments to the key. The value is written as it is.
    pub(super) fn set(&mut self, key: &str, value: impl Display) {
        self.remove(|found| found == key);
        self.0.push(format!("{key}={value}"));
    }

    /// Puts a comment in front of everything, unless it is there.
    pub(super) fn comment(&mut self, comment: &str) {
        if !self.0.iter().any(|line| line == comment) {
            self.0.insert(0, comment.to_owned());
        }
    }
}

impl Display for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

fn assignment(line: &str) -> Option<(String, String)> {
    let (key, value) = assignments::parse(line).next()?;
    Some((key.to_owned(), value))
}
