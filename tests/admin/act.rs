//! What is asked for: problems, pages, `If-Match`, `Idempotency-Key`, limits.

use serde_json::{Value, json};

use super::{Site, document, send_to};

#[test]
fn problems_say_what_is_wrong_and_keep_their_code() {
    let site = Site::new();
    let _engine = site.start(1);
    let token = site.token("admin", "admin", None);
    let cases: [(&str, &str, &str, u16, &str); 12] = [
        ("GET", "/api/v1/nothing", "", 404, "not_found"),
        ("GET", "/elsewhere", "", 404, "not_found"),
        ("DELETE", "/api/v1/status", "", 405, "method_not_allowed"),
        ("GET", "/api/v1/runs?limit=201", "", 400, "bad_request"),
        ("GET", "/api/v1/runs?limit=x", "", 400, "bad_request"),
        ("GET", "/api/v1/runs?colour=red", "", 400, "bad_request"),
        ("GET", "/api/v1/runs?cursor=%00", "", 400, "bad_request"),
        ("GET", "/api/v1/exceptions/x", "", 404, "not_found"),
        ("POST", "/api/v1/exceptions:act", "{", 400, "bad_request"),
        (
            "POST",
            "/api/v1/exceptions:act",
            r#"{"which":{"all":true},"verb":{"note":{"text":"x"}},"who":"root"}"#,
            400,
            "bad_request",
        ),
        (
            "POST",
            "/api/v1/exceptions:act",
            r#"{"which":{"all":true},"verb":{"discard":{"reason":" "}}}"#,
            422,
            "validation",
        ),
        ("POST", "/api/v1/project:rollback", "{}", 422, "validation"),
    ];
    for (method, path, body, status, code) in cases {
        let answer = site.send(
            method,
            path,
            &token,
            &[("x-request-id", "my-1")],
            body.as_bytes(),
        );
        assert_eq!(
            (answer.status, answer.code()),
            (status, code),
            "{method} {path}: {answer:?}"
        );
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(answer.header("x-request-id"), Some("my-1"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(answer.header("access-control-allow-origin").is_none());
        assert_eq!(answer.body["status"], status);
        assert!(
            answer.body["detail"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
    }
    let form = site.send(
        "POST",
        "/api/v1/project:reload",
        &token,
        &[("content-type", "text/plain")],
        b"",
    );
    assert_eq!(form.status, 415);
    let served = site.get("/api/v1/openapi.json", &token);
    assert_eq!(served.body, document());
    assert_eq!(served.body["openapi"], "3.1.0");
}

#[test]
fn pages_follow_each_other_without_a_gap_or_a_repeat() {
    let site = Site::new();
    let _engine = site.start(5);
    let token = site.token("viewer", "viewer", None);
    for (path, field, all) in [("runs", "run", 6), ("exceptions", "id", 6)] {
        let mut seen: Vec<i64> = Vec::new();
        let mut next = String::new();
        loop {
            let page = site
                .get(&format!("/api/v1/{path}?limit=2{next}"), &token)
                .body;
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= 2);
            seen.extend(items.iter().map(|item| item[field].as_i64().unwrap()));
            match page["next"].as_str() {
                Some(cursor) => next = format!("&cursor={cursor}"),
                None => break,
            }
        }
        let mut sorted = seen.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        sorted.dedup();
        assert_eq!((seen.len(), seen), (all, sorted), "{path}");
    }
    let found = site.get("/api/v1/search?q=order%3DSECRET-3", &token).body;
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    let same = site.get("/api/v1/journeys/order/SECRET-3", &token).body;
    assert_eq!(found, same);
}

#[test]
fn of_two_who_have_seen_the_same_one_acts() {
    let site = Site::new();
    let _engine = site.start(1);
    let token = site.token("ops", "operator", None);
    let id = site.exception_of("orders");
    let (path, act) = (
        format!("/api/v1/exceptions/{id}"),
        format!("/api/v1/exceptions/{id}:act"),
    );
    let tag = site.get(&path, &token).header("etag").unwrap().to_owned();
    let body = json!({ "verb": { "discard": { "reason": "twice" } } }).to_string();
    let admin = site.admin;
    let both: Vec<u16> = std::thread::scope(|scope| {
        let ask = || {
            let headers = [("if-match", tag.as_str())];
            send_to(admin, ("POST", &act), &token, &headers, body.as_bytes()).status
        };
        let (one, two) = (scope.spawn(ask), scope.spawn(ask));
        let mut both = vec![one.join().unwrap(), two.join().unwrap()];
        both.sort_unstable();
        both
    });
    assert!(both == [200, 412] || both == [200, 409], "{both:?}");
    let late = site.send("POST", &act, &token, &[("if-match", &tag)], body.as_bytes());
    assert!([409, 412].contains(&late.status), "{late:?}");
    let other = site.exception_of("returns");
    let path = format!("/api/v1/exceptions/{other}:act");
    for (tag, status) in [("\"nonsense\"", 412), (&*tag, 412), ("*", 200)] {
        let note = json!({ "verb": { "note": { "text": "x" } } }).to_string();
        let answer = site.send("POST", &path, &token, &[("if-match", tag)], note.as_bytes());
        assert_eq!(answer.status, status, "{tag}");
    }
}

#[test]
fn who_asks_twice_with_one_key_does_it_once() {
    let site = Site::new();
    let engine = site.start(1);
    let token = site.token("ops", "admin", None);
    let id = site.exception_of("orders");
    let path = format!("/api/v1/exceptions/{id}:act");
    let note = |text: &str| json!({ "verb": { "note": { "text": text } } }).to_string();
    let ask = |token: &str, key: &str, body: &str| {
        let headers = [("idempotency-key", key)];
        site.send("POST", &path, token, &headers, body.as_bytes())
    };
    let first = ask(&token, "k1", &note("one"));
    let again = ask(&token, "k1", &note("one"));
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!(first.body, again.body);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let other = ask(&token, "k1", &note("two"));
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency_key_reused")
    );
    assert_eq!(ask(&token, "k2", &note("three")).status, 200);
    assert_eq!(ask(&token, &"k".repeat(201), &note("four")).status, 400);
    // The key belongs to who sends it.
    let second = site.token("second", "admin", None);
    assert_eq!(ask(&second, "k1", &note("two")).status, 200);
    // The answer outlives the engine.
    drop(engine);
    let _engine = site.sandbox.start();
    let later = ask(&token, "k1", &note("one"));
    assert_eq!(
        (later.status, later.header("idempotency-replayed")),
        (200, Some("true"))
    );
    let seen = site.get(&format!("/api/v1/exceptions/{id}"), &token).body;
    let texts: Vec<&Value> = seen["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| &line["why"])
        .collect();
    assert_eq!(texts, ["one", "three", "two"]);
    // A secret is not kept for a second answer.
    let wish = json!({ "name": "made", "roles": ["viewer"], "valid_seconds": 60 }).to_string();
    let make = || {
        let headers = [("idempotency-key", "t")];
        site.send("POST", "/api/v1/tokens", &token, &headers, wish.as_bytes())
    };
    let made = make();
    assert!(
        made.body["token"]
            .as_str()
            .unwrap()
            .starts_with("crossdock_")
    );
    let again = make();
    assert_eq!((again.status, again.code()), (409, "answered_before"));
}

#[test]
fn at_most_a_thousand_are_named_at_once() {
    let site = Site::new();
    let _engine = site.start(0);
    let token = site.token("ops", "operator", None);
    let ids: Vec<i64> = (1..=1001).collect();
    let body = json!({ "which": { "ids": ids }, "verb": { "retry": {} } });
    let answer = site.post("/api/v1/exceptions:act", &token, &body);
    assert_eq!((answer.status, answer.code()), (422, "validation"));
}

#[test]
fn what_concerns_more_than_a_thousand_needs_who_may_approve() {
    let site = Site::new();
    // A step that fails for each: so many wait for a person.
    site.sandbox.file(
        "flows/many.yaml",
        "flow: many\nsource:\n  generate: { count: 1001, body: { n: '{{@n}}' } }\nsteps:\n  - id: never\n    validate: order.v1\nsinks:\n  out: { discard: {} }\n",
    );
    let _engine = site.start_beside(0, 1001);
    let operator = site.token("ops", "operator", None);
    let both = site.token("both", "operator,approver", None);
    let bulk = json!({ "which": { "flow": "many" }, "verb": { "discard": { "reason": "a test" } }, "dry_run": true });
    let list = json!({ "list": { "flow": "many", "how": { "from": "start" } }, "dry_run": true });
    for (path, body) in [("exceptions:act", &bulk), ("replays", &list)] {
        let path = format!("/api/v1/{path}");
        let refused = site.post(&path, &operator, body);
        assert_eq!(
            (refused.status, refused.code()),
            (403, "no_right"),
            "{path}"
        );
        let done = site.post(&path, &both, body);
        assert_eq!(done.status, 200, "{path}: {done:?}");
        let many = done.body["done"].as_u64().or(done.body["runs"].as_u64());
        assert_eq!(many, Some(1001), "{path}");
    }
}
