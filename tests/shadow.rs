//! A candidate is tried on copies of what is accepted: what it would do otherwise is told field by field, nothing of it is sent, and the traffic
//! is as it was.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::admin::Site;
use crate::faults::backing::{Backing, Services};
use crate::support::receiver::request;
use crate::support::{Running, Sandbox, eventually};

/// An ERP that knows every customer, takes every sale, and remembers what it was asked.
struct Erp {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Erp {
    fn start() -> Erp {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let shared = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let asked = shared.clone();
                std::thread::spawn(move || serve(stream, &asked));
            }
        });
        Erp { address, asked }
    }

    /// How many requests began like this.
    fn asked(&self, how: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|line| line.starts_with(how)).count()
    }
}

fn serve(stream: TcpStream, asked: &Mutex<Vec<String>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (head, _) = request(&mut stream)?;
        asked.lock().unwrap().push(head);
        let answer = r#"{"terms":"30 days"}"#;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json";
        let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        stream.get_mut().write_all(answer.as_bytes()).ok()?;
    }
}

/// Orders that ask for their customer and become sales.
fn flow(customer: &str, sale: &str) -> String {
    format!(
        "flow: orders
source:
  webhook: {{ path: /orders, verify: none, max_body: 2MB }}
keys: {{ order: number, customer: customer }}
once: {{ key: order }}
steps:
  - id: customer
    call: {{ system: erp, get: \"{customer}\" }}
    into: record
  - id: sale
    set: {{ body: \"{{{sale}}}\" }}
sinks:
  erp:
    http: {{ system: erp, post: /sales, idempotency_key: order }}
"
    )
}

const CUSTOMER: &str = "/customers/{{customer}}";
const SALE: &str =
    "order: number, lines: [{count: quantity}], total: total, note: note, terms: $record.terms";

/// The project, and beside it a candidate with these two of its flow.
fn project(sandbox: &Sandbox, erp: &Erp, customer: &str, sale: &str) -> String {
    let system = format!(
        "system: erp\nhttp: {{ base_url: \"http://{}\" }}\n",
        erp.address
    );
    sandbox.file("systems/erp.yaml", &system);
    sandbox.file("flows/orders.yaml", &flow(CUSTOMER, SALE));
    sandbox.file("next/systems/erp.yaml", &system);
    sandbox.file("next/flows/orders.yaml", &flow(customer, sale));
    sandbox.root().join("next").display().to_string()
}

fn post(sandbox: &Sandbox, number: &str, quantity: &str, note: &str) {
    let order = format!(
        r#"{{"number":"{number}","customer":"C1","quantity":"{quantity}","total":19.90,"note":"{note}"}}"#
    );
    let reply = sandbox.post("/orders", order.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.body);
}

fn start(sandbox: &Sandbox, folder: &str, more: &[&str]) -> String {
    let arguments = [&["shadow", "start", folder, "--reason", "a try"], more].concat();
    sandbox.prints(&arguments)
}

/// The last shadow.
fn shadow(sandbox: &Sandbox) -> Value {
    let output = sandbox.crossdock(&["shadow", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(text.lines().next().unwrap_or("null")).unwrap()
}

/// Waits until it has looked at so many messages.
fn compared(sandbox: &Sandbox, many: u64) -> Value {
    eventually("they are compared", || {
        let shown = shadow(sandbox);
        let counted = shown["counts"]["orders"]["compared"].as_u64()?;
        (counted >= many).then_some(shown)
    })
}

/// What was found: step, what, field, in how many messages.
fn found(shown: &Value) -> Vec<(String, String, String, u64)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = shown["findings"].as_array().unwrap().iter();
    let mut found: Vec<_> = findings
        .map(|one| {
            let many = one["many"].as_u64().unwrap();
            (
                text(&one["step"]),
                text(&one["what"]),
                text(&one["path"]),
                many,
            )
        })
        .collect();
    found.sort();
    found
}

fn told(rows: &[(&str, &str, &str, u64)]) -> Vec<(String, String, String, u64)> {
    let rows = rows.iter();
    rows.map(|(step, what, path, many)| {
        (step.to_string(), what.to_string(), path.to_string(), *many)
    })
    .collect()
}

fn said(engine: &Running, what: &str) {
    eventually(what, || engine.log().contains(what).then_some(()));
}

#[test]
fn what_a_candidate_does_otherwise_is_told_by_field_and_nothing_of_it_is_sent() {
    let (sandbox, erp) = (Sandbox::new().variable("CROSSDOCK_AS", "ann"), Erp::start());
    let next = project(
        &sandbox,
        &erp,
        CUSTOMER,
        "order: number, lines: [{count: decimal(quantity)}], total: round(decimal(total), `1`), note: upper(note), by: 'next'",
    );
    let engine = sandbox.start();
    let begun = start(&sandbox, &next, &["--for", "1h"]);
    assert!(begun.contains("running, all messages"), "{begun}");
    for n in 0..5 {
        post(&sandbox, &format!("N{n}"), "2", "soon");
    }
    post(&sandbox, "N5", "many", "soon");
    let shown = compared(&sandbox, 6);
    let counts = &shown["counts"]["orders"];
    assert_eq!(
        (&counts["compared"], &counts["different"], &counts["fails"]),
        (&json!(6), &json!(6), &json!(1)),
        "{shown}"
    );
    assert_eq!(
        found(&shown),
        told(&[
            ("erp", "added", "body.by", 5),
            ("erp", "changed", "body.lines[].count", 5),
            ("erp", "changed", "body.note", 5),
            ("erp", "less", "", 1),
            ("erp", "removed", "body.terms", 5),
            ("erp", "scale", "body.total", 5),
            ("sale", "fails", "mapping", 1),
        ])
    );
    let findings = shown["findings"].as_array().unwrap();
    let total = findings.iter().find(|one| one["what"] == "scale").unwrap();
    let examples = total["examples"].as_array().unwrap();
    assert_eq!(examples.len(), 3, "a few are enough: {total}");
    assert_eq!(
        (
            &examples[0]["was"],
            &examples[0]["becomes"],
            &examples[0]["keys"]["customer"]
        ),
        (&json!("19.90"), &json!("19.9"), &json!("C1"))
    );
    let lines = findings
        .iter()
        .find(|one| one["path"] == "body.lines[].count");
    assert_eq!(lines.unwrap()["examples"][0]["path"], "body.lines[0].count");
    // The ERP was asked by what runs, once for each order.
    assert_eq!(
        (erp.asked("GET /customers/C1"), erp.asked("POST /sales")),
        (6, 6)
    );
    assert_eq!(erp.asked(""), 12);
    let books = sandbox.books_at_rest(6);
    assert_eq!(books["all"]["delivered"], 6);
    // For people and for scripts.
    let listed = sandbox.crossdock(&["shadow"]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert_eq!(listed.status.code(), Some(1), "there are differences");
    assert!(
        text.contains("6 compared, 0 same, 6 different (1 fail)"),
        "{text}"
    );
    assert!(text.contains("19.90 -> 19.9"), "{text}");
    let stopped = sandbox.prints(&["shadow", "stop", "--reason", "seen enough"]);
    assert!(stopped.contains("by ann: seen enough"), "{stopped}");
    said(&engine, "the shadow is over");
    post(&sandbox, "N6", "2", "soon");
    sandbox.books_at_rest(7);
    let kept = shadow(&sandbox);
    assert_eq!(kept["shadow"]["state"], "ended");
    assert_eq!(
        kept["counts"], shown["counts"],
        "the report is kept, and grows no more"
    );
    let audit = sandbox.prints(&["audit"]);
    assert!(
        audit.contains("shadow.begin") && audit.contains("shadow.stop"),
        "{audit}"
    );
}

#[test]
fn what_cannot_be_known_is_not_comparable_and_what_is_not_meant_is_not_looked_at() {
    let (sandbox, erp) = (Sandbox::new(), Erp::start());
    let next = project(&sandbox, &erp, "/accounts/{{customer}}", SALE);
    let _engine = sandbox.start();
    let begun = start(&sandbox, &next, &["--when", "starts_with(number, 'A')"]);
    assert!(
        begun.contains("all messages with `starts_with(number, 'A')`"),
        "{begun}"
    );
    for number in ["B1", "A1", "B2", "A2"] {
        post(&sandbox, number, "2", "soon");
    }
    let shown = compared(&sandbox, 2);
    assert_eq!(
        found(&shown),
        told(&[
            ("customer", "changed", "path", 2),
            ("customer", "not_comparable", "", 2)
        ])
    );
    assert_eq!(shown["counts"]["orders"]["compared"], 2, "{shown}");
    assert_eq!(erp.asked("GET /accounts"), 0);
    for (arguments, code, part) in [
        (
            vec!["shadow", "start", &*next, "--reason", "x"],
            1,
            "a shadow runs already",
        ),
        (vec!["shadow", "start", &*next], 2, "--reason"),
        (vec!["shadow", "stop"], 2, "--reason"),
    ] {
        let output = sandbox.crossdock(&arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(part), "{arguments:?}: {told}");
    }
    sandbox.prints(&["shadow", "stop", "--reason", "x"]);
    // One that writes the same in another way, and one that is the same.
    sandbox.file(
        "next/flows/orders.yaml",
        &flow(
            CUSTOMER,
            &SALE.replace("note: note", "note: join('', [note])"),
        ),
    );
    start(&sandbox, &next, &["--for", "1h"]);
    post(&sandbox, "A3", "2", "soon");
    let shown = compared(&sandbox, 1);
    assert_eq!(shown["counts"]["orders"]["same"], 1, "{shown}");
    assert_eq!(
        sandbox.crossdock(&["shadow"]).status.code(),
        Some(0),
        "no differences"
    );
    sandbox.prints(&["shadow", "stop", "--reason", "x"]);
    // An expression that decides nothing: no message is compared, and that is no success.
    start(&sandbox, &next, &["--when", "number"]);
    post(&sandbox, "A4", "2", "soon");
    eventually("it is counted as not looked at", || {
        let shown = shadow(&sandbox);
        let skipped = &shown["counts"]["orders"]["skipped"];
        (skipped["`when` could not be decided"] == 1).then_some(())
    });
    assert_eq!(
        sandbox.crossdock(&["shadow"]).status.code(),
        Some(1),
        "nothing was compared"
    );
    sandbox.prints(&["shadow", "stop", "--reason", "x"]);
    // A body that is too large is not compared, and counted.
    start(&sandbox, &next, &[]);
    post(&sandbox, "A5", "2", &"x".repeat(1 << 20));
    eventually("it is counted as too large", || {
        let shown = shadow(&sandbox);
        let skipped = &shown["counts"]["orders"]["skipped"];
        (skipped["too large to compare"] == 1).then_some(())
    });
    sandbox.prints(&["shadow", "stop", "--reason", "x"]);
    sandbox.file("next/flows/orders.yaml", &flow(CUSTOMER, SALE));
    for (flow, part) in [
        ("orders", "there is nothing to try"),
        ("gone", "there is nothing to try"),
    ] {
        let output =
            sandbox.crossdock(&["shadow", "start", &next, "--flow", flow, "--reason", "x"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains(part), "{told}");
    }
}

#[test]
fn a_shadow_goes_on_after_a_kill_and_ends_with_a_reload_and_with_its_time() {
    let (sandbox, erp) = (Sandbox::new(), Erp::start());
    let changed = SALE.replace("note: note", "note: upper(note)");
    let next = project(&sandbox, &erp, CUSTOMER, &changed);
    let engine = sandbox.start();
    start(&sandbox, &next, &[]);
    for n in 0..8 {
        post(&sandbox, &format!("A{n}"), "2", "soon");
    }
    drop(engine);
    let engine = sandbox.start();
    // The log is that of both engines.
    eventually("the second engine follows it", || {
        (engine.log().matches("a shadow runs").count() == 2).then_some(())
    });
    for n in 0..8 {
        // Repeats of what came before the kill, and new ones.
        post(&sandbox, &format!("A{n}"), "2", "soon");
        post(&sandbox, &format!("B{n}"), "2", "soon");
    }
    let shown = compared(&sandbox, 8);
    let counts = &shown["counts"]["orders"];
    assert_eq!(counts["compared"], counts["different"], "{shown}");
    let books = sandbox.books_at_rest(24);
    assert_eq!(
        (&books["all"]["delivered"], &books["all"]["duplicates"]),
        (&json!(16), &json!(8))
    );
    // Another revision runs: the report would be about two of them.
    sandbox.file(
        "flows/orders.yaml",
        &flow(CUSTOMER, &SALE.replace("note: note", "note: lower(note)")),
    );
    let ended = eventually("it has ended", || {
        let shown = shadow(&sandbox);
        (shown["shadow"]["state"] == "ended").then_some(shown)
    });
    let why = ended["shadow"]["ended_why"].as_str().unwrap();
    assert!(why.contains("in the place of"), "{why}");
    start(&sandbox, &next, &["--for", "1s"]);
    let ended = eventually("its time is over", || {
        let shown = shadow(&sandbox);
        (shown["shadow"]["state"] == "ended").then_some(shown)
    });
    assert_eq!(ended["shadow"]["ended_why"], "its time is over");
    post(&sandbox, "C1", "2", "soon");
    sandbox.books_at_rest(25);
    // An engine that starts with another revision has never followed it, and leaves it to the others.
    start(&sandbox, &next, &[]);
    drop(engine);
    sandbox.file(
        "flows/orders.yaml",
        &flow(CUSTOMER, &SALE.replace("note: note", "note: trim(note)")),
    );
    let engine = sandbox.start();
    said(&engine, "this engine does not follow it");
    assert_eq!(shadow(&sandbox)["shadow"]["state"], "running");
    let stopped = sandbox.prints(&["shadow", "stop", "--reason", "x"]);
    assert!(stopped.contains("ended"), "{stopped}");
}

#[test]
fn each_engine_looks_at_what_it_accepts() {
    let services = Services::shared().unwrap_or_else(|error| panic!("{error}"));
    let backing = Backing::on(services);
    let erp = Erp::start();
    let changed = SALE.replace("note: note", "note: upper(note)");
    let engines = [(); 2].map(|()| backing.under(Sandbox::new()).unwrap());
    let folders = engines
        .each_ref()
        .map(|sandbox| project(sandbox, &erp, CUSTOMER, &changed));
    let [first, second] = &engines;
    let (_one, two) = (first.start(), second.start());
    start(first, &folders[0], &[]);
    said(&two, "a shadow runs");
    for n in 0..5 {
        post(first, &format!("A{n}"), "2", "soon");
        post(second, &format!("B{n}"), "2", "soon");
    }
    let shown = compared(second, 10);
    assert_eq!(
        found(&shown),
        told(&[("erp", "changed", "body.note", 10)]),
        "{shown}"
    );
    second.prints(&["shadow", "stop", "--reason", "seen enough"]);
    said(&two, "the shadow is over");
    assert_eq!(erp.asked("POST /sales"), 10);
}

#[test]
fn what_is_handed_on_is_compared_at_the_flow_that_hands_and_at_the_one_that_takes() {
    let sandbox = Sandbox::new();
    let write = |folder: &str, priority: &str, least: &str| {
        sandbox.file(
            &format!("{folder}flows/intake.yaml"),
            &format!(
                "flow: intake
source:
  webhook: {{ path: /orders, verify: none }}
accepts: order.v1
keys: {{ order: number }}
steps:
  - id: mark
    set: {{ body: \"{{number: number, lines: lines, priority: {priority}}}\" }}
sinks:
  booking: {{ flow: booking }}
"
            ),
        );
        sandbox.file(
            &format!("{folder}flows/booking.yaml"),
            &format!(
                "flow: booking
source: {{ flow: {{}} }}
keys: {{ order: number }}
steps:
  - id: large
    filter: length(lines) > `{least}`
  - id: lines
    split: {{ items: lines, key: sku }}
sinks:
  out: {{ file: {{ path: out.jsonl, format: jsonl }} }}
"
            ),
        );
        let number = match least {
            "0" => r#""string""#,
            _ => r#"["string", "integer"]"#,
        };
        let lines =
            r#"{"type":"array","items":{"type":"object","properties":{"sku":{"type":"string"}}}}"#;
        sandbox.file(
            &format!("{folder}schemas/order.v1.json"),
            &format!(r#"{{"type":"object","required":["number","lines"],"properties":{{"number":{{"type":{number}}},"lines":{lines}}}}}"#),
        );
    };
    write("", "'low'", "0");
    write("next/", "'high'", "1");
    let next = sandbox.root().join("next").display().to_string();
    let _engine = sandbox.start();
    start(&sandbox, &next, &[]);
    for body in [
        r#"{"number":"A1","lines":[{"sku":"a"}]}"#,
        r#"{"number":"A2","lines":[{"sku":"a"},{"sku":"b"}]}"#,
        // It breaks the contract that runs, and keeps that of the candidate.
        r#"{"number":3,"lines":[{"sku":"a"}]}"#,
    ] {
        assert_eq!(sandbox.post("/orders", body.as_bytes()).status, 200);
    }
    let shown = eventually("both flows are compared", || {
        let shown = shadow(&sandbox);
        let many = |flow: &str| shown["counts"][flow]["compared"].as_u64();
        (many("intake")? >= 3 && many("booking")? >= 2).then_some(shown)
    });
    assert_eq!(
        found(&shown),
        told(&[
            ("", "outcome", "", 1),
            ("@accept", "outcome", "validation", 1),
            ("booking", "changed", "body.priority", 2),
            // What the contract of now keeps from being handed on.
            ("booking", "more", "", 1),
            ("out", "less", "", 1),
        ]),
        "{shown}"
    );
    assert_eq!(
        shown["counts"]["booking"]["same"], 1,
        "the split of A2 is the same: {shown}"
    );
    let text = std::fs::read_to_string(sandbox.root().join("out.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 3);
}

#[test]
fn examples_are_for_those_who_may_see_bodies() {
    let site = Site::new();
    let sandbox = &site.sandbox;
    sandbox.file(
        "next/systems/erp.yaml",
        &std::fs::read_to_string(sandbox.root().join("systems/erp.yaml")).unwrap(),
    );
    sandbox.file(
        "next/schemas/order.v1.json",
        &std::fs::read_to_string(sandbox.root().join("schemas/order.v1.json")).unwrap(),
    );
    for flow in ["orders", "returns"] {
        let text =
            std::fs::read_to_string(sandbox.root().join(format!("flows/{flow}.yaml"))).unwrap();
        let text = text.replace("idempotency_key: number", "idempotency_key: upper(number)");
        sandbox.file(&format!("next/flows/{flow}.yaml"), &text);
    }
    let _engine = sandbox.start();
    let next = sandbox.root().join("next").display().to_string();
    start(sandbox, &next, &["--flow", "orders"]);
    for path in ["/orders", "/returns"] {
        assert_eq!(sandbox.post(path, br#"{"number":"secret-1"}"#).status, 200);
    }
    let shown = compared(sandbox, 1);
    assert_eq!(
        found(&shown),
        told(&[("erp", "changed", "idempotency_key", 1)]),
        "{shown}"
    );
    assert_eq!(
        shown["counts"]["returns"],
        Value::Null,
        "only one flow was meant: {shown}"
    );
    for (role, sees) in [("viewer", false), ("operator", true)] {
        let token = site.token(role, role, None);
        let answer = site.get("/api/v1/shadows", &token);
        assert_eq!(answer.status, 200);
        let text = answer.body.to_string();
        assert!(text.contains("idempotency_key"), "{text}");
        assert_eq!(
            text.to_lowercase().contains("secret-1"),
            sees,
            "{role}: {text}"
        );
    }
    let engineer = site.token("engineer", "engineer", None);
    let wish = json!({ "files": {}, "share": 1, "for_ms": 1, "why": "x" });
    let begun = site.post("/api/v1/shadows", &engineer, &wish);
    assert_eq!(begun.status, 403, "{begun:?}");
    let stopped = site.post("/api/v1/shadows:stop", &engineer, &json!({ "why": "x" }));
    assert_eq!(
        (stopped.status, &stopped.body["shadow"]["ended_by"]),
        (200, &json!("engineer"))
    );
}
