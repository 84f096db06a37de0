//! The shipped binary in a private guest: what the scenarios do not check, because they
//! apply to any program.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hyperv_needs::skip;
use hyperv_services::service::Entry;
use hyperv_services::{fcopy, kvp, vss};
use hyperv_sim::blackbox::{BlackBox, root_unavailable, unavailable};
use hyperv_sim::channel::HostChannel;
use hyperv_sim::fcopy::{Fcopy, FcopyHost, OVERWRITE, Operation, Start};
use hyperv_sim::host::{FRAMEWORKS, Protocol as _};
use hyperv_sim::ic::{Reply, Request};
use hyperv_sim::kvp::KvpHost;
use hyperv_sim::port::{Device, Machine, Offer, Port};
use hyperv_sim::ring::Packet;
use hyperv_sim::wait;
use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::{Status, Version};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::agent;

/// Far beyond what anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// Runs a test in a guest, where this machine can have one.
fn in_guest(arguments: &str, test: impl FnOnce(&mut BlackBox)) {
    if let Some(why) = unavailable() {
        return skip(&why);
    }
    test(&mut BlackBox::new(&format!("{} {arguments}", agent().display())).unwrap());
}

/// Runs a test in a guest with a private root, which the agent may freeze.
fn in_own_root(arguments: &str, test: impl FnOnce(&mut BlackBox)) {
    if let Some(why) = root_unavailable() {
        return skip(&why);
    }
    test(&mut BlackBox::with_root(&format!("{} {arguments}", agent().display())).unwrap());
}

fn uio(entry: &Entry, number: u32) -> Offer {
    Offer::Uio {
        class: entry.class,
        instance: Guid::from_u128(0x1000 + u128::from(number)),
        number,
        ring_len: 20 * 1024,
    }
}

fn accept_channel(device: &Arc<dyn Device>) -> HostChannel {
    match device.accept(LONG).unwrap() {
        Port::Uio(port) => HostChannel::new(port),
        Port::Kernel(_) | Port::HvUtil(_) => panic!("a UIO device was offered"),
    }
}

/// One request, and its reply.
fn call(channel: &mut HostChannel, request: &Request) -> Reply {
    let message = request.encode();
    let packet = Packet::in_band(7, &message);
    channel.send(&packet, LONG).unwrap();
    let reply = channel.recv(LONG).unwrap().expect("no reply");
    Reply::to(&message, &reply.payload).unwrap()
}

