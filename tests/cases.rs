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
    for part in ["resolved retried", "anna  retried", "keys order="] {
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

/// A target that says 200 to everything and keeps what it was sent: idempotency key and body. As long as it refuses it says 422.
struct Target {
    address: std::net::SocketAddr,
    refuses: std::sync::Arc<std::sync::atomic::AtomicBool>,
    seen: std::sync::Arc<std::sync::Mutex<Vec<(String, String)>>>,
}

impl Target {
    fn at(address: &str) -> Target {
        use std::io::{BufRead, BufReader, Read, Write};
        let listener = std::net::TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let kept = seen.clone();
        let refuses = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let refused = refuses.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (kept, refused) = (kept.clone(), refused.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
                    loop {
                        let (mut length, mut key) = (0, String::new());
                        loop {
                            let mut line = String::new();
                            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                                return;
                            }
                            let line = line.trim_end().to_ascii_lowercase();
                            if line.is_empty() {
                                break;
                            }
                            match line.split_once(": ") {
                                Some(("content-length", many)) => length = many.parse().unwrap(),
                                Some(("idempotency-key", given)) => key = given.to_owned(),
                                _ => {}
                            }
                        }
                        let mut body = vec![0; length];
                        if reader.read_exact(&mut body).is_err() {
                            return;
                        }
                        let answer: &[u8] = if refused.load(std::sync::atomic::Ordering::SeqCst) {
                            b"HTTP/1.1 422 No\r\ncontent-length: 2\r\n\r\n{}"
                        } else {
                            kept.lock().unwrap().push((key, text(&body)));
                            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
                        };
                        if reader.get_mut().write_all(answer).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Target {
            address,
            refuses,
            seen,
        }
    }

    fn seen(&self) -> Vec<(String, String)> {
        self.seen.lock().unwrap().clone()
    }
}

const MAPPED: &str = "flow: orders
source:
  webhook: { path: /orders, verify: none }
keys: { order: number }
once: { key: order }
steps:
  - id: canonical
    map: order
sinks:
  book: { flow: booking }
";
const BOOKING: &str = "flow: booking
source: { flow: {} }
sinks:
  erp: { http: { system: erp, post: /orders, idempotency_key: ref } }
";

#[test]
fn a_changed_mapping_is_simulated_against_what_was_sent_and_a_rerun_sends_nothing_twice() {
    let target = Target::at("127.0.0.1:0");
    let sandbox = Sandbox::new();
    let system = format!(
        "system: erp\nhttp: {{ base_url: 'http://{}' }}\n",
        target.address
    );
    sandbox.file("systems/erp.yaml", &system);
    sandbox.file("flows/orders.yaml", MAPPED);
    sandbox.file("flows/booking.yaml", BOOKING);
    let mapping =
        |total: &str| format!("mapping: order\nfields:\n  ref: number\n  total: {total}\n");
    sandbox.file("mappings/order.yaml", &mapping("total"));
    let engine = sandbox.start_with(&["--no-watch"]);
    for n in 0..4 {
        sandbox.post(
            "/orders",
            format!(r#"{{"number":"{n}","total":{n}}}"#).as_bytes(),
        );
    }
    sandbox.books_at_rest(8);
    assert_eq!(target.seen().len(), 4);
    let same = sandbox.prints(&["simulate", "orders", "--last", "100"]);
    assert_eq!(same, "4 same, 0 different, 0 would fail\n");
    // The mapping is changed on the disk, while the engine runs with the old one.
    sandbox.file(
        "mappings/order.yaml",
        &mapping("\"multiply(decimal(total), `2`)\""),
    );
    let differs = sandbox.crossdock(&["simulate", "orders", "--last", "2"]);
    let said = text(&differs.stdout);
    assert_eq!(
        differs.status.code(),
        Some(1),
        "{said}{}",
        text(&differs.stderr)
    );
    assert!(
        said.contains("booking / erp\n    body.total: 3 -> 6\n"),
        "{said}"
    );
    assert!(
        said.ends_with("0 same, 2 different, 0 would fail\n"),
        "{said}"
    );
    assert_eq!(target.seen().len(), 4, "nothing was sent");
    let orders: Vec<String> = sandbox
        .prints(&["runs", "--flow", "orders", "--json"])
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["run"].to_string())
        .collect();
    // The engine still has the old mapping: a rerun finds everything done.
    let said = sandbox.prints(&["replay", "rerun", &orders[0]]);
    assert!(
        said.contains(&format!("takes the place of run {}", orders[0])),
        "{said}"
    );
    let books = sandbox.books_at_rest(9);
    assert_eq!(target.seen().len(), 4, "what was done is not done again");
    assert_eq!(books["flows"]["orders"]["accepted"], 4);
    assert_eq!(books["flows"]["booking"]["duplicates"], 1);
    sandbox.prints(&[
        "replay",
        "rerun",
        &orders[1],
        "--as-new",
        "--reason",
        "the ERP lost it",
    ]);
    eventually("it is sent as new", || {
        (target.seen().len() == 5).then_some(())
    });
    sandbox.books_at_rest(10);
    let key = &target.seen()[4].0;
    assert!(key.ends_with("-1"), "{key}");
    let original = sandbox.crossdock(&["replay", "rerun", &orders[2], "--revision", "original"]);
    assert_eq!(original.status.code(), Some(0));
    assert_eq!(engine.terminate(), Some(0));
    let engine = sandbox.start();
    let original = sandbox.crossdock(&["replay", "rerun", &orders[3], "--revision", "original"]);
    // The engine has the changed mapping now, and the store has the one under which the run was accepted.
    assert_eq!(
        original.status.code(),
        Some(0),
        "{}",
        text(&original.stderr)
    );
    sandbox.books_at_rest(12);
    assert_eq!(target.seen().len(), 5, "what was done is not done again");
    let books = sandbox.crossdock(&["books", "--recount"]);
    assert_eq!(books.status.code(), Some(0), "{}", text(&books.stdout));
    drop(engine);
}

#[test]
fn a_file_has_one_line_for_a_message_however_often_it_is_done_again() {
    let sandbox = Sandbox::new();
    sandbox.file("flows/orders.yaml", "flow: orders\nsource:\n  webhook: { path: /orders, verify: none }\nkeys: { order: number }\nsteps:\n  - id: lines\n    split: { items: lines, key: sku }\nsinks:\n  out: { file: { path: out.jsonl, format: jsonl } }\n");
    let engine = sandbox.start();
    sandbox.post(
        "/orders",
        br#"{"number":"1","lines":[{"sku":"a"},{"sku":"b"}]}"#,
    );
    sandbox.books_at_rest(1);
    let lines = || {
        let out = std::fs::read_to_string(sandbox.root().join("out.jsonl")).unwrap();
        out.lines().count()
    };
    assert_eq!(lines(), 2);
    sandbox.prints(&["replay", "rerun", "1"]);
    sandbox.books_at_rest(1);
    sandbox.prints(&["replay", "rerun-from", "out", "2"]);
    sandbox.books_at_rest(1);
    assert_eq!(lines(), 2, "a rerun writes no second line");
    sandbox.prints(&["replay", "rerun", "3", "--as-new"]);
    let books = sandbox.books_at_rest(1);
    assert_eq!(lines(), 4);
    assert_eq!(
        (&books["all"]["accepted"], &books["balanced"]),
        (&json!(1), &json!(true))
    );
    drop(engine);
}

/// Sixty orders that the target has refused are done again as a list, at a rate; the engine is killed in the middle of it, five times.
#[test]
fn a_list_of_replays_survives_kill_9_and_each_item_is_done_once() {
    const MANY: usize = 60;
    let target = Target::at("127.0.0.1:0");
    let refuse = |refuses| {
        target
            .refuses
            .store(refuses, std::sync::atomic::Ordering::SeqCst)
    };
    refuse(true);
    let address = target.address;
    let sandbox = project();
    sandbox.file(
        "systems/erp.yaml",
        &format!("system: erp\nhttp: {{ base_url: 'http://{address}' }}\n"),
    );
    let engine = sandbox.start();
    for n in 0..MANY {
        sandbox.post("/orders", format!(r#"{{"number":"{n}"}}"#).as_bytes());
    }
    eventually("all wait for a person", || {
        let rows = sandbox.prints(&["exceptions", "--json", "--limit", "1000"]);
        (rows.lines().count() == MANY).then_some(())
    });
    refuse(false);
    let said = sandbox.prints(&[
        "replay",
        "--flow",
        "orders",
        "--state",
        "in-exception",
        "--verb",
        "rerun",
        "--rate",
        "60",
    ]);
    assert!(
        said.starts_with(&format!("replay 1: {MANY} runs")),
        "{said}"
    );
    drop(engine);
    for _ in 0..5 {
        let engine = sandbox.start();
        std::thread::sleep(std::time::Duration::from_millis(120));
        drop(engine);
    }
    let engine = sandbox.start();
    eventually("the list is finished", || {
        let list: Value = serde_json::from_str(&sandbox.prints(&["replays", "--json"])).unwrap();
        (list["state"] == "finished").then_some(())
    });
    let books = sandbox.books_at_rest(MANY as i64);
    assert_eq!(
        (&books["all"]["delivered"], &books["all"]["accepted"]),
        (&json!(MANY), &json!(MANY))
    );
    let receipts = sandbox.prints(&["replays", "show", "1", "--json"]);
    let became: std::collections::BTreeSet<i64> = receipts
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .inspect(|receipt| assert_eq!(receipt["state"], "delivered", "{receipt}"))
        .map(|receipt| receipt["became"].as_i64().unwrap())
        .collect();
    assert_eq!(became.len(), MANY, "a receipt and a run for each");
    // A kill between a request and its result repeats it with the same key: the target recognises it.
    let keys: std::collections::BTreeSet<_> =
        target.seen().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), MANY);
    drop(engine);
}
