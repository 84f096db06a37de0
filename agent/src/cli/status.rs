//! `hyperv-agent status`: the state of the running agent.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Args;
use hyperv_services::kvp::network::record;
use serde_json::{Map, Value};

use super::args::ConfigFile;
use super::output::{self, Exit};
use crate::control_socket;
use crate::status::check::{Severity, judge};
use crate::status::client::fetch;
use crate::status::ip_configuration::IpConfiguration;
use crate::status::{Document, openmetrics, text};
use crate::terminal::escaped_lines;

const HELP: &str = "\
Exit status: 0 success, 3 no agent is running. With --check, as monitoring plug-ins do:
0 all is well, 1 a backup, a hook, a reload or an IP configuration failed, 2 a device of
a service cannot be served, a file system does not answer, or no agent answers.";

/// What a terminal does before the next status: the cursor goes home, the screen is cleared.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Print OpenMetrics text, for Prometheus
    #[arg(long, conflicts_with = "json")]
    openmetrics: bool,

    /// Print one line with what is wrong, and exit as monitoring plug-ins do
    #[arg(long, conflicts_with_all = ["json", "openmetrics"])]
    check: bool,

    /// Show the status again every so many seconds, until Ctrl-C
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u32).range(1..=86_400),
        conflicts_with_all = ["json", "openmetrics", "check"]
    )]
    watch: Option<u32>,

    #[command(flatten)]
    config: ConfigFile,
}

impl Status {
    pub(super) fn run(&self) -> anyhow::Result<Exit> {
        if self.check {
            return self.check();
        }
        if let Some(seconds) = self.watch {
            return self.watch(Duration::from_secs(seconds.into()));
        }
        let (answer, configured) = self.ask()?;
        if self.json {
            let mut document: Map<String, Value> = serde_json::from_str(&answer)?;
            document.insert(
                "ip_configurations".to_owned(),
                serde_json::to_value(configured)?,
            );
            output::print_json(&document)?;
        } else if self.openmetrics {
            output::print_verbatim(&openmetrics::render(&parsed(&answer)?))?;
        } else {
            let text = text::render(&parsed(&answer)?, &configured, SystemTime::now());
            output::print(&text)?;
        }
        Ok(Exit::Success)
    }

    /// Returns the document of the running agent, and what became of the host's IP
    /// configurations.
    fn ask(&self) -> anyhow::Result<(String, Vec<IpConfiguration>)> {
        let config = self.config.load_with_defaults(&["runtime-directory"])?;
        let directory = &config.environment.runtime_dir;
        let answer = fetch(&directory.join(control_socket::NAME))?;
        // The agent's loop reads no files, and these outlive the agent.
        let configured = record::records(directory);
        Ok((
            answer,
            configured.iter().map(IpConfiguration::from).collect(),
        ))
    }

    fn check(&self) -> anyhow::Result<Exit> {
        let asked = self.ask();
        let asked = asked.and_then(|(answer, configured)| Ok((parsed(&answer)?, configured)));
        let (severity, words) = match asked {
            Ok((document, configured)) => judge(&document, &configured),
            Err(error) => (Severity::Critical, format!("{error:#}")),
        };
        let (name, exit) = match severity {
            Severity::Ok => ("OK", Exit::Success),
            Severity::Warning => ("WARNING", Exit::Failure),
            Severity::Critical => ("CRITICAL", Exit::Usage),
        };
        let line = format!("hyperv-agent {name}: {words}").replace('\n', " ");
        output::print(&(line + "\n"))?;
        Ok(exit)
    }

    /// Shows the status until a signal ends the process, or nobody reads any more.
    fn watch(&self, pause: Duration) -> anyhow::Result<Exit> {
        let mut stdout = io::stdout();
        let clear = if stdout.is_terminal() { CLEAR } else { "" };
        loop {
            let now = SystemTime::now();
            let shown = self.ask();
            let shown = shown.and_then(|(answer, configured)| {
                Ok(text::render(&parsed(&answer)?, &configured, now))
            });
            // An agent that is restarted comes back.
            let text = shown.unwrap_or_else(|error| format!("{error:#}\n"));
            let text = format!("{clear}{}\n", escaped_lines(&text));
            match stdout
                .write_all(text.as_bytes())
                .and_then(|()| stdout.flush())
            {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Exit::Success),
                written => output::written(written)?,
            }
            thread::sleep(pause);
        }
    }
}

fn parsed(answer: &str) -> anyhow::Result<Document> {
    serde_json::from_str(answer).context(
        "the running agent is of another version, whose status this one cannot read: restart it, \
         or use --json",
    )
}
