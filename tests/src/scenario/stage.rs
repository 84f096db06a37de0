//! What a scenario has to work with: a machine, a device, a directory of its
//! own, and expectations that say what came instead.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::ic::Status;

use super::{Pattern, Transport};
use crate::fcopy::{Fcopy, FcopyHost, Operation, Start};
use crate::files::{Facts, Files};
use crate::host::{Protocol, ServiceHost};
use crate::kvp::{Kvp, KvpHost, pool};
use crate::port::{Device, Machine};
use crate::vss::{Vss, VssHost};
use crate::wait::until;

/// How long a guest may take to open a device that has appeared.
pub const OPEN_TIME: Duration = Duration::from_secs(60);

/// How long a guest may take for what it does on its own.
pub const SETTLE_TIME: Duration = Duration::from_secs(60);

/// What a scenario plays with: a machine and the device of one service.
pub struct Stage<'m, P> {
    machine: &'m mut dyn Machine,
    protocol: PhantomData<P>,
    transport: Transport,
    directory: PathBuf,
    device: Option<Arc<dyn Device>>,
    /// The program was started for this scenario.
    started: bool,
    /// The number of the next UIO device.
    number: &'m mut u32,
    /// Bytes of the large file.
    pub large: u64,
    /// Nothing else runs in this process that opens files or starts threads.
    pub alone: bool,
    /// The file of a capture that has yet to begin.
    pub capture: Option<PathBuf>,
}

impl<'m, P: Protocol> Stage<'m, P> {
    /// A stage with a directory that is there and empty.
    pub fn new(
        machine: &'m mut dyn Machine,
        transport: Transport,
        directory: PathBuf,
        number: &'m mut u32,
    ) -> Self {
        Self {
            machine,
            protocol: PhantomData,
            transport,
            directory,
            device: None,
            started: false,
            number,
            large: 1 << 30,
            alone: false,
            capture: None,
        }
    }

    /// The machine.
    pub fn machine(&mut self) -> &mut dyn Machine {
        self.machine
    }

    /// Expects a line with all of these words in the program's log, which may come
    /// after the reply to what it is about.
    ///
    /// # Errors
    ///
    /// If none comes.
    pub fn expect_logged(&mut self, words: &[&str]) -> Result<()> {
        let what = format!("a line with {words:?} in the log");
        until(SETTLE_TIME, &what, || {
            let log = self.machine.log();
            let mut lines = log.lines();
            let found = lines.any(|line| words.iter().all(|word| line.contains(word)));
            Ok(found.then_some(()))
        })
        .with_context(|| format!("the log is\n{}", self.machine.log()))
    }

    /// The files that the guest sees.
    pub fn files(&self) -> Arc<dyn Files> {
        self.machine.files()
    }

    /// How the guest has its device.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The scenario's directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory as a host names it.
    ///
    /// # Errors
    ///
    /// If it is not UTF-8.
    pub fn path(&self) -> Result<String> {
        text(&self.directory)
    }

    /// Offers the device, under a number that it did not have before, and
    /// starts the program the first time.
    ///
    /// # Errors
    ///
    /// If one of it fails.
    pub fn offer(&mut self) -> Result<()> {
        *self.number += 1;
        self.offer_again()
    }

    /// Offers the device under the number that it had last.
    ///
    /// # Errors
    ///
    /// If it, or the program's start, fails.
    pub fn offer_again(&mut self) -> Result<()> {
        if self.capture.is_some() {
            // Before the device is there, so that it is seen to be opened.
            self.start_unless_running()?;
        }
        self.set_up_stage()?;
        self.start_unless_running()
    }

    fn start_unless_running(&mut self) -> Result<()> {
        if !self.machine.is_running() {
            ensure!(!self.started, "the program ended by itself");
            self.machine.start().context("starting the program")?;
        }
        self.started = true;
        Ok(())
    }

