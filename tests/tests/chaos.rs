//! A short chaos, by the command that plays it for longer.

use std::process::Command;

#[test]
fn a_few_rounds_leave_all_well() {
    let output = Command::new(env!("CARGO_BIN_EXE_hyperv-sim"))
        .args(["chaos", "--seconds", "2", "--seed", "1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.starts_with("chaos with seed 1 for 2 s\n"),
        "the seed comes first: {text}"
    );
    assert!(output.status.success(), "{text}");
}
