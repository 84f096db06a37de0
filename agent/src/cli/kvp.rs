//! `hyperv-agent kvp`: the pools, as a person or a script reads and writes them.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use hyperv_services::kvp::pool::{PoolError, Pools};
use hyperv_services::kvp::request::PoolId;
use hyperv_services::kvp::wire::{KEY_UNITS, VALUE_UNITS};
use serde::Serialize;

use super::args::ConfigFile;
use super::output::{EXIT_USAGE, usage_error};
use crate::config;

/// Exit status where there is no such key.
const EXIT_NO_KEY: u8 = 1;

/// Exit status where a pool cannot be read or written.
const EXIT_FAILED: u8 = 3;

/// Where `get` looks, unless told: what the host says comes before what the
/// guest says of itself.
const SEARCHED: [PoolId; 5] = [
    PoolId::External,
    PoolId::AutoExternal,
    PoolId::Guest,
    PoolId::Auto,
    PoolId::AutoInternal,
];

/// Bytes of a value from standard input: more than any record has room for.
const MAX_INPUT: u64 = 64 << 10;

const HELP: &str = "\
Pools, by number or name:
  0 external       written by the host's administrator
  1 guest          written here, read by the host
  2 auto           facts that a running agent computes at each request of the
                   host; not in a file, unless another program wrote one
  3 auto-external  the host's own facts: its name, this machine's name there
  4 auto-internal  not used by any host known

Exit status: 0 done, 1 no such key, 2 wrong usage, 3 a pool cannot be read or
written. All is safe beside a running agent.

