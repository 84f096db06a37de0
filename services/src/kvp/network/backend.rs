//! The configuration's choice of a network manager.

use serde::de::{Deserialize, Deserializer, Error};

use super::managers;

/// The network manager that configurations of the host are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// The first that is in charge of the interface.
    #[default]
    Auto,
    /// None: the host cannot set IP configurations.
    Off,
    /// The one with this key.
    Manager(&'static str),
}

impl<'de> Deserialize<'de> for Backend {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        match name.as_str() {
            "auto" => return Ok(Self::Auto),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        let manager = managers::find(&name).ok_or_else(|| {
            let keys = managers::keys();
            D::Error::custom(format!(
                "unknown backend `{name}`: expected one of auto, off, {keys}"
            ))
        })?;
        Ok(Self::Manager(manager.key()))
    }
}
