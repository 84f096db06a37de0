//! Debian's ifupdown: a file in `/etc/network/interfaces.d`.
//!
//! Stanzas for one interface in several files add up, and Debian's installer and cloud-init both
//! write some. The agent's file therefore defines a logical interface, and maps the interface to
//! it: the stanzas of other files stay there without effect. The script of the mapping is `grep`:
//! ifupdown passes it the interface's name as argument and the line of `map` as input, and `grep`
//! prints the line because the logical name contains the interface's. For another interface it
//! prints nothing, so that nothing is mapped.
//!
//! BusyBox and ifupdown-ng have no mappings: see `in_place`.

use std::fs;
use std::path::{Path, PathBuf};

use super::in_place;
use super::interfaces::{Family, Interfaces, brought_up, logical};
use super::kept::{Kept, Part};
use super::metric::Metrics;
use super::resolv_conf;
use super::stanzas::{self, Dialect};
use crate::kvp::files;
use crate::kvp::network::error::InjectError;
use crate::kvp::network::plan::{Context, HEADER, NewFile, Plan, Step};
use crate::kvp::network::settings::Settings;
use crate::kvp::network::target::{Target, is_plain};

const MANAGER: &str = "ifupdown";

/// Most interfaces above one that are brought up again.
const MAX_STACKED: usize = 64;

/// Renders the file. `grep` is the path of that program.
pub(in crate::kvp::network) fn render(target: &Target, settings: &Settings, grep: &str) -> String {
    let metrics = Metrics::alone(0);
    render_mapped(target, settings, grep, &[], metrics, &Kept::default())
}

/// Renders the file. `others` are the logical names that other files give the interface.
fn render_mapped(
    target: &Target,
    settings: &Settings,
    grep: &str,
    others: &[String],
    metrics: Metrics,
    kept: &Kept,
) -> String {
    let (name, logical) = (&target.name, target.stem());
    let mapped = [std::slice::from_ref(name), others].concat().join(" ");
    let stanzas = stanzas::by_family(&logical, Dialect::Ifupdown, settings, metrics, kept);
    format!(
        "{HEADER}\
         # Stanzas for {name} in other files have no effect while this file exists.\n\
         auto {name}\n\
         mapping {mapped}\n    script {grep}\n    map {logical}\n\
         {stanzas}"
    )
}

pub(super) fn plan(context: &Context<'_>) -> Result<Plan, InjectError> {
    // Other programs install their `ifup` as a link to one of these.
    let real = fs::canonicalize(context.program("ifup")?).unwrap_or_default();
    let name = real.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("busybox") {
        return plan_in_place(context, |settings, metrics, interfaces| {
            let name = &context.target.name;
            let kept = Kept::of_families(interfaces.stanzas(name), name, settings);
            let text = stanzas::by_family(
                name,
                Dialect::BusyBox,
                settings,
                metrics(kept.part(Family::V4), kept.part(Family::V6)),
                &kept,
            );
            (text, kept.lost)
        });
    }
    if name == "ifupdown" {
        return plan_in_place(context, |settings, metrics, interfaces| {
            let name = &context.target.name;
            let (part, lost) = Kept::of_interface(interfaces.stanzas(name), name, settings);
            (
                stanzas::of_interface(name, settings, metrics(&part, &part), &part),
                lost,
            )
        });
    }
    if real
        .components()
        .any(|part| part.as_os_str() == "ifupdown2")
    {
        return Err(unsupported(
            "its ifup belongs to ifupdown2, which has no mappings",
        ));
    }
    plan_mapped(context)
}

fn unsupported(why: impl Into<String>) -> InjectError {
    InjectError::Unsupported {
        manager: MANAGER,
        why: why.into(),
    }
}

