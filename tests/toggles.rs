//! What people stop waits, is refused or is finished as they say, over reloads, restarts and engines; and everybody can see why.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::faults::backing::{Backing, Services};
use crate::support::receiver::Receiver;
use crate::support::{Running, Sandbox, eventually};

/// Orders of a webhook, which wait for so long and then are written down.
fn project(sandbox: &Sandbox, delay: &str) {
    from(sandbox, "webhook: { path: /orders, verify: none }", delay);
}

fn from(sandbox: &Sandbox, source: &str, delay: &str) {
    sandbox.file(
        "flows/orders.yaml",
        &format!(
            "flow: orders
source:
  {source}
keys: {{ order: number }}
steps:
  - id: rest
    delay: {delay}
  - id: mark
    set: {{ body: \"{{number: number}}\" }}
sinks:
  out: {{ file: {{ path: out.jsonl, format: jsonl }} }}
"
        ),
    );
}

fn post(sandbox: &Sandbox, number: &str) -> u16 {
    let body = json!({ "number": number }).to_string();
    sandbox.post("/orders", body.as_bytes()).status
}

/// The numbers that came out.
fn out(sandbox: &Sandbox) -> Vec<String> {
    let text = std::fs::read_to_string(sandbox.root().join("out.jsonl")).unwrap_or_default();
    let lines = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["number"].as_str().unwrap().to_owned()
    });
    let mut numbers: Vec<_> = lines.collect();
    numbers.sort();
    numbers
}

fn wait_for(sandbox: &Sandbox, numbers: &[&str]) {
    eventually("the orders come out", || {
        (out(sandbox).len() >= numbers.len()).then_some(())
    });
    assert_eq!(out(sandbox), numbers);
}

/// Long enough for what is not stopped to come out.
fn a_while() {
    std::thread::sleep(Duration::from_millis(500));
}

fn said(engine: &Running, what: &str) {
    eventually(what, || engine.log().contains(what).then_some(()));
}

#[test]
fn a_paused_flow_accepts_and_holds_over_a_reload_and_a_restart() {
    let sandbox = Sandbox::new().variable("CROSSDOCK_AS", "ann");
    project(&sandbox, "10ms");
    let engine = sandbox.start();
    let told = sandbox.prints(&["pause", "orders", "--reason", "the ERP is moved"]);
    assert!(
        told.contains("orders is paused by ann: the ERP is moved"),
        "{told}"
    );
    assert_eq!(post(&sandbox, "A"), 200);
    a_while();
    assert_eq!(out(&sandbox), [] as [&str; 0]);
    project(&sandbox, "20ms");
    said(&engine, "reloaded: revision");
    assert_eq!(post(&sandbox, "B"), 200);
    drop(engine);
    let engine = sandbox.start();
    said(
        &engine,
        "orders is paused by ann: the ERP is moved; 2 in flight",
    );
    assert_eq!(post(&sandbox, "C"), 200);
    a_while();
    assert_eq!(out(&sandbox), [] as [&str; 0]);
    for (command, part) in [
        (
            vec!["journey", "A"],
            "; orders is paused by ann: the ERP is moved",
        ),
        (vec!["toggles"], "the ERP is moved"),
        (vec!["doctor"], "`crossdock resume orders` lets it go on"),
    ] {
        let shown = sandbox.prints(&command);
        assert!(shown.contains(part), "{command:?}: {shown}");
    }
    let told = sandbox.prints(&["resume", "orders"]);
    assert!(
        told.contains("orders goes on; it was paused since"),
        "{told}"
    );
    wait_for(&sandbox, &["A", "B", "C"]);
    assert_eq!(sandbox.prints(&["toggles"]).trim(), "nothing is stopped");
    let books = sandbox.books_at_rest(3);
    assert_eq!(books["all"]["delivered"], 3);
}

