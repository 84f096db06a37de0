//! `hyperv-agent kvp list`, `get`, `set` and `delete`: the key-value pools.

use std::fmt::Write;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use hyperv_services::kvp::facts::Facts;
use hyperv_services::kvp::facts::keys::{FULL_NAME, KEYS};
use hyperv_services::kvp::interfaces::Interfaces;
use hyperv_services::kvp::pool::{PoolError, Pools};
use hyperv_services::kvp::request::PoolId;
use hyperv_services::kvp::wire::{KEY_UNITS, VALUE_UNITS};
use serde::Serialize;

use super::super::args::ConfigFile;
use super::super::output::{self, Exit, complain};
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

/// How long the look-up of the full name is waited for. The agent waits for none: it
/// knows the name from before.
const FULL_NAME_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
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
pub(super) struct Location {
    /// Directory of the pool files [default: as configured, or /var/lib/hyperv]. Pool 2
    /// is the file then, not the facts about this machine
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

/// The pools of this machine, or those in another directory.
struct Source {
    pools: Pools,
    /// What the agent tells of this machine in pool 2.
    facts: Option<Facts>,
}

impl Command {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let location = match &self {
            Self::List { location, .. }
            | Self::Get { location, .. }
            | Self::Set { location, .. }
            | Self::Delete { location, .. } => location,
        };
        let mut source = match &location.directory {
            Some(directory) => {
                if !matches!(self, Self::Set { .. }) && !directory.is_dir() {
                    complain(&format!("{} is not a directory", directory.display()));
                    return Ok(Exit::Unavailable);
                }
                let pools = Pools::new(directory);
                if matches!(self, Self::List { .. } | Self::Get { .. }) && !pools.exist() {
                    let directory = directory.display();
                    complain(&format!(
                        "{directory} has no pools: there is no file .kvp_pool_0 to .kvp_pool_4"
                    ));
                    return Ok(Exit::Unavailable);
                }
                Source { pools, facts: None }
            }
            None => {
                let file = &location.config;
                let config = match self {
                    Self::List { .. } | Self::Get { .. } => {
                        file.load_with_defaults(&["kvp.directory"])?
                    }
                    Self::Set { .. } | Self::Delete { .. } => {
                        file.load_with(&["kvp.directory", "kvp.mode"])?
                    }
                };
                let config = config.service.kvp;
                let interfaces = Arc::new(Interfaces::new(&config.environment.root));
                Source {
                    pools: Pools::new(&config.directory).with_mode(config.mode),
                    facts: Some(Facts::new(&config, interfaces)),
                }
            }
        };
        let result = match self {
            Self::List { pool, json, .. } => source.list(pool, json),
            Self::Get {
                key, pool, json, ..
            } => source.get(&key, pool, json),
            Self::Set {
                key, value, pool, ..
            } => set(&mut source.pools, pool, &key, value),
            Self::Delete { key, pool, .. } => delete(&mut source.pools, pool, &key),
        };
        for warning in source.pools.take_warnings() {
            complain(&warning.to_string());
        }
        result
    }
}

impl Source {
    fn list(&mut self, only: Option<PoolId>, json: bool) -> anyhow::Result<Exit> {
        let mut records = Vec::new();
        for pool in PoolId::ALL {
            if only.is_none_or(|only| only == pool) {
                let facts = self.facts.as_ref().filter(|_| pool == PoolId::Auto);
                if let Some(facts) = facts {
                    facts.wait_for_full_name(FULL_NAME_WAIT);
                    let all = (0..).map_while(|index| facts.at(index));
                    records.extend(all.map(|(key, value)| record(pool, key.to_owned(), value)));
                }
                // A fact hides a record of the file.
                let is_fact = |key: &str| facts.is_some() && KEYS.contains(&key);
                let found = self.pools.list(pool)?.into_iter();
                let found = found.filter(|it| !is_fact(&it.key));
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

    fn get(&mut self, key: &str, only: Option<PoolId>, json: bool) -> anyhow::Result<Exit> {
        for pool in SEARCH_ORDER {
            if only.is_none_or(|only| only == pool) {
                if let Some(value) = self.value(pool, key)? {
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

    /// Returns the value that the host gets.
    fn value(&mut self, pool: PoolId, key: &str) -> Result<Option<String>, PoolError> {
        let fact = self.facts.as_mut().filter(|_| pool == PoolId::Auto);
        let fact = fact.and_then(|facts| {
            if key == FULL_NAME {
                facts.wait_for_full_name(FULL_NAME_WAIT);
            }
            facts.get(key)
        });
        match fact {
            None => self.pools.get(pool, key),
            fact => Ok(fact),
        }
    }
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
