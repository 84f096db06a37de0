//! The agent as this machine runs it: the one place that knows how the library
//! is started.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use hyperv_agent::control_socket::ControlSocket;
use hyperv_agent::locate::DeviceNode;
use hyperv_agent::mailbox::SupervisorHandle;
use hyperv_agent::opener::{OpenContext, OpenError, Opener};
use hyperv_agent::settings::Settings;
use hyperv_agent::supervisor::Supervisor;
use hyperv_services::service::Entry;
use hyperv_vmbus::Channel;
use hyperv_vmbus::discovery::Roots;
use slog::Logger;

use super::device::{Announcer, Registry};
use super::setup::Shared;

/// A running agent.
pub(super) struct Agent {
    handle: SupervisorHandle,
    thread: JoinHandle<()>,
    ended: Receiver<io::Result<()>>,
}

/// Opens what the host offers.
struct Devices(Arc<Registry>);

impl Opener for Devices {
    fn open(
        &self,
        device: &DeviceNode,
        _entry: &Entry,
        _: &OpenContext<'_>,
    ) -> Result<Box<dyn Channel>, OpenError> {
        Ok(self.0.open(device.node())?)
    }
}

impl Agent {
    /// Starts it, with a socket for requests.
    pub(super) fn start(
        world: &Arc<Registry>,
        setup: &Shared,
        requests: &Path,
        log: Logger,
    ) -> Result<Self> {
        let (its_setup, tree) = (setup.clone(), world.tree().clone());
        let settings = move || {
            let setup = its_setup.lock();
            ensure!(!setup.unreadable, "the configuration is unreadable");
            Ok(Settings {
                services: setup.services.clone(),
                config: Arc::new(setup.config.clone()),
                bind_uio: false,
                roots: Roots {
                    sys: tree.sys.clone(),
                    dev: tree.dev.clone(),
                },
                // What this machine's own service manager does matters to no scenario.
                run: "/nonexistent".into(),
            })
        };
        let mut supervisor = Supervisor::new(
            settings()?,
            Box::new(settings),
            Arc::new(Devices(Arc::clone(world))),
            log,
        )
        .context("starting the agent")?;
        supervisor.serve_requests_on(ControlSocket::bind(requests)?)?;
        let handle = supervisor.handle();
        let (tell, ended) = channel();
        let thread = std::thread::Builder::new()
            .name("agent".into())
            .spawn(move || {
                // Nobody asks any more once the machine is dropped.
                let _ = tell.send(supervisor.run());
            })?;
        Ok(Self {
            handle,
            thread,
            ended,
        })
    }

    /// Announces to the agent that devices came or went.
    pub(super) fn announcer(&self) -> Announcer {
        let handle = self.handle.clone();
        Box::new(move || handle.rescan())
    }

    /// Reads the settings again, as SIGHUP does.
    pub(super) fn reload(&self) {
        self.handle.reload();
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
