//! BusyBox and ifupdown-ng have no mappings, and may read no directory: the stanzas of the
//! interface become comments in the files that have them, and a block of the agent's own takes the
//! place of the first one.

use std::ops::Range;
use std::path::PathBuf;

use super::interfaces::{Entry, Source, parse_located};

/// Before each line of a previous stanza.
const COMMENT: &str = "#before hyperv-agent# ";

/// Returns the file with the block and the others that change, so that the block alone configures
/// the interface. If there is no stanza, the first of the `sources` gets it.
pub(super) fn rewrite(sources: &[Source], name: &str, stanzas: &str) -> Vec<(PathBuf, String)> {
    let texts: Vec<Vec<&str>> = sources
        .iter()
        .map(|source| source.text.lines().collect())
        .collect();
    let blocks: Vec<Option<Range<usize>>> =
        texts.iter().map(|lines| own_block(lines, name)).collect();
    let previous: Vec<Vec<Range<usize>>> = sources
        .iter()
        .zip(&blocks)
        .map(|(source, block)| {
            let mut ranges = stanzas_of(&source.text, name);
            ranges.retain(|range| {
                !block
                    .as_ref()
                    .is_some_and(|block| block.contains(&range.start))
            });
            ranges
        })
        .collect();
    let is_auto = sources.iter().zip(&blocks).any(|(source, block)| {
        parse_located(&source.text).iter().any(|located| {
            let outside = !block.as_ref().is_some_and(|block| block.contains(&located.lines.start));
            matches!(&located.entry, Entry::Auto(names) if outside && names.iter().any(|one| one == name))
        })
    });
    let (begin, end) = markers(name);
    // BusyBox refuses an interface that is `auto` twice.
    let auto = if is_auto {
        String::new()
    } else {
        format!("auto {name}\n")
    };
    let block = format!("{begin}\n{auto}{}\n{end}", stanzas.trim());

    let has_block = blocks.iter().position(Option::is_some);
    let has_stanza = previous.iter().position(|ranges| !ranges.is_empty());
    let home = has_block.or(has_stanza).unwrap_or_default();
    let mut changed = Vec::new();
    for (at, (source, lines)) in sources.iter().zip(&texts).enumerate() {
        let (own, ranges) = (blocks.get(at).cloned().flatten(), previous.get(at));
        let ranges = ranges.map(Vec::as_slice).unwrap_or_default();
        let place = match &own {
            Some(own) => own.start,
            None => ranges.first().map_or(lines.len(), |range| range.start),
        };
        let mut new: Vec<String> = Vec::new();
        for number in 0..=lines.len() {
            if at == home && number == place {
                new.push(block.clone());
            }
            let Some(line) = lines.get(number) else {
                continue;
            };
            if own.as_ref().is_some_and(|own| own.contains(&number)) {
                continue;
            }
            match ranges.iter().any(|range| range.contains(&number)) {
                true => new.push(format!("{COMMENT}{line}")),
                false => new.push((*line).to_owned()),
            }
        }
        let text = new.join("\n") + "\n";
        if at == home || own.is_some() || !ranges.is_empty() {
            changed.push((source.path.clone(), text));
        }
    }
    changed
}

fn markers(name: &str) -> (String, String) {
    let block = |word: &str| format!("# {word} of the block that hyperv-agent wrote for {name}");
    (block("Begin"), block("End"))
}

/// Returns the lines of the agent's own block.
fn own_block(lines: &[&str], name: &str) -> Option<Range<usize>> {
    let (begin, end) = markers(name);
    let start = lines.iter().position(|line| line.trim() == begin)?;
    let rest = lines.get(start..)?;
    // Without its end, an administrator has taken the block over.
    let len = rest.iter().position(|line| line.trim() == end)?;
    Some(start..start + len + 1)
}

