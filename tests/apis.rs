//! APIs as callers and operators see them: the running program, its answers, its document, and who has called.
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Sandbox, eventually};

const KEY: &str = "acme-key-0123456789-0123456789";
const ORDER: &str =
    r#"{"number": "1001", "total": "12.50", "lines": [{"sku": "A", "quantity": 1}]}"#;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/apis")
}

/// The golden project in a sandbox; the settings listen on its port.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new()
        .variable("ACME_KEY", KEY)
        .variable("LOGIN_SECRET", "a secret of at least thirty-two bytes");
    let mut folders = vec![golden().join("project")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let below = path.strip_prefix(golden().join("project")).unwrap();
            let mut text = fs::read_to_string(&path).unwrap();
            if below == Path::new("crossdock.yaml") {
                text = format!("listen: \"{}\"\n{text}", sandbox.address());
            }
            sandbox.file(below.to_str().unwrap(), &text);
        }
    }
    sandbox
}

fn post(sandbox: &Sandbox, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let reply = sandbox
        .send("POST", path, headers, body.as_bytes())
        .unwrap();
    (
        reply.status,
        serde_json::from_str(&reply.body).unwrap_or_default(),
    )
}

#[test]
fn what_is_accepted_is_durable_repeats_have_no_effect_and_callers_are_known() {
    let sandbox = sandbox();
    let running = sandbox.start();
    let key = ("x-api-key", KEY);
    let (status, told) = post(
        &sandbox,
        "/v2/orders",
        &[key, ("idempotency-key", "a")],
        ORDER,
    );
    assert_eq!((status, &told["status"]), (202, &Value::from("accepted")));
    let id = told["id"].as_str().unwrap().to_owned();
    // The same call again, and the same order under another key.
    for repeat in ["a", "b"] {
        let headers = [key, ("idempotency-key", repeat)];
        let (status, told) = post(&sandbox, "/v2/orders", &headers, ORDER);
        assert_eq!((status, &told["status"]), (202, &Value::from("duplicate")));
    }
    // Another order under a key that is known: refused, not taken for the first.
    let another = ORDER.replace("1001", "1002");
    let headers = [key, ("idempotency-key", "a")];
    let (status, told) = post(&sandbox, "/v2/orders", &headers, &another);
    assert_eq!(status, 422, "{told}");
    let broken = r#"{"number": "", "lines": [{"sku": "A", "quantity": 0}]}"#;
    let (status, told) = post(&sandbox, "/v2/orders", &[key], broken);
    assert_eq!(status, 422, "{told}");
    let errors = told["errors"].as_array().unwrap();
    let mut places: Vec<&str> = errors
        .iter()
        .filter_map(|one| one["pointer"].as_str())
        .collect();
    places.sort_unstable();
    assert_eq!(places, ["#/lines/0/quantity", "#/number"]);
    assert_eq!(post(&sandbox, "/v2/orders", &[], ORDER).0, 401);
    assert_eq!(post(&sandbox, "/v2/orders", &[key], "{").0, 400);
    assert_eq!(
        post(&sandbox, "/v1/orders", &[key], r#"{"number": "7"}"#).0,
        202
    );
    let books = sandbox.books_at_rest(8);
    assert_eq!(books["flows"]["partner-orders"]["accepted"], 1);
    assert_eq!(books["balanced"], true);
    let runs = sandbox.prints(&["runs", &id]);
    assert!(runs.contains("partner-orders"), "{runs}");
    assert_eq!(running.terminate(), Some(0));
    // Noted at the end: who has called, and by which version.
    let calls = sandbox.prints(&["apis", "--json"]);
    let calls: Vec<Value> = calls
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let shown: Vec<String> = calls
        .iter()
        .map(|one| {
            format!(
                "{} {} {} {}",
                one["api"], one["state"], one["client"], one["calls"]
            )
            .replace('"', "")
        })
        .collect();
    assert_eq!(
        shown,
        [
            "POST /v1/orders deprecated, sunset 2026-12-31 acme 1",
            "PUT /v1/ping current null 0",
            "POST /v2/orders current acme 6",
        ]
    );
    let table = sandbox.prints(&["apis"]);
    assert!(table.contains("partner-orders-v1"), "{table}");
    // The key stands nowhere: not in the store, not in the log, not in what is sent on.
    for file in fs::read_dir(sandbox.root().join(".crossdock")).unwrap() {
        let path = file.unwrap().path();
        let bytes = fs::read(&path).unwrap_or_default();
        let found = bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes());
        assert!(!found, "{}", path.display());
    }
    let kept = fs::read_to_string(sandbox.root().join("engine.log")).unwrap();
    assert!(!kept.contains(KEY));
}

#[test]
fn a_key_that_is_revoked_counts_no_more_after_a_reload() {
    let sandbox = sandbox();
    let _running = sandbox.start();
    let key = ("x-api-key", KEY);
    assert_eq!(post(&sandbox, "/v2/orders", &[key], ORDER).0, 202);
    let settings = fs::read_to_string(sandbox.root().join("crossdock.yaml")).unwrap();
    let revoked = settings.replace("rate: 100/m }", "rate: 100/m, revoked: true }");
    assert_ne!(settings, revoked);
    sandbox.file("crossdock.yaml", &revoked);
    eventually("the key counts no more", || {
        let (status, _) = post(&sandbox, "/v2/orders", &[key], ORDER);
        assert!([202, 401, 429].contains(&status), "{status}");
        (status == 401).then_some(())
    });
    // Nor when an older revision runs again.
    let flow = "flows/partner-orders.yaml";
    let text = fs::read_to_string(sandbox.root().join(flow)).unwrap();
    sandbox.file(
        flow,
        &text.replace("Orders of partners", "Another revision"),
    );
    sandbox.prints(&["reload"]);
    sandbox.prints(&["rollback", "--reason", "the description is wrong"]);
    assert_eq!(post(&sandbox, "/v2/orders", &[key], ORDER).0, 401);
}

#[test]
fn the_openapi_document_is_as_it_was_and_the_engine_serves_the_same() {
    let sandbox = sandbox();
    let mut document: Value =
        serde_json::from_str(&sandbox.prints(&["apis", "--openapi"])).unwrap();
    let _running = sandbox.start();
    let served = sandbox.get("/openapi.json").unwrap();
    assert_eq!(served.status, 200);
    let served: Value = serde_json::from_str(&served.body).unwrap();
    assert_eq!(served, document);
    // The revision is that of the sandbox's settings.
    document["info"]["version"] = Value::from("revision");
    let path = golden().join("openapi.json");
    let text = format!("{document:#}\n");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "`UPDATE=1` writes {}", path.display());
    // Who the clients are is nobody's business.
    assert!(!text.contains("acme") && !text.contains("portal"));
}

#[test]
fn without_a_word_in_the_settings_the_document_is_not_served() {
    let sandbox = sandbox();
    let settings = fs::read_to_string(sandbox.root().join("crossdock.yaml")).unwrap();
    sandbox.file("crossdock.yaml", &settings.replace("  openapi: true\n", ""));
    let _running = sandbox.start();
    assert_eq!(sandbox.get("/openapi.json").unwrap().status, 404);
}
