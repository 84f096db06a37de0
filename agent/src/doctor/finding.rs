//! What a check finds.

use serde::Serialize;

/// How bad a finding is, from the least bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// There is nothing to look at on this machine.
    Skipped,
    /// Nothing was found.
    Ok,
    /// It is as intended, but explains what a user may miss.
    Note,
    /// Something could not be looked at.
    Unchecked,
    /// Something may not work, or only a part of it.
    Warning,
    /// Something does not work.
    Error,
}

/// A finding with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is; [`Level::Note`] at least.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// A command or a setting that helps; empty if nothing has to be done.
    pub remedy: String,
    /// Whether a capture of what host and guest say would show more of it.
    #[serde(skip)]
    pub is_said: bool,
}

impl Finding {
    pub(super) fn error(text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Error, text, remedy)
    }

    pub(super) fn warning(text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Warning, text, remedy)
    }

    pub(super) fn note(text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Note, text, remedy)
    }

    pub(super) fn unchecked(text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Unchecked, text, remedy)
    }

    pub(super) fn new(level: Level, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            level,
            text: text.into(),
            remedy: remedy.into(),
            is_said: false,
        }
    }

    /// A finding about what host and guest say, of which a capture would show more.
    pub(super) fn said(self) -> Self {
        Self {
            is_said: true,
            ..self
        }
    }
}