/// Returns the lines of the stanzas of an interface, in order.
fn stanzas_of(text: &str, name: &str) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut inside = false;
    for located in parse_located(text) {
        match &located.entry {
            Entry::Stanza { name: other, .. } => {
                inside = other == name;
                if inside {
                    ranges.push(located.lines);
                }
            }
            Entry::Option { .. } if inside => {
                if let Some(range) = ranges.last_mut() {
                    range.end = located.lines.end;
                }
            }
            Entry::Option { .. } => {}
            _ => inside = false,
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rewritten(texts: &[&str], stanzas: &str) -> Vec<String> {
        let mut sources: Vec<Source> = (0..)
            .zip(texts)
            .map(|(number, text)| Source {
                path: format!("/{number}").into(),
                text: (*text).to_owned(),
            })
            .collect();
        for (path, text) in rewrite(&sources, "eth0", stanzas) {
            let source = sources.iter_mut().find(|source| source.path == path);
            source.unwrap().text = text;
        }
        sources.into_iter().map(|source| source.text).collect()
    }

    #[test]
    fn the_stanzas_of_all_files_become_comments() {
        let main = "auto lo eth0\niface lo inet loopback\n\niface eth0 inet static\n\t# why\n\
                    \taddress 192.168.7.7/24 \\\n\n\n# of eth1\niface eth1 inet dhcp\n";
        let other = "iface eth0 inet6 auto\n  mtu 1400\n";
        let once = rewritten(
            &[main, other],
            "\niface eth0 inet static\n    address 10.0.0.5\n",
        );
        assert_eq!(
            once[0],
            "auto lo eth0\niface lo inet loopback\n\n\
             # Begin of the block that hyperv-agent wrote for eth0\n\
             iface eth0 inet static\n    address 10.0.0.5\n\
             # End of the block that hyperv-agent wrote for eth0\n\
             #before hyperv-agent# iface eth0 inet static\n\
             #before hyperv-agent# \t# why\n\
             #before hyperv-agent# \taddress 192.168.7.7/24 \\\n\
             #before hyperv-agent# \n\n# of eth1\niface eth1 inet dhcp\n"
        );
        assert_eq!(
            once[1],
            "#before hyperv-agent# iface eth0 inet6 auto\n#before hyperv-agent#   mtu 1400\n"
        );
        // The block is replaced.
        let texts: Vec<&str> = once.iter().map(String::as_str).collect();
        let again = rewritten(&texts, "iface eth0 inet dhcp");
        assert!(
            again[0].contains("iface eth0 inet dhcp\n# End"),
            "{}",
            again[0]
        );
        assert!(!again[0].contains("10.0.0.5"), "{}", again[0]);
        assert_eq!(again[1], once[1]);
    }

    #[test]
    fn files_without_stanzas_of_the_interface_stay_as_they_are() {
        let others = ["", "auto eth1", "iface eth1 inet dhcp\r\n"];
        let new = rewritten(
            &["iface eth0 inet dhcp\n", others[0], others[1], others[2]],
            "iface eth0 inet dhcp",
        );
        assert_eq!(new[1..], others);
    }

    #[test]
    fn an_interface_without_stanzas_gets_them_in_the_main_file() {
        let text = &rewritten(
            &["allow-hotplug eth0\n", "auto eth00\n"],
            "iface eth0 inet dhcp",
        )[0];
        assert!(text.starts_with("allow-hotplug eth0\n# Begin"), "{text}");
        assert!(
            text.contains("\nauto eth0\niface eth0 inet dhcp\n"),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn the_second_time_changes_nothing(words in prop::collection::vec(
            "iface|inet|eth0|eth1|auto|mtu|up|#|\\\\|\n|\n| ", 0..40,
        )) {
            let text = words.concat();
            let once = rewritten(&[&text, "iface eth0 inet6 auto\n"], "iface eth0 inet dhcp");
            let texts: Vec<&str> = once.iter().map(String::as_str).collect();
            prop_assert_eq!(&rewritten(&texts, "iface eth0 inet dhcp"), &once);
        }
    }
}