Examples:
  hyperv-agent kvp list                          every pool that has records
  hyperv-agent kvp get HostName                  the name of the host
  hyperv-agent kvp set Role database             tell the host (pool 1)
  hyperv-agent kvp set Key - <file               a value from a file
  hyperv-agent kvp delete Role
  hyperv-agent kvp list --pool external --json   for a script";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Kvp {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List keys and values, in the order in which the host sees them
    #[command(after_help = "Control characters are shown as escapes, but not with --json.")]
    List {
        /// Only this pool, by number or name [default: all that have records]
        #[arg(long, value_name = "POOL")]
        pool: Option<PoolId>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Print the value of a key
    #[command(after_help = "\
The value is printed as it is, with a newline after it; on a terminal, control
characters are shown as escapes.")]
    Get {
        /// Which key
        key: String,
        /// In this pool, by number or name [default: the first of 0, 3, 1, 2, 4
        /// that has the key]
        #[arg(long, value_name = "POOL")]
        pool: Option<PoolId>,
        /// Print pool, key and value as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Give a key a value
    Set {
        /// Which key
        key: String,
        /// Its value; `-` reads it from standard input, without a newline at
        /// its end
        value: String,
        /// In this pool, by number or name
        #[arg(long, value_name = "POOL", default_value = "guest")]
        pool: PoolId,
        #[command(flatten)]
        place: Place,
    },
    /// Remove a key
    Delete {
        /// Which key
        key: String,
        /// From this pool, by number or name
        #[arg(long, value_name = "POOL", default_value = "guest")]
        pool: PoolId,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// Directory of the pool files [default: what the configuration says, or
    /// /var/lib/hyperv]
    #[arg(long, value_name = "DIR", conflicts_with = "path")]
    directory: Option<PathBuf>,

    #[command(flatten)]
    config: ConfigFile,
}

/// A record, as JSON has it.
#[derive(Serialize)]
struct Item {
    pool: u8,
    name: &'static str,
    key: String,
    value: String,
}

impl Kvp {
    pub(crate) fn run(self) -> ExitCode {
        let place = match &self.command {
            Command::List { place, .. }
            | Command::Get { place, .. }
            | Command::Set { place, .. }
            | Command::Delete { place, .. } => place,
        };
        let (directory, mode) = match &place.directory {
            Some(directory) => (directory.clone(), None),
            None => match config::load(place.config.path.as_deref()) {
                Ok(config) => (config.service.kvp.directory, config.service.kvp.mode),
                Err(error) => return usage_error(&error),
            },
        };
        let mut pools = Pools::new(&directory).with_mode(mode);
        let done = match self.command {
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
            let _ = writeln!(io::stderr(), "hyperv-agent: {warning}");
        }
        done.unwrap_or_else(|error| failed(&error))
    }
}

fn list(pools: &mut Pools, only: Option<PoolId>, json: bool) -> anyhow::Result<ExitCode> {
    let mut items = Vec::new();
    for pool in PoolId::ALL {
        if only.is_none_or(|only| only == pool) {
            let records = pools.list(pool)?;
            items.extend(
                records
                    .into_iter()
                    .map(|record| item(pool, record.key, record.value)),
            );
        }
    }
    print(&if json {
        serde_json::to_string_pretty(&items)? + "\n"
    } else {
        table(&items)?
    })
}

fn get(pools: &mut Pools, key: &str, only: Option<PoolId>, json: bool) -> anyhow::Result<ExitCode> {
    for pool in SEARCHED {
        if only.is_none_or(|only| only == pool)
            && let Some(value) = pools.get(pool, key)?
        {
            return print(&if json {
                serde_json::to_string_pretty(&item(pool, key.to_owned(), value))? + "\n"
            } else if io::stdout().is_terminal() {
                escaped(&value) + "\n"
            } else {
                value + "\n"
            });
        }
    }
    Ok(no_key(key, only))
}

fn set(pools: &mut Pools, pool: PoolId, key: &str, value: String) -> anyhow::Result<ExitCode> {
    let value = if value == "-" { input()? } else { value };
    for (what, text, limit) in [("key", key, KEY_UNITS), ("value", &value, VALUE_UNITS)] {
        let units = text.encode_utf16().count();
        if units > limit {
            let _ = writeln!(
                io::stderr(),
                "hyperv-agent: a {what} of {units} UTF-16 units is too long, the host takes {limit}"
            );
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    }
    pools.set(pool, key, &value)?;
    Ok(ExitCode::SUCCESS)
}

fn delete(pools: &mut Pools, pool: PoolId, key: &str) -> anyhow::Result<ExitCode> {
    Ok(if pools.delete(pool, key)? {
        ExitCode::SUCCESS
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

fn print(text: &str) -> anyhow::Result<ExitCode> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to standard output")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn no_key(key: &str, pool: Option<PoolId>) -> ExitCode {
    let place = match pool {
        Some(pool) => format!("pool {pool} ({})", pool.name()),
        None => "any pool".to_owned(),
    };
    let _ = writeln!(
        io::stderr(),
        "hyperv-agent: there is no key {key:?} in {place}"
    );
    ExitCode::from(EXIT_NO_KEY)
}

fn failed(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref() {
        Some(
            wrong @ (PoolError::EmptyKey
            | PoolError::KeyTooLong { .. }
            | PoolError::ValueTooLong { .. }
            | PoolError::Nul(_)),
        ) => return usage_error(wrong),
        Some(PoolError::File { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied
                && !rustix::process::geteuid().is_root() =>
        {
            let _ = writeln!(io::stderr(), "hyperv-agent: {error:#}; run this as root");
        }
        _ => {
            let _ = writeln!(io::stderr(), "hyperv-agent: {error:#}");
        }
    }
    ExitCode::from(EXIT_FAILED)
}

fn item(pool: PoolId, key: String, value: String) -> Item {
    Item {
        pool: pool.number(),
        name: pool.name(),
        key,
        value,
    }
}

/// Records by pool, one a line.
fn table(items: &[Item]) -> Result<String, std::fmt::Error> {
    let mut table = String::new();
    for items in items.chunk_by(|item, next| item.pool == next.pool) {
        if let Some(Item { pool, name, .. }) = items.first() {
            let gap = if table.is_empty() { "" } else { "\n" };
            writeln!(table, "{gap}pool {pool} ({name})")?;
        }
        let keys: Vec<_> = items.iter().map(|item| escaped(&item.key)).collect();
        let longest = keys.iter().map(|key| key.chars().count()).max();
        let width = longest.unwrap_or(0).min(40);
        for (key, item) in keys.iter().zip(items) {
            writeln!(table, "  {key:width$}  {}", escaped(&item.value))?;
        }
    }
    Ok(table)
}

/// A text of the host's for a terminal: nothing in it acts on it.
fn escaped(text: &str) -> String {
    // Quotes do nothing. A backslash was escaped itself: one before a quote is
    // that quote's own.
    let escaped = text.escape_debug().to_string();
    escaped.replace("\\\"", "\"").replace("\\'", "'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_escaped() {
        for (text, shown) in [
            ("plain: äöü 東京 100 %", "plain: äöü 東京 100 %"),
            ("\u{1b}[2Jred", "\\u{1b}[2Jred"),
            ("two\nlines\r\t", "two\\nlines\\r\\t"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
            (r#"{"a": 'b'}"#, r#"{"a": 'b'}"#),
            (r"C:\path", r"C:\\path"),
            (r#"\""#, r#"\\""#),
            (r"\'", r"\\'"),
        ] {
            assert_eq!(escaped(text), shown);
        }
    }
}
