//! The agent as this machine runs it: the one place that knows how the library
//! is started.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hyperv_agent::locate::Located;
use hyperv_agent::opener::{OpenError, Opener, Opening};
use hyperv_agent::supervisor::{Handle, Settings, Supervisor};
use hyperv_services::Config;
use hyperv_services::registry::{self, Entry};
use hyperv_vmbus::Channel;
use hyperv_vmbus::discovery::Roots;
use slog::Logger;

use super::device::{Announcer, World};

/// A running agent.
pub(super) struct Agent {
    /// What it reads when it is told to read its configuration again.
    next: Arc<Mutex<Settings>>,
    handle: Handle,
    thread: JoinHandle<()>,
    ended: Receiver<io::Result<()>>,
}

/// Opens what the host offers.
struct Devices(Arc<World>);

impl Opener for Devices {
    fn open(
        &self,
        device: &Located,
        _entry: &Entry,
        _: &Opening<'_>,
    ) -> Result<Box<dyn Channel>, OpenError> {
        Ok(self.0.open(device.node())?)
    }
}

impl Agent {
    pub(super) fn start(world: &Arc<World>, config: &Config, log: Logger) -> Result<Self> {
        let settings = Settings {
            services: registry::SERVICES.to_vec(),
            config: Arc::new(config.clone()),
            bind_uio: false,
            roots: Roots {
                sys: world.tree().sys.clone(),
                dev: world.tree().dev.clone(),
            },
        };
        let next = Arc::new(Mutex::new(settings.clone()));
        let read = Arc::clone(&next);
        let supervisor = Supervisor::new(
            settings,
            Box::new(move || Ok(read.lock().unwrap_or_else(PoisonError::into_inner).clone())),
            Arc::new(Devices(Arc::clone(world))),
            log,
        )
        .context("starting the agent")?;
        let handle = supervisor.handle();
        let (tell, ended) = channel();
        let thread = std::thread::Builder::new()
            .name("agent".into())
            .spawn(move || {
                // Nobody asks any more once the machine is dropped.
                let _ = tell.send(supervisor.run());
            })?;
        Ok(Self {
            next,
            handle,
            thread,
            ended,
        })
    }

    /// Lets the agent read its configuration again, which is this one now.
    pub(super) fn configure(&self, config: &Config) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.config = Arc::new(config.clone());
        drop(next);
        self.handle.reload();
    }

    /// What tells the agent that devices came or went.
    pub(super) fn announcer(&self) -> Announcer {
        let handle = self.handle.clone();
        Box::new(move || handle.rescan())
    }

    pub(super) fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    pub(super) fn stop(self, timeout: Duration) -> Result<()> {
        self.handle.stop();
        match self.ended.recv_timeout(timeout) {
            Ok(ended) => ended.context("the agent's loop")?,
            Err(RecvTimeoutError::Timeout) => {
                bail!("expected the agent to end within {timeout:?}; it did not")
            }
            Err(RecvTimeoutError::Disconnected) => {}
        }
        self.thread
            .join()
            .map_err(|_| anyhow!("the agent's loop panicked"))
    }
}
