//! ifupdown.

use super::*;

#[test]
fn ifupdown() {
    test("ifupdown", "ifupdown::ifupdown", || {
        let problem = Problem {
            path: "/etc/network/if-up.d/problem",
            text: "#!/bin/sh\ncase $IF_ADDRESS in 10.0.0.5*) echo problem >&2; exit 1 ;; esac\n",
            mode: 0o755,
            message: "problem",
            address: "10.0.0.7/24",
        };
        configurations(dns, Some(problem));
    });
}

fn dns() -> String {
    fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}