/// Waits for words in the log.
fn wait_for(machine: &BlackBox, words: &str) {
    wait::until(LONG, &format!("{words:?} in the log"), || {
        Ok(machine.log().contains(words).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}; the log is:\n{}", machine.log()));
}

fn signal(machine: &BlackBox, signal: Signal) {
    let pid = machine.pid().unwrap();
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

fn copy(host: &mut FcopyHost, directory: &Path) {
    let start = Start::new(directory.to_str().unwrap(), "file", OVERWRITE, 5);
    let status = host.copy(&start, &mut &b"hello"[..], 1, &mut |_| {});
    assert_eq!(status.unwrap(), Status::OK);
    assert_eq!(fs::read(directory.join("file")).unwrap(), b"hello");
}

#[test]
fn devices_are_listed_for_people_and_for_programs() {
    in_guest("devices --json", |machine| {
        machine.offer(uio(&fcopy::ENTRY, 3)).unwrap();
        machine.start().unwrap();
        wait_for(machine, "]");
        let list: serde_json::Value = serde_json::from_str(&machine.log()).unwrap();
        assert_eq!(list[0]["class"], fcopy::ENTRY.class.to_string());
        assert_eq!(list[0]["description"], "file copy (guest services)");
        assert_eq!(list[0]["driver"], "uio_hv_generic");
        assert_eq!(list[0]["node"], "/dev/uio3");
        assert_eq!(list[0]["ring_size"], 20 * 1024);
        assert_eq!(list[0]["service"], "fcopy");
    });
    in_guest("devices", |machine| {
        machine.offer(uio(&fcopy::ENTRY, 3)).unwrap();
        machine.start().unwrap();
        wait_for(
            machine,
            "file copy (guest services)  uio_hv_generic  /dev/uio3  20 KiB  fcopy",
        );
    });
}

#[test]
fn it_ends_in_an_orderly_way_at_either_signal() {
    for ending in [Signal::SIGTERM, Signal::SIGINT] {
        in_guest("run", |machine| {
            let device = machine.offer(uio(&fcopy::ENTRY, 0)).unwrap();
            machine.start().unwrap();
            FcopyHost::connect(device.accept(LONG).unwrap()).unwrap();
            signal(machine, ending);
            wait::until(LONG, "the agent's end", || Ok(machine.exit_status())).unwrap();
            assert!(machine.exit_status().unwrap().success());
            // It logs to syslog, for it is on no terminal.
            wait_for(machine, &format!("stopping, signal: {}", ending.as_str()));
            wait_for(machine, "stopped");
        });
    }
}

#[test]
fn services_are_switched_by_reloading_and_a_wrong_configuration_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    let runtime = format!("runtime-directory = {:?}\n", directory.path().join("run"));
    let elsewhere = directory.path().join("elsewhere.toml");
    fs::write(&elsewhere, &runtime).unwrap();
    let write = |services: &str| {
        fs::write(&config, format!("{runtime}[services]\n{services}")).unwrap();
    };
    let reload = || {
        let mut command = Command::new(agent());
        let output = command
            .args(["reload", "--config"])
            .arg(&elsewhere)
            .output();
        let output = output.unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), complaint)
    };
    write("fcopy = false\nkvp = true\n");
    in_guest(&format!("run --config {}", config.display()), |machine| {
        let fcopy_device = machine.offer(uio(&fcopy::ENTRY, 0)).unwrap();
        let kvp_device = machine.offer(uio(&kvp::ENTRY, 1)).unwrap();
        machine.start().unwrap();
        let mut kvp_channel = accept_channel(&kvp_device);

        write("kvp = true\n");
        signal(machine, Signal::SIGHUP);
        let mut host = FcopyHost::connect(fcopy_device.accept(LONG).unwrap()).unwrap();
        copy(&mut host, machine.directory());

        write("kvp = perhaps\n");
        signal(machine, Signal::SIGHUP);
        wait_for(machine, "the configuration stays as it was");
        wait_for(machine, "line 3");
        copy(&mut host, machine.directory());
        let offer = [Version::new(4, 0)];
        let request = Request::negotiation(1, &FRAMEWORKS, &offer).unwrap();
        let reply = call(&mut kvp_channel, &request);
        assert_eq!(
            reply.settled().unwrap(),
            Some((Version::new(3, 0), offer[0]))
        );

        let (code, complaint) = reload();
        assert_eq!(code, Some(1), "{complaint}");
        let expected = "hyperv-agent: the configuration stays as it was: invalid configuration";
        assert!(complaint.starts_with(expected), "{complaint}");
        assert!(complaint.contains("line 3"), "{complaint}");

        write("kvp = true\nfcopy = false\n");
        assert_eq!(reload(), (Some(0), String::new()));
        let shown = status(&elsewhere, &["--json"]);
        let document: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let services = document["services"].as_array().unwrap();
        let fcopy = services.iter().find(|it| it["name"] == "fcopy").unwrap();
        assert_eq!(fcopy["on"], false);
    });
}