    /// Offers the device, under a number that it did not have before, whether the
    /// program runs or not.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub fn offer_only(&mut self) -> Result<()> {
        *self.number += 1;
        self.set_up_stage()
    }

    fn set_up_stage(&mut self) -> Result<()> {
        if self.machine.is_running() {
            if let Some(path) = self.capture.take() {
                self.machine.capture(&path).context("capturing")?;
            }
        }
        let offer = match self.transport {
            Transport::Uio(ring_len) => P::SERVICE.uio(*self.number, ring_len),
            Transport::HvUtil => P::SERVICE.hvutil(),
        };
        self.device = Some(self.machine.offer(offer).context("offering the device")?);
        Ok(())
    }

    /// Whether the device is offered.
    pub fn has_device(&self) -> bool {
        self.device.is_some()
    }

    /// Waits for the guest to open the device.
    ///
    /// # Errors
    ///
    /// If it does not, or there is none.
    pub fn accept(&mut self) -> Result<crate::port::Port> {
        self.accept_within(OPEN_TIME)
    }

    /// Waits so long for the guest to open the device.
    ///
    /// # Errors
    ///
    /// As [`Stage::accept`].
    pub fn accept_within(&mut self, time: Duration) -> Result<crate::port::Port> {
        let device = self.device.as_ref().context("no device is offered")?;
        device.accept(time)
    }

    /// Offers the device where none is, waits for the guest to open it, and
    /// negotiates the versions.
    ///
    /// # Errors
    ///
    /// If the guest does not take part.
    pub fn connect(&mut self) -> Result<ServiceHost<P>> {
        if self.device.is_none() {
            self.offer()?;
        }
        ServiceHost::connect(self.accept()?)
    }

    /// Ends the program in an orderly way; it starts again when a device is
    /// offered.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.started = false;
        self.machine.stop().context("stopping the program")
    }

    /// Takes the device away.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub fn rescind(&mut self) -> Result<()> {
        match self.device.take() {
            Some(device) => device.rescind().context("taking the device away"),
            None => Ok(()),
        }
    }

    /// Takes the device away; nothing is announced before [`Stage::rescind`].
    ///
    /// # Errors
    ///
    /// If that fails, or there is none.
    pub fn rescind_unannounced(&self) -> Result<()> {
        let device = self.device.as_ref().context("no device is offered")?;
        device
            .rescind_unannounced()
            .context("taking the device away")
    }

    /// Expects exactly these files in the scenario's directory and below, once
    /// the guest has come to rest.
    ///
    /// # Errors
    ///
    /// If there are others.
    pub fn expect_files(&self, names: &[&str]) -> Result<()> {
        self.expect_files_in(&self.directory, names)
    }

    /// Expects exactly these files in a directory and below, once the guest has
    /// come to rest.
    ///
    /// # Errors
    ///
    /// If there are others.
    pub fn expect_files_in(&self, directory: &Path, names: &[&str]) -> Result<()> {
        let files = self.files();
        let mut last = Vec::new();
        let result = until(SETTLE_TIME, "the right files", || {
            let mut found = files.list(directory)?;
            found.sort();
            let mut expected = names.to_vec();
            expected.sort_unstable();
            let same = found == expected;
            last = found;
            Ok(same.then_some(()))
        });
        result.with_context(|| format!("expected the files {names:?}; found {last:?}"))
    }

    /// Expects a file with this content.
    ///
    /// # Errors
    ///
    /// If it has another, or is not there.
    pub fn expect_content(&self, path: &Path, expected: &[u8]) -> Result<()> {
        self.files().expect_same(path, &mut &*expected)
    }

    /// What stands in the scenario's directory under a name.
    ///
    /// # Errors
    ///
    /// If nothing does.
    pub fn facts(&self, name: &str) -> Result<Facts> {
        let facts = self.files().facts(&self.directory.join(name))?;
        facts.with_context(|| format!("expected {name}; nothing of that name is there"))
    }
}

/// What a scenario of file copies plays with.
pub type FcopyStage<'m> = Stage<'m, Fcopy>;

