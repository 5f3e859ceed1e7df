//! The flow tests of the reference project, by the product's own command: they pass, crashes make no difference to them, and they notice
//! mistakes. Not what single tests say.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::Sandbox;

/// Runs `crossdock test` on the reference project.
fn test(arguments: &[&str]) -> (Output, Value) {
    let out = Command::new(env!("CARGO_BIN_EXE_crossdock"))
        .args(["test", "--format", "json"])
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .output()
        .unwrap();
    let shown = serde_json::from_slice(&out.stdout).unwrap_or_else(|error| {
        panic!(
            "{error}: {}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        )
    });
    (out, shown)
}

/// The tests that did not pass, with what is not as expected.
fn failed(shown: &Value) -> Vec<String> {
    let tests = shown["tests"].as_array().unwrap().iter();
    tests
        .filter(|test| test["passed"] != true)
        .map(|test| format!("{}: {} {}", test["test"], test["misses"], test["broken"]))
        .collect()
}

#[test]
fn the_reference_project_passes_its_tests_and_crashes_make_no_difference() {
    let (out, shown) = test(&["--crash-sweep", "--coverage", "--coverage-min", "100"]);
    assert_eq!(failed(&shown), [""; 0]);
    let mut crashes = 0;
    for test in shown["tests"].as_array().unwrap() {
        let swept = &test["crash_sweep"];
        assert_eq!(swept["different"], serde_json::json!([]), "{test}");
        crashes += swept["crashes"].as_u64().unwrap();
    }
    println!(
        "{} tests, {crashes} crashes, coverage {}%",
        shown["tests"].as_array().unwrap().len(),
        shown["coverage_percent"]
    );
    assert!(crashes > 300, "{crashes} crashes");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn the_tests_of_the_reference_project_notice_mistakes() {
    let (out, shown) = test(&["--mutate", "--mutate-min", "98"]);
    let mutants = &shown["mutants"];
    println!(
        "mutants {} killed {} ({} by check) survived {}",
        mutants["all"], mutants["killed"], mutants["by_check"], mutants["survived"]
    );
    assert!(mutants["all"].as_u64().unwrap() > 150, "{mutants}");
    assert_eq!(mutants["untested"], serde_json::json!([]));
    assert!(out.status.success(), "{mutants}");
}

/// A project with one flow: orders from standard input, priced, and put into an outbox.
fn small(tests: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file(
        "flows/orders.yaml",
        "flow: orders
source: { stdin: { format: jsonl } }
keys: { order: number }
once: { key: order }
steps:
  - { id: live, filter: \"state != 'cancelled'\" }
  - { id: price, map: order }
sinks:
  erp: { http: { system: erp, post: /orders, idempotency_key: number }, retry: { attempts: 3, first: 1s } }
",
    );
    sandbox.file(
        "mappings/order.yaml",
        "mapping: order\nfields: { number: number, total: \"multiply(decimal(price), quantity)\", who: who }\n",
    );
    sandbox.file(
        "systems/erp.yaml",
        "system: erp\nhttp: { base_url: \"http://127.0.0.1:9\" }\n",
    );
    sandbox.file("flows/orders.test.yaml", tests);
    sandbox
}

const GOOD: &str = "flow: orders
systems: { erp: [{ on: POST /orders, answers: [201] }] }
tests:
  - test: an order is priced
    send: [{ body: { number: A-1, price: \"2.50\", quantity: 3, who: Mara } }]
    expect:
      calls: { erp: [{ on: POST /orders, body: { total: 7.50 } }] }
  - test: a cancelled order is none
    send: [{ body: { number: A-2, state: cancelled } }]
    expect: { calls: { erp: none }, books: { orders: { filtered: 1 } } }
";

/// Runs a command in a sandbox; gives its exit code and all that it said.
fn said(sandbox: &Sandbox, arguments: &[&str]) -> (i32, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_crossdock"))
        .args(arguments)
        .current_dir(sandbox.root())
        .output()
        .unwrap();
    let text = [out.stdout, out.stderr].concat();
    (
        out.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn what_is_not_as_expected_is_told_path_by_path_with_its_line() {
    let sandbox = small(
        &GOOD
            .replace("7.50", "8.50")
            .replace("filtered: 1", "filtered: 2"),
    );
    let (code, text) = said(&sandbox, &["test"]);
    assert_eq!(code, 1, "{text}");
    for part in [
        "FAIL an order is priced",
        "flows/orders.test.yaml:7:",
        "body.total: expected 8.50, is 7.50 (line 7)",
        "filtered: expected 2, is 1",
        "0 passed, 2 failed",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (code, text) = said(&sandbox, &["test", "--tap", "--filter", "cancelled"]);
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("1..1\nnot ok 1 - flows/orders.test.yaml: a cancelled"),
        "{text}"
    );
    let (code, text) = said(&sandbox, &["test", "--junit", "report.xml"]);
    assert_eq!(code, 1, "{text}");
    let report = std::fs::read_to_string(sandbox.root().join("report.xml")).unwrap();
    assert!(
        report.contains("<testsuites tests=\"2\" failures=\"2\">"),
        "{report}"
    );
}

#[test]
fn a_request_without_an_answer_an_exception_and_a_crash_that_never_comes_fail_a_test() {
    let bare = GOOD.replace(
        "[{ on: POST /orders, answers: [201] }]",
        "[{ on: POST /other, answers: [201] }]",
    );
    let (code, text) = said(&small(&bare), &["test"]);
    assert_eq!(code, 1);
    assert!(text.contains("no rule of the test answers"), "{text}");
    let refused = GOOD
        .replace("[201]", "[422]")
        .replace("calls: { erp: [{", "calls: { erp: [{ answer: 422,");
    let (code, text) = said(&small(&refused), &["test"]);
    assert_eq!(code, 1);
    assert!(text.contains("nothing must wait for a person"), "{text}");
    let crash = GOOD.replace(
        "    send: [{ body: { number: A-2",
        "    crash: { after_commit: 99 }\n    send: [{ body: { number: A-2",
    );
    let (code, text) = said(&small(&crash), &["test"]);
    assert_eq!(code, 1);
    assert!(text.contains("the engine died 0 of 1 times"), "{text}");
}

#[test]
fn mistakes_in_tests_are_found_before_they_run() {
    let wrong = "flow: order
systems: { er: [{ on: /orders, answers: [{ file: nowhere.json }] }] }
tests:
  - test: a
    send: [{ body: {}, text: x }]
    crash: {}
    expect: {}
  - test: a
    sent: []
    send: [{ body: {}, to: nobody }]
    expect: { outputs: { erp: none }, exceptions: [{ step: x, class: bad }], where: [\"a ==\"], calls: { erp: [{ on: GET /, body: { $like: 1 } }] } }
";
    let sandbox = small(
        &wrong
            .replace("    sent: []\n", "")
            .replace("flow: order\n", "flow: orders\n"),
    );
    let (code, text) = said(&sandbox, &["check", "--format", "json"]);
    assert_eq!(code, 1, "{text}");
    let found: Value = serde_json::from_str(&text).unwrap();
    let mut codes: Vec<&str> = found
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["code"].as_str().unwrap())
        .collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(
        codes,
        [
            "bad-matcher",
            "bad-test",
            "bad-value",
            "conflicting-settings",
            "duplicate-id",
            "expression-syntax",
            "missing-fixture",
            "unknown-flow",
            "unknown-step",
            "unknown-system"
        ],
        "{text}"
    );
    let (code, text) = said(&small(wrong), &["check"]);
    assert_eq!(code, 1);
    assert!(text.contains("unknown field `sent`"), "{text}");
    let (code, _) = said(&sandbox, &["test"]);
    assert_eq!(code, 78);
}

#[test]
fn a_snapshot_is_written_and_held_against_what_comes_later() {
    let tests = GOOD.replace(
        "expect:\n      calls",
        "expect:\n      snapshot: true\n      calls",
    );
    let sandbox = small(&tests);
    let (code, text) = said(&sandbox, &["test"]);
    assert!(code == 1 && text.contains("there is no snapshot"), "{text}");
    let (code, text) = said(&sandbox, &["test", "--update"]);
    assert!(code == 0 && text.contains("snapshot written"), "{text}");
    assert_eq!(said(&sandbox, &["test"]).0, 0);
    sandbox.file(
        "mappings/order.yaml",
        "mapping: order\nfields: { number: number, total: \"multiply(decimal(price), quantity)\", who: upper(who) }\n",
    );
    let (code, text) = said(&sandbox, &["test"]);
    assert!(
        code == 1 && text.contains("expected \"Mara\", is \"MARA\""),
        "{text}"
    );
}

#[test]
fn a_real_run_becomes_a_test_that_passes_and_tells_no_names() {
    let sandbox = small(GOOD);
    std::fs::remove_file(sandbox.root().join("flows/orders.test.yaml")).unwrap();
    sandbox.file(
        "flows/orders.yaml",
        "flow: orders
source: { stdin: { format: jsonl } }
keys: { order: number }
once: { key: order }
steps: [{ id: price, map: order }]
sinks: { booked: { flow: booked } }
",
    );
    sandbox.file(
        "flows/booked.yaml",
        "flow: booked\nsource: { flow: {} }\nsinks: { out: { file: { path: out.jsonl, format: jsonl } } }\n",
    );
    std::fs::remove_file(sandbox.root().join("systems/erp.yaml")).unwrap();
    let mut engine = Command::new(env!("CARGO_BIN_EXE_crossdock"))
        .arg("run")
        .env("CROSSDOCK_LISTEN", "127.0.0.1:0")
        .current_dir(sandbox.root())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let order = b"{\"number\":\"A-1\",\"price\":\"2.50\",\"quantity\":3,\"who\":\"Mara\"}\n";
    std::io::Write::write_all(&mut engine.stdin.take().unwrap(), order).unwrap();
    // Standard input ends, and the engine with it.
    assert!(engine.wait().unwrap().success());
    let (code, text) = said(&sandbox, &["test", "record", "1", "--mask", "who"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        !text.contains("Mara") && text.contains("masked-1"),
        "{text}"
    );
    sandbox.file("flows/kept.test.yaml", &text);
    let (code, shown) = said(&sandbox, &["test"]);
    assert_eq!(code, 0, "{text}\n{shown}");
    sandbox.file("flows/kept.test.yaml", &text.replace("7.50", "7.51"));
    assert_eq!(said(&sandbox, &["test"]).0, 1);
}
