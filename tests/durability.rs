//! `kill -9` under load, in each mode of the ERP; the demo's oracle counts lost and doubled from the two journals.

use std::process::Command;

use crate::support::Sandbox;

/// Runs the demo with kills; it fails by itself when anything is lost or doubled, when nothing was sent, and when the kills met no work.
fn survives(erp: &str, seed: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_crossdock"))
        .args([
            "demo", "--orders", "1600", "--kills", "20", "--erp", erp, "--seed", seed,
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

#[test]
fn a_start_leaves_alone_what_others_have_added_to_a_file() {
    let sandbox = Sandbox::new();
    sandbox.file(
        "flows/orders.yaml",
        "flow: orders\nsource: { webhook: { path: /orders, verify: none } }\nsinks:\n  out: { file: { path: out/orders.jsonl, format: jsonl } }\n",
    );
    let running = sandbox.start();
    sandbox.post("/orders", b"{\"id\": \"SO-1\"}");
    sandbox.books_at_rest(1);
    drop(running);
    let committed = sandbox.read_all("out/");
    assert!(committed.contains("SO-1"), "{committed}");
    let added = format!("{committed}# checked by hand\n");
    sandbox.file("out/orders.jsonl", &added);
    let _running = sandbox.start();
    assert_eq!(sandbox.read_all("out/"), added);
}
