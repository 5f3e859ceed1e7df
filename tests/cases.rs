//! What people do about exceptions, with the program: beside a running engine, and on a store on which none runs.

use serde_json::{Value, json};

use crate::support::{Sandbox, eventually, text};

/// A project that books orders in an ERP at a port where nobody listens, so that each is refused at once.
fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file(
        "systems/erp.yaml",
        "system: erp\nhttp: { base_url: 'http://127.0.0.1:9' }\n",
    );
    sandbox.file(
        "schemas/order.v1.json",
        r#"{"type": "object", "required": ["number"], "properties": {"number": {"type": "string"}, "total": {"type": "number"}}}"#,
    );
    sandbox.file("flows/orders.yaml", &flow("erp: { http: { system: erp, post: /orders, idempotency_key: number }, retry: { attempts: 1 } }"));
    sandbox
}

fn flow(sink: &str) -> String {
    format!(
        "flow: orders\nsource:\n  webhook: {{ path: /orders, verify: none }}\naccepts: order.v1\nkeys: {{ order: number }}\nonce: {{ key: order }}\nsteps: []\nsinks:\n  {sink}\n"
    )
}

const FILE_SINK: &str = "out: { file: { path: out.jsonl, format: jsonl } }";

fn exceptions(sandbox: &Sandbox) -> Vec<Value> {
    sandbox
        .prints(&["exceptions", "--json", "--all"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn states(sandbox: &Sandbox) -> Vec<Value> {
    let mut states: Vec<Value> = exceptions(sandbox)
        .iter()
        .map(|row| json!([row["id"], row["state"], row["how"]]))
        .collect();
    states.reverse();
    states
}

#[test]
fn one_cause_is_one_issue_and_one_command_sends_all_again() {
    let sandbox = project();
    let engine = sandbox.start();
    for n in 0..3 {
        let reply = sandbox.post("/orders", format!(r#"{{"number":"{n}"}}"#).as_bytes());
        assert_eq!(reply.status, 200);
    }
    eventually("three exceptions", || {
        (exceptions(&sandbox).len() == 3).then_some(())
    });
    let issues = sandbox.prints(&["exceptions", "--issues", "--json"]);
    let issue: Value = serde_json::from_str(&issues).unwrap();
    assert_eq!((&issue["open"], &issue["step"]), (&json!(3), &json!("erp")));
    let fingerprint = issue["fingerprint"].as_str().unwrap();
    let asked = sandbox.prints(&["exceptions", "retry", "--issue", fingerprint, "--dry-run"]);
    assert_eq!(asked, "3 would be retried; nothing was changed\n");
    assert_eq!(exceptions(&sandbox).len(), 3);
    let said = sandbox.prints(&[
        "exceptions",
        "retry",
        "--issue",
        &fingerprint[..6],
        "--as",
        "anna",
    ]);
    assert_eq!(said, "3 retried\n");
    eventually("each fails again", || {
        (exceptions(&sandbox).len() == 6).then_some(())
    });
    // The target lives from now on: what waits goes there.
    assert_eq!(engine.terminate(), Some(0));
    sandbox.file(
        "flows/orders.yaml",
        &flow(&FILE_SINK.replace("out:", "erp:")),
    );
    let engine = sandbox.start();
    assert_eq!(
        sandbox.prints(&["exceptions", "retry", "--all"]),
        "3 retried\n"
    );
    let books = sandbox.books_at_rest(3);
    assert_eq!(
        (&books["all"]["delivered"], &books["balanced"]),
        (&json!(3), &json!(true))
    );
    assert_eq!(sandbox.read_all("out.jsonl").lines().count(), 0);
    let out = std::fs::read_to_string(sandbox.root().join("out.jsonl")).unwrap();
    assert_eq!(out.lines().count(), 3);
    let shown = sandbox.prints(&["exceptions", "show", "1"]);
    for part in ["resolved retried", "anna  retried", "keys order=0"] {
        assert!(shown.contains(part), "{shown}");
    }
    assert_eq!(engine.terminate(), Some(0));
    assert!(!sandbox.root().join(".crossdock/engine.sock").exists());
}

#[test]
fn without_an_engine_the_store_is_changed_and_what_goes_on_waits_for_the_next_start() {
    let sandbox = project();
    let engine = sandbox.start();
    sandbox.post("/orders", br#"{"number":"1"}"#);
    sandbox.post("/orders", br#"{"number":2}"#);
    sandbox.post("/orders", br#"{"number":"3"}"#);
    eventually("three exceptions", || {
        (exceptions(&sandbox).len() == 3).then_some(())
    });
    assert_eq!(engine.terminate(), Some(0));
    sandbox.file(
        "flows/orders.yaml",
        &flow(&FILE_SINK.replace("out:", "erp:")),
    );
    let step = |row: &Value| row["step"].as_str().unwrap().to_owned();
    let rows = exceptions(&sandbox);
    let at_door = rows.iter().find(|row| step(row) == "@accept").unwrap()["id"].to_string();
    let others: Vec<String> = rows
        .iter()
        .filter(|row| step(row) == "erp")
        .map(|row| row["id"].to_string())
        .collect();
    let refused = sandbox.crossdock(&["exceptions", "retry", &at_door]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("`order.v1`"),
        "{}",
        text(&refused.stderr)
    );
    sandbox.file("fixed.json", r#"{"number":"2"}"#);
    let edited = sandbox.prints(&[
        "exceptions",
        "edit",
        &at_door,
        "--body",
        "fixed.json",
        "--reason",
        "a text",
    ]);
    assert!(edited.contains("no engine runs"), "{edited}");
    sandbox.prints(&["exceptions", "assign", &others[0], "bert"]);
    let taken = sandbox.crossdock(&["exceptions", "assign", &others[0], "carl"]);
    assert!(
        text(&taken.stderr).contains("bert has it"),
        "{}",
        text(&taken.stderr)
    );
    sandbox.prints(&["exceptions", "snooze", &others[0], "2h"]);
    sandbox.prints(&["exceptions", "note", &others[0], "asked the ERP team"]);
    sandbox.prints(&["exceptions", "discard", &others[0], "--reason", "cancelled"]);
    sandbox.prints(&["exceptions", "retry", &others[1]]);
    let again = sandbox.crossdock(&["exceptions", "retry", &others[1]]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        text(&again.stderr).contains("it was resolved before by"),
        "{}",
        text(&again.stderr)
    );
    let engine = sandbox.start();
    let books = sandbox.books_at_rest(3);
    let all = &books["all"];
    assert_eq!(
        (&all["delivered"], &all["discarded"]),
        (&json!(2), &json!(1))
    );
    let out = std::fs::read_to_string(sandbox.root().join("out.jsonl")).unwrap();
    assert!(out.contains(r#"{"number":"2"}"#), "{out}");
    let journey = sandbox.prints(&["journey", "order=2"]);
    assert!(journey.contains("delivered"), "{journey}");
    let states = states(&sandbox);
    assert!(states.iter().all(|state| state[1] != "open"), "{states:?}");
    drop(engine);
}
