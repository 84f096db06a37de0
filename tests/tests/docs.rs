//! What the documents and comments refer to exists: sections of
//! `docs/protocol.md`, files, and headings of documents. The README's figures are those
//! of the stored results.

#![expect(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Directories that hold nothing of the repository's own text.
const SKIPPED: [&str; 3] = [".git", "target", "vendor"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every text file of the repository, by its path from there.
fn texts() -> BTreeMap<PathBuf, String> {
    fn collect(root: &Path, directory: &Path, texts: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let entry = entry.unwrap();
            let path = directory.join(entry.file_name());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                if !SKIPPED.iter().any(|name| path.ends_with(name)) {
                    collect(root, &path, texts);
                }
            } else if kind.is_file() {
                if let Ok(text) = fs::read_to_string(root.join(&path)) {
                    texts.insert(path, text);
                }
            }
        }
    }
    let mut texts = BTreeMap::new();
    collect(&repository(), Path::new(""), &mut texts);
    texts
}

/// Headings of a document, without the marks before them.
fn headings(document: &str) -> impl Iterator<Item = &str> {
    outside_of_code(document)
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim())
}

/// Lines that are not in a block of code.
fn outside_of_code(document: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    document.lines().filter(move |line| {
        if line.trim_start().starts_with("```") {
            inside = !inside;
            return false;
        }
        !inside && !line.starts_with("    ")
    })
}

/// Numbers of the sections that a document has, such as `5` and `5.2`.
fn sections(document: &str) -> BTreeSet<&str> {
    headings(document)
        .filter_map(|heading| heading.split(' ').next())
        .filter_map(section)
        .collect()
}

/// The number of a section at the start of a word, if that is one.
fn section(word: &str) -> Option<&str> {
    let end = word
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(word.len());
    let number = word.get(..end)?.trim_end_matches('.');
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
    let mut parts = number.split('.');
    let (whole, part) = (parts.next()?, parts.next());
    (is_number(whole) && part.is_none_or(is_number) && parts.next().is_none()).then_some(number)
}

/// What a text cites: the numbers that follow each "Protocol section", and `None`
/// where none follows. A citation may go on in the next line of a comment.
fn citations(text: &str) -> Vec<Option<&str>> {
    let is_mark = |word: &&str| !["//", "///", "//!", "#", "*"].contains(word);
    let words: Vec<&str> = text.split_whitespace().filter(is_mark).collect();
    let mut cited = Vec::new();
    for (at, pair) in words.windows(2).enumerate() {
        let &[first, second] = pair else { continue };
        if !first.ends_with("Protocol") || !["section", "sections"].contains(&second) {
            continue;
        }
        // `2 and 3`, `2 to 4`, `2, 3 and 7`.
        let numbers = words.iter().skip(at + 2);
        let numbers = numbers.filter(|word| !["and", "to"].contains(word));
        let before = cited.len();
        for word in numbers {
            let Some(number) = section(word) else { break };
            cited.push(Some(number));
            if !word.ends_with(|last: char| last == ',' || last.is_ascii_digit()) {
                break;
            }
        }
        if cited.len() == before {
            cited.push(None);
        }
    }
    cited
}

/// Targets of a document's links, those in spans of code left out.
fn links(document: &str) -> Vec<String> {
    let text: Vec<&str> = outside_of_code(document).collect();
    let text = text.join("\n");
    // Every second piece is a span of code.
    let plain: Vec<&str> = text.split('`').step_by(2).collect();
    let plain = plain.join("");
    plain
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ', '\n']).next())
        .map(str::to_owned)
        .collect()
}

/// What a link to a heading ends with.
fn anchor(heading: &str) -> String {
    heading
        .chars()
        .filter(|&letter| letter.is_alphanumeric() || " -_".contains(letter))
        .map(|letter| if letter == ' ' { '-' } else { letter })
        .collect::<String>()
        .to_lowercase()
}

/// A path without `.` and `..`; `None` if it leads out of the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !normal.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

