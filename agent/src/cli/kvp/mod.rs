//! `hyperv-agent kvp`: the key-value pools, and the IP configurations of the interfaces.

mod ip;
mod pools;

use clap::{Args, Subcommand};

use super::output::Exit;

const HELP: &str = "\
Pools, by number or name:
  0 external       written by the host's administrator
  1 guest          written by the guest, read by the host
  2 auto           facts about the guest, computed when they are read; shown as the
                   agent tells them to the host
  3 auto-external  facts about the host: its name, the name of this machine there
  4 auto-internal  not used by any known host

Exit status: 0 success, 1 no such key, 2 invalid usage, 3 the pool cannot be read
or written. The commands are safe to use while the agent is running.

Examples:
  hyperv-agent kvp list                          show every pool that has records
  hyperv-agent kvp list --pool auto              show what the host is told of the guest
  hyperv-agent kvp get HostName                  show the name of the host
  hyperv-agent kvp set Role database             set a key for the host (pool 1)
  hyperv-agent kvp set Key - <file               read the value from a file
  hyperv-agent kvp delete Role                   delete a key
  hyperv-agent kvp list --pool external --json   print JSON for a script
  hyperv-agent kvp ip                            show the network as the host sees it";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Kvp {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Pools(pools::Command),
    /// Show what the host reads of the network adapters, try what it would set, or undo
    /// what it has set
    Ip(ip::Ip),
}

impl Kvp {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        match self.command {
            Command::Pools(command) => command.run(),
            Command::Ip(ip) => ip.run(),
        }
    }
}
