//! The binary under the name of a stock daemon, as images with units of their own have it: it
//! serves the service of that daemon, with the options of that daemon.

use clap::Parser;
use hyperv_services::service::Entry;

use super::run::Run;
use crate::logging::LogLevel;

/// Serves one service in place of a stock daemon. The configuration of hyperv-agent applies,
/// except for what it switches on and off.
#[derive(Debug, Parser)]
#[command(infer_long_args = true, after_help = "See hyperv-agent(8).")]
pub(super) struct StockDaemon {
    /// Stay in the foreground
    #[arg(short, long)]
    no_daemon: bool,

    /// Log at the level debug
    #[arg(short, long)]
    debug: bool,

    /// The stock daemons ignore any other words.
    #[arg(hide = true)]
    ignored: Vec<String>,
}

impl StockDaemon {
    pub(super) fn into_run(self, service: &'static Entry) -> Run {
        let level = self.debug.then_some(LogLevel::Debug);
        Run::only(service, !self.no_daemon, level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_those_of_the_stock_daemons() {
        let parse = |options: &[&str]| {
            let all = ["hv_kvp_daemon"].iter().chain(options);
            StockDaemon::try_parse_from(all).map(|it| (it.no_daemon, it.debug))
        };
        assert_eq!(parse(&[]).unwrap(), (false, false));
        assert_eq!(parse(&["-n"]).unwrap(), (true, false));
        assert_eq!(parse(&["-nd", "word"]).unwrap(), (true, true));
        assert_eq!(parse(&["--no-d", "--debug"]).unwrap(), (true, true));
        assert!(
            parse(&["--help"])
                .unwrap_err()
                .to_string()
                .contains("Usage: hv_kvp_daemon")
        );
        assert!(parse(&["--daemon"]).is_err());
    }
}
