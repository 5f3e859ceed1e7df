//! Every path with every role: the table by hand here, the paths from the document. A path that is new and not here fails the test.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Site, document};

/// Who may call what. `*`: every role.
const EXPECTED: &[(&str, &str)] = &[
    ("GET /status", "*"),
    ("GET /flows", "*"),
    ("GET /flows/{flow}", "*"),
    ("GET /flows/{flow}/tap", "*"),
    ("GET /runs", "*"),
    ("GET /runs/{run}", "*"),
    ("POST /runs:again", "business operator engineer admin"),
    ("GET /search", "*"),
    ("GET /journeys/{name}/{value}", "*"),
    ("GET /exceptions", "*"),
    ("GET /exceptions/{id}", "*"),
    (
        "POST /exceptions:act",
        "business operator engineer approver admin",
    ),
    (
        "POST /exceptions/{id}:act",
        "business operator engineer approver admin",
    ),
    ("GET /issues", "*"),
    ("GET /books", "*"),
    ("GET /systems", "*"),
    ("GET /replays", "*"),
    ("GET /replays/{id}", "*"),
    ("GET /replays/{id}/items", "*"),
    ("POST /replays", "operator engineer admin"),
    ("POST /replays/{id}:pause", "operator engineer admin"),
    ("POST /replays/{id}:resume", "operator engineer admin"),
    ("POST /replays/{id}:abort", "operator engineer admin"),
    ("GET /revisions", "*"),
    ("POST /project:reload", "engineer admin"),
    ("POST /project:rollback", "engineer admin"),
    ("POST /project:lift", "engineer admin"),
    ("GET /toggles", "*"),
    ("POST /toggles", "operator engineer admin"),
    ("GET /canaries", "*"),
    ("POST /canaries", "engineer admin"),
    ("POST /canaries:share", "engineer admin"),
    // The path itself asks for `deploy`, or for `approve`, once it knows the canary.
    ("POST /canaries:promote", "*"),
    ("POST /canaries:stop", "operator engineer admin"),
    ("GET /shadows", "*"),
    ("POST /shadows", "engineer admin"),
    ("POST /shadows:stop", "operator engineer admin"),
    ("GET /approvals", "*"),
    ("POST /approvals/{id}:approve", "approver admin"),
    // The path itself asks for `approve`, but of who has asked.
    ("POST /approvals/{id}:refuse", "*"),
    ("GET /audit", "auditor admin"),
    ("GET /audit/verify", "auditor admin"),
    ("POST /personal:erase", "privacy admin"),
    ("GET /tokens", "admin"),
    ("POST /tokens", "admin"),
    ("POST /tokens/{name}:revoke", "admin"),
    ("GET /session/begin", EVERYBODY),
    ("GET /session/callback", EVERYBODY),
    ("GET /session", "*"),
    ("POST /session:end", "*"),
    ("GET /sessions", "admin"),
    ("POST /sessions:end", "admin"),
    ("GET /changes", "*"),
    ("GET /openapi.json", "*"),
];

/// Also for those whom nobody knows.
const EVERYBODY: &str = "everybody";

const ROLES: [&str; 8] = [
    "viewer", "business", "operator", "engineer", "approver", "auditor", "privacy", "admin",
];