#[test]
fn services_negotiate_side_by_side_and_refuse_what_is_no_request() {
    in_own_root("run --enable kvp --enable vss --disable fcopy", |machine| {
        let services = [
            (&kvp::ENTRY, 0, Status::INVALID_ARGUMENT),
            (&vss::ENTRY, 9, Status::NOT_SUPPORTED),
        ];
        for (number, (entry, byte, status)) in (0..).zip(services) {
            let device = machine.offer(uio(entry, number)).unwrap();
            if number == 0 {
                machine.start().unwrap();
            }
            let mut channel = accept_channel(&device);
            let request = Request::negotiation(1, &FRAMEWORKS, entry.versions).unwrap();
            let chosen = call(&mut channel, &request).settled().unwrap();
            assert_eq!(chosen, Some((entry.frameworks[0], entry.versions[0])));
            let request = Request::new(entry.message_type.0, 2, vec![byte; 64]).unwrap();
            let reply = call(&mut channel, &request);
            assert_eq!(reply.status, status);
        }
    });
}

#[test]
fn detached_it_serves_and_logs_to_syslog() {
    in_guest("run --daemon", |machine| {
        let device = machine.offer(uio(&fcopy::ENTRY, 0)).unwrap();
        machine.start().unwrap();
        let mut host = FcopyHost::connect(device.accept(LONG).unwrap()).unwrap();
        host.negotiate(&FRAMEWORKS, Fcopy::VERSIONS).unwrap();
        copy(&mut host, machine.directory());
        wait_for(machine, "copy finished");
        wait::until(LONG, "the end of the process that was started", || {
            Ok(machine.exit_status())
        })
        .unwrap();
        assert!(machine.exit_status().unwrap().success());
    });
}