fn plan_mapped(context: &Context<'_>) -> Result<Plan, InjectError> {
    let target = context.target;
    let name = &target.name;
    let own = target.stem();
    let grep = context.program("grep")?;
    let path = own_file(context).ok_or_else(|| {
        unsupported(
            "/etc/network/interfaces does not read /etc/network/interfaces.d; add the line \
             `source /etc/network/interfaces.d/*`",
        )
    })?;
    let interfaces = Interfaces::read(context.root);
    let up_as = logical(context.root, name);
    let in_force = up_as
        .clone()
        .unwrap_or_else(|| interfaces.name_at_boot(name));
    let others = other_names(context, &path, &in_force)?;
    let kept = Kept::of_families(interfaces.stanzas(&in_force), name, context.settings);
    let own_names = [&others[..], &[own.clone(), in_force.clone()]].concat();
    let metrics = Metrics::new(
        context.root,
        name,
        context.interface.index,
        &own_names,
        &interfaces,
        (kept.part(Family::V4), kept.part(Family::V6)),
    );
    let grep = path_without_root(context, grep);
    let text = render_mapped(target, context.settings, &grep, &others, metrics, &kept);
    let mut new = vec![NewFile::new(path, text, interfaces.mode())];
    new.extend(resolv_conf::plan(
        context,
        &interfaces,
        &in_force,
        metrics.v4.is_some(),
    )?);

    let ifup = |logical: &str| context.step("ifup", &[&format!("{name}={logical}")]);
    let mut revert = Vec::new();
    match up_as {
        Some(logical) => revert.push(ifup(&logical)?),
        None if interfaces.names().any(|other| other == name) => {
            revert.push(context.step("ifup", &[name])?);
        }
        None => {}
    }
    let lost = named(&in_force, kept.lost);
    finish(context, "--force", new, vec![ifup(&own)?], revert, lost)
}

/// Returns lines of stanzas with the name of these.
fn named(logical: &str, lines: Vec<String>) -> Vec<String> {
    let lines = lines.into_iter();
    lines
        .map(|line| format!("iface {logical}: {line}"))
        .collect()
}

/// Returns the other logical names that the interface is mapped from.
fn other_names(
    context: &Context<'_>,
    own_file: &Path,
    in_force: &str,
) -> Result<Vec<String>, InjectError> {
    let name = &context.target.name;
    let own = context.target.stem();
    let mut others: Vec<String> = match in_force == own {
        false => vec![in_force.to_owned()],
        // Those that the previous file has.
        true => {
            let text = files::text(own_file).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("mapping "));
            line.unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect()
        }
    };
    others.retain(|other| other != name);
    if let Some(other) = others.iter().find(|other| !is_plain(other)) {
        return Err(unsupported(format!("{name} is up as {other:?}")));
    }
    // `grep` finds the name of such an interface in the name of this one's stanzas.
    let clash = brought_up(context.root)
        .into_iter()
        .find(|(other, logical)| {
            other != name && name.contains(&**other) && others.contains(logical)
        });
    match clash {
        None => Ok(others),
        Some((other, logical)) => Err(unsupported(format!(
            "{name} and {other} are both up as {logical}; give {name} a stanza of its own"
        ))),
    }
}

/// Plans to replace the stanzas of the interface where they are.
fn plan_in_place(
    context: &Context<'_>,
    render: impl FnOnce(
        &Settings,
        &dyn Fn(&Part, &Part) -> Metrics,
        &Interfaces,
    ) -> (String, Vec<String>),
) -> Result<Plan, InjectError> {
    let name = &context.target.name;
    if let Some(logical) = logical(context.root, name).filter(|logical| logical != name) {
        return Err(unsupported(format!(
            "{name} is up as {logical}, which may be for other interfaces too; give {name} a \
             stanza of its own"
        )));
    }
    let interfaces = Interfaces::read(context.root);
    let metrics = |v4: &Part, v6: &Part| {
        let index = context.interface.index;
        Metrics::new(context.root, name, index, &[], &interfaces, (v4, v6))
    };
    if let Some(source) = interfaces.sources.iter().find(|source| !source.is_whole()) {
        let path = path_without_root(context, source.path.clone());
        return Err(unsupported(format!("{path} is too long or not UTF-8")));
    }
    let (text, lost) = render(context.settings, &metrics, &interfaces);
    let other_is_default = metrics(&Part::default(), &Part::default()).v4.is_some();
    let mut new: Vec<NewFile> = in_place::rewrite(&interfaces.sources, name, &text)
        .into_iter()
        .map(|(path, text)| NewFile::changed(path, text))
        .collect();
    new.extend(resolv_conf::plan(
        context,
        &interfaces,
        name,
        other_is_default,
    )?);
    let ifup = context.step("ifup", &[name])?;
    let had_stanza = interfaces.names().any(|other| other == name);
    let revert = had_stanza.then(|| ifup.clone()).into_iter().collect();
    finish(context, "-f", new, vec![ifup], revert, named(name, lost))
}

