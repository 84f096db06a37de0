//! `hyperv-agent kvp ip`: what an administrator sees of the host's IP configurations.

// Indexing a JSON value returns null for a missing key.
#![expect(clippy::indexing_slicing)]

use anyhow::{Result, bail, ensure};
use hyperv_vmbus::ic::Status;
use serde_json::{Value, json};

use super::super::stage::{KvpStage, expect};
use super::network::{calls, clean, configuration, network, written};
use crate::network::Network;

const FILE: &str = "/etc/systemd/network/05-hyperv-agent-hvsim0.network";

fn ip(network: &dyn Network, arguments: &[&str]) -> Result<String> {
    network.run(&[&[network.program(), "kvp", "ip"], arguments].concat())
}

fn expect_words(text: &str, words: &[&str]) -> Result<()> {
    for words in words {
        ensure!(
            text.contains(words),
            "expected {words:?}; it printed\n{text}"
        );
    }
    Ok(())
}

pub(in super::super) fn works(stage: &mut KvpStage<'_>) -> Result<()> {
    let network = network(stage)?;
    clean(&*network)?;
    let pools = stage.machine().pools();
    let mut host = stage.connect()?;

    let options = ["--address", "10.3.0.2/24", "--gateway", "10.3.0.1"];
    let text = ip(
        &*network,
        &[&["hvsim0", "--dry-run"], &options[..]].concat(),
    )?;
    let file = format!("write {FILE} (mode 0644):");
    let apply = "run /usr/bin/networkctl reload";
    expect_words(&text, &[&file, "    Address=10.3.0.2/24\n", apply])?;
    let refused = ip(
        &*network,
        &["hvsim0", "--dry-run", "--address", "10.3.0.2/99"],
    );
    ensure!(refused.is_err(), "a wrong prefix length was not refused");
    ensure!(
        calls(&*network)?.is_empty() && written(stage, &*network, &pools)?.is_empty(),
        "a dry run changed something"
    );

    expect(host.set_ip_info(&configuration())?, Status::OK, "a SET")?;
    let shown: Value = serde_json::from_str(&ip(&*network, &["--json"])?)?;
    ensure!(
        shown[0]["interface"] == "hvsim0" && shown[1]["interface"] == "hvsim1",
        "expected both adapters; it printed {shown}"
    );
    let one = &shown[0];
    let told = &one["answer"];
    for (what, value, expected) in [
        ("gateways", &told["gateways"], json!(["10.3.0.1"])),
        ("DHCP", &told["dhcp"], json!(false)),
        ("manager", &one["target"]["manager"], json!("networkd")),
        ("files", &one["configured"]["files"], json!([FILE])),
        ("state", &one["configured"]["state"], json!("in-force")),
    ] {
        ensure!(
            *value == expected,
            "{what}: expected {expected}; it printed {one}"
        );
    }
    ensure!(
        shown[1]["configured"] == Value::Null,
        "the other one: {shown}"
    );
    let status = network.run(&[network.program(), "status"])?;
    expect_words(
        &status,
        &[
            "IP configurations of the host:\n  hvsim0, ",
            "10.3.0.2/24",
            FILE,
        ],
    )?;

    let before = calls(&*network)?.lines().count();
    let text = ip(&*network, &["undo", "hvsim0"])?;
    expect_words(&text, &[&format!("removed {FILE}\n")])?;
    ensure!(
        written(stage, &*network, &pools)?.is_empty(),
        "expected the files of the configuration to be gone"
    );
    ensure!(
        calls(&*network)?.lines().count() > before,
        "expected the network manager to load the files"
    );
    let Err(error) = ip(&*network, &["undo"]) else {
        bail!("there was something left to undo");
    };
    let words = "the host has configured no interface";
    ensure!(format!("{error:#}").contains(words), "{error:#}");
    let status = network.run(&[network.program(), "status", "--json"])?;
    let status: Value = serde_json::from_str(&status)?;
    ensure!(status["ip_configurations"] == json!([]), "{status}");
    stage.expect_working(&mut host)
}

pub(in super::super) fn generalize(stage: &mut KvpStage<'_>) -> Result<()> {
    let network = network(stage)?;
    clean(&*network)?;
    let pools = stage.machine().pools();
    let generalize =
        |options: &[&str]| network.run(&[&[network.program(), "generalize"], options].concat());
    let mut host = stage.connect()?;
    expect(host.set(0, "Key", "value")?, Status::OK, "a SET")?;
    expect(
        host.set_ip_info(&configuration())?,
        Status::OK,
        "a SET of an IP configuration",
    )?;
    let Err(error) = generalize(&["--yes"]) else {
        bail!("it was done while the agent runs");
    };
    let words = "another hyperv-agent runs";
    ensure!(format!("{error:#}").contains(words), "{error:#}");
    stage.machine().stop()?;

    let calls_before = calls(&*network)?;
    let shown = generalize(&[])?;
    let remove = format!("  remove {FILE}\n");
    let undo = "undo the host's IP configuration of hvsim0\n";
    let pool = "empty pool 0 (external), records: 1\n";
    expect_words(&shown, &[undo, &remove, pool, "Nothing was done"])?;
    ensure!(
        written(stage, &*network, &pools)?.len() == 3,
        "something was removed without --yes"
    );

    let done = generalize(&["--yes"])?;
    expect_words(&done, &[undo, &remove, pool])?;
    ensure!(
        written(stage, &*network, &pools)?.is_empty()
            && stage.files().read(&stage.pool(0))?.is_empty(),
        "expected nothing of the host to be left"
    );
    ensure!(
        calls(&*network)? == calls_before,
        "the network of the running machine was changed"
    );
    let again = generalize(&[])?;
    expect_words(&again, &["There is nothing to remove.\n"])?;
    stage.machine().start()?;
    let mut host = stage.connect()?;
    stage.expect_working(&mut host)
}
