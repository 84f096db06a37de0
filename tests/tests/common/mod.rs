//! What tests with the shipped binary have in common.

use std::path::PathBuf;

/// The agent that was built along with this test.
pub(crate) fn agent() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let agent = test.ancestors().nth(2).unwrap().join("hyperv-agent");
    assert!(
        agent.exists(),
        "{} is missing: build the whole workspace",
        agent.display()
    );
    agent
}
