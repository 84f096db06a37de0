//! The machine with the agent, and what else happens on it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use hyperv_services::Config;
use hyperv_services::registry;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::action::{Action, AgentAction, Change, DEVICES, HostAction, LocalAction, SECOND};
use super::host_device::HostDevice;
use super::messages::{NAME, Places};
use super::rng::Rng;
use crate::inprocess::InProcess;
use crate::kvp::pool;
use crate::port::Machine;

/// A machine, its devices, and a directory that is none of its.
pub(super) struct Guest {
    pub(super) machine: InProcess,
    pub(super) devices: Vec<HostDevice>,
    pub(super) outside: TempDir,
    /// Random bytes of other programs.
    rng: Rng,
    config: Config,
    pub(super) running: bool,
}

impl Guest {
    pub(super) fn new() -> Result<Self> {
        let machine = InProcess::new()?;
        let outside = tempfile::Builder::new().prefix("hyperv-sim-").tempdir()?;
        fs::write(outside.path().join("kept"), "as it was")?;
        let mut setup = machine.setup();
        let config = &mut setup.config;
        config.fcopy.directories = vec![machine.directory().to_owned()];
        // No program of this machine is run.
        config
            .kvp
            .environment
            .root
            .clone_from(&config.vss.environment.root);
        config.vss.hooks.directory = config.vss.environment.root.join("hooks");
        let config = config.clone();
        drop(setup);
        Ok(Self {
            machine,
            devices: HostDevice::all(),
            outside,
            rng: Rng::new(0, 0),
            config,
            running: false,
        })
    }

    /// The directory that copies may go to.
    pub(super) fn inside(&self) -> &Path {
        self.machine.directory()
    }

    pub(super) fn places(&self) -> Places {
        Places::new(self.inside(), self.outside.path())
    }

    pub(super) fn start(&mut self) -> Result<()> {
        if !self.running {
            self.machine.start()?;
            self.running = true;
        }
        Ok(())
    }

    pub(super) fn stop(&mut self) -> Result<()> {
        if self.running {
            self.running = false;
            self.machine.stop()?;
            self.devices
                .iter_mut()
                .try_for_each(HostDevice::allow_close)?;
        }
        Ok(())
    }

    /// Lets the agent have the configuration that it had at first.
    pub(super) fn settle(&mut self) -> Result<()> {
        let mut setup = self.machine.setup();
        setup.services = registry::SERVICES.to_vec();
        setup.config = self.config.clone();
        setup.unreadable = false;
        drop(setup);
        self.devices.iter_mut().for_each(HostDevice::forbid_close);
        self.machine.reload();
        self.start()
    }

    pub(super) fn play(&mut self, action: &Action) -> Result<()> {
        match action {
            Action::At(place, what) => {
                if matches!(what, HostAction::Offer(..) | HostAction::Rescind) {
                    if let Some(other) = self.devices.get_mut((place + SECOND) % DEVICES.len()) {
                        if other.is_character_device() {
                            // A character device is served only while there are no rings of
                            // the same service.
                            other.allow_close_all_round()?;
                        }
                    }
                }
                match self.devices.get_mut(*place) {
                    Some(device) => device.play(&mut self.machine, what),
                    None => Ok(()),
                }
            }
            Action::Agent(AgentAction::Start) => {
                self.machine.setup().unreadable = false;
                self.start()
            }
            Action::Agent(AgentAction::Stop) => self.stop(),
            Action::Agent(AgentAction::Rescan) => {
                self.machine.rescan();
                Ok(())
            }
            Action::Agent(AgentAction::Reload(change)) => {
                self.change(change)?;
                self.machine.reload();
                Ok(())
            }
            Action::Local(action) => self.commit(*action),
            Action::Pause(milliseconds) => {
                std::thread::sleep(Duration::from_millis((*milliseconds).into()));
                Ok(())
            }
        }
    }

    fn change(&mut self, change: &Change) -> Result<()> {
        if change.services != u8::MAX {
            self.devices
                .iter_mut()
                .try_for_each(HostDevice::allow_close_all_round)?;
        }
        let mut setup = self.machine.setup();
        let on = |place: usize| change.services >> place & 1 == 1;
        let services = registry::SERVICES.iter().enumerate();
        setup.services = services.filter(|it| on(it.0)).map(|it| *it.1).collect();
        setup.unreadable = change.unreadable;
        let config = &mut setup.config;
        config.fcopy.sync = change.sync;
        config.fcopy.max_size = change.max_size;
        let published = (0..change.published).map(|it| (format!("key {it}"), "by us".to_owned()));
        config.kvp.publish = published.collect();
        config.vss.time_limit = Duration::from_millis(change.freeze_limit);
        Ok(())
    }

    /// Does what a local user or another program may do. That there is something
    /// of that name already, or nothing, does not matter.
    fn commit(&mut self, action: LocalAction) -> Result<()> {
        let inside = |name: &str| self.inside().join(format!("{NAME}{name}"));
        let pool = |pool: u8| self.machine.pools().join(pool::file(pool));
        let done = match action {
            LocalAction::Clear => clear(self.inside()),
            LocalAction::Link => symlink(self.outside.path().join("kept"), inside("link")),
            LocalAction::DirectoryLink => symlink(self.outside.path(), inside("link")),
            LocalAction::Fifo => mkfifo(&inside("fifo"), Mode::S_IRWXU).map_err(Into::into),
            LocalAction::Directory(name) => fs::create_dir(inside(&name.to_string())),
            LocalAction::Pool {
                pool: number,
                bytes,
                append,
            } => {
                let bytes = self.rng.bytes(bytes);
                let mut options = OpenOptions::new();
                options
                    .write(true)
                    .append(append)
                    .open(pool(number))
                    .and_then(|mut file: File| file.write_all(&bytes))
            }
            LocalAction::CutPool(number, len) => {
                let file = OpenOptions::new().write(true).open(pool(number));
                file.and_then(|file| file.set_len(len))
            }
            LocalAction::RemovePool(number) => fs::remove_file(pool(number)),
        };
        match done {
            Err(error)
                if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) =>
            {
                Err(error).with_context(|| format!("{action:?}"))
            }
            _ => Ok(()),
        }
    }
}

/// Removes all that is in a directory.
pub(super) fn clear(directory: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// All that is below a directory, with what is in files; links are not followed.
/// Leaves out what is removed meanwhile.
pub(super) fn tree(directory: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    fn there<T>(result: io::Result<T>, path: &Path) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in there(fs::read_dir(&next), &next)?.into_iter().flatten() {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let content = match kind.is_file() {
                true => there(fs::read(&path), &path)?,
                false => Some(Vec::new()),
            };
            if kind.is_dir() {
                left.push(path.clone());
            }
            found.extend(content.map(|content| (path, content)));
        }
    }
    found.sort();
    Ok(found)
}
