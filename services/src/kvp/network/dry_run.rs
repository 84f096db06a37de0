//! Shows what applying an IP configuration would do, and does nothing.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::backend::Backend;
use super::choose::choose_for;
use super::error::InjectError;
use super::plan::{Context, NewFile, Plan, Step};
use super::scripts::hv_set_ifconfig;
use super::set::{Kernel, find_target};
use super::settings::{self, Settings};
use crate::kvp::config::Config;
use crate::kvp::interfaces;
use crate::kvp::request::IpInfo;
use crate::timeouts::IP_CONFIGURATION;

/// Parts of the names of keys whose values are secrets.
const SECRETS: [&str; 7] = [
    "password",
    "passphrase",
    "psk",
    "secret",
    "private-key",
    "privatekey",
    "wep-key",
];

/// What is shown instead of a secret.
const MASK: &str = "********";

/// What applying a configuration would do, in this order: commands, files, commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DryRun {
    /// The interface.
    pub interface: String,
    /// The network manager.
    pub manager: &'static str,
    /// Why that one.
    pub why: String,
    /// What the host wants, as text.
    pub settings: String,
    /// Commands that would be run before the files are written.
    pub before: Vec<String>,
    /// The files that would be written or removed.
    pub files: Vec<NewContent>,
    /// Commands that would be run then.
    pub commands: Vec<String>,
    /// Parts of the previous configuration that would not be kept.
    pub lost: Vec<String>,
}

/// A file that would be written or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewContent {
    /// Its path.
    pub path: PathBuf,
    /// Permission bits in octal; `None` leaves those of the file that is there.
    pub mode: Option<String>,
    /// Its text with secrets masked; `None` if it would be removed.
    pub text: Option<String>,
    /// Whether there is a file of that name.
    pub exists: bool,
}

/// Why a configuration would be refused.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct DryRunError(Box<dyn std::error::Error + Send + Sync>);

/// Returns what applying this configuration would do. The adapter is named by its VMBus device,
/// as the host does it.
///
/// # Errors
///
/// [`DryRunError`] if it would be refused before anything is done.
pub fn dry_run(config: &Config, info: &IpInfo) -> Result<DryRun, DryRunError> {
    let kernel = Kernel {
        interface_by_device: &|device| {
            interfaces::interface_by_device(&config.environment.root, device)
        },
        interfaces: &|| interfaces::list(&config.environment.root),
    };
    dry_run_with(&kernel, config, info).map_err(|error| DryRunError(Box::new(error)))
}

fn dry_run_with(
    kernel: &Kernel<'_>,
    config: &Config,
    info: &IpInfo,
) -> Result<DryRun, InjectError> {
    if config.network.backend == Backend::Off {
        return Err(InjectError::Off);
    }
    let device = settings::device(&info.adapter)?;
    let settings = Settings::parse(info)?;
    let deadline = Instant::now() + IP_CONFIGURATION;
    let found = find_target(kernel, config, device, deadline)?;
    let mut context = Context {
        root: &config.environment.root,
        interface: &found.interface,
        target: &found.target,
        settings: &settings,
        running: true,
        deadline,
    };
    let (mut plan, why) = match hv_set_ifconfig::plan(&context, config)? {
        Some(plan) => {
            found.refuse_master(plan.manager)?;
            let why = "the configuration has a directory for it (scripts)";
            (plan, why.to_owned())
        }
        None => {
            let choice = choose_for(context.root, config.network.backend, &found)?;
            context.running = choice.running;
            (choice.manager.plan(&context)?, choice.why.to_string())
        }
    };
    plan.files
        .splice(..0, hv_set_ifconfig::files(&context, &config.directory));
    Ok(shown(&plan, &context, why))
}

fn shown(plan: &Plan, context: &Context<'_>, why: String) -> DryRun {
    let run = |step: &&Step| context.running || step.offline;
    DryRun {
        interface: context.target.name.clone(),
        manager: plan.manager,
        why,
        settings: context.settings.to_string(),
        before: plan.stop.iter().filter(run).map(command).collect(),
        files: plan.files.iter().map(content).collect(),
        commands: plan.apply.iter().filter(run).map(command).collect(),
        lost: plan.lost.clone(),
    }
}

