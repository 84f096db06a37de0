//! A network namespace for a test.

use std::process::Command;

use hyperv_services::kvp::net::{self, Interface};

/// Whether the caller runs in a network namespace of its own, where it may make
/// what it likes. If not, the test of that name is run again in one.
#[track_caller]
pub fn in_own_network(test: &str) -> bool {
    const INSIDE: &str = "HYPERV_TEST_IN_OWN_NETWORK";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        skip("making network interfaces needs root");
        return false;
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare, of util-linux");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("test result: ok. 1 passed"),
        "{test} in a network namespace of its own: {said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

/// Says that a test cannot run here; where everything must run, fails.
#[track_caller]
fn skip(why: &str) {
    println!("skipped: {why}");
    assert!(
        std::env::var_os("CI").is_none(),
        "skipped where CI is set: {why}"
    );
}

/// Runs `ip` with these words.
#[track_caller]
pub fn ip(words: &str) {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .expect("ip, of iproute2");
    assert!(
        output.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Makes an interface that is up and has no address. (Not every kernel has the
/// kind `dummy`: it is one end of a `veth` pair.)
#[track_caller]
pub fn add(name: &str, mac: &str) {
    ip(&format!(
        "link add {name} address {mac} type veth peer name to-{name}"
    ));
    for end in [name, &format!("to-{name}")] {
        ip(&format!("link set {end} up addrgenmode none"));
    }
}

/// The interface of this name.
#[track_caller]
pub fn interface(name: &str) -> Interface {
    net::interfaces()
        .unwrap()
        .into_iter()
        .find(|interface| interface.name == name)
        .expect("the interface that was made")
}
