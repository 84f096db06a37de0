//! The host's end of the helper.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::request::{Numbered, Reply, Request};
use crate::control::Control;
use hyperv_sim::resources::Resources;

/// How long a guest may take to boot, and its first program to be there. Where
/// the machine is itself a guest of an emulator this takes minutes.
const BOOT_TIME: Duration = Duration::from_secs(300);

/// How long the helper may take for what does not wait.
const ANSWER_TIME: Duration = Duration::from_secs(120);

/// A guest that has booted.
pub struct Guest {
    control: Arc<Control>,
    /// Locked while a request is under way: there is one at a time.
    number: Mutex<u64>,
    release: String,
}

impl Guest {
    /// Waits for the guest to boot and starts the helper in it.
    ///
    /// # Errors
    ///
    /// If it does not come up.
    pub fn connect(control: Arc<Control>) -> Result<Self> {
        let deadline = Instant::now() + BOOT_TIME;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = control.read_line(left).context("booting the guest")?;
            if line.starts_with("ready ") {
                break;
            }
        }
        control.write(format!("{}\n", super::HELPER).as_bytes());
        let mut guest = Self {
            control,
            number: Mutex::new(0),
            release: String::new(),
        };
        guest.release = match guest.call(&Request::Hello)? {
            Reply::Text(release) => release,
            other => bail!("the helper answered {other:?}"),
        };
        Ok(guest)
    }

    /// The kernel's release, as `uname -r` has it.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Asks, and waits for the answer; a failure that it states is an error.
    ///
    /// # Errors
    ///
    /// If none comes, or it says what went wrong.
    pub fn call(&self, request: &Request) -> Result<Reply> {
        self.call_within(request, ANSWER_TIME)
    }

    fn call_within(&self, request: &Request, timeout: Duration) -> Result<Reply> {
        let mut number = self.number.lock().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        let asked = serde_json::to_string(&Numbered {
            number: *number,
            what: request,
        })?;
        self.control.write(format!("{asked}\n").as_bytes());
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.control.read_line(left).with_context(|| {
                let shown: String = asked.chars().take(100).collect();
                format!("asking the guest for {shown}")
            })?;
            // Others are shells' and late ones.
            let Ok(reply) = serde_json::from_str::<Numbered<Reply>>(&line) else {
                continue;
            };
            if reply.number != *number {
                continue;
            }
            match reply.what {
                Reply::Failed(why) => bail!("in the guest: {why}"),
                reply => return Ok(reply),
            }
        }
    }

    /// Asks for what has no answer but that it is done.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub fn order(&self, request: &Request) -> Result<()> {
        let reply = self.call(request)?;
        ensure!(reply == Reply::Done, "the helper answered {reply:?}");
        Ok(())
    }

    /// Starts the program under test.
    ///
    /// # Errors
    ///
    /// If it runs already or cannot be started.
    pub fn start(&self, command: &[String]) -> Result<()> {
        self.order(&Request::Start(command.to_vec()))
    }

    /// Ends it and waits for its end.
    ///
    /// # Errors
    ///
    /// If it does not run, or does not end in time.
    pub fn end(&self, signal: Signal, timeout: Duration) -> Result<()> {
        let millis = u64::try_from(timeout.as_millis())?;
        let signal = signal as i32;
        let reply = self.call_within(&Request::End { signal, millis }, timeout + ANSWER_TIME)?;
        ensure!(reply == Reply::Done, "the helper answered {reply:?}");
        Ok(())
    }

    /// The program's process, while it runs.
    ///
    /// # Errors
    ///
    /// If the guest does not answer.
    pub fn pid(&self) -> Result<Option<u32>> {
        match self.call(&Request::Pid)? {
            Reply::Pid(pid) => Ok(pid),
            other => bail!("the helper answered {other:?}"),
        }
    }

    /// What the program holds, while it runs.
    ///
    /// # Errors
    ///
    /// If the guest does not answer.
    pub fn resources(&self) -> Result<Option<Resources>> {
        match self.call(&Request::Resources)? {
            Reply::Resources(held) => Ok(held),
            other => bail!("the helper answered {other:?}"),
        }
    }

    /// The last of what the program has logged.
    ///
    /// # Errors
    ///
    /// If the guest does not answer.
    pub fn log(&self) -> Result<String> {
        match self.call(&Request::Log)? {
            Reply::Text(log) => Ok(log),
            other => bail!("the helper answered {other:?}"),
        }
    }

    /// Runs a command, and returns what it prints.
    ///
    /// # Errors
    ///
    /// If it cannot be run, or fails.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        let words = command.iter().map(|word| (*word).to_owned()).collect();
        match self.call(&Request::Run(words))? {
            Reply::Text(text) => Ok(text),
            other => bail!("the helper answered {other:?}"),
        }
    }

    /// Whether a file is there, of whatever kind.
    ///
    /// # Errors
    ///
    /// If the guest does not answer.
    pub fn has(&self, path: &Path) -> Result<bool> {
        let reply = self.call(&Request::Facts(path.to_owned()))?;
        Ok(matches!(reply, Reply::Facts(Some(_))))
    }
}
