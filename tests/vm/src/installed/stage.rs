//! The guest with the installed package, as steps have it.

use std::cell::{RefCell, RefMut};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hyperv_sim::fcopy::{Fcopy, FcopyHost};
use hyperv_sim::host::{Protocol, ServiceHost};
use hyperv_sim::kvp::{Kvp, KvpHost, Operation};
use hyperv_sim::port::Device as _;
use hyperv_sim::vss::{Vss, VssHost};
use hyperv_sim::wait::until;
use hyperv_vm::booted::Booted;
use hyperv_vm::guest::{Guest, RemoteFiles};
use hyperv_vm::vmbus::{VmBus, VmDevice};

/// The agent's unit.
pub(super) const AGENT: &str = "hyperv-agent.service";

/// Units of the stock daemons that Debian 13 has.
pub(super) const STOCK: [&str; 2] = ["hv-kvp-daemon.service", "hv-vss-daemon.service"];

/// How long the guest may take for what it does not have to wait for: it may be
/// emulated twice.
pub(super) const TIME: Duration = Duration::from_secs(300);

/// The guest, what the host has offered it, and the agent that serves that.
pub(super) struct Stage<'a> {
    pub(super) guest: &'a Arc<Guest>,
    bus: &'a VmBus,
    offered: OnceLock<Offered>,
    hosts: RefCell<Option<Hosts>>,
}

struct Offered {
    fcopy: Arc<VmDevice>,
    kvp: Arc<VmDevice>,
    vss: Arc<VmDevice>,
}

/// The host's ends of the agent's services.
pub(super) struct Hosts {
    pub(super) fcopy: FcopyHost,
    pub(super) kvp: KvpHost,
    pub(super) vss: VssHost,
}

impl<'a> Stage<'a> {
    pub(super) fn new(booted: &'a Booted) -> Self {
        Self {
            guest: &booted.guest,
            bus: &booted.bus,
            offered: OnceLock::new(),
            hosts: RefCell::new(None),
        }
    }

    /// The guest's files.
    pub(super) fn files(&self) -> RemoteFiles {
        RemoteFiles(Arc::clone(self.guest))
    }

    /// Runs a script in the guest, and returns what it prints, without the line's end.
    pub(super) fn sh(&self, script: &str) -> Result<String> {
        let said = self.guest.run(&["sh", "-c", script])?;
        Ok(said.trim_end().to_owned())
    }

    /// Runs a command in the guest that may take longer than the helper lets one take.
    pub(super) fn long(&self, command: &str) -> Result<()> {
        self.sh(&format!(
            "rm -f /run/ended; ({command}; echo $? >/run/ending; mv /run/ending /run/ended) \
             </dev/null >/run/said 2>&1 &"
        ))?;
        let status = until(TIME, command, || {
            let status = self.sh("sleep 1; cat /run/ended 2>/dev/null || true")?;
            Ok((!status.is_empty()).then_some(status))
        })?;
        ensure!(
            status == "0",
            "{command}: {status}: {}",
            self.sh("cat /run/said")?
        );
        Ok(())
    }

    /// A unit's property.
    pub(super) fn property(&self, unit: &str, name: &str) -> Result<String> {
        let said = self.guest.run(&["systemctl", "show", "-P", name, unit])?;
        Ok(said.trim_end().to_owned())
    }

    /// Expects a unit to have these properties.
    pub(super) fn expect(&self, unit: &str, expected: &[(&str, &str)]) -> Result<()> {
        for (name, value) in expected {
            let found = self.property(unit, name)?;
            ensure!(
                found == *value,
                "{unit}: expected {name}={value}, found {name}={found}"
            );
        }
        Ok(())
    }

    /// Expects the stock daemons to be in this state.
    pub(super) fn expect_stock(&self, state: &str) -> Result<()> {
        STOCK
            .iter()
            .try_for_each(|unit| self.expect(unit, &[("ActiveState", state)]))
    }

    /// Offers the devices of all services.
    pub(super) fn offer(&self) -> Result<()> {
        // The kernel itself is at the other end of two of them.
        let offered = Offered {
            fcopy: self.offer_one::<Fcopy>(false)?,
            kvp: self.offer_one::<Kvp>(true)?,
            vss: self.offer_one::<Vss>(true)?,
        };
        ensure!(self.offered.set(offered).is_ok(), "offered already");
        Ok(())
    }

    fn offer_one<P: Protocol>(&self, kernel: bool) -> Result<Arc<VmDevice>> {
        let service = P::SERVICE;
        self.bus.offer(service.class, service.instance, kernel)
    }

    /// Waits until an agent that has been started serves each device.
    pub(super) fn connect(&self) -> Result<()> {
        let fcopy = self.offered()?.fcopy.accept(TIME).context("fcopy")?;
        *self.hosts.borrow_mut() = Some(Hosts {
            fcopy: ServiceHost::connect(fcopy).context("fcopy")?,
            kvp: self.connect_kvp()?,
            vss: self.connect_vss()?,
        });
        Ok(())
    }

    /// The services of that agent.
    pub(super) fn hosts(&self) -> Result<RefMut<'_, Hosts>> {
        RefMut::filter_map(self.hosts.borrow_mut(), Option::as_mut)
            .ok()
            .context("no agent serves all devices")
    }

    /// Waits until somebody in the guest serves KVP. It asks for a key that there is not: the
    /// usual first request may end the stock daemon.
    pub(super) fn connect_kvp(&self) -> Result<KvpHost> {
        let port = self.offered()?.kvp.accept(TIME).context("kvp")?;
        ServiceHost::connect_with(port, &Operation::get(0, "none")).context("kvp")
    }

    /// The same of VSS.
    pub(super) fn connect_vss(&self) -> Result<VssHost> {
        let port = self.offered()?.vss.accept(TIME).context("vss")?;
        ServiceHost::connect(port).context("vss")
    }

    fn offered(&self) -> Result<&Offered> {
        self.offered.get().context("nothing is offered")
    }

    /// What the agent has logged last, and the last of VMBus.
    pub(super) fn log(&self) -> String {
        let log = self.sh("journalctl --quiet --no-pager -o cat -n 15 -u hyperv-agent.service");
        let log = log.unwrap_or_else(|error| format!("no log: {error:#}"));
        let journal = self.bus.journal();
        let lines: Vec<&str> = journal.lines().rev().take(6).collect();
        let lines = lines.iter().rev();
        log + "\n" + &lines.map(|it| format!("vmbus: {it}\n")).collect::<String>()
    }
}
