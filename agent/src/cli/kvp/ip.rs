//! `hyperv-agent kvp ip`: what the host reads of the network adapters, and what it sets.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use clap::{Args, Subcommand, ValueEnum};
use hyperv_services::kvp::Config;
use hyperv_services::kvp::network::{self, Adapter, DryRun, Told, record};
use hyperv_services::kvp::request::{Family, IpInfo};
use hyperv_services::timeouts::IP_UNDO;
use serde::Serialize;

use super::super::args::ConfigFile;
use super::super::output::{self, Exit, complain};
use crate::status::ip_configuration::IpConfiguration;
use crate::status::text::ago;
use crate::terminal::escaped;

const HELP: &str = "\
For each adapter: what the host is told and who knows it; the network manager that a
configuration of the host would be written for, and why, or why it would be refused
and what each manager needs to be in charge; and what the host has configured.
Interfaces are named as in Linux, or by MAC address or VMBus device as the host does.

With --dry-run it shows what a configuration of the host would do: the files, with
secrets masked, and the commands. Nothing is changed. It runs what planning runs:
commands of the network manager that only read.

Exit status: 0 success, 1 no such adapter, or the configuration would be refused, or
could not be undone, 2 invalid usage.

Examples:
  hyperv-agent kvp ip                    show all network adapters of the host
  hyperv-agent kvp ip eth0 --json        print JSON for a script
  hyperv-agent kvp ip eth0 --dry-run --address 10.0.0.5/24 --gateway 10.0.0.1
                                         show what setting this would do
  hyperv-agent kvp ip undo eth0          undo what the host has configured";

#[derive(Debug, Args)]
#[command(after_help = HELP, args_conflicts_with_subcommands = true)]
pub(super) struct Ip {
    #[command(subcommand)]
    command: Option<Command>,

    /// The interface [default: all network adapters of the host]
    interface: Option<String>,

    /// Show what setting this configuration would do
    #[arg(long)]
    dry_run: bool,

    /// Address with the prefix length of its subnet; can be given several times
    #[arg(long, value_name = "ADDRESS/PREFIX", value_parser = subnet, requires = "dry_run")]
    address: Vec<(IpAddr, u8)>,

    /// Default gateway; can be given several times
    #[arg(long, value_name = "ADDRESS", requires = "dry_run")]
    gateway: Vec<IpAddr>,

    /// DNS server; can be given several times
    #[arg(long, value_name = "ADDRESS", requires = "dry_run")]
    dns: Vec<IpAddr>,

    /// Configure IPv4 by DHCP
    #[arg(long, requires = "dry_run")]
    dhcp: bool,

    /// Families that the host configures [default: those of the addresses]
    #[arg(long, requires = "dry_run")]
    family: Option<Families>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Undo what the host has configured: restore the files that were there before, and
    /// have the network manager load them
    Undo(Undo),
}

#[derive(Debug, Args)]
struct Undo {
    /// The interface [default: the only one that the host has configured]
    interface: Option<String>,

    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Families {
    Ipv4,
    Ipv6,
    Both,
}

/// An adapter, and what the host has configured on it.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    adapter: Adapter,
    /// The last configuration of the host since the machine was started.
    configured: Option<IpConfiguration>,
    /// The files that undoing the host's configurations would restore or remove.
    undo: Vec<PathBuf>,
}

