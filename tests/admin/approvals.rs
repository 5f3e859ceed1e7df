//! Acts on many wait for a second person: nothing is done before, who has asked cannot approve, and what it is about is frozen.

use serde_json::{Value, json};

use super::Site;
use crate::support::{eventually, text};

fn site() -> Site {
    Site::with(", approval: { above: 2 }")
}

fn books(site: &Site, name: &str) -> i64 {
    let books: Value = serde_json::from_str(&site.sandbox.prints(&["books", "--json"])).unwrap();
    books["all"][name].as_i64().unwrap()
}

/// The newest request, once it is as far as this.
fn newest(site: &Site, state: &str) -> Value {
    eventually(state, || {
        let all = site.sandbox.prints(&["approvals", "--all", "--json"]);
        let first: Value = serde_json::from_str(all.lines().next()?).unwrap();
        (first["state"] == state).then_some(first)
    })
}

fn discard() -> Value {
    json!({ "which": { "flow": "orders" }, "verb": { "discard": { "reason": "test orders" } } })
}

#[test]
fn a_discard_of_many_waits_for_somebody_else_and_is_about_what_it_was_asked_for() {
    let site = site();
    let _engine = site.start(3);
    let anna = site.token("anna", "operator,approver", None);
    let otto = site.token("otto", "approver", None);
    let emma = site.token("emma", "operator", None);
    let act = "/api/v1/exceptions:act";
    // Few are nobody's business, and notes are none of them.
    let few = json!({ "which": { "flow": "returns" }, "verb": { "retry": {} }, "dry_run": true });
    assert_eq!(site.post(act, &anna, &few).body["done"], 1);
    let note = json!({ "which": { "all": true }, "verb": { "note": { "text": "seen" } } });
    assert_eq!(site.post(act, &anna, &note).body["done"], 4);
    let asked = site.post(act, &anna, &discard());
    assert_eq!((asked.status, &asked.body["done"]), (200, &json!(0)));
    let id = asked.body["approval"].as_i64().unwrap();
    assert_eq!(books(&site, "in_exceptions"), 4);
    // What comes after it was asked is not part of it.
    assert_eq!(
        site.sandbox
            .post("/orders", br#"{"number":"later"}"#)
            .status,
        200
    );
    eventually("it fails too", || {
        (books(&site, "in_exceptions") == 5).then_some(())
    });
    let approve = format!("/api/v1/approvals/{id}:approve");
    let decide =
        |path: &str, token: &str, why: Value| site.post(path, token, &json!({ "why": why }));
    let own = decide(&approve, &anna, json!(null));
    assert_eq!((own.status, own.code()), (403, "forbidden"));
    assert_eq!(decide(&approve, &emma, json!(null)).code(), "no_right");
    assert_eq!(
        decide("/api/v1/approvals/999:approve", &otto, json!(null)).status,
        404
    );
    let scoped = site.token("scoped", "approver", Some("returns"));
    assert_eq!(decide(&approve, &scoped, json!(null)).status, 404);
    assert_eq!(books(&site, "in_exceptions"), 5);
    let done = decide(&approve, &otto, json!("they are tests"));
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(decide(&approve, &otto, json!(null)).status, 409);
    let row = newest(&site, "done");
    assert_eq!(
        (&row["done"], &row["refused"], &row["items"]),
        (&json!(3), &json!(0), &json!(3))
    );
    assert_eq!(
        (books(&site, "discarded"), books(&site, "in_exceptions")),
        (3, 2)
    );
    // Both sides are written down, and each decision says by whom it was wanted.
    let audited = site.audited();
    let has = |actor: &str, action: &str, outcome: &str| {
        let same = audited
            .iter()
            .filter(|row| row[0] == actor && row[3] == action && row[5] == outcome);
        same.count()
    };
    assert_eq!(has("anna", "approval.ask", "done"), 1, "{audited:?}");
    assert_eq!(has("otto", "approval.approve", "done"), 1, "{audited:?}");
    assert_eq!(has("anna", "exception.discard", "done"), 3, "{audited:?}");
    let shown =
        site.sandbox
            .prints(&["audit", "--action", "exception.discard", "--format", "json"]);
    assert!(shown.contains(&format!("approval {id}")), "{shown}");
}

#[test]
fn at_the_command_line_too_and_what_is_refused_never_happens() {
    let site = site();
    let engine = site.start(3);
    let run = |arguments: &[&str]| {
        let output = site.sandbox.crossdock(arguments);
        (
            output.status.code(),
            text(&output.stdout) + &text(&output.stderr),
        )
    };
    let retry = ["exceptions", "retry", "--flow", "orders", "--as", "anna"];
    let (code, said) = run(&retry);
    assert!(
        code == Some(1) && said.contains("waits for a second person"),
        "{said}"
    );
    let id = newest(&site, "asked")["id"].to_string();
    let listed = site.sandbox.prints(&["approvals"]);
    assert!(
        listed.contains("retry 3 exceptions (flow orders)") && listed.contains("anna"),
        "{listed}"
    );
    // Who approves sees what is done, and with which.
    assert!(
        listed.contains("\n  about ") && listed.contains("\n  does  {\"exceptions\""),
        "{listed}"
    );
    let row = newest(&site, "asked");
    assert_eq!(row["first"].as_array().unwrap().len(), 3, "{row}");
    assert_eq!(row["verb"]["exceptions"]["retry"]["how"], "plain", "{row}");
    let (code, said) = run(&["approve", &id, "--as", "Anna"]);
    assert!(code != Some(0) && said.contains("somebody else"), "{said}");
    let (code, said) = run(&["refuse", &id, "--reason", "the ERP is down", "--as", "otto"]);
    assert!(
        code == Some(0) && said.contains("nothing comes of it"),
        "{said}"
    );
    let (code, said) = run(&["approve", &id, "--as", "otto"]);
    assert!(
        code != Some(0) && said.contains("decided about it before"),
        "{said}"
    );
    // What is sent once more whatever happened before says so, and why.
    let as_new = [&retry[..], &["--as-new"]].concat();
    let (code, said) = run(&as_new);
    assert!(
        code != Some(0) && said.contains("a reason is missing"),
        "{said}"
    );
    let (code, said) = run(&[&as_new[..], &["--reason", "the ERP has lost them"]].concat());
    assert!(code == Some(1) && said.contains("second person"), "{said}");
    let row = newest(&site, "asked");
    let said = row["said"].as_str().unwrap();
    assert!(said.contains("as new: each is sent once more"), "{said}");
    assert_eq!(row["verb"]["exceptions"]["retry"]["how"], "as_new", "{row}");
    // A list of replays is frozen, too, and begins when it is approved; without an engine it waits for the next start.
    let (code, said) = run(&[
        "replay", "--flow", "orders", "--verb", "resume", "--as", "anna",
    ]);
    assert!(
        code == Some(1) && said.contains("waits for a second person"),
        "{said}"
    );
    let id = newest(&site, "asked")["id"].to_string();
    assert_eq!(site.sandbox.prints(&["replays"]).trim(), "no replays");
    let (code, said) = run(&["replay", "resume", "1", "2", "3", "--as", "anna"]);
    assert!(code == Some(1) && said.contains("second person"), "{said}");
    assert_eq!(engine.terminate(), Some(0));
    let (code, said) = run(&["approve", &id, "--as", "otto"]);
    assert!(
        code == Some(0) && said.contains("replay 1 has begun"),
        "{said}"
    );
    let row: Value =
        serde_json::from_str(site.sandbox.prints(&["replays", "--json"]).trim()).unwrap();
    assert_eq!(row["who"], "anna, approved by otto");
    // An approval beside no engine is done at the next start.
    let (_, said) = run(&[
        "exceptions",
        "discard",
        "--all",
        "--reason",
        "over",
        "--as",
        "anna",
    ]);
    assert!(said.contains("waits for a second person"), "{said}");
    let id = newest(&site, "asked")["id"].to_string();
    let (code, said) = run(&["approve", &id, "--as", "otto"]);
    assert!(
        code == Some(0) && said.contains("at the next start"),
        "{said}"
    );
    let _engine = site.sandbox.start();
    let row = newest(&site, "done");
    assert_eq!(
        row["done"].as_i64().unwrap() + row["refused"].as_i64().unwrap(),
        4,
        "{row}"
    );
}

#[test]
fn one_human_with_two_names_is_one_and_a_token_sees_what_it_has_asked_for() {
    let site = site();
    let _engine = site.start(3);
    let made = [
        "token", "create", "--name", "ci", "--role", "operator", "--flows", "orders",
    ];
    let made = [&made[..], &["--as", "Anna"]].concat();
    let ci = site.sandbox.prints(&made).trim().to_owned();
    let runs = site.get("/api/v1/runs?flow=orders", &ci).body;
    let runs: Vec<&Value> = runs["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| &run["run"])
        .collect();
    assert_eq!(runs.len(), 3, "{runs:?}");
    let again = json!({ "runs": runs, "how": { "from": "resume" }, "why": "tests" });
    let asked = site.post("/api/v1/runs:again", &ci, &again);
    let id = asked.body[0]["approval"].as_i64().expect("a request");
    // It is about runs of all flows, and the token is for one: it sees its own all the same, and others do not.
    let seen = |token: &str| {
        site.get("/api/v1/approvals", token)
            .body
            .as_array()
            .unwrap()
            .len()
    };
    let other = site.token("other", "operator", Some("orders"));
    assert_eq!((seen(&ci), seen(&other)), (1, 0));
    let approve = |who: &str| {
        let output = site
            .sandbox
            .crossdock(&["approve", &id.to_string(), "--as", who]);
        (
            output.status.code(),
            text(&output.stdout) + &text(&output.stderr),
        )
    };
    let (code, said) = approve("anna");
    assert!(code != Some(0) && said.contains("somebody else"), "{said}");
    let refuse = format!("/api/v1/approvals/{id}:refuse");
    let why = json!({ "why": "a mistake" });
    assert_eq!(site.post(&refuse, &other, &why).status, 403);
    let taken = site.post(&refuse, &ci, &why);
    assert_eq!(
        (taken.status, &taken.body["state"]),
        (200, &json!("refused"))
    );
    // The other way round: who has asked has made the token that would approve.
    let retry = ["exceptions", "retry", "--flow", "orders", "--as", "anna"];
    assert_eq!(site.sandbox.crossdock(&retry).status.code(), Some(1));
    let id = newest(&site, "asked")["id"].to_string();
    let made = [
        "token", "create", "--name", "second", "--role", "approver", "--as", "anna",
    ];
    let second = site.sandbox.prints(&made).trim().to_owned();
    let path = format!("/api/v1/approvals/{id}:approve");
    let own = site.post(&path, &second, &json!({}));
    assert_eq!((own.status, own.code()), (403, "forbidden"));
    let otto = site.token("otto", "approver", None);
    assert_eq!(site.post(&path, &otto, &json!({})).status, 200);
}
