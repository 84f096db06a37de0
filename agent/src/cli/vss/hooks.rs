//! The hooks of a backup, as a plan shows them.

use std::path::PathBuf;

use hyperv_services::vss::hooks::{self, Found, HookError, OnFailure};

use crate::terminal::escaped;

/// The hooks of a backup.
#[derive(Default)]
pub(super) struct Hooks {
    /// In the order in which they are run before a freeze.
    pub(super) run: Vec<PathBuf>,
    /// Messages that say which hook is not run, and why.
    pub(super) refused: Vec<String>,
    /// Files in the directory that are not executable.
    pub(super) not_executable: Vec<PathBuf>,
    pub(super) on_failure: OnFailure,
}

impl Hooks {
    pub(super) fn find(config: &hooks::Config) -> Self {
        let message = |error: HookError| format!("{:#}", anyhow::Error::from(error));
        let found = hooks::find(&config.directory).unwrap_or_else(|error| Found {
            refused: vec![error],
            ..Found::default()
        });
        Self {
            run: found.hooks,
            refused: found.refused.into_iter().map(message).collect(),
            not_executable: found.not_executable,
            on_failure: config.on_failure,
        }
    }

    /// Returns the hooks as text; empty if there are none.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        if !self.run.is_empty() {
            text +=
                "\nHooks, run in this order before the freeze, and in reverse after the thaw:\n\n";
        }
        for path in &self.run {
            text += &format!("  {}\n", escaped(&path.display().to_string()));
        }
        if !self.refused.is_empty() {
            text += match self.on_failure {
                OnFailure::Stop => "\nA backup fails as long as these hooks are refused:\n\n",
                OnFailure::GoOn => "\nRefused, and skipped:\n\n",
            };
        }
        for why in &self.refused {
            text += &format!("  {}\n", escaped(why));
        }
        if !self.not_executable.is_empty() {
            text += "\nIgnored, as they are not executable (chmod +x makes them hooks):\n\n";
        }
        for path in &self.not_executable {
            text += &format!("  {}\n", escaped(&path.display().to_string()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_shown() {
        assert_eq!(Hooks::default().text(), "");
        let mut hooks = Hooks {
            run: vec!["/vss.d/1".into(), "/vss.d/\u{1b}2".into()],
            refused: vec!["/vss.d/3 will not be run".into()],
            not_executable: vec!["/vss.d/\u{1b}4".into()],
            on_failure: OnFailure::Stop,
        };
        let runs = r"
Hooks, run in this order before the freeze, and in reverse after the thaw:

  /vss.d/1
  /vss.d/\u{1b}2
";
        let stops = "\nA backup fails as long as these hooks are refused:\n\n";
        let refused = "  /vss.d/3 will not be run\n";
        let files = "
Ignored, as they are not executable (chmod +x makes them hooks):

  /vss.d/\\u{1b}4
";
        assert_eq!(hooks.text(), format!("{runs}{stops}{refused}{files}"));
        hooks.on_failure = OnFailure::GoOn;
        let left_out = "\nRefused, and skipped:\n\n";
        assert_eq!(hooks.text(), format!("{runs}{left_out}{refused}{files}"));
    }
}
