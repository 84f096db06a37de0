//! What the guest tells the host of itself: pool 2. Protocol section 7.

use super::Config;

/// The guest's facts.
#[derive(Debug)]
pub struct Facts {
    driver_version: String,
}

impl Facts {
    /// The facts of this machine.
    pub fn new(config: &Config) -> Self {
        let _ = config;
        Self {
            driver_version: String::new(),
        }
    }

    /// The kernel's driver said which version it has: the value of
    /// `IntegrationServicesVersion`.
    pub fn set_driver_version(&mut self, version: &str) {
        version.clone_into(&mut self.driver_version);
    }

    /// The key and value at this position, 0 to 9.
    pub fn at(&mut self, index: u32) -> Option<(&'static str, String)> {
        let _ = index;
        None
    }

    /// The value of this key.
    pub fn get(&mut self, key: &str) -> Option<String> {
        let _ = key;
        None
    }
}
