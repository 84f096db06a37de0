//! `hyperv-agent generalize`: removes what a template of this machine must not have.

use std::fmt::{self, Display};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use hyperv_services::kvp;
use hyperv_services::kvp::network::{self, Undoable};
use hyperv_services::kvp::pool::Pools;
use hyperv_services::kvp::request::PoolId;
use hyperv_services::timeouts::IP_UNDO;

use super::args::ConfigFile;
use super::output::{self, Exit, complain};
use crate::runtime::RuntimeDirectory;

const HELP: &str = "\
Machines that are made from a template would begin with what this machine has from
its host: keys and values, IP configurations, and what the agent remembers of them.
The command undoes the host's IP configurations (the files only: the network stays as
it is until the next boot), removes other files that the agent has written for the
network, empties the pools, and removes the agent's records.

Without --yes it only shows what it would do. Stop the agent first:
  systemctl stop hyperv-agent
  hyperv-agent generalize
  hyperv-agent generalize --yes

Exit status: 0 success, 1 the agent runs, or something could not be removed, 2 invalid
usage, 3 a pool cannot be read or written.";

/// What else makes a machine unique.
const HINTS: &str = "
The command leaves these alone; handle them before you shut down:
  /etc/machine-id        truncate it (truncate -s 0 /etc/machine-id)
  /etc/ssh/ssh_host_*    remove them if something makes new ones at the first boot
  cloud-init             `cloud-init clean --logs --machine-id` if it is installed
";

/// Where network managers read files of the agent's.
const DIRECTORIES: [&str; 5] = [
    "etc/netplan",
    "etc/systemd/network",
    "etc/NetworkManager/system-connections",
    "etc/network/interfaces.d",
    "var/lib/hyperv-agent/ip",
];

/// Prefixes of the names of records in the state directory; those of unfinished copies stay.
const RECORDS: [&str; 2] = ["network", "kvp-published"];

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Generalize {
    /// Do it, instead of showing what would be done
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    config: ConfigFile,
}

/// Something that a template must not have.
enum Remnant {
    Configuration(Undoable),
    Pool(PoolId, usize),
    Path(PathBuf),
}

/// Finds remnants of one kind.
type Find = fn(&kvp::Config) -> anyhow::Result<Vec<Remnant>>;

impl Display for Remnant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(Undoable { interface, files }) => {
                write!(f, "undo the host's IP configuration of {interface}")?;
                for (path, restored) in files {
                    let doing = if *restored { "restore" } else { "remove" };
                    write!(f, "\n  {doing} {}", path.display())?;
                }
                Ok(())
            }
            Self::Pool(pool, count) => {
                write!(f, "empty pool {pool} ({}), records: {count}", pool.name())
            }
            Self::Path(path) => write!(f, "remove {}", path.display()),
        }
    }
}

impl Generalize {
    pub(crate) fn run(&self) -> anyhow::Result<Exit> {
        let keys = ["runtime-directory", "state-directory", "kvp.directory"];
        let config = match self.yes {
            true => self.config.load_with(&keys)?,
            false => self.config.load_with_defaults(&keys)?,
        };
        // No agent starts meanwhile.
        let _lock = match self.yes {
            true => {
                let directory = RuntimeDirectory::open(&config.environment.runtime_dir)?;
                directory.claim()?;
                Some(directory)
            }
            false => None,
        };
        let config = config.service.kvp;
        let mut text = String::new();
        let mut complaints = Vec::new();
        let finders: [Find; 4] = [configurations, files, pools, records];
        for find in finders {
            for remnant in find(&config)? {
                text += &format!("{remnant}\n");
                if self.yes {
                    if let Err(error) = remnant.remove(&config) {
                        complaints.push(format!("{error:#}"));
                    }
                }
            }
        }
        if text.is_empty() {
            text += "There is nothing to remove.\n";
        } else if !self.yes {
            text += "\nNothing was done: that takes --yes.\n";
        }
        output::print(&(text + HINTS))?;
        complaints.iter().for_each(|complaint| complain(complaint));
        Ok(Exit::of(complaints.is_empty()))
    }
}