impl Ip {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        if let Some(Command::Undo(undo)) = self.command {
            return undo.run();
        }
        let keys = [
            "runtime-directory",
            "state-directory",
            "kvp.network.backend",
        ];
        let config = self.config.load_with_defaults(&keys)?.service.kvp;
        if self.dry_run {
            return self.dry_run(&config);
        }
        let undoable = network::undoable(&config).unwrap_or_else(|error| {
            let error = anyhow::Error::new(error);
            complain(&format!(
                "what the host has configured is not shown: {error:#}"
            ));
            Vec::new()
        });
        let records = record::records(&config.environment.runtime_dir);
        let shown: Vec<_> = network::adapters(&config, self.interface.as_deref())?
            .into_iter()
            .map(|adapter| {
                let name = &adapter.interface;
                let configured = records.iter().find(|record| record.interface == *name);
                let undo = undoable.iter().find(|undo| undo.interface == *name);
                let files = undo.into_iter().flat_map(|undo| &undo.files);
                Shown {
                    configured: configured.map(IpConfiguration::from),
                    undo: files.map(|(path, _)| path.clone()).collect(),
                    adapter,
                }
            })
            .collect();
        if self.json {
            output::print_json(&shown)?;
        } else if shown.is_empty() {
            output::print("No network interface is an adapter of the host (on the VMBus).\n")?;
        } else {
            output::print(&text(&shown, SystemTime::now())?)?;
        }
        Ok(Exit::Success)
    }

    fn dry_run(self, config: &Config) -> anyhow::Result<Exit> {
        let adapters = network::adapters(config, self.interface.as_deref())?;
        if adapters.is_empty() {
            complain("no network interface is an adapter of the host (on the VMBus)");
            return Ok(Exit::Failure);
        }
        let [adapter] = &adapters[..] else {
            let names: Vec<_> = adapters.iter().map(|it| it.interface.as_str()).collect();
            complain(&format!(
                "name one interface; the adapters of the host are: {}",
                names.join(", ")
            ));
            return Ok(Exit::Usage);
        };
        let Some(device) = &adapter.device else {
            complain(&format!(
                "{} is not an adapter of the host: it has no VMBus device",
                adapter.interface
            ));
            return Ok(Exit::Failure);
        };
        let pairs = self.address.iter();
        let (addresses, subnets): (Vec<_>, Vec<_>) = pairs
            .map(|(ip, prefix)| (ip.to_string(), format!("/{prefix}")))
            .unzip();
        let list = |ips: &[IpAddr]| {
            ips.iter()
                .map(IpAddr::to_string)
                .collect::<Vec<_>>()
                .join(";")
        };
        let info = IpInfo {
            adapter: device.clone(),
            family: match self.family {
                None => Family::default(),
                Some(Families::Ipv4) => Family::V4,
                Some(Families::Ipv6) => Family::V6,
                Some(Families::Both) => Family::BOTH,
            },
            dhcp: self.dhcp,
            addresses: addresses.join(";"),
            subnets: subnets.join(";"),
            gateways: list(&self.gateway),
            dns: list(&self.dns),
        };
        let shown = network::dry_run(config, &info)?;
        if self.json {
            output::print_json(&shown)?;
        } else {
            output::print(&trial(&shown)?)?;
        }
        Ok(Exit::Success)
    }
}

impl Undo {
    fn run(self) -> anyhow::Result<Exit> {
        let keys = ["runtime-directory", "state-directory"];
        let config = self.config.load_with(&keys)?.service.kvp;
        let interface = match self.interface {
            Some(interface) => interface,
            None => {
                let known = network::undoable(&config)?;
                let names: Vec<_> = known.iter().map(|it| it.interface.as_str()).collect();
                match names[..] {
                    [name] => name.to_owned(),
                    [] => {
                        complain("the host has configured no interface");
                        return Ok(Exit::Failure);
                    }
                    _ => {
                        let names = names.join(", ");
                        complain(&format!("name one of the interfaces: {names}"));
                        return Ok(Exit::Usage);
                    }
                }
            }
        };
        let deadline = Instant::now() + IP_UNDO;
        let undone = network::undo(&config, &interface, deadline)?;
        let mut text = String::new();
        for (path, restored) in undone.files {
            let what = if restored { "restored" } else { "removed" };
            writeln!(text, "{what} {}", path.display())?;
        }
        let copies = undone.copies.display();
        writeln!(text, "Copies of the files as they were are in {copies}.")?;
        output::print(&text)?;
        Ok(Exit::Success)
    }
}

/// Parses an address with the prefix length of its subnet.
fn subnet(text: &str) -> Result<(IpAddr, u8), String> {
    let parsed = text.split_once('/').and_then(|(ip, prefix)| {
        let ip: IpAddr = ip.parse().ok()?;
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= bits)?;
        Some((ip, prefix))
    });
    parsed.ok_or_else(|| "expected an address and a prefix length, such as 10.0.0.5/24".to_owned())
}

