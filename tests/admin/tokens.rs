//! Tokens: shown once, hashed, revoked at once, expiring, throttled; made beside an engine and without one.

use serde_json::json;

use super::Site;
use crate::support::{eventually, text};

#[test]
fn only_a_valid_token_opens_and_a_revoked_one_no_more() {
    let site = Site::new();
    // Without an engine there must be a store first.
    let first = site.start(0);
    assert_eq!(first.terminate(), Some(0));
    let before = site.token("before", "viewer", None);
    let engine = site.start(0);
    let token = site.token("dashboard", "viewer", None);
    let path = "/api/v1/status";
    for good in [&before, &token] {
        let answer = site.get(path, good);
        assert_eq!(
            (answer.status, &answer.body["roles"]),
            (200, &json!(["viewer"]))
        );
    }
    let refused = |token: &str| {
        let answer = site.get(path, token);
        assert_eq!(
            (answer.status, answer.code()),
            (401, "unauthenticated"),
            "{token}"
        );
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    };
    refused("");
    refused("x");
    let last = if token.ends_with('A') { 'E' } else { 'A' };
    refused(&format!("{}{last}", &token[..52]));
    refused(&token.to_uppercase());
    let query = site.get(&format!("{path}?token={token}"), "");
    assert_eq!(query.status, 401);
    let basic = site.send(
        "GET",
        path,
        "",
        &[("authorization", &format!("Basic {token}"))],
        b"",
    );
    assert_eq!(basic.status, 401);
    let twice = [
        ("authorization", "Bearer x"),
        ("authorization", &*format!("Bearer {token}")),
    ];
    assert_eq!(site.send("GET", path, "", &twice, b"").status, 401);
    // A name is one token's as long as it is valid.
    let again = ["token", "create", "--name", "dashboard", "--role", "admin"];
    assert_eq!(site.sandbox.crossdock(&again).status.code(), Some(1));
    site.sandbox.prints(&["token", "revoke", "dashboard"]);
    refused(&token);
    let list = site.sandbox.prints(&["token", "list", "--json"]);
    assert!(
        list.contains(r#""state":"revoked""#) && list.contains(r#""used_at_ms":1"#),
        "{list}"
    );
    // It stands nowhere: not in the store, not in the log.
    let kept = [
        std::fs::read(site.sandbox.root().join(".crossdock/store.db")).unwrap(),
        std::fs::read(site.sandbox.root().join(".crossdock/store.db-wal")).unwrap_or_default(),
        engine.log().into_bytes(),
    ];
    for bytes in kept {
        assert!(!text(&bytes).contains(&token[10..]));
    }
}

#[test]
fn a_token_ends_by_itself() {
    let site = Site::new();
    let _engine = site.start(0);
    let made = site.sandbox.prints(&[
        "token",
        "create",
        "--name",
        "short",
        "--role",
        "viewer",
        "--expires",
        "1s",
    ]);
    let token = made.trim();
    eventually("the token ends", || {
        (site.get("/api/v1/status", token).status == 401).then_some(())
    });
    for wrong in [
        ["--role", "root"],
        ["--expires", "0s"],
        ["--flows", "a,b c"],
        ["--name", "a/b"],
    ] {
        let mut arguments = vec!["token", "create"];
        if wrong[0] != "--name" {
            arguments.extend(["--name", "wrong"]);
        }
        if wrong[0] != "--role" {
            arguments.extend(["--role", "viewer"]);
        }
        arguments.extend(wrong);
        assert!(
            !site.sandbox.crossdock(&arguments).status.success(),
            "{wrong:?}"
        );
    }
}

#[test]
fn wrong_tokens_are_throttled_and_valid_ones_from_the_same_address_are_not() {
    let site = Site::with("");
    let _engine = site.start(0);
    let token = site.token("good", "viewer", None);
    assert_eq!(site.get("/api/v1/status", &token).status, 200);
    let wrong = format!("crossdock_{}", "A".repeat(43));
    let answers: Vec<_> = (0..12)
        .map(|_| site.get("/api/v1/status", &wrong))
        .collect();
    assert_eq!(answers[0].status, 401);
    let last = answers.last().unwrap();
    assert_eq!((last.status, last.code()), (429, "throttled"));
    assert!(last.header("retry-after").is_some());
    assert_eq!(site.get("/api/v1/status", &token).status, 200);
}

#[test]
fn a_token_that_asks_too_often_is_told_when_to_come_again() {
    let site = Site::new();
    let settings = std::fs::read_to_string(site.sandbox.root().join("crossdock.yaml")).unwrap();
    site.sandbox
        .file("crossdock.yaml", &settings.replace("10000/s", "6/m"));
    let _engine = site.start(0);
    let (token, other) = (
        site.token("a", "viewer", None),
        site.token("b", "viewer", None),
    );
    let first = site.get("/api/v1/status", &token);
    assert_eq!(first.status, 200);
    let second = site.get("/api/v1/status", &token);
    assert_eq!((second.status, second.code()), (429, "throttled"));
    assert_eq!(second.header("retry-after"), Some("10"));
    assert_eq!(site.get("/api/v1/status", &other).status, 200);
}