#[test]
fn under_the_names_of_stock_daemons_each_serves_its_service() {
    let Some(agent) = unavailable().is_none().then(agent) else {
        return in_guest("run", |_| {});
    };
    let directory = tempfile::tempdir().unwrap();
    for name in ["hypervkvpd", "hv_fcopy_uio_daemon"] {
        symlink(&agent, directory.path().join(name)).unwrap();
    }
    let script = format!(
        "cd {}; ./hypervkvpd -n --debug & ./hv_fcopy_uio_daemon --no-daemon & \
         trap '{} run --log stderr; ./hypervkvpd' USR1; while :; do wait; done",
        directory.path().display(),
        agent.display(),
    );
    let mut machine = BlackBox::new(&shell_words::join(["sh", "-c", &script])).unwrap();
    let fcopy = machine.offer(uio(&fcopy::ENTRY, 0)).unwrap();
    let kvp = machine.offer(uio(&kvp::ENTRY, 1)).unwrap();
    machine.start().unwrap();
    let mut files = FcopyHost::connect(fcopy.accept(LONG).unwrap()).unwrap();
    let mut values = KvpHost::connect(kvp.accept(LONG).unwrap()).unwrap();
    copy(&mut files, machine.directory());
    assert_eq!(values.set(0, "key", "value").unwrap(), Status::OK);
    // Neither the agent for all services nor a second one for the same service runs beside
    // them.
    signal(&machine, Signal::SIGUSR1);
    wait::until(LONG, "both to end", || {
        let refused = machine.log().matches("another hyperv-agent runs").count();
        Ok((refused == 2).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}; the log is:\n{}", machine.log()));
    assert!(!machine.log().contains("has the device open"));
}

#[test]
fn a_device_that_another_program_has_is_complained_of_once() {
    let Some(first) = unavailable().is_none().then(agent) else {
        return in_guest("run", |_| {});
    };
    // Two agents in one guest, each with a runtime directory of its own: the
    // second finds the device busy.
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    let line = format!("runtime-directory = {:?}\n", directory.path());
    fs::write(&config, line).unwrap();
    let script = format!(
        "{0} run --log stderr & exec {0} run --log stderr --config {1}",
        first.display(),
        config.display()
    );
    let script = shell_words::quote(&script).into_owned();
    let mut machine = BlackBox::new(&format!("sh -c {script}")).unwrap();
    let device = machine
        .offer(Offer::HvUtil {
            class: fcopy::ENTRY.class,
            instance: Guid::from_u128(1),
            node: fcopy::ENTRY.hvutil.node,
        })
        .unwrap();
    machine.start().unwrap();
    let mut host = FcopyHost::connect(device.accept(LONG).unwrap()).unwrap();
    wait_for(&machine, "another program serves the device; stop it");
    copy(&mut host, machine.directory());
}

/// Asks the agent whose runtime directory is in this configuration.
fn status(config: &Path, arguments: &[&str]) -> String {
    let output = Command::new(agent())
        .args(["status", "--config"])
        .arg(config)
        .args(arguments)
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_doctor_finds_nothing_wrong_with_what_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    let text = format!(
        "runtime-directory = {:?}\n[services]\nkvp = false\nvss = false\n",
        directory.path()
    );
    fs::write(&config, text).unwrap();
    let result = |json: &str, name: &str| {
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        let mut checks = json["checks"].as_array().unwrap().iter();
        let check = checks.find(|check| check["name"] == name).unwrap();
        check["result"].as_str().unwrap().to_owned()
    };
    let options = format!("--config {}", config.display());
    in_guest(&format!("doctor --json {options}"), |machine| {
        machine.offer(uio(&fcopy::ENTRY, 3)).unwrap();
        machine.start().unwrap();
        wait::until(LONG, "its end", || Ok(machine.exit_status())).unwrap();
        // No agent runs.
        assert_eq!(machine.exit_status().unwrap().code(), Some(1));
        wait_for(machine, "\n}");
        let json = machine.log();
        for name in [
            "hypervisor",
            "offered",
            "modules",
            "devices",
            "configuration",
        ] {
            assert_eq!(result(&json, name), "ok", "{json}");
        }
        assert_eq!(result(&json, "agent"), "error", "{json}");
    });
    in_guest(&format!("run {options}"), |machine| {
        let device = machine.offer(uio(&fcopy::ENTRY, 3)).unwrap();
        machine.start().unwrap();
        let _host = FcopyHost::connect(device.accept(LONG).unwrap()).unwrap();
        let doctor = Command::new(agent())
            .args(["doctor", "--json", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        let json = String::from_utf8(doctor.stdout).unwrap();
        for name in ["agent", "runtime-state", "limits"] {
            assert_eq!(result(&json, name), "ok", "{json}");
        }
    });
}

#[test]
fn the_status_shows_how_far_a_copy_is() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    // Also where the mount namespace is another, a socket is reached by its file.
    let line = format!("runtime-directory = {:?}\n", directory.path());
    fs::write(&config, line).unwrap();
    for over in ["rings", "the character device"] {
        in_guest(&format!("run --config {}", config.display()), |machine| {
            let rings = over == "rings";
            let device = match rings {
                true => machine.offer(uio(&fcopy::ENTRY, 0)),
                false => machine.offer(Offer::HvUtil {
                    class: fcopy::ENTRY.class,
                    instance: Guid::from_u128(0x1000),
                    node: fcopy::ENTRY.hvutil.node,
                }),
            };
            machine.start().unwrap();
            let mut host = FcopyHost::connect(device.unwrap().accept(LONG).unwrap()).unwrap();
            let target = machine.directory().to_str().unwrap().to_owned();
            let start = Operation::Start(Start::new(&target, "file", OVERWRITE, 8192));
            for operation in [start, Operation::write(0, &[7; 4096])] {
                assert_eq!(host.request(&operation).unwrap(), Status::OK);
            }

            let json: serde_json::Value =
                serde_json::from_str(&status(&config, &["--json"])).unwrap();
            assert_eq!(json["pid"], machine.pid().unwrap());
            let service = &json["services"][0];
            assert_eq!(service["name"], "fcopy");
            assert_eq!(
                (&service["requests"], &service["failures"]),
                (&2.into(), &0.into())
            );
            let device = &service["devices"][0];
            assert_eq!(device["state"], "serving");
            assert_eq!(device["instance"], "00000000-0000-0000-0000-000000001000");
            let (node, transport, versions) = match rings {
                true => (
                    "/dev/uio0",
                    "uio",
                    serde_json::json!({"framework": "3.0", "message": "1.1"}),
                ),
                false => ("/dev/vmbus/hv_fcopy", "hvutil", serde_json::Value::Null),
            };
            assert_eq!(device["node"], node);
            assert_eq!(device["transport"], transport);
            assert_eq!(device["versions"], versions);
            let operation = &device["operation"];
            assert_eq!(operation["kind"], "copying");
            assert_eq!(operation["path"], format!("{target}/file"));
            assert_eq!(
                (&operation["done"], &operation["size"]),
                (&4096.into(), &8192.into())
            );

            let text = status(&config, &[]);
            let words = format!("copying to {target}/file, 4.0 KiB of 8.0 KiB (50 %), for ");
            assert!(text.contains(&words), "{text}");

            // A part behind a hole, and the end: it fails, and the reply says so.
            for (operation, expected) in [
                (Operation::write(5000, &[7; 100]), Status::OK),
                (Operation::Complete, Status::FAIL),
            ] {
                assert_eq!(host.request(&operation).unwrap(), expected);
            }
            let text = status(&config, &[]);
            assert!(text.contains("requests     4, 1 failed"), "{text}");
            assert!(
                text.contains("the host never sent bytes 4096 to 5000"),
                "{text}"
            );
            assert!(!text.contains("operation"), "{text}");
        });
    }
}

#[test]
fn a_second_agent_ends_and_says_which_one_runs() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    let line = format!("runtime-directory = {:?}\n", directory.path());
    fs::write(&config, line).unwrap();
    let arguments = format!("run --config {}", config.display());
    in_guest(&arguments, |first| {
        let device = first.offer(uio(&fcopy::ENTRY, 0)).unwrap();
        first.start().unwrap();
        let mut host = FcopyHost::connect(device.accept(LONG).unwrap()).unwrap();
        for flag in ["--no-daemon", "--daemon"] {
            in_guest(&format!("{arguments} {flag}"), |second| {
                second.start().unwrap();
                wait::until(LONG, "its end", || Ok(second.exit_status())).unwrap();
                assert_eq!(second.exit_status().unwrap().code(), Some(1));
                let words = format!(
                    "another hyperv-agent runs (process {})",
                    first.pid().unwrap()
                );
                wait_for(second, &words);
            });
        }
        copy(&mut host, first.directory());
        // One that was killed leaves a socket, and no lock.
        first.kill().unwrap();
        assert!(directory.path().join("control").exists());
        let ended = Command::new(agent())
            .args(["status", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(3));
        in_guest(&arguments, |next| {
            let device = next.offer(uio(&fcopy::ENTRY, 0)).unwrap();
            next.start().unwrap();
            FcopyHost::connect(device.accept(LONG).unwrap()).unwrap();
            let json = status(&config, &["--json"]);
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(json["pid"], next.pid().unwrap());
            next.stop().unwrap();
            assert!(!directory.path().join("control").exists());
        });
    });
}

#[test]
fn an_agent_without_its_sockets_says_what_cannot_reach_it_and_serves() {
    let directory = tempfile::tempdir().unwrap();
    // No socket can replace it.
    fs::create_dir_all(directory.path().join("request/full")).unwrap();
    let requests = "`hyperv-agent capture`, `hyperv-agent reload`, `hyperv-agent vss rehearse`: ";
    for (runtime, words) in [
        (
            Path::new("/proc/none"),
            format!("`hyperv-agent status`, {requests}cannot use the directory /proc/none"),
        ),
        (
            directory.path(),
            format!("these commands cannot reach this agent: {requests}"),
        ),
    ] {
        let config = directory.path().join("config.toml");
        fs::write(&config, format!("runtime-directory = {runtime:?}\n")).unwrap();
        in_guest(&format!("run --config {}", config.display()), |machine| {
            let device = machine.offer(uio(&fcopy::ENTRY, 0)).unwrap();
            machine.start().unwrap();
            wait_for(machine, &words);
            let mut host = FcopyHost::connect(device.accept(LONG).unwrap()).unwrap();
            copy(&mut host, machine.directory());
        });
    }
}
