//! Hours of a machine's life in minutes: devices come and go, backups are made, keys
//! are set and got, the configuration is read again, the wall clock steps, memory is
//! taken back, again and again; and what the agent holds stays the same.
//!
//! All of it happens to an unmodified program in a private root, with
//! private file systems to freeze. The work is done in laps; after each the program holds what
//! `resources` looks at, and that is compared with what it held after the first ones.

mod clock;
mod pressure;
mod resources;
mod service_device;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::Status;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::blackbox::{self, BlackBox};
use crate::fcopy::{CHUNK, Fcopy, Operation as Copy, Start};
use crate::kvp::Kvp;
use crate::port::Machine as _;
use crate::vss::Vss;
use crate::wait::until;
use clock::Clock;
use pressure::MemoryCgroup;
pub use resources::Totals;
use service_device::ServiceDevice;

/// What is done, all in all.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Devices that come and go, of all services in turns.
    pub toggles: u64,
    /// Backups: a freeze and a thaw.
    pub freezes: u64,
    /// Requests for keys and values.
    pub requests: u64,
    /// The configuration is changed and read again, and the wall clock steps.
    pub reloads: u64,
    /// Parts that all of it is done in, and measured after.
    pub laps: u64,
}

/// Laps after which the program has all that it keeps.
const WARM_UP: u64 = 2;

/// Bytes that a program may log, as much as a hostile host may have it log in a day.
const LOG: u64 = 10 << 20;

/// How long the program may take to do as its configuration says.
const RELOAD_TIME: Duration = Duration::from_secs(60);

/// Where the program has its configuration.
const CONFIGURATION: &str = "/etc/hyperv-agent/config.toml";

/// Makes the file systems that are frozen.
const MAKE: &str = r#"
set -e
mkdir -p /etc/hyperv-agent
mount -t tmpfs -o mode=755 mounts /mnt
for name in one two; do
    truncate -s 16M /run/$name.img
    mkfs.ext4 -q -F /run/$name.img
    mkdir /mnt/$name
    mount -t ext4 -o loop /run/$name.img /mnt/$name
done
"#;

/// Writes to each: that waits where one is left frozen.
const WRITE: &str = "for name in one two; do echo written >/mnt/$name/file; done; echo >/file";

/// Where the host copies to.
const COPIES: &str = "/run/scenarios";

/// Why it cannot be done here, if so.
pub fn unavailable() -> Option<String> {
    blackbox::root_unavailable().or_else(clock::unavailable)
}

/// Runs the soak, and tells what the program holds after each lap. Returns why no memory
/// was reclaimed, if the machine does not permit that.
///
/// # Errors
///
/// If the program does not do what it is to, or holds more than before.
pub fn run(command: &str, options: Options, tell: &mut dyn FnMut(&Lap)) -> Result<Option<String>> {
    let mut soak = Soak::new(command)?;
    let laps = options.laps.max(WARM_UP + 1);
    let share = |all: u64, lap: u64| all * (lap + 1) / laps - all * lap / laps;
    let mut before: Option<Totals> = None;
    let begun = Instant::now();
    for lap in 0..laps {
        let played = soak
            .lap(
                share(options.toggles, lap),
                share(options.freezes, lap),
                share(options.requests, lap),
                share(options.reloads, lap),
            )
            .with_context(|| format!("in lap {lap}"));
        if let Err(error) = played {
            let log = soak.machine.log();
            let lines: Vec<&str> = log.lines().rev().take(20).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            return Err(error.context(format!("the log ends with\n{}", lines.join("\n"))));
        }
        let totals = soak.settle(before)?;
        tell(&Lap {
            number: lap,
            seconds: begun.elapsed().as_secs_f64(),
            totals,
        });
        ensure!(
            totals.log <= LOG,
            "expected at most {LOG} bytes of log, it has {}",
            totals.log
        );
        if lap + 1 == WARM_UP {
            before = Some(totals);
        }
    }
    soak.machine.stop()?;
    Ok(soak.cgroup.err().map(|error| format!("{error:#}")))
}

/// What was seen after a lap.
#[derive(Debug, Clone, Copy)]
pub struct Lap {
    /// From 0.
    pub number: u64,
    /// Since the beginning.
    pub seconds: f64,
    /// What the program holds.
    pub totals: Totals,
}

struct Soak {
    // Before the cgroup: that can be removed once there is no process in it.
    machine: BlackBox,
    cgroup: Result<MemoryCgroup>,
    clock: Clock,
    copies: ServiceDevice<Fcopy>,
    pairs: ServiceDevice<Kvp>,
    backups: ServiceDevice<Vss>,
    toggles: u64,
    freezes: u64,
    reloads: u64,
}