fn command(step: &Step) -> String {
    let mut words = vec![step.program.display().to_string()];
    words.extend(step.args.iter().cloned());
    words.join(" ")
}

fn content(file: &NewFile) -> NewContent {
    NewContent {
        path: file.path.clone(),
        mode: file.mode.map(|mode| format!("{mode:04o}")),
        text: file.text.as_deref().map(masked),
        exists: file.path.symlink_metadata().is_ok(),
    }
}

/// Masks the values of keys that are named like secrets: `key=value`, `key: value`, `key value`.
fn masked(text: &str) -> String {
    let lines = text.split_inclusive('\n').map(|line| {
        let start = line.len() - line.trim_start().len();
        let is_key = |letter: char| letter.is_alphanumeric() || "_-.\"'".contains(letter);
        let (indent, rest) = line.split_at(start);
        let end = rest.find(|letter| !is_key(letter)).unwrap_or(rest.len());
        let (key, value) = rest.split_at(end);
        let lower = key.to_ascii_lowercase().replace('_', "-");
        let is_value = |letter: char| !letter.is_whitespace() && !matches!(letter, '=' | ':');
        match value.find(is_value) {
            Some(at) if SECRETS.iter().any(|secret| lower.contains(secret)) => {
                let (separator, _) = value.split_at(at);
                format!("{indent}{key}{separator}{MASK}\n")
            }
            _ => line.to_owned(),
        }
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::super::testing::*;
    use super::*;
    use crate::kvp::request::Family;

    #[test]
    fn secrets_are_masked() {
        let text = "[802-1x]\nidentity=me\npassword=hunter 2\nprivate-key-password-flags=1\n\
                    \x20 \"password\": \"x\"\n\tWPA_PSK='y'\nwpa-psk z\naddress 10.0.0.5\n\
                    password=\npsk:z";
        let expected = "[802-1x]\nidentity=me\npassword=********\n\
                        private-key-password-flags=********\n\
                        \x20 \"password\": ********\n\tWPA_PSK=********\nwpa-psk ********\n\
                        address 10.0.0.5\npassword=\npsk:********\n";
        assert_eq!(masked(text), expected);
    }

    #[test]
    fn nothing_is_changed() {
        let root = root(&[
            ("run/systemd/netif/state", ""),
            ("run/systemd/netif/links/2", "ADMIN_STATE=configured\n"),
            ("usr/bin/networkctl", "#!/bin/sh\ntouch \"$0.ran\"\n"),
        ]);
        let networkctl = root.path().join("usr/bin/networkctl");
        fs::set_permissions(&networkctl, fs::Permissions::from_mode(0o755)).unwrap();
        let mut config = Config::default();
        config.environment.root = root.path().to_owned();
        config.environment.state_dir = root.path().join("state");
        config.directory = root.path().join("pools");
        let info = IpInfo {
            adapter: "f8615163-0000-1000-2000-00155d010203".to_owned(),
            family: Family::V4,
            addresses: "10.0.0.5".to_owned(),
            subnets: "/24".to_owned(),
            ..IpInfo::default()
        };
        let kernel = Kernel {
            interface_by_device: &|_| Some("eth0".to_owned()),
            interfaces: &|| Ok(vec![eth0(&[])]),
        };
        let shown = dry_run_with(&kernel, &config, &info).unwrap();
        assert_eq!(
            (&*shown.interface, shown.manager),
            ("eth0", "systemd-networkd")
        );
        assert_eq!(shown.why, "it is in charge of the interface");
        assert_eq!(shown.commands, [format!("{} reload", networkctl.display())]);
        let [.., file] = &shown.files[..] else {
            panic!("{shown:?}")
        };
        let text = file.text.as_deref().unwrap_or_default();
        assert!(text.contains("Address=10.0.0.5/24\n"), "{text}");
        assert_eq!((file.mode.as_deref(), file.exists), (Some("0644"), false));
        assert!(!networkctl.with_extension("ran").exists());
        for made in ["state", "pools", "etc"] {
            assert!(!root.path().join(made).exists(), "{made}");
        }
        config.network.backend = Backend::Off;
        let refused = dry_run_with(&kernel, &config, &info).unwrap_err();
        assert!(matches!(refused, InjectError::Off));
    }
}
