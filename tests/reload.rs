//! Hot reload: what is in flight ends under its revision, what comes runs under the new one, a project with a mistake changes nothing, and
//! a revision that was rolled back stays away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::receiver::Receiver;
use crate::support::{Running, Sandbox, eventually};

mod canary;
mod shared;
mod storm;

/// A flow that marks its messages, after they have waited for so long.
fn marking(mark: &str, delay: &str) -> String {
    format!(
        "flow: orders
source:
  webhook: {{ path: /orders, verify: none }}
keys: {{ order: number }}
once: {{ key: order }}
steps:
  - id: pause
    delay: {delay}
  - id: mark
    set: {{ body: \"{{number: number, mark: '{mark}'}}\" }}
sinks:
  out: {{ file: {{ path: out.jsonl, format: jsonl }} }}
"
    )
}

fn post(sandbox: &Sandbox, number: &str) {
    let reply = sandbox.post(
        "/orders",
        json!({ "number": number }).to_string().as_bytes(),
    );
    assert_eq!(reply.status, 200, "{}", reply.body);
}

/// What came out: the mark of each order.
fn marks(sandbox: &Sandbox) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(sandbox.root().join("out.jsonl")).unwrap_or_default();
    let lines = text.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        (text("number"), text("mark"))
    });
    lines.collect()
}

fn wait_for_marks(sandbox: &Sandbox, many: usize) -> Vec<(String, String)> {
    let mut marks = eventually("the orders come out", || {
        Some(marks(sandbox)).filter(|marks| marks.len() >= many)
    });
    marks.sort();
    marks
}

fn marked(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = pairs.iter();
    pairs
        .map(|(number, mark)| ((*number).to_owned(), (*mark).to_owned()))
        .collect()
}

/// Waits until the log has said something so many times.
fn said(engine: &Running, what: &str, times: usize) {
    eventually(what, || {
        (engine.log().matches(what).count() >= times).then_some(())
    });
}

