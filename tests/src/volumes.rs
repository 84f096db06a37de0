//! The file systems of a guest that has some of its own to freeze.

use anyhow::Result;

/// Commands among the file systems that a program sees, none of which is the
/// machine's.
pub trait Volumes: Send + Sync {
    /// Runs a command, which has to end soon, and gives what it prints.
    ///
    /// # Errors
    ///
    /// Where it cannot be run, fails, or does not end.
    fn run(&self, command: &[&str]) -> Result<String>;

    /// Path of the program, as these commands see it.
    fn program(&self) -> &str;
}
