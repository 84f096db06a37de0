//! Parses files of `key=value` lines in `[sections]`: units of systemd and profiles of
//! NetworkManager.

use std::fmt::Write;

/// Returns the assignments in all sections of that name, in order. Continuation lines are
/// not joined: no key that is needed is that long.
pub fn section<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let mut inside = false;
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            inside = header.strip_suffix(']') == Some(name);
            return None;
        }
        if !inside || line.starts_with(['#', ';']) {
            return None;
        }
        let (key, value) = line.split_once('=')?;
        Some((key.trim_end(), value.trim_start()))
    })
}

/// Returns the value of the last assignment to this key of a section.
pub(super) fn last<'a>(text: &'a str, name: &'a str, key: &str) -> Option<&'a str> {
    section(text, name)
        .filter(|(found, _)| *found == key)
        .last()
        .map(|(_, value)| value)
}

/// A parsed file, which can be changed and written again. Comments are not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The sections in order. A name may occur several times.
    pub sections: Vec<Section>,
    syntax: Syntax,
}

/// A section of a [`Document`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The name in the brackets.
    pub name: String,
    /// Keys and values in order. A key may occur several times.
    pub lines: Vec<(String, String)>,
}

/// How lines end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// A line that ends with a backslash continues on the next one: units of systemd.
    Unit,
    /// Every line stands alone: profiles of NetworkManager.
    KeyFile,
}

impl Document {
    /// Returns a file without sections.
    pub fn new(syntax: Syntax) -> Self {
        Self {
            sections: Vec::new(),
            syntax,
        }
    }

    /// Parses a text. Lines that are neither a section's header nor an assignment are passed
    /// over, and those outside of any section.
    pub fn parse(text: &str, syntax: Syntax) -> Self {
        let mut document = Self::new(syntax);
        let mut inside = false;
        let mut begun = String::new();
        // systemd ends a line at each of these.
        for line in text.split(['\n', '\r', '\0']) {
            // Also between the lines of a long one.
            if line.trim_ascii_start().starts_with(['#', ';']) {
                continue;
            }
            begun.push_str(line);
            if syntax == Syntax::Unit && ends_with_escape(&begun) {
                begun.pop();
                begun.push(' ');
                continue;
            }
            document.line(begun.trim_ascii(), &mut inside);
            begun.clear();
        }
        document.line(begun.trim_ascii(), &mut inside);
        document
    }

    fn line(&mut self, line: &str, inside: &mut bool) {
        if let Some(header) = line.strip_prefix('[') {
            let name = header.strip_suffix(']');
            *inside = name.is_some();
            self.sections.extend(name.map(Section::new));
        } else if let (true, Some((key, value))) = (*inside, line.split_once('=')) {
            let (key, value) = (key.trim_ascii_end(), value.trim_ascii_start());
            // The first line may have been a continuation that begins like a comment.
            if let Some(section) = self.sections.last_mut() {
                if !key.is_empty() && !key.starts_with(['#', ';']) {
                    section.push(key, value);
                }
            }
        }
    }

    /// Adds the sections of another file, such as a drop-in, which is read after this one.
    pub fn append(&mut self, other: Self) {
        self.sections.extend(other.sections);
    }

    /// Returns the value of the last assignment to this key of a section.
    pub fn last(&self, section: &str, key: &str) -> Option<&str> {
        let sections = self.sections.iter();
        let lines = sections
            .filter(|found| found.name == section)
            .flat_map(|section| &section.lines);
        let mut values = lines.filter(|(found, _)| found == key);
        values.next_back().map(|(_, value)| value.as_str())
    }

    /// Formats the file.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for Section { name, lines } in &self.sections {
            let before = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{before}[{name}]");
            for (key, value) in lines {
                // A blank keeps the line from continuing.
                let escape = self.syntax == Syntax::Unit && ends_with_escape(value);
                let end = if escape { " " } else { "" };
                let _ = writeln!(text, "{key}={value}{end}");
            }
        }
        text
    }
}

impl Section {
    /// Returns a section without lines.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            lines: Vec::new(),
        }
    }

    /// Adds an assignment.
    pub fn push(&mut self, key: &str, value: impl Into<String>) {
        self.lines.push((key.to_owned(), value.into()));
    }

    /// Returns the value of the last assignment to this key.
    pub fn last(&self, key: &str) -> Option<&str> {
        let mut values = self.lines.iter().filter(|(found, _)| found == key);
        values.next_back().map(|(_, value)| value.as_str())
    }
}

/// Returns whether the text ends with a backslash that no other escapes.
fn ends_with_escape(text: &str) -> bool {
    let backslashes = text.bytes().rev().take_while(|&byte| byte == b'\\');
    backslashes.count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "
        a=outside
        [One]
        # a=comment
        ; a=comment
        a = 1
        a=2=3
        no assignment
        [Two]
        a=other
        [One]
        b=
        [One
        c=none
    ";

    #[test]
    fn a_section_has_its_assignments() {
        let one: Vec<_> = section(TEXT, "One").collect();
        assert_eq!(one, [("a", "1"), ("a", "2=3"), ("b", "")]);
        assert_eq!(last(TEXT, "One", "a"), Some("2=3"));
        assert_eq!(last(TEXT, "Two", "b"), None);
        assert_eq!(section(TEXT, "Three").count(), 0);
    }

    #[test]
    fn a_document_keeps_everything_in_order() {
        let unit = Document::parse(TEXT, Syntax::Unit);
        let rendered = "[One]\na=1\na=2=3\n\n[Two]\na=other\n\n[One]\nb=\n";
        assert_eq!(unit.render(), rendered);
        assert_eq!(unit.last("One", "a"), Some("2=3"));
        assert_eq!(unit.last("Two", "b"), None);
        assert_eq!(unit.sections[0].last("a"), Some("2=3"));
        let mut both = unit;
        both.append(Document::parse("[Two]\na=later", Syntax::Unit));
        assert_eq!(both.render(), format!("{rendered}\n[Two]\na=later\n"));
        assert_eq!(both.last("Two", "a"), Some("later"));
    }

    #[test]
    fn long_lines_of_units_are_joined() {
        let text = "[One]\na=1 \\\n# comment\n  2\\\n3\nb=\\\\\nc=\\ \nd=\\";
        let unit = Document::parse(text, Syntax::Unit);
        let lines = [("a", "1    2 3"), ("b", "\\\\"), ("c", "\\"), ("d", "")];
        let lines = lines.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(unit.sections[0].lines, lines);
        let file = Document::parse(text, Syntax::KeyFile);
        assert_eq!(file.last("One", "a"), Some("1 \\"));
        assert_eq!(file.last("One", "d"), Some("\\"));
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_parsed_again(
            text in "(\\[[A-Za-z =\\]]*\\]|[a-c;#\\\\\\[\\] =]*|\\PC*|[\r\0]|\n){0,20}",
            unit: bool,
        ) {
            let syntax = if unit { Syntax::Unit } else { Syntax::KeyFile };
            let document = Document::parse(&text, syntax);
            prop_assert_eq!(Document::parse(&document.render(), syntax), document);
        }

        #[test]
        fn no_text_panics(text: String, name: String) {
            let _ = section(&text, &name).count();
        }
    }
}
