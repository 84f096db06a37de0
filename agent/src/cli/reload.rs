//! `hyperv-agent reload`: makes the running agent reload its configuration.

use anyhow::{Context, anyhow};
use hyperv_services::Environment;

use super::args::ConfigFile;
use super::output::Exit;
use crate::config;
use crate::request::{self, RequestError};
use crate::status::client::StatusError;

pub(super) const HELP: &str = "\
Waits until the agent has read its configuration and says why it has not. The agent
then keeps the configuration that it has. --config is for the directory of its
sockets: the agent reads the file that it was started with.

Exit status: 0 the configuration was reloaded, 1 it was not, 2 invalid usage, 3 no
agent is running.";

pub(super) fn reload(file: &ConfigFile) -> anyhow::Result<Exit> {
    // The agent says what is wrong with its configuration; of it, only the directory is
    // needed here.
    let config = config::load(file.path.as_deref());
    let environment = config.as_ref().map(|config| config.environment.clone());
    let directory = environment.unwrap_or_else(|_| Environment::default());
    let socket = directory.runtime_dir.join(request::NAME);
    match (request::reload(&socket), config) {
        (Ok(()), _) => Ok(Exit::Success),
        (Err(RequestError::Refused(why)), _) => {
            Err(anyhow!(why).context("the configuration stays as it was"))
        }
        // It may be why the agent is not where it was looked for.
        (Err(RequestError::Io(_)), Err(error)) => Err(error.into()),
        (Err(RequestError::Io(error)), _) => Err(StatusError::from_io(socket, error).into()),
        (Err(error), _) => Err(error).context("cannot reload the configuration"),
    }
}