/// All paths of the document, as `METHOD /path`.
fn documented() -> BTreeSet<String> {
    let document = document();
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            let path = path.strip_prefix("/api/v1").unwrap().to_owned();
            let methods = item.as_object().unwrap().keys();
            methods
                .map(move |method| format!("{} {path}", method.to_uppercase()))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A request to a path that changes nothing: its body is not what it takes.
fn filled(path: &str) -> String {
    let path = path
        .replace("{flow}", "orders")
        .replace("{run}", "1")
        .replace("{name}/{value}", "order/1")
        .replace("{id}", "1")
        .replace("{name}", "nobody");
    let query = if path == "/search" { "?q=1" } else { "" };
    format!("/api/v1{path}{query}")
}

#[test]
fn every_path_is_for_the_roles_that_the_table_says_and_nobody_else() {
    let expected: BTreeMap<&str, &str> = EXPECTED.iter().copied().collect();
    let known: BTreeSet<String> = expected.keys().map(|path| (*path).to_owned()).collect();
    assert_eq!(documented(), known);
    let site = Site::new();
    let _engine = site.start(1);
    let tokens = ROLES.map(|role| (role, site.token(role, role, None)));
    for (path, roles) in expected {
        let (method, target) = path.split_once(' ').unwrap();
        let target = filled(target);
        let body: &[u8] = if method == "POST" { b"{\"x\":1}" } else { b"" };
        let nobody = site.send(method, &target, "", &[], body);
        if roles == EVERYBODY {
            // There is no sign-in here.
            assert_eq!(
                (nobody.status, nobody.code()),
                (404, "no_sign_in"),
                "{path}"
            );
            continue;
        }
        assert_eq!(
            (nobody.status, nobody.code()),
            (401, "unauthenticated"),
            "{path}"
        );
        for (role, token) in &tokens {
            let may = roles == "*" || roles.split(' ').any(|one| one == *role);
            if path == "GET /changes" || path == "GET /flows/{flow}/tap" {
                assert!(may);
                continue;
            }
            let answer = site.send(method, &target, token, &[], body);
            assert_eq!(answer.status != 403, may, "{path} as {role}: {answer:?}");
            // It is behind the router, whatever it says to a request that is none.
            assert!(
                answer.status != 405 && answer.status < 500,
                "{path} as {role}: {answer:?}"
            );
        }
    }
}

#[test]
fn verbs_need_the_rights_that_fit_what_they_do() {
    let site = Site::new();
    let _engine = site.start(3);
    let order = site.exception_of("orders");
    let path = format!("/api/v1/exceptions/{order}:act");
    let verb = |verb: Value| json!({ "verb": verb });
    let note = verb(json!({ "note": { "text": "called them" } }));
    let retry = verb(json!({ "retry": {} }));
    let edit = verb(json!({ "edit": { "body": "{}" } }));
    let discard = verb(json!({ "discard": { "reason": "a test" } }));
    let made = Cell::new(0);
    let ask = |role: &str, body: &Value| {
        let number = made.get();
        made.set(number + 1);
        let token = site.token(&format!("{role}-{number}"), role, None);
        site.post(&path, &token, body).status
    };
    for body in [&note, &retry, &edit, &discard] {
        assert_eq!(ask("viewer", body), 403);
        assert_eq!(ask("auditor", body), 403);
    }
    assert_eq!(ask("business", &edit), 403);
    assert_eq!(ask("business", &discard), 403);
    assert_eq!(ask("approver", &retry), 403);
    assert_eq!(ask("business", &note), 200);
    // Many at once are the operators'.
    let business = site.token("many", "business", None);
    let many =
        json!({ "which": { "all": true }, "verb": { "note": { "text": "x" } }, "dry_run": true });
    let refused = site.post("/api/v1/exceptions:act", &business, &many);
    assert_eq!((refused.status, refused.code()), (403, "no_right"));
    let operator = site.token("ops", "operator", None);
    let done = site.post("/api/v1/exceptions:act", &operator, &many);
    assert_eq!((done.status, &done.body["done"]), (200, &json!(4)));
    // Bodies are for those who may see them, and the others are told.
    let viewer = site.token("eyes", "viewer", None);
    let seen = site.get(&format!("/api/v1/exceptions/{order}"), &viewer);
    assert_eq!(seen.status, 200);
    assert!(seen.body["accepted"].is_null() && seen.body["left_out"].is_string());
    let seen = site.get(&format!("/api/v1/exceptions/{order}"), &operator);
    let accepted = seen.body["accepted"].as_str().unwrap();
    assert!(accepted.contains("SECRET-") && seen.body["left_out"].is_null());
}

#[test]
fn what_belongs_to_other_flows_is_not_there() {
    let site = Site::new();
    let _engine = site.start(2);
    let (order, back) = (site.exception_of("orders"), site.exception_of("returns"));
    let scoped = site.token("returns-only", "admin", Some("ret*"));
    // The same answer as for what does not exist.
    let same = |path: &str, unknown: &str, method: &str, body: &[u8]| {
        let theirs = site.send(method, path, &scoped, &[], body);
        let nothing = site.send(method, unknown, &scoped, &[], body);
        assert_eq!(theirs.status, 404, "{path}: {theirs:?}");
        assert_eq!(theirs.body, nothing.body, "{path}");
    };
    let retry = br#"{"verb":{"retry":{}}}"#;
    let act = |id: i64| format!("/api/v1/exceptions/{id}:act");
    same("/api/v1/flows/orders", "/api/v1/flows/nothing", "GET", b"");
    same("/api/v1/runs/1", "/api/v1/runs/999", "GET", b"");
    same(
        &format!("/api/v1/exceptions/{order}"),
        "/api/v1/exceptions/999",
        "GET",
        b"",
    );
    same(&act(order), &act(999), "POST", retry);
    let many = |id: i64| json!({ "which": { "ids": [id] }, "verb": { "retry": {} } });
    for id in [order, 999] {
        let body = many(id).to_string();
        let path = "/api/v1/exceptions:act";
        assert_eq!(
            site.send("POST", path, &scoped, &[], body.as_bytes())
                .status,
            404
        );
    }
    for path in ["flows", "runs", "exceptions", "issues", "books"] {
        let list = site.get(&format!("/api/v1/{path}"), &scoped).body;
        let items = list["items"].as_array().unwrap();
        assert_eq!(items.len(), 1, "{path}: {list}");
        assert_eq!(items[0]["flow"], "returns", "{path}");
    }
    // Behind their last one is nothing, whatever others have there.
    for path in ["runs", "exceptions"] {
        let page = format!("/api/v1/{path}?limit=1");
        let mut list = site.get(&page, &scoped).body;
        assert_eq!(list["items"].as_array().unwrap().len(), 1);
        if let Some(next) = list["next"].as_str() {
            list = site.get(&format!("{page}&cursor={next}"), &scoped).body;
        }
        assert_eq!(list, json!({ "items": [] }), "{path}");
    }
    let found = site.get("/api/v1/search?q=SECRET-0", &scoped).body;
    assert_eq!(found["items"], json!([]));
    for path in ["systems", "audit", "tokens", "revisions"] {
        assert_eq!(
            site.get(&format!("/api/v1/{path}"), &scoped).status,
            403,
            "{path}"
        );
    }
    let all = json!({ "which": { "all": true }, "verb": { "retry": {} } });
    assert_eq!(
        site.post("/api/v1/exceptions:act", &scoped, &all).status,
        403
    );
    assert_eq!(
        site.post(&act(back), &scoped, &json!({ "verb": { "retry": {} } }))
            .status,
        200
    );
}
