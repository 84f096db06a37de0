//! `hyperv-agent kvp`: reads and writes the key-value pools.

use std::fmt::Write;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use hyperv_services::kvp::pool::Pools;
use hyperv_services::kvp::request::PoolId;
use hyperv_services::kvp::wire::{KEY_UNITS, VALUE_UNITS};
use serde::Serialize;

use super::args::ConfigFile;
use super::output::{self, Exit, complain};
use crate::config;
use crate::terminal::escaped;

/// The order in which `get` searches the pools: what the host says comes before what
/// the guest says of itself.
const SEARCH_ORDER: [PoolId; 5] = [
    PoolId::External,
    PoolId::AutoExternal,
    PoolId::Guest,
    PoolId::Auto,
    PoolId::AutoInternal,
];

/// Bytes that are read of a value on standard input: more than fit a record.
const MAX_INPUT: u64 = 64 << 10;

const HELP: &str = "\
Pools, by number or name:
  0 external       written by the host's administrator
  1 guest          written by the guest, read by the host
  2 auto           facts about the guest, which the running agent computes when
                   the host reads them; the file is usually empty
  3 auto-external  facts about the host: its name, the name of this machine there
  4 auto-internal  not used by any known host

Exit status: 0 success, 1 no such key, 2 invalid usage, 3 the pool cannot be read
or written. The commands are safe to use while the agent is running.

Examples:
  hyperv-agent kvp list                          show every pool that has records
  hyperv-agent kvp get HostName                  show the name of the host
  hyperv-agent kvp set Role database             set a key for the host (pool 1)
  hyperv-agent kvp set Key - <file               read the value from a file
  hyperv-agent kvp delete Role                   delete a key
  hyperv-agent kvp list --pool external --json   print JSON for a script";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Kvp {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List keys and values, in the order in which the host sees them
    #[command(after_help = "Control characters are escaped, except in JSON.")]
    List {
        /// List this pool only, by number or name [default: all pools]
        #[arg(long, value_name = "POOL")]
        pool: Option<PoolId>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        location: Location,
    },
    /// Print the value of a key
    #[command(after_help = "\
The value is printed unchanged and followed by a newline. On a terminal, control
characters are escaped.")]
    Get {
        /// Name of the key
        key: String,
        /// Search this pool only, by number or name [default: the first of 0, 3, 1, 2,
        /// 4 that has the key]
        #[arg(long, value_name = "POOL")]
        pool: Option<PoolId>,
        /// Print pool, key and value as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        location: Location,
    },
    /// Set a key to a value
    Set {
        /// Name of the key
        key: String,
        /// Value of the key; `-` reads it from standard input, without the newline at
        /// its end
        value: String,
        /// Pool to write, by number or name
        #[arg(long, value_name = "POOL", default_value = "guest")]
        pool: PoolId,
        #[command(flatten)]
        location: Location,
    },
    /// Delete a key
    Delete {
        /// Name of the key
        key: String,
        /// Pool to write, by number or name
        #[arg(long, value_name = "POOL", default_value = "guest")]
        pool: PoolId,
        #[command(flatten)]
        location: Location,
    },
}

#[derive(Debug, Args)]
struct Location {
    /// Directory of the pool files [default: as configured, or /var/lib/hyperv]
    #[arg(long, value_name = "DIR", conflicts_with = "path")]
    directory: Option<PathBuf>,

    #[command(flatten)]
    config: ConfigFile,
}

/// A record in JSON.
#[derive(Serialize)]
struct Record {
    pool: u8,
    name: &'static str,
    key: String,
    value: String,
}

