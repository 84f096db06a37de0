//! The list of interfaces in memory is what a new one would be.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, thread};

use hyperv_services::kvp::interfaces::{self, Address, Interface, Interfaces};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::apart;
use crate::namespace::{add, in_own_network, ip};

const LONG: Duration = Duration::from_secs(20);

fn new() -> Interfaces {
    let interfaces = Interfaces::new("/".as_ref());
    interfaces.list().unwrap();
    interfaces
}

fn fresh() -> Vec<Interface> {
    interfaces::list("/".as_ref()).unwrap()
}

/// Waits until the list is what a fresh one is: the kernel announces some changes a moment after
/// they are there, and does some by itself.
#[track_caller]
fn await_fresh(interfaces: &Interfaces, after: &str) {
    let end = Instant::now() + LONG;
    loop {
        let (kept, fresh) = (interfaces.list().unwrap(), fresh());
        if *kept == *fresh {
            return;
        }
        assert!(Instant::now() < end, "{after}: {kept:?}, not {fresh:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The same of a change that shows in the list.
#[track_caller]
fn await_changed(interfaces: &Interfaces, by: &str, change: impl FnOnce()) {
    let before = interfaces.list().unwrap();
    change();
    await_fresh(interfaces, by);
    assert_ne!(interfaces.list().unwrap(), before, "{by}");
}

#[test]
fn every_change_is_noticed() {
    if !in_own_network("current::every_change_is_noticed") {
        return;
    }
    add("eth0", "00:15:5d:00:00:01");
    add("eth1", "00:15:5d:00:00:02");
    ip("link add br0 type bridge");
    ip("address add 192.0.2.9/24 dev eth0");
    ip("nexthop add id 1 via 192.0.2.3 dev eth0");
    let interfaces = new();
    for words in [
        "address add 192.0.2.7/24 dev eth0",
        "address add 2001:db8::7/64 dev eth0 nodad",
        "route add default via 192.0.2.1 dev eth0",
        "route add default via 192.0.2.2 dev eth0 table 100",
        "-6 route add default via 2001:db8::1 dev eth0",
        "route del default table 100",
        "route add default nhid 1 metric 7",
        // Without an announcement of the route.
        "nexthop del id 1",
        "address change 192.0.2.7/24 dev eth0 valid_lft 1000 preferred_lft 0",
        "address change 2001:db8::7/64 dev eth0 valid_lft 1000 preferred_lft 0",
        "link set eth1 down",
        "link set eth1 name eth2",
        "link set eth2 address 00:15:5d:00:00:03",
        "link set eth2 master br0",
        "link set eth2 nomaster",
        // The kernel removes its routes without announcing that.
        "link set eth0 down",
        "link set eth0 up",
        "address del 192.0.2.7/24 dev eth0",
        "link del eth0",
    ] {
        await_changed(&interfaces, words, || ip(words));
    }
}

#[test]
fn a_list_is_kept_while_nothing_changes() {
    if !in_own_network("current::a_list_is_kept_while_nothing_changes") {
        return;
    }
    // Nothing happens to this one later, as to a link that finds its carrier.
    ip("link set lo up");
    let interfaces = new();
    let first = interfaces.list().unwrap();
    // Nothing of other routes is in the list.
    ip("route add 198.51.100.0/24 dev lo");
    ip("-6 route add 2001:db8:7::/64 dev lo");
    ip("route del 198.51.100.0/24 dev lo");
    for _ in 0..3 {
        let again = [interfaces.current().unwrap(), interfaces.list().unwrap()];
        assert!(again.iter().all(|again| Arc::ptr_eq(again, &first)));
    }
}

#[test]
fn an_interface_that_comes_and_goes_is_noticed() {
    if !in_own_network("current::an_interface_that_comes_and_goes_is_noticed") {
        return;
    }
    add("eth0", "00:15:5d:00:00:01");
    let interfaces = new();
    let mut other = apart::program("unshare")
        .args(["--net", "--", "sh", "-c", "echo; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It is in its namespace when it prints something.
    let mut line = String::new();
    let mut output = BufReader::new(other.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let there = format!("link set eth0 netns {}", other.id());
    await_changed(&interfaces, "gone", || ip(&there));
    let inside = |words: &str| {
        let net = format!("--net=/proc/{}/ns/net", other.id());
        let mut nsenter = apart::program("nsenter");
        nsenter.args([&*net, "ip"]).args(words.split_whitespace());
        assert!(nsenter.status().unwrap().success(), "{words}");
    };
    let back = format!("link set eth0 netns {}", std::process::id());
    await_changed(&interfaces, "back", || inside(&back));
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn what_time_changes_is_noticed() {
    if !in_own_network("current::what_time_changes_is_noticed") {
        return;
    }
    add("eth0", "00:15:5d:00:00:01");
    let interfaces = new();
    ip("address add 2001:db8::5/64 dev eth0");
    ip("address add 192.0.2.7/24 dev eth0 valid_lft 1000 preferred_lft 1");
    let seen = |what: fn(&Address) -> bool| {
        let list = interfaces.list().unwrap();
        list.iter().any(|one| one.addresses.iter().any(what))
    };
    assert!(seen(|address| address.tentative));
    let end = Instant::now() + LONG;
    while seen(|address| address.tentative) || !seen(|address| address.deprecated) {
        assert!(Instant::now() < end, "{:?}", interfaces.list());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs lines of `ip` at once; returns whether all succeeded.
fn batch(lines: &str) -> bool {
    let mut ip = apart::program("ip")
        .args(["-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = ip.stdin.take().unwrap();
    input.write_all(lines.as_bytes()).unwrap();
    drop(input);
    ip.wait().unwrap().success()
}

/// The socket overflows, so the kernel drops the last announcement.
#[test]
fn a_flood_hides_no_change() {
    if !in_own_network("current::a_flood_hides_no_change") {
        return;
    }
    add("eth0", "00:15:5d:00:00:01");
    ip("address add 192.0.2.7/24 dev eth0");
    let interfaces = new();
    for round in 0..2 {
        let routes = (0..4000).map(|number| {
            let (high, low) = (number / 200, number % 200);
            format!("route replace 10.{round}.{high}.{low}/32 via 192.0.2.1\n")
        });
        let flood: String = routes.collect();
        let lines = format!("{flood}address add 192.0.2.1{round}/24 dev eth0\n");
        await_changed(&interfaces, "a flood", || assert!(batch(&lines)));
    }
}

/// Any change in any order, of which some fail.
#[test]
fn the_list_is_always_a_fresh_one() {
    if !in_own_network("current::the_list_is_always_a_fresh_one") {
        return;
    }
    for name in ["eth0", "eth1"] {
        add(name, "00:15:5d:00:00:01");
    }
    ip("link add br0 type bridge");
    // Whether an address is there after its link was down.
    for (setting, value) in [("keep_addr_on_down", "1"), ("dad_transmits", "0")] {
        let file = format!("/proc/sys/net/ipv6/conf/all/{setting}");
        fs::write(file, value).unwrap();
    }
    let interfaces = new();
    let device = prop::sample::select(vec!["eth0", "eth1", "br0", "to-eth1"]);
    let number = 0..4;
    let line = (0..16, device, number).prop_map(|(kind, device, number)| match kind {
        0 | 1 => format!("address add 192.0.2.{number}/24 dev {device}"),
        2 => format!("address del 192.0.2.{number}/24 dev {device}"),
        3 => format!("address add 2001:db8::{number}/64 dev {device}"),
        4 => format!("address del 2001:db8::{number}/64 dev {device}"),
        5 => format!("address change 192.0.2.{number}/24 dev {device} preferred_lft 0"),
        6 => format!("link set {device} down"),
        7 | 8 => format!("link set {device} up"),
        9 => format!("link set {device} master br0"),
        10 | 11 => format!("link set {device} nomaster"),
        12 => format!("route add default via 192.0.2.{number} dev {device} metric {number}"),
        13 => format!("route del default metric {number}"),
        14 => format!("-6 route add default dev {device} metric {number} table 7"),
        _ => format!("nexthop replace id {number} via 192.0.2.{number} dev {device}"),
    });
    let config = Config {
        cases: 60,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..Config::default()
    };
    let run = |lines: Vec<String>| {
        let lines = lines.join("\n") + "\n";
        batch(&lines);
        await_fresh(&interfaces, &lines);
        Ok(())
    };
    let lines = prop::collection::vec(line, 1..6);
    TestRunner::new(config).run(&lines, run).unwrap();
}
