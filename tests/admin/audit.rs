//! The audit log of a running engine: what was done and what was refused, over the API, the socket and on the store; and its proof.

use serde_json::json;

use super::Site;
use crate::support::text;

fn row(cells: [&str; 6]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

#[test]
fn everything_that_people_do_and_are_refused_is_written_down() {
    let site = Site::new();
    let engine = site.start(2);
    let (order, back) = (site.exception_of("orders"), site.exception_of("returns"));
    let token = site.token("ops", "operator", None);
    let viewer = site.token("eyes", "viewer", None);
    let act = format!("/api/v1/exceptions/{order}:act");
    let discard = json!({ "verb": { "discard": { "reason": "=cmd()" } } });
    assert_eq!(site.post(&act, &viewer, &discard).status, 403);
    assert_eq!(site.post(&act, &token, &discard).status, 200);
    assert_eq!(site.get("/api/v1/status", "wrong").status, 401);
    let back = back.to_string();
    site.sandbox.prints(&[
        "exceptions",
        "note",
        &back,
        "beside the engine",
        "--as",
        "anna",
    ]);
    site.sandbox
        .file("flows/returns.yaml", "flow: returns\nsource: {}\n");
    site.sandbox.crossdock(&["reload", "--as", "anna"]);
    assert_eq!(engine.terminate(), Some(0));
    site.sandbox
        .prints(&["exceptions", "note", &back, "on the store", "--as", "bert"]);
    let order = order.to_string();
    let rows = site.audited();
    for expected in [
        ["ops", "token", "api", "exception.discard", &order, "done"],
        [
            "eyes",
            "token",
            "api",
            "api.request",
            &*format!("POST {act}"),
            "denied",
        ],
        [
            "unknown",
            "unknown",
            "api",
            "api.request",
            "GET /api/v1/status",
            "denied",
        ],
        ["anna", "user", "cli", "exception.note", &back, "done"],
        ["bert", "user", "cli", "exception.note", &back, "done"],
    ] {
        assert!(
            rows.contains(&row(expected)),
            "{expected:?} is not in {rows:#?}"
        );
    }
    let actions: Vec<&str> = rows.iter().map(|row| &*row[3]).collect();
    assert!(actions.contains(&"project.start") && actions.contains(&"token.create"));
    let refused = rows
        .iter()
        .any(|row| row[3] == "project.reload" && row[5] == "refused");
    assert!(refused, "{rows:#?}");
    // No formula in what is exported, and no body.
    let csv = site.sandbox.prints(&["audit", "--format", "csv"]);
    assert!(csv.contains("'=cmd()") && !csv.contains("SECRET-"));
    assert_eq!(csv.lines().count(), rows.len() + 1);
    let only = site.sandbox.prints(&[
        "audit",
        "--actor",
        "anna",
        "--action",
        "exception",
        "--since",
        "1h",
    ]);
    assert_eq!(only.lines().count(), 2, "{only}");
}

#[test]
fn a_log_that_was_tampered_with_is_told_with_the_row() {
    let site = Site::new();
    let engine = site.start(1);
    let token = site.token("auditor", "auditor", None);
    for n in 0..3 {
        site.token(&format!("t{n}"), "viewer", None);
    }
    let proof = site.get("/api/v1/audit/verify", &token).body;
    assert_eq!(proof["sound"], true);
    let page = site
        .get("/api/v1/audit?action=token.create&limit=2", &token)
        .body;
    assert_eq!(page["items"][0]["target"], "t2");
    assert!(page["next"].is_string());
    let noted = format!("{}:{}", proof["count"], proof["head"].as_str().unwrap());
    assert_eq!(engine.terminate(), Some(0));
    let said = site.sandbox.prints(&["audit", "verify", "--head", &noted]);
    assert!(said.contains("as they were written"), "{said}");
    let store =
        rusqlite::Connection::open(site.sandbox.root().join(".crossdock/store.db")).unwrap();
    assert!(
        store
            .execute("UPDATE audit SET actor = 'x' WHERE seq = 2", [])
            .is_err()
    );
    store
        .execute_batch("DROP TRIGGER audit_not_changed; UPDATE audit SET actor = 'x' WHERE seq = 2")
        .unwrap();
    drop(store);
    let found = site.sandbox.crossdock(&["audit", "verify"]);
    assert_eq!(found.status.code(), Some(1));
    assert!(
        text(&found.stdout).contains("row 2:"),
        "{}",
        text(&found.stdout)
    );
}
