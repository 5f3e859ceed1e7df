//! Hostile input: each gets a clear answer within a second and little memory, and the engine goes on serving.

use std::time::{Duration, Instant};

use crate::support::{Running, Sandbox, text};

const MEMORY_MOST_KIB: u64 = 64 * 1024;

fn engine() -> (Sandbox, Running) {
    let sandbox = Sandbox::new();
    sandbox.file(
        "flows/hooks.yaml",
        "flow: hooks\nsource: { webhook: { path: /hooks, verify: none } }\naccepts: { schema: order.v1, on_breach: refuse }\nsinks:\n  out: { discard: {} }\n",
    );
    sandbox.file(
        "schemas/order.v1.json",
        r#"{"type": "object", "required": ["n"]}"#,
    );
    let running = sandbox.start();
    assert_eq!(sandbox.post("/hooks", b"{\"n\": 1}").status / 100, 2);
    (sandbox, running)
}

/// Sends a body; gives status and answer, after checking time, memory and that the engine still serves.
fn survives(name: &str, body: &[u8]) -> (u16, String) {
    let (sandbox, mut running) = engine();
    let before = running.memory_kib();
    let began = Instant::now();
    let reply = sandbox
        .send("POST", "/hooks", &[], body)
        .unwrap_or_else(|| panic!("{name}: no answer"));
    let (took, grown) = (began.elapsed(), running.memory_kib().saturating_sub(before));
    assert!(took < Duration::from_secs(1), "{name}: took {took:?}");
    assert!(grown < MEMORY_MOST_KIB, "{name}: {grown} KiB more memory");
    assert!(running.lives(), "{name}: {}", running.log());
    assert_eq!(
        sandbox.post("/hooks", b"{\"n\": 2}").status / 100,
        2,
        "{name}: the engine serves no more"
    );
    (reply.status, reply.body)
}

#[test]
fn json_nested_a_hundred_thousand_deep_is_refused() {
    let (status, body) = survives("deep", "[".repeat(100_000).as_bytes());
    assert!(
        (400..500).contains(&status) && body.contains("128"),
        "{status} {body}"
    );
}

#[test]
fn a_body_of_fifty_megabytes_is_refused_before_it_is_read() {
    let (status, body) = survives("large", &vec![b'x'; 50 << 20]);
    assert_eq!(status, 413, "{body}");
}

#[test]
fn bytes_that_are_not_utf8_are_refused_with_their_place() {
    let (status, body) = survives("latin-1", b"{\"n\": \"M\xfcnchen\"}");
    assert!(
        (400..500).contains(&status) && body.contains("UTF-8"),
        "{status} {body}"
    );
}

#[test]
fn a_byte_order_mark_before_json_does_no_harm() {
    let (status, body) = survives("bom", b"\xEF\xBB\xBF{\"n\": 1}");
    assert_eq!(status / 100, 2, "{body}");
}

#[test]
fn a_billion_laughs_file_is_a_finding_within_a_second() {
    let sandbox = Sandbox::new();
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (name, of) in ["b", "c", "d", "e", "f", "g", "h", "i", "j"]
        .iter()
        .zip(["a", "b", "c", "d", "e", "f", "g", "h", "i"])
    {
        bomb.push_str(&format!(
            "{name}: &{name} [{}]\n",
            vec![format!("*{of}"); 10].join(", ")
        ));
    }
    sandbox.file("flows/bomb.yaml", &bomb);
    let began = Instant::now();
    let check = sandbox.crossdock(&["check"]);
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "took {:?}",
        began.elapsed()
    );
    assert_eq!(check.status.code(), Some(1));
    assert!(
        text(&check.stdout).contains("yaml-limit"),
        "{}",
        text(&check.stdout)
    );
}

#[test]
fn csv_with_carriage_returns_alone_and_a_byte_order_mark_is_read() {
    let sandbox = Sandbox::new();
    sandbox.file(
        "flows/rows.yaml",
        "flow: rows\nsource: { file: { path: \"inbox/*.csv\", format: csv, settle: 0s, every: 100ms } }\nsinks:\n  out: { file: { path: \"out/rows.jsonl\", format: jsonl } }\n",
    );
    std::fs::create_dir_all(sandbox.root().join("inbox")).unwrap();
    std::fs::write(
        sandbox.root().join("inbox/a.csv"),
        b"\xEF\xBB\xBFsku,qty\rA-1,2\rB-2,3\r",
    )
    .unwrap();
    let _running = sandbox.start();
    sandbox.books_at_rest(2);
    let written = sandbox.read_all("out");
    assert!(written.contains(r#"{"sku":"A-1","qty":"2"}"#), "{written}");
    assert_eq!(written.lines().count(), 2, "{written}");
}
