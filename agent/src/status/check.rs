//! Whether all is well, for monitoring.

use super::backup::{Kind, Outcome};
use super::ip_configuration::IpConfiguration;
use super::{Document, State};
use crate::terminal::escaped;

/// How bad something is, as monitoring plug-ins report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// All is well.
    Ok,
    /// Something went wrong, but everything is served.
    Warning,
    /// A service that is switched on does not work.
    Critical,
}

/// Returns how bad the worst of what is wrong is, and one line with all of it.
pub fn judge(document: &Document, configured: &[IpConfiguration]) -> (Severity, String) {
    let mut found = Vec::new();
    for problem in &document.problems {
        found.push((Severity::Critical, problem.clone()));
    }
    if let Some(failed) = &document.failed_reload {
        let words = format!("the configuration was not reloaded: {}", failed.text);
        found.push((Severity::Warning, words));
    }
    for service in &document.services {
        let name = &service.name;
        for device in &service.devices {
            if let State::Failed {
                failure: Some(why), ..
            } = &device.state
            {
                found.push((
                    Severity::Critical,
                    format!("{name}: {}: {why}", device.node),
                ));
            }
        }
        let operations = service.devices.iter().map(|device| &device.operation);
        let operations = operations.chain([&service.operation]).flatten();
        for path in operations.filter_map(|operation| operation.waits_for.as_ref()) {
            let words = format!("{name}: waiting for {path}, which does not answer");
            found.push((Severity::Critical, words));
        }
        if let Some(last) = &service.last_backup {
            if last.kind == Kind::Backup && !last.is_well() {
                let failed = match last.outcome {
                    Outcome::Consistent => "a hook of the last backup failed",
                    Outcome::Inconsistent => "the last backup is not consistent",
                    Outcome::Failed => "the last backup failed",
                };
                let why = last.reason.as_deref().map(|why| format!(": {why}"));
                let words = format!("{name}: {failed}{}", why.unwrap_or_default());
                found.push((Severity::Warning, words));
            }
        }
    }
    for one in configured.iter().filter(|one| one.state == "not-in-force") {
        let words = format!(
            "kvp: the host's IP configuration of {} is not in force: {}",
            one.interface, one.details
        );
        found.push((Severity::Warning, words));
    }
    found.sort_by_key(|(severity, _)| std::cmp::Reverse(*severity));
    let Some((worst, _)) = found.first() else {
        let on = document.services.iter().filter(|service| service.on);
        let devices = document.services.iter().flat_map(|it| &it.devices);
        let words = format!("services: {}, devices: {}", on.count(), devices.count());
        return (Severity::Ok, words);
    };
    let words: Vec<_> = found.iter().map(|(_, words)| escaped(words)).collect();
    (*worst, words.join("; "))
}
