//! `kill -9` under load, in each mode of the ERP; the demo's oracle counts lost and doubled from the two journals.

use std::process::Command;

/// Runs the demo with kills; it fails by itself when anything is lost or doubled, when nothing was sent, and when the kills met no work.
fn survives(erp: &str, seed: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_crossdock"))
        .args([
            "demo", "--orders", "3000", "--kills", "20", "--erp", erp, "--seed", seed,
        ])
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{erp}: {:?}\n{out}\n{err}",
        output.status
    );
    assert!(out.contains("lost 0, doubled 0"), "{erp}:\n{out}");
}

#[test]
fn twenty_kills_lose_and_double_nothing_where_the_erp_honours_keys() {
    survives("keys", "11");
}

#[test]
fn twenty_kills_lose_and_double_nothing_where_the_erp_answers_probes() {
    survives("probe", "12");
}

#[test]
fn twenty_kills_lose_and_double_nothing_where_the_erp_does_neither() {
    survives("neither", "13");
}
