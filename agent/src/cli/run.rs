//! `hyperv-agent run`: serves until it is told to end.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use hyperv_services::registry::SERVICES;
use hyperv_services::service::Entry;
use hyperv_vmbus::discovery::Roots;
use nix::sys::stat::{Mode, umask};
use slog::{error, info, o, warn};

use super::args::{ConfigFile, service_names};
use super::devices::no_vmbus;
use super::output::{EXIT_USAGE, usage_error};
use crate::config::{self, Config};
use crate::control_socket::{self, ControlSocket};
use crate::logging::{Log, LogLevel, Target, Threshold};
use crate::opener::KernelOpener;
use crate::request;
use crate::runtime::{RuntimeDirectory, RuntimeError};
use crate::settings::Settings;
use crate::supervisor::Supervisor;
use crate::worker::panics;

#[derive(Debug, Args)]
pub(super) struct Run {
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

impl Run {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
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
        if let Ok(Err(error @ RuntimeError::AlreadyRunning(_))) =
            runtime.as_ref().map(|it| it.check())
        {
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
            Err(error @ RuntimeError::AlreadyRunning(_)) => {
                error!(logger, "{}", error);
                return Ok(ExitCode::FAILURE);
            }
            Err(error) => {
                warn!(logger, "`hyperv-agent status` cannot work: {}", error);
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
        supervisor.handle_signals().context("cannot take signals")?;
        if let Err(error) = supervisor.listen_for_uevents() {
            warn!(logger, "cannot hear of new devices, send SIGHUP to look for them";
                "error" => %error);
        }
        if let Some(directory) = &runtime {
            let path = directory.path().join(control_socket::NAME);
            let answered = ControlSocket::bind(&path).and_then(|it| supervisor.serve_status_on(it));
            if let Err(error) = answered {
                warn!(logger, "`hyperv-agent status` cannot work: {}", error;
                    "socket" => %path.display());
            }
            let path = directory.path().join(request::NAME);
            let taken = ControlSocket::bind(&path).and_then(|it| supervisor.serve_requests_on(it));
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