/// What is wrong with a link of the document at `from`.
fn fault(texts: &BTreeMap<PathBuf, String>, from: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, wanted) = match link.split_once('#') {
        Some((path, wanted)) => (path, Some(wanted)),
        None => (link, None),
    };
    let target = if path.is_empty() {
        from.to_owned()
    } else {
        let directory = from.parent().unwrap_or(Path::new(""));
        match normal(&directory.join(path)) {
            Some(target) => target,
            None => return Some("leads out of the repository".to_owned()),
        }
    };
    if !repository().join(&target).exists() {
        return Some(format!("{} does not exist", target.display()));
    }
    let wanted = wanted?;
    let has = |text: &String| headings(text).any(|heading| anchor(heading) == wanted);
    match texts.get(&target) {
        Some(text) if has(text) => None,
        _ => Some(format!("{} has no heading #{wanted}", target.display())),
    }
}

#[test]
fn every_section_that_is_cited_exists() {
    let texts = texts();
    let protocol = texts.get(Path::new("docs/protocol.md")).unwrap();
    let sections = sections(protocol);
    let mut cited = 0;
    let mut missing = Vec::new();
    for (path, text) in &texts {
        for citation in citations(text) {
            cited += 1;
            if !citation.is_some_and(|number| sections.contains(number)) {
                missing.push(format!("{}: {citation:?}", path.display()));
            }
        }
    }
    assert!(cited > 20, "only {cited} citations were found");
    assert!(
        missing.is_empty(),
        "cited, and not in docs/protocol.md: {missing:#?}"
    );
}

#[test]
fn every_link_leads_somewhere() {
    let texts = texts();
    let mut checked = 0;
    let mut faults = Vec::new();
    for (path, text) in &texts {
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        for link in links(text) {
            checked += 1;
            if let Some(fault) = fault(&texts, path, &link) {
                faults.push(format!("{}: {link}: {fault}", path.display()));
            }
        }
    }
    assert!(checked > 20, "only {checked} links were found");
    assert!(faults.is_empty(), "links that lead nowhere: {faults:#?}");
}

#[test]
fn the_figures_of_the_readme_are_those_of_the_results() {
    for (path, content) in hyperv_sim::figures::files(&repository()).unwrap() {
        assert!(
            fs::read_to_string(&path).is_ok_and(|text| text == content),
            "{} differs from its results: run `tests/figures --redraw`",
            path.display()
        );
    }
}

#[test]
fn citations_are_found_however_they_are_written() {
    // Not one word, for this file is read as well.
    let say = |rest: &str| format!("//! text. {} {rest}", "Protocol");
    for (text, expected) in [
        (say("section 7."), vec![Some("7")]),
        (say("section 5.2, and more"), vec![Some("5.2")]),
        (say("sections 2 and 3."), vec![Some("2"), Some("3")]),
        (say("sections 2\n    /// to 4."), vec![Some("2"), Some("4")]),
        (
            say("sections 2, 3 and 7."),
            vec![Some("2"), Some("3"), Some("7")],
        ),
        (say("\n//! section 7."), vec![Some("7")]),
        (format!("`{} section 5.2`:", "Protocol"), vec![Some("5.2")]),
        (say("section 7. 4 bytes"), vec![Some("7")]),
        (say("section nine"), vec![None]),
        (say("section"), vec![None]),
        (say("versions 1 and 2"), vec![]),
    ] {
        assert_eq!(citations(&text), expected, "{text}");
    }
}

#[test]
fn sections_are_the_numbered_headings() {
    let document =
        "# Title\n## 1. One\n### 1.2 Two\n```\n## 3. Code\n```\n#### 1.2.3 Deep\ntext 4\n";
    assert_eq!(sections(document), BTreeSet::from(["1", "1.2"]));
}

#[test]
fn links_are_told_from_code() {
    let document = "[a](b.md#c) `[x](y)` and\n[d\ne](f)\n```\n[g](h)\n```\n    [i](j)\n";
    assert_eq!(links(document), ["b.md#c", "f"]);
    assert_eq!(
        anchor("1.1 The `state`: what it's"),
        "11-the-state-what-its"
    );
    let from = Path::new("docs/protocol.md");
    let texts = BTreeMap::from([(from.to_owned(), "# A b\n".to_owned())]);
    assert_eq!(fault(&texts, from, "https://example.com/"), None);
    assert_eq!(fault(&texts, from, "#a-b"), None);
    for wrong in ["#a", "y.md", "../../x", "../README.md#a-b", "/etc/passwd"] {
        assert!(fault(&texts, from, wrong).is_some(), "{wrong}");
    }
}
