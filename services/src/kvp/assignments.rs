//! Parses files of `KEY=value` lines in shell syntax: os-release, the state files of
//! systemd, `ifcfg` files.

/// Returns the assignments in order; skips other lines.
pub fn parse(text: &str) -> impl Iterator<Item = (&str, String)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.trim().split_once('=')?;
        let is_key = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        (!key.is_empty() && key.chars().all(is_key)).then(|| (key, unquote(value)))
    })
}

/// Returns the value of the last assignment to this key, which is the effective one.
pub(super) fn last(text: &str, key: &str) -> Option<String> {
    let (_, value) = parse(text).filter(|(name, _)| *name == key).last()?;
    Some(value)
}

/// Removes quotes and backslashes as a shell does. An unclosed quote ends with the line.
fn unquote(text: &str) -> String {
    let mut value = String::new();
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), _) if letter == open => quote = None,
            (None, '\\') => value.extend(letters.next()),
            (Some('"'), '\\') => match letters.next() {
                Some(escaped @ ('"' | '\\' | '$' | '`')) => value.push(escaped),
                other => {
                    value.push('\\');
                    value.extend(other);
                }
            },
            _ => value.push(letter),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_unquoted_as_in_a_shell() {
        let cases = [
            ("A=plain", "plain"),
            ("A=", ""),
            (r#"A="two words""#, "two words"),
            (r"A='two words'", "two words"),
            (r#"A="a \"b\" \$c \`d\` \\ \n""#, r#"a "b" $c `d` \ \n"#),
            (r"A='a \b'", r"a \b"),
            (r"A=a\ b\\c", r"a b\c"),
            (r#"A="it's""#, "it's"),
            (r#"A='say "x"'"#, r#"say "x""#),
            (r#"A="open"#, "open"),
            (r"A=end\", "end"),
            (r#"A="end\"#, r"end\"),
            ("  A=spaced  \r", "spaced"),
            ("A=b=c", "b=c"),
        ];
        for (line, value) in cases {
            assert_eq!(last(line, "A").as_deref(), Some(value), "{line}");
        }
    }

    #[test]
    fn other_lines_are_skipped() {
        let text = "# A=1\n\n=2\nA B=3\nnothing\nB='x\nA=4\nA=5\n#";
        let all: Vec<_> = parse(text).map(|(key, _)| key).collect();
        assert_eq!(all, ["B", "A", "A"]);
        assert_eq!(last(text, "A").as_deref(), Some("5"));
        assert_eq!(last(text, "C"), None);
    }

    proptest! {
        #[test]
        fn a_quoted_value_reads_back(value in "[^\n\r]*") {
            let mut quoted = String::from("KEY=\"");
            for letter in value.chars() {
                if matches!(letter, '"' | '\\' | '$' | '`') {
                    quoted.push('\\');
                }
                quoted.push(letter);
            }
            quoted.push('"');
            prop_assert_eq!(last(&quoted, "KEY"), Some(value));
        }

        #[test]
        fn no_text_panics(text: String) {
            for (key, _) in parse(&text) {
                prop_assert!(!key.is_empty());
            }
        }
    }
}
