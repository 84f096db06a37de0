use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::*;
use crate::kvp::interfaces::Interface;
use crate::kvp::network::testing::{eth0, root};
use crate::kvp::request::{Family, IpInfo};

const UUID: &str = "11111111-2222-3333-4444-555555555555";
const OWN_UUID: &str = "90182106-7276-8000-a000-6172386f7603";
const OWN: &str = "etc/NetworkManager/system-connections/hyperv-agent-eth0.nmconnection";
const ETC: &str = "etc/NetworkManager/system-connections/wired.nmconnection";
const LIB: &str = "usr/lib/NetworkManager/system-connections/wired.nmconnection";
const RUN: &str = "run/NetworkManager/system-connections/wired.nmconnection";
const CHILD: (&str, &str) = (
    "etc/NetworkManager/system-connections/child.nmconnection",
    "[connection]\nuuid=2\ninterface-name=vlan5\n[vlan]\n\
     parent=11111111-2222-3333-4444-555555555555\n",
);

/// Plans for a machine with these files, on which the profile `UUID` is in force.
fn planned(files: &[(&str, &str)], settings: &Settings) -> Result<Plan, InjectError> {
    let state = format!("[device]\nmanaged=true\nconnection-uuid={UUID}\n");
    let tools = [
        ("run/NetworkManager/devices/2", state.as_str()),
        ("usr/bin/nmcli", ""),
    ];
    let root = root(&[&tools, files].concat());
    let nmcli = root.path().join("usr/bin/nmcli");
    fs::set_permissions(nmcli, fs::Permissions::from_mode(0o755)).unwrap();
    let interface = eth0(&[]);
    let context = Context {
        root: root.path(),
        interface: &interface,
        target: &target(&interface),
        settings,
        running: false,
        deadline: Instant::now() + Duration::from_secs(9),
    };
    let mut plan = plan(&context)?;
    for file in &mut plan.files {
        file.path = file.path.strip_prefix(root.path()).unwrap().to_owned();
    }
    Ok(plan)
}

fn target(interface: &Interface) -> Target {
    Target {
        name: interface.name.clone(),
        mac: interface.mac,
        permanent: false,
        device: "f8615163-0000-1000-2000-00155d010203".parse().unwrap(),
    }
}

fn settings() -> Settings {
    let info = IpInfo {
        family: Family::V4,
        addresses: "10.0.0.5".to_owned(),
        subnets: "/24".to_owned(),
        ..IpInfo::default()
    };
    Settings::parse(&info).unwrap()
}

fn profile(rest: &str) -> String {
    format!("[connection]\nid=wired\nuuid={UUID}\n{rest}\n[ethernet]\nmtu=1400\n")
}

#[test]
fn the_profile_in_force_is_changed_where_that_is_possible() {
    let bound = profile("interface-name=eth0");
    let by_mac = profile("[802-3-ethernet]\nmac-address=00:15:5D:01:02:03");
    let generic = profile("");
    let other = ("sys/class/net/eth1/device/vendor", "");
    for (files, path, uuid) in [
        (&[(ETC, bound.as_str())][..], ETC, UUID),
        (&[(ETC, &by_mac), other], ETC, UUID),
        // It may be another adapter's, too.
        (&[(ETC, &generic)], ETC, UUID),
        (&[(ETC, &generic), other], OWN, OWN_UUID),
        // A file in /etc counts before one in /usr/lib, and one in /run before both.
        (&[(LIB, &bound)], OWN, UUID),
        (&[(RUN, &bound)], OWN, OWN_UUID),
        (&[(RUN, &bound), (ETC, &bound)], OWN, OWN_UUID),
    ] {
        let plan = planned(&[files, &[CHILD]].concat(), &settings()).unwrap();
        let [new] = &plan.files[..] else {
            panic!("{:?}", plan.files);
        };
        assert_eq!(
            (new.path.as_path(), new.mode),
            (Path::new(path), Some(0o600))
        );
        let file = KeyFile::parse(new.text.as_ref().unwrap());
        assert_eq!(file.last("connection", "uuid"), Some(uuid));
        assert_eq!(file.last("ethernet", "mtu"), Some("1400"));
        let name = file.last("connection", "interface-name");
        let by_name = *files != [(ETC, by_mac.as_str()), other];
        assert_eq!(name, by_name.then_some("eth0"));
        assert!(plan.apply[1].args.iter().any(|arg| arg == uuid));
        let lost: &[String] = match uuid {
            UUID => &[],
            _ => &[format!("vlan5: parent={UUID}")],
        };
        assert_eq!(plan.lost, lost);
    }
}

/// NetworkManager makes the UUID of a file that has none from its path.
#[test]
fn a_profile_without_a_uuid_is_found() {
    let text = "[connection]\nid=wired\ninterface-name=eth0\n";
    for (place, path, written) in [(ETC, ETC, None), (LIB, OWN, Some(UUID))] {
        let plan = planned(&[(place, text)], &settings()).unwrap();
        assert_eq!(plan.files[0].path, Path::new(path));
        let file = KeyFile::parse(plan.files[0].text.as_ref().unwrap());
        assert_eq!(file.last("connection", "uuid"), written);
        assert!(plan.apply[1].args.iter().any(|arg| arg == UUID));
    }
}

#[test]
fn an_unused_profile_of_the_agents_own_is_removed() {
    let own = format!("[connection]\nuuid={OWN_UUID}\n");
    let plan = planned(
        &[(ETC, &profile("interface-name=eth0")), (OWN, &own)],
        &settings(),
    );
    let files = plan.unwrap().files;
    assert_eq!(
        (files[0].path.as_path(), &files[0].text),
        (Path::new(OWN), &None)
    );
    assert_eq!(files[1].path, Path::new(ETC));
}

#[test]
fn what_networkmanager_made_is_no_longer_marked_as_such() {
    let text = profile("interface-name=eth0\n[.nmmeta]\nnm-generated=true\n");
    let plan = planned(&[(RUN, &text)], &settings()).unwrap();
    let text = plan.files[0].text.as_ref().unwrap();
    assert!(!text.contains("nmmeta"), "{text}");
    // Another family than the host's is as it was.
    assert!(!text.contains("[ipv6]"), "{text}");
}

#[test]
fn an_ifcfg_file_in_force_is_changed() {
    let path = "etc/sysconfig/network-scripts/ifcfg-Wired_1";
    let text = format!("UUID={UUID}\nDEVICE=eth0\nMTU=1400\nBOOTPROTO=dhcp\n");
    let plan = planned(&[(path, &text)], &settings()).unwrap();
    let [new] = &plan.files[..] else {
        panic!("{:?}", plan.files);
    };
    assert_eq!(new.path, Path::new(path));
    let text = new.text.as_ref().unwrap();
    for line in [
        &format!("UUID={UUID}"),
        "MTU=1400",
        "BOOTPROTO=none",
        "IPADDR=10.0.0.5",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    assert!(plan.apply[1].args.iter().any(|arg| arg == UUID));
}

#[test]
fn a_file_that_is_not_text_is_refused() {
    let text = profile("interface-name=eth0\nid=\u{fffd}");
    let error = planned(&[(ETC, &text)], &settings()).unwrap_err();
    assert!(error.to_string().contains("is not UTF-8"), "{error}");
}
