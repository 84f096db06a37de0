//! Waits until the agent's file is in force.

use std::ffi::OsStr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::base::{LinkState, file_name};
use crate::kvp::network::error::InjectError;
use crate::kvp::network::plan::Context;

/// How long systemd-networkd may take to put a file into force.
const IN_FORCE: Duration = Duration::from_secs(2);

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Waits until the agent's file is in force, and has systemd-networkd reconfigure an interface that
/// a reload leaves as it is.
pub(super) fn settle(context: &Context<'_>) -> Result<(), InjectError> {
    if !wait(context) {
        let reconfigure = ["reconfigure", &context.target.name];
        context
            .step("networkctl", &reconfigure)?
            .run(context.deadline)?;
        wait(context);
    }
    Ok(())
}

/// Returns what keeps the agent's file from being in force.
pub(super) fn obstacle(context: &Context<'_>) -> Option<String> {
    let state = LinkState::read(context.root, context.interface)?;
    if state.failed() {
        let name = &context.target.name;
        return Some(format!(
            "systemd-networkd failed to configure {name}: see `journalctl -u systemd-networkd`"
        ));
    }
    let own = file_name(context.target);
    let file = state.file().filter(|file| !is(file, &own))?;
    Some(format!("{file} takes precedence over {own}"))
}

fn is(file: &str, name: &str) -> bool {
    Path::new(file).file_name() == Some(OsStr::new(name))
}

/// Waits for the agent's file to be in force, for a while. Returns whether there is nothing to do
/// about it: it is, or a file that comes before it is.
fn wait(context: &Context<'_>) -> bool {
    let own = file_name(context.target);
    let first = |file: &str| {
        let name = Path::new(file).file_name();
        name.is_some_and(|name| name < OsStr::new(&own))
    };
    let end = context.deadline.min(Instant::now() + IN_FORCE);
    loop {
        let Some(state) = LinkState::read(context.root, context.interface) else {
            // systemd-networkd does not run.
            return true;
        };
        let file = state.file().unwrap_or_default();
        if !state.failed() && (is(&file, &own) || first(&file)) {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(POLL_INTERVAL);
    }
}
