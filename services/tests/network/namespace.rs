//! A network namespace for a test.

use hyperv_services::kvp::interfaces::{self, Interface};

use crate::apart;

/// Whether the caller runs in a private network namespace, where it may make
/// what it likes. If not, the test of that name is run again in one.
#[track_caller]
pub fn in_own_network(test: &str) -> bool {
    let apart = apart::told().is_some();
    if !apart {
        apart::run(test, &["--net", "--mount"], "");
    }
    apart
}

/// Runs `ip` with these words.
#[track_caller]
pub fn ip(words: &str) {
    let output = apart::program("ip")
        .args(words.split_whitespace())
        .output()
        .unwrap();
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
    interfaces::list("/".as_ref())
        .unwrap()
        .into_iter()
        .find(|interface| interface.name == name)
        .expect("the interface that was made")
}