fn revision_of(sandbox: &Sandbox) -> String {
    let all = sandbox.prints(&["revisions", "--json", "--limit", "1"]);
    let last: Value = serde_json::from_str(all.lines().next().unwrap()).unwrap();
    last["revision"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_in_flight_ends_under_its_revision_and_what_comes_runs_under_the_new_one() {
    let sandbox = Sandbox::new();
    sandbox.file("flows/orders.yaml", &marking("one", "2s"));
    let engine = sandbox.start();
    post(&sandbox, "A");
    sandbox.file("flows/orders.yaml", &marking("two", "10ms"));
    said(&engine, "reloaded: revision", 1);
    post(&sandbox, "B");
    assert_eq!(
        wait_for_marks(&sandbox, 1),
        marked(&[("B", "two")]),
        "A waits still"
    );
    assert_eq!(
        wait_for_marks(&sandbox, 2),
        marked(&[("A", "one"), ("B", "two")])
    );
    assert!(engine.log().contains("changed orders"), "{}", engine.log());
    let books = sandbox.books_at_rest(2);
    assert_eq!(books["all"]["delivered"], 2);
}

#[test]
fn after_a_restart_what_was_in_flight_ends_under_its_revision_too() {
    let sandbox = Sandbox::new();
    sandbox.file("flows/orders.yaml", &marking("one", "3s"));
    sandbox.file(
        "flows/gone.yaml",
        &marking("gone", "3s").replace("orders", "gone"),
    );
    let engine = sandbox.start();
    post(&sandbox, "A");
    let reply = sandbox.post("/gone", br#"{"number": "G"}"#);
    assert_eq!(reply.status, 200);
    drop(engine);
    sandbox.file("flows/orders.yaml", &marking("two", "10ms"));
    std::fs::remove_file(sandbox.root().join("flows/gone.yaml")).unwrap();
    let engine = sandbox.start();
    post(&sandbox, "B");
    let all = marked(&[("A", "one"), ("B", "two"), ("G", "gone")]);
    assert_eq!(wait_for_marks(&sandbox, 3), all);
    assert!(!engine.log().contains("no longer has"), "{}", engine.log());
}

#[test]
fn a_project_with_a_mistake_is_refused_and_the_last_good_one_runs_on() {
    let sandbox = Sandbox::new();
    sandbox.file("flows/orders.yaml", &marking("one", "10ms"));
    let engine = sandbox.start();
    let broken = marking("two", "10ms").replace("set:", "sett:");
    sandbox.file("flows/orders.yaml", &broken);
    said(&engine, "cannot be loaded", 1);
    assert!(
        engine.log().contains("flows/orders.yaml:10:5"),
        "{}",
        engine.log()
    );
    post(&sandbox, "A");
    let refused = sandbox.crossdock(&["reload"]);
    assert_eq!(refused.status.code(), Some(78));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("sett") && told.contains("runs on"), "{told}");
    let plan = sandbox.crossdock(&["plan"]);
    assert_eq!(plan.status.code(), Some(78));
    let history = sandbox.prints(&["revisions"]);
    assert!(history.contains("cannot be loaded since"), "{history}");
    sandbox.file("flows/orders.yaml", &marking("two", "10ms"));
    said(&engine, "reloaded: revision", 1);
    post(&sandbox, "B");
    let all = marked(&[("A", "one"), ("B", "two")]);
    assert_eq!(wait_for_marks(&sandbox, 2), all);
}

#[test]
fn a_rollback_withdraws_what_ran_also_after_a_restart_until_it_is_lifted() {
    let sandbox = Sandbox::new().variable("CROSSDOCK_AS", "ann");
    sandbox.file("flows/orders.yaml", &marking("one", "10ms"));
    let engine = sandbox.start();
    let one = revision_of(&sandbox);
    sandbox.file("flows/orders.yaml", &marking("two", "10ms"));
    said(&engine, "reloaded: revision", 1);
    let two = revision_of(&sandbox);
    assert_ne!(one, two);
    let nothing = sandbox.crossdock(&["rollback"]);
    assert_eq!(nothing.status.code(), Some(2), "a reason is needed");
    let told = sandbox.prints(&["rollback", "--dry-run", "--reason", "only a look"]);
    assert!(told.contains("changed   flow orders"), "{told}");
    post(&sandbox, "A");
    sandbox.prints(&["rollback", "--reason", "two is wrong"]);
    post(&sandbox, "B");
    drop(engine);
    let engine = sandbox.start();
    assert!(
        engine.log().contains("which was withdrawn"),
        "{}",
        engine.log()
    );
    post(&sandbox, "C");
    let plan = sandbox.crossdock(&["plan"]);
    assert_eq!(plan.status.code(), Some(1));
    let told = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(told.contains("withdrawn by ann (two is wrong)"), "{told}");
    sandbox.prints(&["rollback", "--lift", &two[..8]]);
    post(&sandbox, "D");
    let all = marked(&[("A", "two"), ("B", "one"), ("C", "one"), ("D", "two")]);
    assert_eq!(wait_for_marks(&sandbox, 4), all);
    let history = sandbox.prints(&["revisions"]);
    for part in ["rollback", "ann", "two is wrong"] {
        assert!(history.contains(part), "{part}: {history}");
    }
    let diff = sandbox.crossdock(&["revisions", "--diff", &one[..8], &two[..8]]);
    assert_eq!(diff.status.code(), Some(1));
    let diff = String::from_utf8_lossy(&diff.stdout).into_owned();
    assert!(
        diff.contains("-    set: { body: \"{number: number, mark: 'one'}\" }"),
        "{diff}"
    );
    drop(engine);
}

#[test]
fn without_an_engine_a_rollback_counts_from_the_next_start_on() {
    let sandbox = Sandbox::new();
    sandbox.file("flows/orders.yaml", &marking("one", "10ms"));
    drop(sandbox.start());
    sandbox.file("flows/orders.yaml", &marking("two", "10ms"));
    let planned = sandbox.prints(&["plan"]);
    assert!(planned.contains("changed   flow orders"), "{planned}");
    drop(sandbox.start());
    let told = sandbox.prints(&["rollback", "--reason", "two is wrong"]);
    assert!(told.contains("from the next start on"), "{told}");
    let _engine = sandbox.start();
    post(&sandbox, "A");
    assert_eq!(wait_for_marks(&sandbox, 1), marked(&[("A", "one")]));
}

#[test]
fn a_plan_says_what_a_reload_would_change_and_changes_nothing() {
    let sandbox = Sandbox::new().variable("CITY", "Vienna");
    let flow = |name: &str, mark: &str| marking(mark, "10ms").replace("orders", name);
    for name in ["changed", "removed", "same"] {
        sandbox.file(&format!("flows/{name}.yaml"), &flow(name, "one"));
    }
    sandbox.file(
        "systems/erp.yaml",
        "system: erp\nhttp: { base_url: 'http://127.0.0.1:9' }\n",
    );
    let through = "flow: through\nsource: { webhook: { path: /through, verify: none } }\nsinks:\n  erp: { http: { system: erp, post: /x, idempotency_key: number } }\n";
    sandbox.file("flows/through.yaml", through);
    let first = sandbox.prints(&["plan"]);
    assert!(first.contains("nothing ran before it"), "{first}");
    assert!(first.contains("added     flow through"), "{first}");
    let _engine = sandbox.start_with(&["--no-watch"]);
    let plan = || -> Value { serde_json::from_str(&sandbox.prints(&["plan", "--json"])).unwrap() };
    assert_eq!(plan()["outcome"], "same");
    sandbox.file(
        "flows/changed.yaml",
        &flow("changed", "two").replace("- id: pause", "- id: wait"),
    );
    std::fs::remove_file(sandbox.root().join("flows/removed.yaml")).unwrap();
    sandbox.file("flows/added.yaml", &flow("added", "one"));
    sandbox.file(
        "systems/erp.yaml",
        "system: erp\nhttp: { base_url: 'http://127.0.0.1:10' }\n",
    );
    let settings = format!(
        "listen: \"{}\"\nlimits: {{ in_flight: 9, batch: 7 }}\n",
        sandbox.address()
    );
    sandbox.file("crossdock.yaml", &settings);
    let told = plan();
    let flows: Vec<(&str, &str, bool)> = told["changes"]["flows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|flow| {
            let text = |name: &str| flow[name].as_str().unwrap();
            (
                text("flow"),
                text("what"),
                flow["source"].as_bool().unwrap(),
            )
        })
        .collect();
    let wanted = [
        ("added", "added", true),
        ("changed", "changed", false),
        ("removed", "removed", true),
        ("through", "restarted", false),
    ];
    assert_eq!(flows, wanted);
    assert_eq!(told["changes"]["flows"][1]["steps_gone"], json!(["pause"]));
    assert_eq!(
        told["changes"]["systems"],
        json!([{"name": "erp", "what": "changed"}])
    );
    assert_eq!(told["changes"]["at_next_start"], json!(["limits.batch"]));
    assert_eq!(plan(), told, "nothing was changed by asking");
    sandbox.prints(&["reload"]);
    assert_eq!(plan()["outcome"], "same");
    let gone = sandbox.send("POST", "/removed", &[], b"{}").unwrap();
    assert_eq!(
        gone.status, 503,
        "for a while nobody is told that it is gone for good"
    );
    assert_eq!(sandbox.post("/added", br#"{"number": "A"}"#).status, 200);
}

#[test]
fn a_retry_after_a_fix_runs_under_the_new_revision_and_what_follows_it_does_too() {
    let sandbox = Sandbox::new();
    let flow = |set: &str| {
        format!(
            "flow: orders
source: {{ webhook: {{ path: /orders, verify: none }} }}
steps:
  - id: mark
    set: {{ body: \"{set}\" }}
  - id: pause
    delay: 1s
  - id: again
    set: {{ body: \"{{number: number, mark: mark}}\" }}
sinks:
  out: {{ file: {{ path: out.jsonl, format: jsonl }} }}
"
        )
    };
    sandbox.file(
        "flows/orders.yaml",
        &flow("{number: number, mark: abs(number)}"),
    );
    let engine = sandbox.start();
    post(&sandbox, "A");
    eventually("it waits for a person", || {
        let rows = sandbox.prints(&["exceptions", "--json"]);
        (rows.lines().count() == 1).then_some(())
    });
    let fixed = flow("{number: number, mark: 'one'}").replace("mark: mark}", "mark: 'two'}");
    sandbox.file("flows/orders.yaml", &fixed);
    said(&engine, "reloaded: revision", 1);
    sandbox.prints(&["exceptions", "retry", "--all"]);
    // It is in the store under the new revision.
    drop(engine);
    let _engine = sandbox.start();
    assert_eq!(wait_for_marks(&sandbox, 1), marked(&[("A", "two")]));
}

#[test]
fn a_system_that_is_mended_gets_at_once_what_waits_for_it() {
    let sandbox = Sandbox::new();
    let erp = Receiver::web();
    erp.answers_orders(201);
    let system = |url: &str| {
        format!(
            "system: erp\nhttp: {{ base_url: '{url}' }}\ncircuit: {{ least: 3, open: 10m, most: 10m }}\n"
        )
    };
    sandbox.file("systems/erp.yaml", &system("http://127.0.0.1:9"));
    sandbox.file(
        "flows/orders.yaml",
        "flow: orders\nsource: { webhook: { path: /orders, verify: none } }\nkeys: { order: number }\nsinks:\n  erp: { http: { system: erp, post: /orders, idempotency_key: number } }\n",
    );
    let engine = sandbox.start();
    for n in 0..10 {
        post(&sandbox, &format!("N{n}"));
    }
    said(&engine, "erp is down", 1);
    let began = Instant::now();
    sandbox.file(
        "systems/erp.yaml",
        &system(&format!("http://{}", erp.address)),
    );
    said(&engine, "restarted orders", 1);
    let books = sandbox.books_at_rest(10);
    assert_eq!(books["all"]["delivered"], 10, "{}", engine.log());
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "the circuit would be open for 10 min"
    );
}

#[test]
fn what_waits_in_a_step_that_is_started_anew_goes_on() {
    let sandbox = Sandbox::new();
    let erp = Receiver::web();
    erp.answers_orders(201);
    let system = |timeout: &str| {
        format!(
            "system: erp\nhttp: {{ base_url: 'http://{}' }}\ntimeout: {timeout}\n",
            erp.address
        )
    };
    sandbox.file("systems/erp.yaml", &system("5s"));
    sandbox.file(
        "flows/orders.yaml",
        "flow: orders
source: { webhook: { path: /orders, verify: none } }
keys: { order: number }
steps:
  - id: slowly
    throttle: 4/s
sinks:
  erp: { http: { system: erp, post: /orders, idempotency_key: number } }
",
    );
    let engine = sandbox.start();
    for n in 0..12 {
        post(&sandbox, &format!("N{n}"));
    }
    sandbox.file("systems/erp.yaml", &system("6s"));
    said(&engine, "restarted orders", 1);
    assert_eq!(sandbox.books_at_rest(12)["all"]["delivered"], 12);
}

#[test]
fn sighup_loads_the_project_anew() {
    let sandbox = Sandbox::new();
    sandbox.file("flows/orders.yaml", &marking("one", "10ms"));
    let mut engine = sandbox.start_with(&["--no-watch"]);
    sandbox.file("flows/orders.yaml", &marking("two", "10ms"));
    engine.signal("-HUP");
    said(&engine, "reloaded: revision", 1);
    assert!(engine.lives());
    post(&sandbox, "A");
    assert_eq!(wait_for_marks(&sandbox, 1), marked(&[("A", "two")]));
}

#[test]
fn a_sender_never_finds_the_door_closed() {
    let sandbox = Sandbox::new();
    sandbox.file("flows/orders.yaml", &marking("one", "10ms"));
    let engine = sandbox.start();
    let (over, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let address = sandbox.address();
    let sender = {
        let (over, sent) = (over.clone(), sent.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let number = sent.fetch_add(1, Ordering::Relaxed);
                assert_eq!(storm::post(address, number).unwrap(), 200);
            }
        })
    };
    for round in 1..=10 {
        // The source is another one each time: it is replaced.
        let other = format!("verify: none, headers: [x-round-{round}]");
        let flow = marking(&format!("m{round}"), "10ms");
        sandbox.file("flows/orders.yaml", &flow.replace("verify: none", &other));
        said(&engine, "reloaded: revision", round);
    }
    over.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    let sent = i64::try_from(sent.load(Ordering::Relaxed)).unwrap();
    assert_eq!(sandbox.books_at_rest(sent)["all"]["delivered"], sent);
}