impl FcopyStage<'_> {
    /// A START into the scenario's directory.
    ///
    /// # Errors
    ///
    /// If the directory is not UTF-8.
    pub fn start(&self, name: &str, flags: u32, size: u64) -> Result<Operation> {
        Ok(Operation::Start(Start::new(
            &self.path()?,
            name,
            flags,
            size,
        )))
    }

    /// Copies `data` into the scenario's directory.
    ///
    /// # Errors
    ///
    /// If the guest does not answer as it should.
    pub fn copy(
        &self,
        host: &mut FcopyHost,
        name: &str,
        data: &[u8],
        flags: u32,
    ) -> Result<Status> {
        let start = Start::new(&self.path()?, name, flags, data.len() as u64);
        host.copy(&start, &mut &*data, 1, &mut |_| {})
            .with_context(|| format!("copying {name:?}"))
    }

    /// Copies a file, looks at it and removes it: the guest works.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn expect_working(&self, host: &mut FcopyHost) -> Result<()> {
        let data = Pattern::bytes(host.messages(), 10_000);
        let status = self.copy(host, "still works", &data, 0)?;
        expect(status, Status::OK, "a copy after that")?;
        let path = self.directory.join("still works");
        self.expect_content(&path, &data)?;
        self.files().remove(&path)
    }
}

/// What a scenario of keys and values plays with.
pub type KvpStage<'m> = Stage<'m, Kvp>;

impl KvpStage<'_> {
    /// A pool's file.
    pub fn pool(&self, pool: u8) -> PathBuf {
        self.machine.pools().join(pool::file(pool))
    }

    /// Expects that the guest enumerates exactly these keys and values.
    ///
    /// # Errors
    ///
    /// If it has others.
    pub fn expect_items(
        &self,
        host: &mut KvpHost,
        pool: u8,
        expected: &[(&str, &str)],
    ) -> Result<()> {
        let items = host.list(pool)?;
        let same = items.len() == expected.len()
            && items
                .iter()
                .zip(expected)
                .all(|(item, expected)| (item.0.as_str(), item.1.as_str()) == *expected);
        ensure!(
            same,
            "expected pool {pool} to have {expected:?}; it has {items:?}"
        );
        Ok(())
    }

    /// Sets a key, gets it back and deletes it: the guest works.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn expect_working(&self, host: &mut KvpHost) -> Result<()> {
        const KEY: &str = "still works";
        let value = host.messages().to_string();
        expect(host.set(0, KEY, &value)?, Status::OK, "a SET after that")?;
        let items = host.list(0)?;
        ensure!(
            items.iter().any(|item| item.0 == KEY && item.1 == value),
            "expected {KEY:?} in pool 0 to be {value:?} after that; it has {items:?}"
        );
        expect(host.delete(0, KEY)?, Status::OK, "a DELETE after that")
    }
}

/// What a scenario of backups plays with.
pub type VssStage<'m> = Stage<'m, Vss>;

impl VssStage<'_> {
    /// Asks whether there can be a backup, which there can: the guest works.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn expect_working(&self, host: &mut VssHost) -> Result<()> {
        let (expected, flags) = (host.expected_flags(), host.hot_backup()?);
        ensure!(
            flags == Ok(expected),
            "expected the flags {expected} for a HOT_BACKUP after that; the guest answered {flags:?}"
        );
        Ok(())
    }
}

/// A path as a host names it.
pub(super) fn text(path: &Path) -> Result<String> {
    let text = path.to_str();
    Ok(text
        .with_context(|| format!("{} is not UTF-8", path.display()))?
        .to_owned())
}

/// Waits for the guest to close the device.
pub(super) fn expect_closed<P: Protocol>(host: &mut ServiceHost<P>) -> Result<()> {
    if let Ok(channel) = host.channel() {
        return channel.wait_closed(SETTLE_TIME);
    }
    let pipe = host.pipe()?;
    until(SETTLE_TIME, "the guest to close the device", || {
        Ok(pipe.recv(Duration::ZERO).is_err().then_some(()))
    })
}

/// Expects a status.
pub(super) fn expect(came: Status, expected: Status, what: &str) -> Result<()> {
    ensure!(
        came == expected,
        "expected {expected:?} for {what}; the guest answered {came:?}"
    );
    Ok(())
}

/// Expects any failure.
pub(super) fn expect_failure(came: Status, what: &str) -> Result<()> {
    ensure!(
        came != Status::OK,
        "expected a failure for {what}; the guest answered ok"
    );
    Ok(())
}
