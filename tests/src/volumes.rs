//! The file systems of a guest that may freeze them.

use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// How long a command may take: one that waits for a frozen file system cannot be
/// killed, and must not hold up whoever is to thaw it.
const TIME: Duration = Duration::from_secs(90);

/// Commands among the file systems that a program sees, none of which is the
/// machine's.
pub trait Volumes: Send + Sync {
    /// Runs a command, which has to end soon, and returns what it prints.
    ///
    /// # Errors
    ///
    /// If it cannot be run, fails, or does not end.
    fn run(&self, command: &[&str]) -> Result<String>;

    /// Runs a script with these arguments, the first being `$0`, and returns what it
    /// prints.
    ///
    /// # Errors
    ///
    /// As [`Volumes::run`].
    fn script(&self, script: &str, arguments: &[&str]) -> Result<String> {
        self.run(&[&["sh", "-c", script], arguments].concat())
    }

    /// Path of the program, as these commands see it.
    fn program(&self) -> &str;
}

/// Runs a command here, and returns what it prints.
///
/// # Errors
///
/// If it cannot be started, and as [`said`].
pub fn run(command: &[impl AsRef<str>]) -> Result<String> {
    let (program, arguments) = command.split_first().context("the command is empty")?;
    let child = Command::new(program.as_ref())
        .args(arguments.iter().map(AsRef::as_ref))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| program.as_ref().to_owned())?;
    said(command, child)
}

/// Waits for the end of a command whose output is piped, and returns what it
/// printed.
///
/// # Errors
///
/// If it fails, or does not end: then it is left to itself.
pub fn said(command: &[impl AsRef<str>], child: Child) -> Result<String> {
    let words = || {
        let words: Vec<_> = command.iter().map(AsRef::as_ref).collect();
        words.join(" ")
    };
    let (tell, ended) = mpsc::channel();
    // Where it reads its input, that ends here.
    thread::spawn(move || tell.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(TIME) else {
        bail!("{} has not ended in {TIME:?}", words());
    };
    let output = output?;
    ensure!(
        output.status.success(),
        "{}: {}, {}",
        words(),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
