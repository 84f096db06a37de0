//! Parses files of `key=value` lines in `[sections]`: units of systemd and profiles of
//! NetworkManager.

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

    proptest! {
        #[test]
        fn no_text_panics(text: String, name: String) {
            let _ = section(&text, &name).count();
        }
    }
}