impl Soak {
    fn new(command: &str) -> Result<Self> {
        let mut machine = BlackBox::with_root(command)?;
        machine.volumes()?.script(MAKE, &[])?;
        machine
            .files()
            .create_directories(COPIES.as_ref())
            .context(COPIES)?;
        machine.files().write(CONFIGURATION.as_ref(), b"")?;
        let clock = Clock::new(machine.files())?;
        machine.set_environment(clock::ENVIRONMENT);
        let mut soak = Self {
            copies: ServiceDevice::offered(&mut machine, 1)?,
            pairs: ServiceDevice::offered(&mut machine, 2)?,
            backups: ServiceDevice::offered(&mut machine, 3)?,
            machine,
            cgroup: MemoryCgroup::new(),
            clock,
            toggles: 0,
            freezes: 0,
            reloads: 0,
        };
        soak.machine.start()?;
        if let (Ok(cgroup), Some(pid)) = (&soak.cgroup, soak.machine.pid()) {
            cgroup.add(pid)?;
        }
        soak.copies.connect()?;
        soak.pairs.connect()?;
        soak.backups.connect()?;
        Clock::expect_started_by(&*soak.machine.volumes()?)?;
        Ok(soak)
    }

    fn lap(&mut self, toggles: u64, freezes: u64, requests: u64, reloads: u64) -> Result<()> {
        for toggle in 0..toggles {
            self.toggle().with_context(|| format!("toggle {toggle}"))?;
        }
        for freeze in 0..freezes {
            self.back_up().with_context(|| format!("freeze {freeze}"))?;
        }
        for request in 0..requests / 4 {
            self.ask(request)
                .with_context(|| format!("request {}", 4 * request))?;
        }
        for reload in 0..reloads {
            self.reload().with_context(|| format!("reload {reload}"))?;
        }
        Ok(())
    }

    /// A device goes and comes back: in the middle of a request, at rest, or
    /// before the program has opened it.
    fn toggle(&mut self) -> Result<()> {
        self.toggles += 1;
        let at_once = self.toggles % 12 < 3;
        let machine = &mut self.machine;
        match self.toggles % 3 {
            0 => {
                let host = self.copies.host()?;
                let start = Start::new(COPIES, "never", 0, 2 * CHUNK as u64);
                expect(host.request(&Copy::Start(start))?, "a START")?;
                expect(host.request(&Copy::write(0, &[1; CHUNK]))?, "a WRITE")?;
                self.copies.toggle(machine, at_once)
            }
            1 => self.pairs.toggle(machine, at_once),
            _ => self.backups.toggle(machine, at_once),
        }
    }

    /// A backup. In every other one memory is taken back while the file systems are
    /// frozen, the program's own among them.
    fn back_up(&mut self) -> Result<()> {
        self.freezes += 1;
        let host = self.backups.host()?;
        expect(host.freeze()?, "a FREEZE")?;
        if self.freezes % 2 == 0 {
            self.reclaim()?;
        }
        let host = self.backups.host()?;
        expect(host.thaw()?, "a THAW")
    }

    fn reclaim(&self) -> Result<()> {
        self.cgroup.as_ref().map_or(Ok(()), MemoryCgroup::reclaim)
    }

    /// Four requests.
    fn ask(&mut self, number: u64) -> Result<()> {
        let (key, value) = (format!("key {}", number % 50), number.to_string());
        let host = self.pairs.host()?;
        expect(host.set(0, &key, &value)?, "a SET")?;
        let got = host.get(0, &key)?;
        ensure!(
            got.as_deref() == Ok(&*value),
            "expected {value:?} for {key:?}; the guest answered {got:?}"
        );
        // The guest's facts among them.
        let _ = host.enumerate(2, u32::try_from(number % 10)?)?;
        expect(host.delete(0, &key)?, "a DELETE")
    }

    fn reload(&mut self) -> Result<()> {
        self.reloads += 1;
        self.clock.step()?;
        self.reclaim()?;
        let value = self.reloads.to_string();
        let text = format!("[kvp.publish]\nsoak = \"{value}\"\n");
        let files = self.machine.files();
        files.write(CONFIGURATION.as_ref(), text.as_bytes())?;
        let pid = self.machine.pid().context("the program ended by itself")?;
        kill(Pid::from_raw(pid as i32), Signal::SIGHUP)?;
        let host = self.pairs.host()?;
        until(RELOAD_TIME, "the configured value", || {
            Ok((host.get(1, "soak")?.as_deref() == Ok(&*value)).then_some(()))
        })
    }

    /// Returns what the program holds while idle, once it is no more than `before`.
    fn settle(&mut self, before: Option<Totals>) -> Result<Totals> {
        self.machine
            .volumes()?
            .script(WRITE, &[])
            .context("writing to what was frozen")?;
        let files = self.machine.files().list(COPIES.as_ref())?;
        ensure!(files.is_empty(), "copies that did not end left {files:?}");
        let pid = self.machine.pid().context("the program ended by itself")?;
        Totals::settled(pid, before, || self.machine.log().len() as u64)
    }
}

fn expect(came: Status, what: &str) -> Result<()> {
    ensure!(
        came == Status::OK,
        "expected {what} to succeed; the guest answered {came:?}"
    );
    Ok(())
}