impl Kvp {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let location = match &self.command {
            Command::List { location, .. }
            | Command::Get { location, .. }
            | Command::Set { location, .. }
            | Command::Delete { location, .. } => location,
        };
        let (directory, mode) = match &location.directory {
            Some(directory) => (directory.clone(), None),
            None => {
                let config = config::load(location.config.path.as_deref())?;
                (config.service.kvp.directory, config.service.kvp.mode)
            }
        };
        let mut pools = Pools::new(&directory).with_mode(mode);
        let result = match self.command {
            Command::List { pool, json, .. } => list(&mut pools, pool, json),
            Command::Get {
                key, pool, json, ..
            } => get(&mut pools, &key, pool, json),
            Command::Set {
                key, value, pool, ..
            } => set(&mut pools, pool, &key, value),
            Command::Delete { key, pool, .. } => delete(&mut pools, pool, &key),
        };
        for warning in pools.take_warnings() {
            complain(&warning.to_string());
        }
        result
    }
}

fn list(pools: &mut Pools, only: Option<PoolId>, json: bool) -> anyhow::Result<Exit> {
    let mut records = Vec::new();
    for pool in PoolId::ALL {
        if only.is_none_or(|only| only == pool) {
            let found = pools.list(pool)?.into_iter();
            records.extend(found.map(|it| record(pool, it.key, it.value)));
        }
    }
    if json {
        output::print_json(&records)?;
    } else {
        output::print(&table(&records)?)?;
    }
    Ok(Exit::Success)
}

fn get(pools: &mut Pools, key: &str, only: Option<PoolId>, json: bool) -> anyhow::Result<Exit> {
    for pool in SEARCH_ORDER {
        if only.is_none_or(|only| only == pool) {
            if let Some(value) = pools.get(pool, key)? {
                if json {
                    output::print_json(&record(pool, key.to_owned(), value))?;
                } else if io::stdout().is_terminal() {
                    output::print(&(escaped(&value) + "\n"))?;
                } else {
                    output::print_verbatim(&(value + "\n"))?;
                }
                return Ok(Exit::Success);
            }
        }
    }
    Ok(no_key(key, only))
}

fn set(pools: &mut Pools, pool: PoolId, key: &str, value: String) -> anyhow::Result<Exit> {
    let value = if value == "-" { input()? } else { value };
    for (what, text, limit) in [("key", key, KEY_UNITS), ("value", &value, VALUE_UNITS)] {
        let units = text.encode_utf16().count();
        if units > limit {
            complain(&format!(
                "the {what} is too long: {units} UTF-16 units, the host accepts at most {limit}"
            ));
            return Ok(Exit::Usage);
        }
    }
    pools.set(pool, key, &value)?;
    Ok(Exit::Success)
}

fn delete(pools: &mut Pools, pool: PoolId, key: &str) -> anyhow::Result<Exit> {
    Ok(if pools.delete(pool, key)? {
        Exit::Success
    } else {
        no_key(key, Some(pool))
    })
}

fn input() -> anyhow::Result<String> {
    let mut value = String::new();
    io::stdin()
        .take(MAX_INPUT)
        .read_to_string(&mut value)
        .context("cannot read the value from standard input")?;
    if value.ends_with('\n') {
        value.pop();
    }
    Ok(value)
}

fn no_key(key: &str, pool: Option<PoolId>) -> Exit {
    let place = match pool {
        Some(pool) => format!("pool {pool} ({})", pool.name()),
        None => "any pool".to_owned(),
    };
    complain(&format!("no key {key:?} in {place}"));
    Exit::Failure
}

fn record(pool: PoolId, key: String, value: String) -> Record {
    Record {
        pool: pool.number(),
        name: pool.name(),
        key,
        value,
    }
}

/// Returns the records by pool, one a line.
fn table(records: &[Record]) -> Result<String, std::fmt::Error> {
    let mut table = String::new();
    for records in records.chunk_by(|record, next| record.pool == next.pool) {
        if let Some(Record { pool, name, .. }) = records.first() {
            let gap = if table.is_empty() { "" } else { "\n" };
            writeln!(table, "{gap}pool {pool} ({name})")?;
        }
        let keys: Vec<_> = records.iter().map(|record| escaped(&record.key)).collect();
        let longest = keys.iter().map(|key| key.chars().count()).max();
        let width = longest.unwrap_or(0).min(40);
        for (key, record) in keys.iter().zip(records) {
            writeln!(table, "  {key:width$}  {}", escaped(&record.value))?;
        }
    }
    Ok(table)
}
