//! The programs that have NetworkManager take a profile.

use std::path::Path;

use crate::kvp::network::error::InjectError;
use crate::kvp::network::plan::{Context, Step};

/// The highest `autoconnect-priority` that NetworkManager accepts.
pub(in crate::kvp::network) const PRIORITY: u32 = 999;

/// Returns the steps that load the file of a profile and bring the profile up.
pub(in crate::kvp::network) fn apply(
    context: &Context<'_>,
    path: &Path,
    uuid: &str,
) -> Result<Vec<Step>, InjectError> {
    let load = context
        .step("nmcli", &["connection", "load", &path.to_string_lossy()])?
        .fails_on("Could not load");
    Ok(vec![load, up(context, &["uuid", uuid])?])
}

/// Returns the steps that reload all files and bring up the connection that is active now.
pub(in crate::kvp::network) fn revert(context: &Context<'_>) -> Result<Vec<Step>, InjectError> {
    let reload = reload(context)?;
    Ok([reload].into_iter().chain(active_up(context)?).collect())
}

/// Returns the step that reloads all files.
pub(in crate::kvp::network) fn reload(context: &Context<'_>) -> Result<Step, InjectError> {
    context.step("nmcli", &["connection", "reload"])
}

/// Returns the step that brings a profile up; a device that has it already takes what changed,
/// and devices on top of it stay. The step does not wait for a DHCP server, which may answer
/// later. Without a carrier it may fail: NetworkManager takes the profile of the highest priority
/// as soon as there is one, but until then it can have the previous one in force.
pub(in crate::kvp::network) fn up(
    context: &Context<'_>,
    which: &[&str],
) -> Result<Step, InjectError> {
    let settings = context.settings;
    let is_static = settings.families.has_v4() && !settings.dhcp4;
    match context.has_carrier() {
        true if is_static => up_within(context, context.seconds_left(), which),
        true => up_within(context, 0, which),
        false => Ok(up_within(context, 0, which)?.may_fail()),
    }
}

fn up_within(context: &Context<'_>, wait: u64, which: &[&str]) -> Result<Step, InjectError> {
    let (wait, target) = (wait.to_string(), &context.target.name);
    let up = ["--wait", &wait, "connection", "up"];
    let args = [&up[..], which, &["ifname", target]].concat();
    context.step("nmcli", &args)
}

/// Returns the step that brings up the connection that is active now, if there is one.
fn active_up(context: &Context<'_>) -> Result<Option<Step>, InjectError> {
    if !context.running {
        return Ok(None);
    }
    let target = &context.target.name;
    let args = ["--get-values", "GENERAL.CON-UUID", "device", "show", target];
    let output = context.step("nmcli", &args)?.run(context.deadline)?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let uuid = stdout.trim();
    let plain = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    if uuid.len() != 36 || !uuid.bytes().all(plain) {
        return Ok(None);
    }
    up_within(context, 0, &["uuid", uuid]).map(Some)
}
