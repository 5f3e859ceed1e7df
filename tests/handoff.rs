//! Engines over a broker, as processes: the work is done once, whatever the broker does, and `crossdock topology` shows what is there.

use crate::support::broker::Broker;
use crate::support::{Sandbox, text};

const FLOW: &str = "
flow: orders
source:
  webhook: { path: /orders, verify: none }
keys: { order: id, customer: customer }
once: { key: order, keep: 30d }
order_by: customer
steps:
  - set: { headers: { seen: id } }
  - id: pause
    delay: 50ms
  - set: { headers: { again: id } }
sinks:
  out: { file: { path: out/orders.jsonl, format: jsonl } }
";

/// A project whose engine hands on over this broker.
fn project(url: &str, name: &str) -> Sandbox {
    let sandbox = Sandbox::new().variable("AMQP_URL", url);
    sandbox.file(
        "crossdock.yaml",
        &format!(
            "listen: \"{}\"\nhandoff:\n  rabbitmq: {{ urls: [\"${{env:AMQP_URL}}\"], name: {name}, body_max: 2KB }}\n",
            sandbox.address()
        ),
    );
    sandbox.file("flows/orders.yaml", FLOW);
    sandbox
}

/// Posts orders with these numbers; every tenth is larger than what travels over the broker.
fn post(sandbox: &Sandbox, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let note = "x".repeat(if n.is_multiple_of(10) { 4096 } else { 10 });
        let body = format!(
            "{{\"id\": \"SO-{n}\", \"customer\": \"C-{}\", \"n\": {n}, \"note\": \"{note}\"}}",
            n % 7
        );
        let reply = sandbox.post("/orders", body.as_bytes());
        assert!(reply.status < 300, "{}: {}", reply.status, reply.body);
    }
}

/// The numbers of the orders that came out, by customer.
fn written(sandbox: &Sandbox) -> Vec<Vec<u64>> {
    let mut found = vec![Vec::new(); 7];
    for line in sandbox.read_all("out/").lines() {
        let order: serde_json::Value = serde_json::from_str(line).unwrap();
        let n = order["n"].as_u64().unwrap();
        found[(n % 7) as usize].push(n);
    }
    found
}

#[test]
fn an_engine_whose_broker_is_killed_and_robbed_does_all_once_and_in_order() {
    let mut broker = Broker::start().unwrap_or_else(|error| panic!("{error}"));
    let sandbox = project(&broker.url(), "crossdock1");
    let running = sandbox.start();
    post(&sandbox, 0..100);
    broker.kill();
    post(&sandbox, 100..150);
    broker.start_again().unwrap();
    post(&sandbox, 150..200);
    broker.kill();
    broker.wipe().unwrap();
    broker.start_again().unwrap();
    post(&sandbox, 200..250);
    sandbox.books_at_rest(250);
    let found = written(&sandbox);
    let all: usize = found.iter().map(Vec::len).sum();
    assert_eq!(all, 250);
    for of_customer in &found {
        assert!(of_customer.is_sorted(), "{of_customer:?}");
    }
    let shown = sandbox.prints(&["topology"]);
    assert!(
        shown.contains("crossdock1.orders.pause") && shown.contains("exists"),
        "{shown}"
    );
    let log = running.log();
    assert!(
        log.contains("no connection to the broker") && log.contains("is back after"),
        "{log}"
    );
    assert_eq!(running.terminate(), Some(0));
    // What the project no longer has is left over, and goes with a word.
    sandbox.file("flows/orders.yaml", &FLOW.replace("id: pause", "id: rest"));
    let shown = sandbox.prints(&["topology", "--delete"]);
    let line = |name: &str| {
        shown
            .lines()
            .find(|line| line.contains(name))
            .map(str::to_owned)
    };
    assert!(
        line("orders.rest").is_some_and(|line| line.contains("missing")),
        "{shown}"
    );
    assert!(
        line("orders.pause").is_some_and(|line| line.contains("deleted")),
        "{shown}"
    );
    let json = sandbox.prints(&["topology", "--format", "json"]);
    assert!(
        json.lines()
            .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
    );
    assert!(!json.contains("left over"), "{json}");
}

#[test]
fn an_engine_starts_without_its_broker_and_works_once_it_is_there() {
    let mut broker = Broker::start().unwrap_or_else(|error| panic!("{error}"));
    let sandbox = project(&broker.url(), "crossdock1");
    broker.kill();
    let running = sandbox.start();
    post(&sandbox, 0..20);
    assert_eq!(sandbox.read_all("out/"), "", "there is nobody to hand over");
    broker.start_again().unwrap();
    sandbox.books_at_rest(20);
    assert_eq!(written(&sandbox).iter().map(Vec::len).sum::<usize>(), 20);
    let log = running.log();
    assert!(
        log.contains("cannot be reached; messages are accepted and wait in the store")
            && log.contains("is back after"),
        "{log}"
    );
    // The credentials are looked at as soon as somebody can.
    assert!(!log.contains("guest:guest"), "{log}");
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn an_engine_that_cannot_start_says_what_to_change_and_its_code_says_whether_to_wait() {
    let broker = Broker::start().unwrap_or_else(|error| panic!("{error}"));
    let wrong = broker.url().replace("guest:guest", "guest:wrong");
    let output = project(&wrong, "crossdock1").crossdock(&["run"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(
        said.contains("check the URL's credentials") && !said.contains("wrong"),
        "{said}"
    );
    let output = project(&broker.url(), "Not a name").crossdock(&["check"]);
    let said = text(&output.stdout);
    assert!(
        !output.status.success() && said.contains("no name for queues"),
        "{said}"
    );
}

#[test]
fn commands_say_so_where_there_is_no_broker() {
    let sandbox = Sandbox::new();
    sandbox.file(
        "flows/orders.yaml",
        &FLOW.replace("order_by: customer\n", ""),
    );
    let shown = sandbox.prints(&["topology"]);
    assert!(shown.contains("embedded"), "{shown}");
}
