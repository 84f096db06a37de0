//! The command line.

use std::env;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use hyperv_services::kernel;
use hyperv_services::registry::{Entry, SERVICES};
use hyperv_services::vss::{guard, write_out};
use hyperv_vmbus::discovery::Roots;
use nix::sys::stat::{Mode, umask};
use slog::{error, info, o, warn};

use crate::config::{self, Config};
use crate::control::{self, ControlSocket};
use crate::devices;
use crate::endpoint;
use crate::kvp_command::Kvp;
use crate::logging::{Log, LogLevel, Target, Threshold};
use crate::opener::KernelDevices;
use crate::request;
use crate::runtime::{RuntimeDirectory, RuntimeError};
use crate::status::ask::{AskError, ask};
use crate::status::{self, text};
use crate::supervisor::{Settings, Supervisor};
use crate::thaw_command::Thaw;
use crate::vss_command::Vss;

/// Exit status where the command line or the configuration is wrong.
pub(crate) const EXIT_USAGE: u8 = 2;

/// Exit status where no agent runs that could be asked.
pub(crate) const EXIT_NOT_RUNNING: u8 = 3;

/// Exit status where this is no Hyper-V guest.
const EXIT_NOT_HYPERV: u8 = 77;

const EXAMPLES: &str = "\
Examples:
  hyperv-agent run                     serve in the foreground, log to the terminal
  hyperv-agent run --disable fcopy     take no files from the host
  hyperv-agent status                  what the running agent does
  hyperv-agent devices                 what the host offers, and who serves it
  hyperv-agent kvp list                what host and guest tell each other
  hyperv-agent vss plan                what a backup would freeze, and what not
  hyperv-agent vss rehearse            freeze and thaw as for a backup, now
  hyperv-agent check-config            read the configuration, say what is wrong";

