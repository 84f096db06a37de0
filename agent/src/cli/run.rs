//! `hyperv-agent run`: serves the host's requests until a signal ends it.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use hyperv_services::registry::SERVICES;
use hyperv_services::service::Entry;
use hyperv_services::sys;
use hyperv_vmbus::discovery::{self, Roots};
use nix::sys::stat::{Mode, umask};
use slog::{error, info, o, warn};

use super::args::{ConfigFile, service_names};
use super::devices::no_vmbus;
use super::output::{Exit, complain};
use crate::config::{self, Config};
use crate::control_socket::{self, ControlSocket};
use crate::logging::{Log, LogLevel, Target, Threshold};
use crate::opener::KernelOpener;
use crate::request;
use crate::runtime::{RuntimeDirectory, RuntimeError};
use crate::service_manager::ServiceManager;
use crate::settings::Settings;
use crate::supervisor::Supervisor;
use crate::worker::panics;

/// The command that needs the control socket.
const STATUS: &str = "status";

#[derive(Debug, Args)]
pub(super) struct Run {
    /// The one service that is served, in place of its stock daemon.
    #[arg(skip)]
    only: Option<&'static Entry>,

    /// Switch a service on, overriding the configuration (repeatable)
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    enable: Vec<String>,

    /// Switch a service off, overriding the configuration (repeatable)
    #[arg(long, value_name = "SERVICE", value_parser = service_names())]
    disable: Vec<String>,

    #[command(flatten)]
    config: ConfigFile,

    /// Stay in the foreground (the default)
    #[arg(short, long, conflicts_with = "daemon")]
    no_daemon: bool,

    /// Detach from the terminal and run in the background
    #[arg(long)]
    daemon: bool,

    /// Least severe level to log [default: as configured, or info]
    #[arg(long, value_name = "LEVEL", value_enum)]
    log_level: Option<LogLevel>,

    /// Where to log [default: stderr on a terminal, syslog otherwise]
    #[arg(long, value_name = "TARGET", value_enum)]
    log: Option<Target>,
}

impl Run {
    /// Runs only this service, in place of its stock daemon.
    pub(super) fn only(service: &'static Entry, daemon: bool, level: Option<LogLevel>) -> Self {
        Self {
            only: Some(service),
            enable: Vec::new(),
            disable: Vec::new(),
            config: ConfigFile { path: None },
            no_daemon: !daemon,
            daemon,
            log_level: level,
            log: None,
        }
    }

    pub(super) fn run(self) -> anyhow::Result<Exit> {
        sys::record_code();
        for name in &self.enable {
            if self.disable.contains(name) {
                complain(&format!("`{name}` is both enabled and disabled"));
                return Ok(Exit::Usage);
            }
        }
        let config = sys::aside(|| config::load(self.config.path.as_deref()))?;
        let roots = Roots::default();
        let vmbus = roots.sys.join("bus/vmbus").exists() || roots.dev.join("vmbus").exists();
        // Early in the boot, its kernel module may be loaded a moment later.
        if !vmbus && !discovery::firmware_has_vmbus(&roots) {
            return Ok(no_vmbus(&roots));
        }
        // The configuration sets the modes of copied files, not the umask of whoever
        // started the agent.
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        let runtime_dir = &config.environment.runtime_dir;
        let only = self.only;
        let runtime = match only {
            Some(service) => RuntimeDirectory::open_for(runtime_dir, service.name),
            None => RuntimeDirectory::open(runtime_dir),
        };
        if let Ok(Err(error @ RuntimeError::AlreadyRunning(_))) =
            runtime.as_ref().map(|it| it.check())
        {
            return Err(error.into());
        }
        if self.daemon {
            nix::unistd::daemon(false, false).context("cannot detach from the terminal")?;
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

        // The lock is taken after detaching: a child does not inherit it.
        let claimed = runtime.and_then(|directory| directory.claim().map(|()| directory));
        let runtime = match claimed {
            Ok(directory) => Some(directory),
            Err(error @ RuntimeError::AlreadyRunning(_)) => {
                error!(logger, "{}", error);
                return Ok(Exit::Failure);
            }
            Err(error) => {
                let commands = [&[STATUS][..], &request::COMMANDS].concat();
                warn!(logger, "{}: {}", unavailable(&commands), error);
                None
            }
        };

        panics::install_panic_hook();
        let settings = self.settings(&config, roots.clone());
        let devices = KernelOpener {
            roots: roots.clone(),
        };
        let reload = Box::new(move || {
            let config = config::load(self.config.path.as_deref())?;
            threshold.set(self.level(&config).into());
            Ok(self.settings(&config, roots.clone()))
        });
        let mut supervisor = Supervisor::new(settings, reload, Arc::new(devices), logger.clone())
            .context("cannot set up the poll loop")?;
        supervisor
            .handle_signals()
            .context("cannot install signal handlers")?;
        if let Err(error) = supervisor.listen_for_uevents() {
            warn!(logger, "cannot receive uevents, send SIGHUP to look for devices";
                "error" => %error);
        }
        match ServiceManager::from_environment() {
            Ok(Some(service_manager)) => supervisor.report_to(service_manager),
            Ok(None) => {}
            Err(error) => warn!(
                logger,
                "cannot tell the service manager anything: {}", error
            ),
        }
        // Agents of one service each have no sockets: there is one of each name.
        if let (Some(directory), None) = (&runtime, only) {
            let path = directory.path().join(control_socket::NAME);
            let answered = ControlSocket::bind(&path).and_then(|it| supervisor.serve_status_on(it));
            if let Err(error) = answered {
                warn!(logger, "{}: {}", unavailable(&[STATUS]), error;
                    "socket" => %path.display());
            }
            let path = directory.path().join(request::NAME);
            let taken = ControlSocket::bind(&path).and_then(|it| supervisor.serve_requests_on(it));
            if let Err(error) = taken {
                warn!(logger, "{}: {}", unavailable(&request::COMMANDS), error;
                    "socket" => %path.display());
            }
        }
        supervisor.run().context("the poll loop failed")?;
        Ok(Exit::Success)
    }

    fn level(&self, config: &Config) -> LogLevel {
        self.log_level.unwrap_or(config.log_level)
    }

    fn settings(&self, config: &Config, roots: Roots) -> Settings {
        Settings {
            services: SERVICES
                .into_iter()
                .filter(|entry| match self.only {
                    Some(only) => only.name == entry.name,
                    None => switched_on(entry, config, &self.enable, &self.disable),
                })
                .collect(),
            config: Arc::new(config.service.clone()),
            bind_uio: config.bind_uio,
            roots,
            run: "/run".into(),
        }
    }
}

/// Says which commands cannot reach this agent.
fn unavailable(commands: &[&str]) -> String {
    let commands = commands.join("`, `hyperv-agent ");
    format!("these commands cannot reach this agent: `hyperv-agent {commands}`")
}

pub(super) fn switched_on(
    entry: &Entry,
    config: &Config,
    enable: &[String],
    disable: &[String],
) -> bool {
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