/// Completes a plan: what is above the interface is taken down before it, and brought up again.
fn finish(
    context: &Context<'_>,
    force: &str,
    files: Vec<NewFile>,
    mut apply: Vec<Step>,
    mut revert: Vec<Step>,
    lost: Vec<String>,
) -> Result<Plan, InjectError> {
    let name = &context.target.name;
    let stacked = stacked(context);
    let mut stop = Vec::new();
    for (child, _) in stacked.iter().rev() {
        stop.push(context.step("ifdown", &[force, child])?.may_fail());
    }
    stop.push(context.step("ifdown", &[force, name])?.may_fail());
    if context.settings.families.has_v4() {
        // What a DHCP client or somebody else has left. Without `ip`, nobody has.
        let flush = ["-4", "address", "flush", "dev", name, "scope", "global"];
        stop.extend(context.step("ip", &flush).ok().map(Step::may_fail));
    }
    for (child, logical) in &stacked {
        let ifup = context.step("ifup", &[&format!("{child}={logical}")])?;
        apply.push(ifup.clone());
        revert.push(ifup);
    }
    Ok(Plan {
        stop,
        lost,
        ..Plan::new(MANAGER, files, apply, revert)
    })
}

/// Returns the interfaces above this one that ifupdown has brought up, such as VLANs, and the
/// names of their stanzas; the lower ones come first.
fn stacked(context: &Context<'_>) -> Vec<(String, String)> {
    let up = brought_up(context.root);
    let mut all = vec![context.target.name.clone()];
    let mut next = 0;
    while let Some(name) = all.get(next).filter(|_| next < MAX_STACKED) {
        let entries = files::in_directory(&context.path(&format!("sys/class/net/{name}")));
        let above = entries.iter().filter_map(|entry| {
            let name = entry.file_name()?.to_str()?.strip_prefix("upper_")?;
            Some(name.to_owned())
        });
        let new: Vec<String> = above.filter(|name| !all.contains(name)).collect();
        all.extend(new);
        next += 1;
    }
    let stacked = all.into_iter().skip(1);
    stacked
        .filter_map(|name| up.iter().find(|(other, _)| *other == name).cloned())
        .collect()
}

fn path_without_root(context: &Context<'_>, path: PathBuf) -> String {
    match path.strip_prefix(context.root) {
        Ok(relative) => format!("/{}", relative.display()),
        Err(_) => path.display().to_string(),
    }
}

/// Returns the path of the agent's file, with a name that `/etc/network/interfaces` includes.
fn own_file(context: &Context<'_>) -> Option<PathBuf> {
    let directory = context.path("etc/network/interfaces.d");
    let stem = context.target.stem();
    let interfaces = files::text(&context.path("etc/network/interfaces"))?;
    interfaces.lines().find_map(|line| {
        let (keyword, pattern) = line.trim().split_once([' ', '\t'])?;
        let pattern = pattern.trim();
        let inside = pattern
            .strip_prefix("/etc/network/")
            .unwrap_or(pattern)
            .strip_prefix("interfaces.d")?;
        let ending = match (keyword, inside) {
            // ifupdown skips names with a dot in these directories.
            ("source-directory", "" | "/" | "/*") if !stem.contains('.') => "",
            ("source", _) => inside.strip_prefix("/*")?,
            _ => return None,
        };
        let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '.';
        ending
            .chars()
            .all(plain)
            .then(|| directory.join(format!("{stem}{ending}")))
    })
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