impl Remnant {
    fn remove(&self, config: &kvp::Config) -> anyhow::Result<()> {
        match self {
            Self::Configuration(Undoable { interface, .. }) => {
                network::undo_files(config, interface, Instant::now() + IP_UNDO)?;
            }
            Self::Pool(pool, _) => Pools::new(&config.directory).clear(*pool)?,
            Self::Path(path) => {
                let removed = match path.symlink_metadata() {
                    Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
                    _ => fs::remove_file(path),
                };
                removed.with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}

fn configurations(config: &kvp::Config) -> anyhow::Result<Vec<Remnant>> {
    let undoable = network::undoable(config)?.into_iter();
    Ok(undoable.map(Remnant::Configuration).collect())
}

/// Files for the network that no undo log is about.
fn files(config: &kvp::Config) -> anyhow::Result<Vec<Remnant>> {
    let undoable = network::undoable(config)?;
    let is_known = |path: &Path| {
        let mut files = undoable.iter().flat_map(|one| &one.files);
        files.any(|(known, _)| known == path)
    };
    let root = &config.environment.root;
    let scripts = root.join("var/lib/hyperv-agent/ip");
    let mut found = Vec::new();
    for directory in DIRECTORIES {
        let directory = root.join(directory);
        let is_own = |name: &str| name.contains("hyperv-agent-") || directory == scripts;
        found.extend(named(&directory, is_own)?);
    }
    // The stock daemon's notes.
    let is_note = |name: &str| name.starts_with("ifcfg-") || name.ends_with(".nmconnection");
    found.extend(named(&config.directory, is_note)?);
    found.retain(|path| !is_known(path));
    Ok(found.into_iter().map(Remnant::Path).collect())
}

fn pools(config: &kvp::Config) -> anyhow::Result<Vec<Remnant>> {
    let mut pools = Pools::new(&config.directory);
    let mut found = Vec::new();
    for pool in PoolId::ALL {
        let count = pools.list(pool)?.len();
        if count > 0 {
            found.push(Remnant::Pool(pool, count));
        }
    }
    Ok(found)
}

/// Records of what the host has set, and of the pairs that were published.
fn records(config: &kvp::Config) -> anyhow::Result<Vec<Remnant>> {
    let is_record = |name: &str| RECORDS.iter().any(|record| name.starts_with(record));
    let found = named(&config.environment.state_dir, is_record)?;
    Ok(found.into_iter().map(Remnant::Path).collect())
}

/// Returns the paths in a directory whose names are wanted.
fn named(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.with_context(|| format!("cannot read {}", directory.display()))?,
    };
    let entries = entries.flatten();
    let mut paths: Vec<_> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(&is_wanted))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_the_agent_wrote_is_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let mut config = kvp::Config {
            directory: root.join("pools"),
            ..kvp::Config::default()
        };
        config.environment.root = root.to_owned();
        config.environment.state_dir = root.join("state");
        let own = [
            "etc/systemd/network/05-hyperv-agent-eth0.network",
            "pools/eth0.nmconnection",
            "pools/ifcfg-eth0",
        ];
        let state = ["state/kvp-published", "state/network-applied"];
        let others = [
            "etc/systemd/network/10-eth0.network",
            "pools/other",
            "state/fcopy-1.pending",
        ];
        for name in own.iter().chain(&state).chain(&others) {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        symlink("/nowhere", root.join("state/network")).unwrap();
        let texts = |found: anyhow::Result<Vec<Remnant>>| {
            let found = found.unwrap().into_iter();
            found.map(|one| one.to_string()).collect::<Vec<_>>()
        };
        let remove = |name: &str| format!("remove {}", root.join(name).display());
        assert_eq!(texts(files(&config)), own.map(remove));
        let state = [
            "state/kvp-published",
            "state/network",
            "state/network-applied",
        ];
        assert_eq!(texts(records(&config)), state.map(remove));
        for remnant in files(&config)
            .unwrap()
            .into_iter()
            .chain(records(&config).unwrap())
        {
            remnant.remove(&config).unwrap();
        }
        assert_eq!(texts(files(&config)), [""; 0]);
        assert_eq!(texts(records(&config)), [""; 0]);
        assert!(others.iter().all(|name| root.join(name).exists()));

        let mut pool = Pools::new(&config.directory);
        pool.set(PoolId::External, "a", "1").unwrap();
        let [remnant] = &pools(&config).unwrap()[..] else {
            panic!("one pool")
        };
        assert_eq!(remnant.to_string(), "empty pool 0 (external), records: 1");
        remnant.remove(&config).unwrap();
        assert!(pools(&config).unwrap().is_empty());
    }
}