/// Hyper-V guest agent: file copy from the host, key-value pairs and backups,
/// in one process.
#[derive(Debug, Parser)]
#[command(name = "hyperv-agent", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the host's requests
    #[command(after_help = services_help())]
    Run(Run),
    /// Read the configuration, and say what is wrong with it
    CheckConfig(ConfigFile),
    /// Read and write the key-value pools that are shared with the host
    Kvp(Kvp),
    /// List the VMBus devices that the host offers
    Devices {
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a backup would do to the file systems, or try it
    Vss(Vss),
    /// Thaw file systems that are still frozen for a backup
    Thaw(Thaw),
    /// Show what the running agent does
    Status {
        /// Print the status as JSON
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ConfigFile {
    /// Configuration file [default: /etc/hyperv-agent/config.toml, if it exists]
    #[arg(long = "config", value_name = "FILE")]
    pub(crate) path: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Run {
    /// Switch a service on, whatever the configuration says (repeatable)
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    enable: Vec<String>,

    /// Switch a service off, whatever the configuration says (repeatable)
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    disable: Vec<String>,

    #[command(flatten)]
    config: ConfigFile,

    /// Stay in the foreground; this is the default
    #[arg(short, long, conflicts_with = "daemon")]
    no_daemon: bool,

    /// Detach from the terminal
    #[arg(long)]
    daemon: bool,

    /// Least severe level to log [default: what the configuration says, or info]
    #[arg(long, value_name = "LEVEL", value_enum)]
    log_level: Option<LogLevel>,

    /// Where to log to [default: stderr on a terminal, otherwise syslog]
    #[arg(long, value_name = "TARGET", value_enum)]
    log: Option<Target>,
}

fn service_names() -> PossibleValuesParser {
    PossibleValuesParser::new(SERVICES.iter().map(|entry| entry.name))
}

fn services_help() -> String {
    let mut help = "Services:\n".to_owned();
    for entry in SERVICES {
        let state = if entry.default { "on" } else { "off" };
        help += &format!("  {:8} {} [default: {state}]\n", entry.name, entry.summary);
    }
    help + "\nSIGHUP reads the configuration again and looks for devices; SIGTERM ends the agent."
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    kernel::prepare_process();
    // No subcommands: nobody but the agent starts these, and they are to stay small.
    let outcome = match env::args_os().nth(1) {
        Some(argument) if argument == guard::ARGUMENT => Some(guard::process::main()),
        Some(argument) if argument == write_out::ARGUMENT => Some(write_out::main()),
        _ => None,
    };
    if let Some(outcome) = outcome {
        return match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let outcome = match Cli::parse().command {
        Command::Run(run) => run.run(),
        Command::CheckConfig(file) => check_config(&file),
        Command::Kvp(kvp) => Ok(kvp.run()),
        Command::Vss(vss) => vss.run(),
        Command::Thaw(thaw) => thaw.run(),
        Command::Devices { json } => list_devices(json),
        Command::Status { json, config } => show_status(json, &config),
    };
    outcome.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "hyperv-agent: {error:#}");
        ExitCode::FAILURE
    })
}

fn check_config(file: &ConfigFile) -> anyhow::Result<ExitCode> {
    match config::load(file.path.as_deref()) {
        Ok(config) => {
            let path = file.path.as_deref();
            let path = path.unwrap_or(Path::new(config::DEFAULT_PATH));
            if path.exists() {
                writeln!(io::stdout(), "{} is valid", path.display())?;
            } else {
                writeln!(
                    io::stdout(),
                    "{} does not exist: the defaults apply",
                    path.display()
                )?;
            }
            for entry in SERVICES {
                let state = if switched_on(entry, &config, &[], &[]) {
                    "on"
                } else {
                    "off"
                };
                writeln!(io::stdout(), "  {:8} {state}", entry.name)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Ok(usage_error(&error)),
    }
}

pub(crate) fn usage_error(error: &dyn std::error::Error) -> ExitCode {
    let _ = writeln!(
        io::stderr(),
        "hyperv-agent: {}",
        error.to_string().trim_end()
    );
    ExitCode::from(EXIT_USAGE)
}

fn list_devices(json: bool) -> anyhow::Result<ExitCode> {
    let roots = Roots::default();
    let devices = match devices::list(&roots) {
        Ok(devices) => devices,
        Err(hyperv_vmbus::discovery::DiscoveryError::NoVmbus(_)) => {
            return Ok(no_vmbus(&roots));
        }
        Err(error) => return Err(error.into()),
    };
    let mut out = io::stdout();
    if json {
        serde_json::to_writer_pretty(&mut out, &devices)?;
        writeln!(out)?;
    } else if devices.is_empty() {
        writeln!(out, "The host offers no VMBus device.")?;
    } else {
        write!(out, "{}", devices::table(&devices))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show_status(json: bool, file: &ConfigFile) -> anyhow::Result<ExitCode> {
    let config = match config::load(file.path.as_deref()) {
        Ok(config) => config,
        Err(error) => return Ok(usage_error(&error)),
    };
    let answer = match ask(&config.runtime_directory.join(control::NAME)) {
        Ok(answer) => answer,
        Err(error @ AskError::NotRunning(_)) => {
            let _ = writeln!(io::stderr(), "hyperv-agent: {error}");
            return Ok(ExitCode::from(EXIT_NOT_RUNNING));
        }
        Err(error) => return Err(error.into()),
    };
    let mut out = io::stdout();
    if json {
        writeln!(out, "{answer}")?;
    } else {
        let document: status::Document = serde_json::from_str(&answer).context(
            "the running agent is of another version, whose status this one cannot read: restart \
             it, or use --json",
        )?;
        write!(out, "{}", text::render(&document, SystemTime::now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn switched_on(entry: &Entry, config: &Config, enable: &[String], disable: &[String]) -> bool {
    let named = |names: &[String]| names.iter().any(|name| name == entry.name);
    if named(disable) {
        false
    } else if named(enable) {
        true
    } else {
        let configured = config.services.get(entry.name);
        configured.copied().unwrap_or(entry.default)
    }
}

/// Says that there is no VMBus, and what that means here.
fn no_vmbus(roots: &Roots) -> ExitCode {
    let vendor = fs::read_to_string(roots.sys.join("class/dmi/id/sys_vendor"));
    let product = fs::read_to_string(roots.sys.join("class/dmi/id/product_name"));
    let on_hyperv = vendor.is_ok_and(|vendor| vendor.trim_end() == "Microsoft Corporation")
        && product.is_ok_and(|product| product.trim_end() == "Virtual Machine");
    let vmbus = roots.sys.join("bus/vmbus");
    if on_hyperv {
        let _ = writeln!(
            io::stderr(),
            "hyperv-agent: this is a Hyper-V guest, but {} does not exist: load the module with \
             `modprobe hv_vmbus`",
            vmbus.display()
        );
        ExitCode::FAILURE
    } else {
        let _ = writeln!(
            io::stderr(),
            "hyperv-agent: this machine is not a Hyper-V guest ({} does not exist), there is \
             nothing to serve",
            vmbus.display()
        );
        ExitCode::from(EXIT_NOT_HYPERV)
    }
}

impl Run {
    fn run(self) -> anyhow::Result<ExitCode> {
        for name in &self.enable {
            if self.disable.contains(name) {
                let _ = writeln!(
                    io::stderr(),
                    "hyperv-agent: `{name}` is both enabled and disabled"
                );
                return Ok(ExitCode::from(EXIT_USAGE));
            }
        }
        let config = match config::load(self.config.path.as_deref()) {
            Ok(config) => config,
            Err(error) => return Ok(usage_error(&error)),
        };
        let roots = Roots::default();
        if !roots.sys.join("bus/vmbus").exists() && !roots.dev.join("vmbus").exists() {
            return Ok(no_vmbus(&roots));
        }
        // Modes of what the host has copied are the configuration's matter, not
        // that of whoever started the agent.
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        let runtime = RuntimeDirectory::open(&config.runtime_directory);
        if let Ok(Err(error @ RuntimeError::Taken(_))) = runtime.as_ref().map(|it| it.check()) {
            return Err(error.into());
        }
        if self.daemon {
            nix::unistd::daemon(false, false).context("cannot detach")?;
        }

        let threshold = Threshold::new(self.level(&config).into());
        let target = match self.log {
            Some(target) => target,
            None if !self.daemon && io::stderr().is_terminal() => Target::Stderr,
            None => Target::Syslog,
        };
        let (log, missing) = match Log::start(target, threshold.clone()) {
            Ok(log) => (log, None),
            Err(error) if target == Target::Syslog => {
                let log = Log::start(Target::Stderr, threshold.clone())
                    .context("cannot log to standard error")?;
                (log, Some(error))
            }
            Err(error) => return Err(error).context("cannot log to standard error"),
        };
        let logger = log.logger.new(o!());
        info!(logger, "starting"; "version" => env!("CARGO_PKG_VERSION"));
        if let Some(error) = missing {
            warn!(
                logger,
                "cannot log to syslog, logging to standard error: {}", error
            );
        }

        // A child that detached does not inherit a claim.
        let claimed = runtime.and_then(|directory| directory.claim().map(|()| directory));
        let runtime = match claimed {
            Ok(directory) => Some(directory),
            Err(error @ RuntimeError::Taken(_)) => {
                error!(logger, "{}", error);
                return Ok(ExitCode::FAILURE);
            }
            Err(error) => {
                warn!(logger, "`hyperv-agent status` cannot work: {}", error);
                None
            }
        };

        endpoint::hold_back_panics();
        let settings = self.settings(&config, roots.clone());
        let devices = KernelDevices {
            roots: roots.clone(),
        };
        let reload = Box::new(move || {
            let config = config::load(self.config.path.as_deref())?;
            threshold.set(self.level(&config).into());
            Ok(self.settings(&config, roots.clone()))
        });
        let mut supervisor = Supervisor::new(settings, reload, Arc::new(devices), logger.clone())
            .context("cannot set up the poll loop")?;
        supervisor.take_signals().context("cannot take signals")?;
        if let Err(error) = supervisor.listen_for_devices() {
            warn!(logger, "cannot hear of new devices, send SIGHUP to look for them";
                "error" => %error);
        }
        if let Some(directory) = &runtime {
            let path = directory.path().join(control::NAME);
            let answered = ControlSocket::bind(&path).and_then(|it| supervisor.answer_on(it));
            if let Err(error) = answered {
                warn!(logger, "`hyperv-agent status` cannot work: {}", error;
                    "socket" => %path.display());
            }
            let path = directory.path().join(request::NAME);
            let taken = ControlSocket::bind(&path).and_then(|it| supervisor.take_requests_on(it));
            if let Err(error) = taken {
                warn!(logger, "`hyperv-agent vss rehearse` cannot work: {}", error;
                    "socket" => %path.display());
            }
        }
        supervisor.run().context("the poll loop failed")?;
        Ok(ExitCode::SUCCESS)
    }

    fn level(&self, config: &Config) -> LogLevel {
        self.log_level.unwrap_or(config.log_level)
    }

    fn settings(&self, config: &Config, roots: Roots) -> Settings {
        Settings {
            services: SERVICES
                .into_iter()
                .filter(|entry| switched_on(entry, config, &self.enable, &self.disable))
                .collect(),
            config: Arc::new(config.service.clone()),
            bind_uio: config.bind_uio,
            roots,
        }
    }
}
