//! What people are told: one notice a cause, by webhook and by mail, over restarts and outages of those who are told.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::receiver::Receiver;
use crate::support::{Sandbox, eventually};

/// Longer than an address takes to look for notices, so that a second one would have come.
const A_WHILE: Duration = Duration::from_millis(3_500);
/// What stands in bodies and must not be told.
const SECRET: &str = "customer-phone-4711";

/// A project that books orders in the ERP that `web` stands in for, and tells `web` and `mail`.
fn project(web: &Receiver, mail: &Receiver) -> Sandbox {
    let sandbox = Sandbox::new().variable("HOOK_TOKEN", "let-me-in");
    sandbox.file(
        "crossdock.yaml",
        &format!(
            "listen: \"{}\"
notify:
  - webhook: {{ url: \"http://{}/hook\", token: \"${{env:HOOK_TOKEN}}\", headers: {{ X-Team: orders }} }}
  - mail: {{ smtp: \"smtp://{}\", from: crossdock@example.com, to: [ops@example.com, Anna <anna@example.com>] }}
",
            sandbox.address(),
            web.address,
            mail.address
        ),
    );
    sandbox.file(
        "systems/erp.yaml",
        &format!(
            "system: erp\nhttp: {{ base_url: 'http://{}' }}\n",
            web.address
        ),
    );
    sandbox.file(
        "flows/orders.yaml",
        "flow: orders
source:
  webhook: { path: /orders, verify: none }
keys: { order: number }
once: { key: order }
sinks:
  erp: { http: { system: erp, post: /orders, idempotency_key: number }, retry: { attempts: 1 } }
",
    );
    sandbox
}

fn orders(sandbox: &Sandbox, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let body = json!({"number": format!("N{n}"), "phone": SECRET});
        let reply = sandbox.post("/orders", body.to_string().as_bytes());
        assert_eq!(reply.status, 200);
    }
}

fn exceptions(sandbox: &Sandbox, count: usize) {
    eventually("the exceptions are there", || {
        let rows = sandbox.prints(&["exceptions", "--json", "--limit", "1000"]);
        (rows.lines().count() == count).then_some(())
    });
}

/// The notices that a web server has taken.
fn notices(web: &Receiver) -> Vec<Value> {
    let bodies = web.taken().into_iter().map(|(_, body)| body);
    bodies
        .flat_map(|body| {
            let mut body: Value = serde_json::from_str(&body).unwrap();
            serde_json::from_value::<Vec<Value>>(body["notices"].take()).unwrap()
        })
        .collect()
}

#[test]
fn fifty_exceptions_of_one_cause_are_one_notice_and_a_second_issue_is_a_second_one() {
    let (web, mail) = (Receiver::web(), Receiver::mail());
    let sandbox = project(&web, &mail);
    let engine = sandbox.start();
    // The first one is what is told.
    orders(&sandbox, 0..1);
    exceptions(&sandbox, 1);
    orders(&sandbox, 1..25);
    exceptions(&sandbox, 25);
    eventually("both are told", || {
        (web.taken().len() == 1 && mail.taken().len() == 1).then_some(())
    });
    // A restart in between, by kill -9: who was told is not told again, once the engine has noted it.
    std::thread::sleep(A_WHILE);
    drop(engine);
    let engine = sandbox.start();
    orders(&sandbox, 25..50);
    exceptions(&sandbox, 50);
    std::thread::sleep(A_WHILE);
    let told = notices(&web);
    assert_eq!((told.len(), mail.taken().len()), (1, 1));
    let notice = &told[0];
    assert_eq!(
        [
            &notice["kind"],
            &notice["flow"],
            &notice["step"],
            &notice["class"]
        ],
        ["issue", "orders", "erp", "validation"]
    );
    assert_eq!(
        (&notice["keys"], &notice["look"]),
        (
            &json!({"order": "N0"}),
            &json!("crossdock exceptions show 1")
        )
    );
    let (head, body) = &web.taken()[0];
    for line in [
        "POST /hook",
        "authorization: Bearer let-me-in",
        "x-team: orders",
    ] {
        assert!(head.contains(line), "{head}");
    }
    let (commands, letter) = &mail.taken()[0];
    for line in [
        "MAIL FROM:<crossdock@example.com>",
        "RCPT TO:<ops@example.com>",
        "RCPT TO:<anna@example.com>",
    ] {
        assert!(commands.contains(line), "{commands}");
    }
    for line in [
        "Subject: Crossdock: new issue in orders at erp",
        "crossdock exceptions show 1",
        "order=3DN0",
    ] {
        assert!(
            letter.replace("order=N0", "order=3DN0").contains(line),
            "{letter}"
        );
    }
    assert!(!body.contains(SECRET) && !letter.contains(SECRET));
    // Another cause, and then the first one again after it was settled.
    web.answers_orders(404);
    orders(&sandbox, 50..52);
    exceptions(&sandbox, 52);
    eventually("the second issue is told", || {
        (notices(&web).len() == 2 && mail.taken().len() == 2).then_some(())
    });
    sandbox.prints(&["exceptions", "discard", "--all", "--reason", "test"]);
    web.answers_orders(422);
    orders(&sandbox, 52..54);
    eventually("what was settled is told again", || {
        (notices(&web).len() == 3 && mail.taken().len() == 3).then_some(())
    });
    let issues: Vec<_> = notices(&web)
        .iter()
        .map(|told| told["issue"].clone())
        .collect();
    assert!(
        issues[0] == issues[2] && issues[0] != issues[1],
        "{issues:?}"
    );
    assert_eq!(engine.terminate(), Some(0));
}

#[test]
fn who_is_down_is_told_when_back_and_holds_nothing_up() {
    let (web, mail) = (Receiver::web(), Receiver::mail());
    web.answers(503);
    mail.answers(451);
    let sandbox = project(&web, &mail);
    let engine = sandbox.start();
    orders(&sandbox, 0..3);
    exceptions(&sandbox, 3);
    eventually("both turn it away, more than once", || {
        (web.turned_away() > 1 && mail.turned_away() > 1).then_some(())
    });
    web.answers_orders(200);
    orders(&sandbox, 3..9);
    let books = sandbox.books_at_rest(9);
    assert_eq!(books["all"]["delivered"], 6, "flows go on meanwhile");
    // The one is back while the engine is away, the other later.
    assert_eq!(engine.terminate(), Some(0));
    web.answers(204);
    let engine = sandbox.start();
    eventually("the webhook is told", || {
        (notices(&web).len() == 1).then_some(())
    });
    mail.answers(250);
    eventually("the mail is told", || {
        (mail.taken().len() == 1).then_some(())
    });
    std::thread::sleep(A_WHILE);
    assert_eq!((notices(&web).len(), mail.taken().len()), (1, 1));
    assert_eq!(notices(&web)[0]["open"], 3);
    let log = engine.log();
    assert!(
        log.contains("a notice could not be sent") && !log.contains("let-me-in"),
        "{log}"
    );
}

#[test]
fn a_system_that_goes_down_is_one_notice_for_all_that_waits() {
    let (web, mail) = (Receiver::web(), Receiver::mail());
    let sandbox = project(&web, &mail);
    sandbox.file(
        "systems/erp.yaml",
        "system: erp\nhttp: { base_url: 'http://127.0.0.1:9' }\n",
    );
    let flow = std::fs::read_to_string(sandbox.root().join("flows/orders.yaml")).unwrap();
    sandbox.file(
        "flows/orders.yaml",
        &flow.replace("attempts: 1", "attempts: 8"),
    );
    let engine = sandbox.start();
    orders(&sandbox, 0..40);
    eventually("both are told", || {
        (notices(&web).len() == 1 && mail.taken().len() == 1).then_some(())
    });
    // Killed before it has noted whom it told, an engine tells again.
    std::thread::sleep(A_WHILE);
    drop(engine);
    let engine = sandbox.start();
    std::thread::sleep(A_WHILE);
    let told = notices(&web);
    assert_eq!((told.len(), mail.taken().len()), (1, 1), "{told:?}");
    assert_eq!(
        (&told[0]["kind"], &told[0]["system"], &told[0]["look"]),
        (&json!("system"), &json!("erp"), &json!("crossdock systems"))
    );
    drop(engine);
}