/// Returns the adapters as text.
fn text(shown: &[Shown], now: SystemTime) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for (number, shown) in shown.iter().enumerate() {
        let adapter = &shown.adapter;
        let gap = if number == 0 { "" } else { "\n" };
        let mac = adapter.mac.as_deref().map(|mac| format!(", MAC {mac}"));
        let device = adapter
            .device
            .as_deref()
            .map(|guid| format!(", device {guid}"));
        writeln!(
            text,
            "{gap}{}{}{}",
            escaped(&adapter.interface),
            mac.unwrap_or_default(),
            device.unwrap_or_default()
        )?;
        match (&adapter.answer, &adapter.refusal) {
            (Some(told), _) => write_told(&mut text, told, &adapter.interface)?,
            (None, refusal) => {
                let why = refusal.as_deref().unwrap_or_default();
                writeln!(text, "  the host is told nothing: {}", escaped(why))?;
            }
        }
        write_target(&mut text, adapter)?;
        if let Some(configured) = &shown.configured {
            let (ago, manager) = (ago(configured.at, now), escaped(&configured.manager));
            writeln!(text, "  configured by the host {ago} with {manager}:")?;
            for line in configured.lines() {
                writeln!(text, "    {line}")?;
            }
        }
        if !shown.undo.is_empty() {
            let name = escaped(&adapter.interface);
            writeln!(
                text,
                "  `hyperv-agent kvp ip undo {name}` would restore or remove:"
            )?;
            for path in &shown.undo {
                writeln!(text, "    {}", escaped(&path.to_string_lossy()))?;
            }
        }
    }
    Ok(text)
}

fn write_told(text: &mut String, told: &Told, interface: &str) -> std::fmt::Result {
    let of = match told.interface == interface {
        true => String::new(),
        false => format!(" of {}", escaped(&told.interface)),
    };
    writeln!(text, "  the host is told{of}:")?;
    let list = |items: Vec<String>| match items.is_empty() {
        true => "none".to_owned(),
        false => items.join(", "),
    };
    let ips = |ips: &[IpAddr]| list(ips.iter().map(ToString::to_string).collect());
    let sources = &told.sources;
    for (what, value, source) in [
        (
            "addresses",
            list(told.addresses.clone()),
            Some(sources.addresses),
        ),
        ("gateways", ips(&told.gateways), Some(sources.gateways)),
        ("DNS", ips(&told.dns), sources.dns),
        (
            "DHCP",
            if told.dhcp { "yes" } else { "no" }.to_owned(),
            sources.dhcp.or(Some("the lifetimes of its addresses")),
        ),
    ] {
        let source = source.map(|source| format!("  (from {source})"));
        writeln!(text, "    {what:9}  {value}{}", source.unwrap_or_default())?;
    }
    Ok(())
}

fn write_target(text: &mut String, adapter: &Adapter) -> std::fmt::Result {
    let target = &adapter.target;
    let why = escaped(&target.why);
    match target.manager {
        Some(manager) => {
            writeln!(
                text,
                "  a configuration of the host goes to {manager}: {why}"
            )?;
            let mut candidates = target.candidates.iter();
            match candidates.find(|candidate| candidate.manager == manager) {
                Some(candidate) => writeln!(text, "    sign: {}", escaped(&candidate.sign)),
                None => Ok(()),
            }
        }
        None => {
            writeln!(text, "  a configuration of the host is refused: {why}")?;
            // What helps where the host could configure it.
            let candidates = target.candidates.iter();
            for candidate in candidates.filter(|_| adapter.device.is_some()) {
                writeln!(
                    text,
                    "    {:14}  in charge: {}; needs {}",
                    candidate.manager,
                    candidate.in_charge,
                    escaped(&candidate.sign)
                )?;
            }
            Ok(())
        }
    }
}

/// Returns what setting a configuration would do as text.
fn trial(shown: &DryRun) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(
        text,
        "{}: {}\nwith {}: {}",
        escaped(&shown.interface),
        shown.settings,
        shown.manager,
        escaped(&shown.why)
    )?;
    for command in &shown.before {
        writeln!(text, "\nrun {}", escaped(command))?;
    }
    for file in &shown.files {
        let path = escaped(&file.path.to_string_lossy());
        let Some(content) = &file.text else {
            writeln!(text, "\nremove {path}")?;
            continue;
        };
        let doing = if file.exists { "replace" } else { "write" };
        let mode = file.mode.as_deref().map(|mode| format!(" (mode {mode})"));
        writeln!(text, "\n{doing} {path}{}:", mode.unwrap_or_default())?;
        for line in content.lines() {
            writeln!(text, "    {}", escaped(line))?;
        }
    }
    for command in &shown.commands {
        writeln!(text, "\nrun {}", escaped(command))?;
    }
    for lost in &shown.lost {
        writeln!(text, "\nnot kept: {}", escaped(lost))?;
    }
    Ok(text)
}
