//! A key file whose lines stay as they are, except for those that are replaced.

use std::fmt::{self, Display};

/// A key file: `key=value` lines in `[sections]`, comments and empty lines.
///
/// Its texts are kept to the letter: there can be secrets in them, to which spaces at the end may
/// belong. As in GLib, sections of the same name are one, and the last of several assignments
/// counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kvp::network) struct KeyFile {
    sections: Vec<Section>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Section {
    /// Empty for the lines before the first header.
    name: String,
    lines: Vec<String>,
}

impl KeyFile {
    pub(in crate::kvp::network) fn parse(text: &str) -> Self {
        let mut sections = vec![Section::new("")];
        for line in text.lines() {
            match (header(line), sections.last_mut()) {
                (Some(name), _) => sections.push(Section::new(name)),
                (None, Some(section)) => section.lines.push(line.to_owned()),
                (None, None) => {}
            }
        }
        Self { sections }
    }

    /// Returns all assignments: section, key and value.
    pub(in crate::kvp::network) fn assignments(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.sections.iter().flat_map(|section| {
            let lines = section.lines.iter();
            lines
                .filter_map(|line| assignment(line))
                .map(|(key, value)| (section.name.as_str(), key, value))
        })
    }

    /// Returns the value of the last assignment to the key.
    pub(in crate::kvp::network) fn last(&self, section: &str, key: &str) -> Option<&str> {
        let found = self
            .assignments()
            .filter(|found| (found.0, found.1) == (section, key));
        found.last().map(|(_, _, value)| value)
    }

    /// Returns whether there is a section of this name.
    pub(super) fn has(&self, section: &str) -> bool {
        self.sections.iter().any(|found| found.name == section)
    }

    /// Keeps the sections whose name fulfils the condition.
    pub(super) fn retain_sections(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.sections.retain(|section| keep(&section.name));
    }

    /// Removes the assignments whose key fulfils the condition, and returns them.
    pub(super) fn remove(
        &mut self,
        section: &str,
        mut which: impl FnMut(&str) -> bool,
    ) -> Vec<(String, String)> {
        let mut removed = Vec::new();
        let sections = self.sections.iter_mut();
        for section in sections.filter(|found| found.name == section) {
            section.lines.retain(|line| match assignment(line) {
                Some((key, value)) if which(key) => {
                    removed.push((key.to_owned(), value.to_owned()));
                    false
                }
                _ => true,
            });
        }
        removed
    }

    /// Adds an assignment at the end of the section.
    pub(super) fn add(&mut self, section: &str, key: &str, value: impl Display) {
        let line = format!("{key}={value}");
        let place = self
            .sections
            .iter()
            .rposition(|found| found.name == section);
        if let Some(section) = place.and_then(|place| self.sections.get_mut(place)) {
            let end = section
                .lines
                .iter()
                .rposition(|line| !line.trim().is_empty());
            section.lines.insert(end.map_or(0, |end| end + 1), line);
            return;
        }
        let last = self.sections.last_mut();
        let has_end = |last: &Section| last.lines.last().is_some_and(|line| line.trim().is_empty());
        if let Some(last) = last.filter(|last| !has_end(last) && !last.is_start()) {
            last.lines.push(String::new());
        }
        self.sections.push(Section {
            lines: vec![line],
            ..Section::new(section)
        });
    }

    /// Replaces all assignments to the key.
    pub(super) fn set(&mut self, section: &str, key: &str, value: impl Display) {
        self.remove(section, |found| found == key);
        self.add(section, key, value);
    }

    /// Puts a comment in front of everything, unless it is there.
    pub(super) fn comment(&mut self, comment: &str) {
        if let Some(start) = self.sections.first_mut() {
            if !start.lines.iter().any(|line| line == comment) {
                start.lines.insert(0, comment.to_owned());
            }
        }
    }
}

impl Display for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.sections {
            if !section.name.is_empty() {
                writeln!(f, "[{}]", section.name)?;
            }
            for line in &section.lines {
                writeln!(f, "{line}")?;
            }
        }
        Ok(())
    }
}

impl Section {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            lines: Vec::new(),
        }
    }

    /// Returns whether this is the part before the first header.
    fn is_start(&self) -> bool {
        self.name.is_empty()
    }
}

fn header(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix('[')?.strip_suffix(']')?;
    (!name.is_empty()).then_some(name)
}

fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    if line.starts_with(['#', ';', '[']) {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    Some((key.trim_end(), value.trim_start()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "# of the administrator\n\n[connection]\nid=wired\n# why\nuuid = 1\n\n\
                        [802-1x]\npassword=secret \n\n[connection]\nid=other\n";

    #[test]
    fn lines_stay_as_they_are() {
        assert_eq!(KeyFile::parse(TEXT).to_string(), TEXT);
    }

    #[test]
    fn sections_of_a_name_are_one() {
        let mut file = KeyFile::parse(TEXT);
        assert_eq!(file.last("connection", "id"), Some("other"));
        assert_eq!(file.last("connection", "uuid"), Some("1"));
        assert_eq!(file.last("802-1x", "password"), Some("secret "));
        let removed = file.remove("connection", |key| key == "id");
        let pair = |value: &str| ("id".to_owned(), value.to_owned());
        assert_eq!(removed, [pair("wired"), pair("other")]);
        file.set("connection", "uuid", 2);
        file.add("ipv4", "method", "auto");
        file.add("ipv4", "dns", "10.0.0.1;");
        file.comment("# of the agent");
        file.comment("# of the agent");
        assert_eq!(
            file.to_string(),
            "# of the agent\n# of the administrator\n\n[connection]\n# why\n\n\
             [802-1x]\npassword=secret \n\n[connection]\nuuid=2\n\n\
             [ipv4]\nmethod=auto\ndns=10.0.0.1;\n"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let file = KeyFile::parse(&text);
            prop_assert_eq!(&KeyFile::parse(&file.to_string()), &file);
        }
    }
}
