//! A guest machine within this process, without privileges: a made-up `/sys`
//! and `/dev`, channels over anonymous memory and socket pairs, and the agent
//! as a library.

mod agent;
mod device;
mod hvutil;
mod log;
mod recording;
mod setup;
mod uio;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyperv_services::vss::guard;
use hyperv_services::{Config, Environment, fcopy, kvp, registry, vss};
use tempfile::TempDir;

use crate::files::{Files, LocalFiles};
use crate::network::Network;
use crate::port::{Device, Machine, Offer};
use crate::sysfs::Tree;
use crate::volumes::Volumes;
use agent::Agent;
use device::Registry;
pub use log::Sink;
use recording::Recording;
pub use setup::Setup;

/// Becomes the agent's guard, where the agent in another process of this
/// executable has started it as that. To be called before anything else.
#[must_use]
pub fn guard() -> Option<ExitCode> {
    std::env::args_os()
        .nth(1)
        .filter(|argument| argument == guard::ARGUMENT)?;
    Some(match guard::process::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

/// The socket for requests to the agent, in the machine's directory.
const REQUESTS: &str = "request";

/// How long the agent may take to end.
const STOP_TIME: Duration = Duration::from_secs(30);

/// A guest machine within this process.
pub struct InProcess {
    world: Arc<Registry>,
    agent: Option<Agent>,
    recording: Option<Recording>,
    log: log::Log,
    setup: setup::Shared,
    /// Removed with the machine.
    home: TempDir,
}

impl InProcess {
    /// A machine to which nothing is offered and in which nothing runs.
    ///
    /// # Errors
    ///
    /// If its directories cannot be made.
    pub fn new() -> Result<Self> {
        let home = tempfile::Builder::new()
            .prefix("hyperv-sim-")
            .tempdir()
            .context("making a directory for the machine")?;
        let files = home.path().join("files");
        std::fs::create_dir(&files)?;
        let environment = Environment {
            state_dir: home.path().join("state"),
            runtime_dir: home.path().join("run"),
            ..Environment::default()
        };
        std::fs::create_dir(&environment.state_dir)?;
        let pools = home.path().join("pools");
        std::fs::create_dir(&pools)?;
        let root = home.path().join("root");
        std::fs::create_dir(&environment.runtime_dir)?;
        std::fs::create_dir_all(root.join("proc/self"))?;
        for file in ["proc/self/mountinfo", "proc/filesystems"] {
            std::fs::write(root.join(file), "")?;
        }
        let config = Config {
            fcopy: fcopy::Config {
                environment: environment.clone(),
                ..fcopy::Config::default()
            },
            kvp: kvp::Config {
                directory: pools,
                environment: environment.clone(),
                ..kvp::Config::default()
            },
            // A machine without file systems: the test's own are not to be
            // frozen.
            vss: vss::Config {
                environment: Environment {
                    root,
                    ..environment
                },
                ..vss::Config::default()
            },
        };
        Ok(Self {
            world: Registry::new(Tree::new(home.path())?, files),
            agent: None,
            recording: None,
            log: log::Log::new(),
            setup: setup::Shared::new(Setup {
                services: registry::SERVICES.to_vec(),
                config,
                unreadable: false,
            }),
            home,
        })
    }

    /// What the agent reads when it starts, and at a [reload](InProcess::reload).
    pub fn setup(&self) -> MutexGuard<'_, Setup> {
        self.setup.lock()
    }

    /// Lets the agent read its setup again, as SIGHUP does.
    pub fn reload(&self) {
        if let Some(agent) = &self.agent {
            agent.reload();
        }
    }

    /// Lets the agent look for devices, as a uevent does.
    pub fn rescan(&self) {
        if let Some(agent) = &self.agent {
            agent.announcer()();
        }
    }

    /// Passes each line that the agent logs from now on to `sink` too.
    pub fn show_log(&self, sink: Sink) {
        self.log.pass_to(sink);
    }
}

impl Machine for InProcess {
    fn offer(&mut self, offer: Offer) -> Result<Arc<dyn Device>> {
        self.world.offer(offer)
    }

    fn configure(&mut self, lines: &str) -> Result<()> {
        let path = self.home.path().join("config.toml");
        std::fs::write(&path, lines)?;
        let read = hyperv_agent::config::load(Some(&path))?.service.fcopy;
        // Of the others, and of what is the machine's, nothing is taken over.
        let mut setup = self.setup();
        setup.config.fcopy = fcopy::Config {
            environment: setup.config.fcopy.environment.clone(),
            ..read
        };
        drop(setup);
        self.reload();
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        ensure!(self.agent.is_none(), "the agent runs already");
        let socket = self.home.path().join(REQUESTS);
        let agent = Agent::start(&self.world, &self.setup, &socket, self.log.logger())?;
        self.world.announce_to(Some(agent.announcer()));
        self.agent = Some(agent);
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        let agent = self.agent.take().context("no agent runs")?;
        self.world.announce_to(None);
        agent.stop(STOP_TIME)?;
        self.recording.take().map_or(Ok(()), Recording::end)
    }

    fn capture(&mut self, path: &Path) -> Result<()> {
        ensure!(self.agent.is_some(), "no agent runs");
        let home = self.home.path();
        self.recording = Some(Recording::begin(&home.join(REQUESTS), path, home)?);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        bail!("an agent within this process cannot be killed")
    }

    fn pid(&self) -> Option<u32> {
        None
    }

    fn is_running(&mut self) -> bool {
        self.agent.as_ref().is_some_and(Agent::is_running)
    }

    fn directory(&self) -> &Path {
        self.world.files()
    }

    fn pools(&self) -> PathBuf {
        self.setup.lock().config.kvp.directory.clone()
    }

    fn network(&mut self) -> Result<Arc<dyn Network>> {
        bail!("an agent within this process has the network of this machine")
    }

    fn volumes(&mut self) -> Result<Arc<dyn Volumes>> {
        bail!("an agent within this process has the file systems of this machine")
    }

    fn stall_syslog(&mut self, _stalled: bool) -> Result<()> {
        bail!("an agent within this process has no syslog")
    }

    fn files(&self) -> Arc<dyn Files> {
        Arc::new(LocalFiles::default())
    }

    fn log(&self) -> String {
        self.log.text()
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            // There is nobody left to tell.
            let _ = agent.stop(STOP_TIME);
        }
    }
}