#[test]
fn a_disabled_flow_refuses_and_holds_and_a_draining_one_refuses_and_finishes() {
    let sandbox = Sandbox::new();
    project(&sandbox, "700ms");
    let _engine = sandbox.start();
    assert_eq!(post(&sandbox, "A"), 200);
    sandbox.prints(&[
        "disable",
        "orders",
        "--reason",
        "wrong prices",
        "--for",
        "90s",
    ]);
    let refused = sandbox.post("/orders", br#"{"number": "B"}"#);
    assert_eq!(refused.status, 503);
    assert!(
        !refused.body.contains("prices"),
        "nobody outside is told why: {}",
        refused.body
    );
    let mut stream = TcpStream::connect(sandbox.address()).unwrap();
    let request =
        "POST /orders HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let after = answer.to_lowercase();
    let after = after.split("retry-after: ").nth(1).unwrap();
    let after: u32 = after.split_whitespace().next().unwrap().parse().unwrap();
    assert!((60..=90).contains(&after), "until it goes on: {answer}");
    std::thread::sleep(Duration::from_millis(1_200));
    assert_eq!(out(&sandbox), [] as [&str; 0], "what is in flight waits");
    sandbox.prints(&["drain", "orders", "--reason", "finish what there is"]);
    wait_for(&sandbox, &["A"]);
    assert_eq!(post(&sandbox, "B"), 503);
    let shown = sandbox.prints(&["toggles", "--json"]);
    let shown: Value = serde_json::from_str(shown.trim()).unwrap();
    assert_eq!(
        (&shown["how"], &shown["in_flight"]),
        (&json!("draining"), &json!(0))
    );
    sandbox.prints(&["resume", "orders"]);
    assert_eq!(post(&sandbox, "B"), 200);
    wait_for(&sandbox, &["A", "B"]);
}

#[test]
fn a_source_that_fetches_leaves_all_where_it_is_while_its_flow_is_disabled() {
    let sandbox = Sandbox::new();
    from(&sandbox, "flow: {}", "10ms");
    sandbox.file(
        "flows/folder.yaml",
        "flow: folder
source:
  file: { path: 'in/*.jsonl', format: jsonl, every: 100ms, settle: 10ms, archive: done }
sinks:
  orders: { flow: orders }
",
    );
    let engine = sandbox.start();
    sandbox.prints(&["disable", "folder", "--reason", "a wrong file"]);
    sandbox.file("in/one.jsonl", "{\"number\": \"A\"}\n");
    a_while();
    assert!(
        sandbox.root().join("in/one.jsonl").exists(),
        "it was not claimed"
    );
    // A reload and a restart leave it so.
    let flow = std::fs::read_to_string(sandbox.root().join("flows/folder.yaml")).unwrap();
    sandbox.file(
        "flows/folder.yaml",
        &flow.replace("every: 100ms", "every: 120ms"),
    );
    said(&engine, "reloaded: revision");
    a_while();
    drop(engine);
    let engine = sandbox.start();
    a_while();
    assert!(
        sandbox.root().join("in/one.jsonl").exists(),
        "it was not claimed"
    );
    // What is handed over to a flow that is disabled waits at its door.
    sandbox.prints(&["disable", "orders", "--reason", "and this one too"]);
    sandbox.prints(&["resume", "folder"]);
    eventually("the file is done", || {
        sandbox.root().join("done").read_dir().ok()?.next()?.ok()
    });
    a_while();
    assert_eq!(out(&sandbox), [] as [&str; 0]);
    sandbox.prints(&["resume", "orders"]);
    wait_for(&sandbox, &["A"]);
    assert!(!engine.log().contains("ERROR"), "{}", engine.log());
}

#[test]
fn a_sink_and_a_system_can_be_paused_and_the_rest_goes_on() {
    let sandbox = Sandbox::new();
    let erp = Receiver::web();
    erp.answers(201);
    let url = format!("http://{}", erp.address);
    sandbox.file(
        "systems/erp.yaml",
        &format!("system: erp\nhttp: {{ base_url: '{url}' }}\n"),
    );
    sandbox.file(
        "flows/orders.yaml",
        "flow: orders
source: { webhook: { path: /orders, verify: none } }
keys: { order: number }
routes: { first: [{ otherwise: [erp, out] }] }
sinks:
  erp: { http: { system: erp, post: /book, idempotency_key: number } }
  out: { file: { path: out.jsonl, format: jsonl } }
",
    );
    let engine = sandbox.start();
    sandbox.prints(&["pause", "orders/out", "--reason", "the disk is moved"]);
    sandbox.prints(&[
        "pause",
        "system:erp",
        "--reason",
        "the ERP is moved",
        "--for",
        "1h",
    ]);
    said(&engine, "erp is paused by");
    assert_eq!(post(&sandbox, "A"), 200);
    a_while();
    assert_eq!((out(&sandbox).len(), erp.taken().len()), (0, 0));
    let systems = sandbox.prints(&["systems"]);
    assert!(
        systems.contains("paused") && systems.contains("the ERP is moved"),
        "{systems}"
    );
    sandbox.prints(&["resume", "orders/out"]);
    wait_for(&sandbox, &["A"]);
    a_while();
    assert_eq!(erp.taken().len(), 0);
    let journey = sandbox.prints(&["journey", "A"]);
    assert!(journey.contains("; system:erp is paused by"), "{journey}");
    drop(engine);
    let _engine = sandbox.start();
    a_while();
    assert_eq!(erp.taken().len(), 0, "also after a restart");
    sandbox.prints(&["resume", "system:erp"]);
    eventually("the ERP gets it", || (erp.taken().len() == 1).then_some(()));
    let books = sandbox.books_at_rest(1);
    assert_eq!(books["all"]["in_exceptions"], 0);
}

#[test]
fn a_pause_ends_by_itself_at_its_time() {
    let sandbox = Sandbox::new();
    project(&sandbox, "10ms");
    let engine = sandbox.start();
    sandbox.prints(&["pause", "orders", "--reason", "a moment", "--for", "1s"]);
    assert_eq!(post(&sandbox, "A"), 200);
    wait_for(&sandbox, &["A"]);
    said(&engine, "orders goes on; it was paused");
    eventually("the row goes", || {
        let rows = sandbox.prints(&["toggles"]);
        rows.contains("nothing is stopped").then_some(())
    });
}

#[test]
fn without_an_engine_a_toggle_counts_from_the_next_start_on() {
    let sandbox = Sandbox::new();
    project(&sandbox, "10ms");
    drop(sandbox.start());
    sandbox.prints(&["pause", "orders", "--reason", "before the start"]);
    let _engine = sandbox.start();
    assert_eq!(post(&sandbox, "A"), 200);
    a_while();
    assert_eq!(out(&sandbox), [] as [&str; 0]);
    sandbox.prints(&["resume", "orders"]);
    wait_for(&sandbox, &["A"]);
}

#[test]
fn what_cannot_be_stopped_is_refused_with_what_can() {
    let sandbox = Sandbox::new();
    project(&sandbox, "10ms");
    let _engine = sandbox.start();
    for (arguments, code, part) in [
        (vec!["pause", "orders"], 2, "--reason"),
        (
            vec!["pause", "ordrs", "--reason", "x"],
            1,
            "there is no `ordrs`; the flows are orders",
        ),
        (
            vec!["pause", "orders/nothing", "--reason", "x"],
            1,
            "the steps at which messages stand are rest, out",
        ),
        (
            vec!["pause", "orders/mark", "--reason", "x"],
            1,
            "runs together with the step before it. Messages stand at rest, out",
        ),
        (
            vec!["pause", "system:erp", "--reason", "x"],
            1,
            "there is no `system:erp`",
        ),
        (
            vec!["disable", "orders/out", "--reason", "x"],
            1,
            "can be paused only",
        ),
        (
            vec!["pause", "orders", "--reason", " "],
            1,
            "a reason is missing",
        ),
        (
            vec![
                "pause",
                "orders",
                "--reason",
                "x",
                "--until",
                "2020-01-01T00:00Z",
            ],
            1,
            "is over",
        ),
        (vec!["pause", "orders/", "--reason", "x"], 2, "is no target"),
        (
            vec!["pause", "orders", "ordrs", "--reason", "x"],
            1,
            "there is no `ordrs`",
        ),
    ] {
        let output = sandbox.crossdock(&arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(part), "{arguments:?}: {told}");
    }
    assert_eq!(sandbox.prints(&["toggles"]).trim(), "nothing is stopped");
    assert_eq!(
        sandbox.prints(&["resume", "orders"]).trim(),
        "orders was not stopped"
    );
}

#[test]
fn a_pause_on_one_engine_holds_on_the_others() {
    let services = Services::shared().unwrap_or_else(|error| panic!("{error}"));
    let backing = Backing::on(services);
    let (first, second) = (
        backing.under(Sandbox::new()).unwrap(),
        backing.under(Sandbox::new()).unwrap(),
    );
    project(&first, "10ms");
    project(&second, "10ms");
    let (_one, two) = (first.start(), second.start());
    first.prints(&["pause", "orders", "--reason", "both of you"]);
    said(&two, "orders is paused by");
    assert_eq!((post(&first, "A"), post(&second, "B")), (200, 200));
    a_while();
    assert_eq!((out(&first).len(), out(&second).len()), (0, 0));
    second.prints(&["resume", "orders"]);
    eventually("both come out", || {
        let mut all = [out(&first), out(&second)].concat();
        all.sort();
        (all == ["A", "B"]).then_some(())
    });
}

#[test]
fn an_engine_stops_at_once_while_a_flow_is_disabled() {
    let sandbox = Sandbox::new();
    project(&sandbox, "10ms");
    let engine = sandbox.start();
    sandbox.prints(&["disable", "orders", "--reason", "the engine is replaced"]);
    let began = std::time::Instant::now();
    assert_eq!(engine.terminate(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "it waits for nothing that could end"
    );
}
