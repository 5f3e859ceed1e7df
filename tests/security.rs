//! What strangers and hostile peers try, on the running program: forged deliveries, addresses within messages, input that explodes. Each ends with a
//! clear answer, in time, within bounds. Which control has which test is in docs/operating/security.md.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::support::{Sandbox, text};

const SECRET: &[u8] = b"a signing secret of thirty-two b";
const SHOPIFY: &str = "the secret of the shop";
/// How much more memory hostile input may cost, in KiB.
const MEMORY_MOST_KIB: u64 = 64 * 1024;

fn mac(secret: &[u8], content: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(content);
    STANDARD.encode(mac.finalize().into_bytes())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

#[test]
fn forged_deliveries_of_standard_webhooks_are_turned_away_and_repeats_have_one_effect() {
    let sandbox =
        Sandbox::new().variable("HOOK_SECRET", &format!("whsec_{}", STANDARD.encode(SECRET)));
    sandbox.file(
        "flows/hooks.yaml",
        "flow: hooks\nsource: { webhook: { path: /hooks, verify: { scheme: standard_webhooks, secret: \"${env:HOOK_SECRET}\" } } }\nsinks:\n  out: { discard: {} }\n",
    );
    let _running = sandbox.start();
    let body = br#"{"n": 1, "name": "A"}"#;
    let sign = |secret: &[u8], id: &str, at: i64, body: &[u8]| {
        let content = [format!("{id}.{at}.").as_bytes(), body].concat();
        format!("v1,{}", mac(secret, &content))
    };
    let now = now();
    let status = |headers: &[(&str, &str)], body: &[u8]| {
        sandbox
            .send("POST", "/hooks", headers, body)
            .unwrap()
            .status
    };
    let send = |id: &str, at: i64, signature: &str, body: &[u8]| {
        let at = at.to_string();
        let headers = [
            ("webhook-id", id),
            ("webhook-timestamp", at.as_str()),
            ("webhook-signature", signature),
        ];
        status(&headers, body)
    };
    let good = sign(SECRET, "m1", now, body);
    assert_eq!(send("m1", now, &good, body), 200);
    // While a secret is replaced there are two signatures, one of which is good.
    let two = format!(
        "{} {}",
        sign(b"another", "m2", now, body),
        sign(SECRET, "m2", now, body)
    );
    assert_eq!(send("m2", now, &two, body), 200);
    // The same delivery again: acknowledged, no second effect.
    assert_eq!(send("m1", now, &good, body), 200);
    let wrong = [
        (
            "tampered",
            send(
                "m3",
                now,
                &sign(SECRET, "m3", now, body),
                br#"{"n": 2, "name": "A"}"#,
            ),
        ),
        (
            "re-serialised",
            send(
                "m3",
                now,
                &sign(SECRET, "m3", now, body),
                br#"{"n":1,"name":"A"}"#,
            ),
        ),
        (
            "another secret",
            send("m3", now, &sign(b"another", "m3", now, body), body),
        ),
        (
            "another id",
            send("m4", now, &sign(SECRET, "m3", now, body), body),
        ),
        (
            "old",
            send("m3", now - 320, &sign(SECRET, "m3", now - 320, body), body),
        ),
        (
            "future",
            send("m3", now + 320, &sign(SECRET, "m3", now + 320, body), body),
        ),
        ("empty signature", send("m3", now, "", body)),
        (
            "another version",
            send(
                "m3",
                now,
                &sign(SECRET, "m3", now, body).replace("v1,", "v2,"),
                body,
            ),
        ),
        (
            "no time",
            status(&[("webhook-id", "m3"), ("webhook-signature", &good)], body),
        ),
        (
            "no id",
            status(
                &[
                    ("webhook-timestamp", &now.to_string()),
                    ("webhook-signature", &good),
                ],
                body,
            ),
        ),
        ("nothing", status(&[], body)),
    ];
    for (what, status) in wrong {
        assert_eq!(status, 401, "{what}");
    }
    let books = sandbox.books_at_rest(3);
    assert_eq!(books["all"]["accepted"], 2);
    assert_eq!(books["all"]["duplicates"], 1);
}

#[test]
fn a_captured_delivery_of_shopify_under_a_new_id_is_known_by_the_order() {
    let sandbox = Sandbox::new().variable("SHOP_SECRET", SHOPIFY);
    sandbox.file(
        "flows/hooks.yaml",
        "flow: hooks\nsource: { webhook: { path: /hooks, verify: { scheme: shopify, secret: \"${env:SHOP_SECRET}\" } } }\nkeys: { order: id }\nonce: { key: order }\nsinks:\n  out: { discard: {} }\n",
    );
    let _running = sandbox.start();
    let body = br#"{"id": 1001, "updated_at": "2026-11-20"}"#;
    let signature = mac(SHOPIFY.as_bytes(), body);
    for id in ["d1", "d2"] {
        let headers = [
            ("x-shopify-hmac-sha256", signature.as_str()),
            ("x-shopify-webhook-id", id),
        ];
        let reply = sandbox.send("POST", "/hooks", &headers, body).unwrap();
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    let books = sandbox.books_at_rest(2);
    assert_eq!(
        (&books["all"]["accepted"], &books["all"]["duplicates"]),
        (&1.into(), &1.into())
    );
}

/// A peer that notes what it is asked for, and answers as it is told.
struct Peer {
    address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Peer {
    fn start(answer: impl Fn(&str) -> String + Send + 'static) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = lines.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut head = [0; 8192];
                let length = stream.read(&mut head).unwrap_or(0);
                let head = text(&head[..length]);
                let line = head.lines().next().unwrap_or_default().to_owned();
                stream.write_all(answer(&line).as_bytes()).ok();
                noted.lock().unwrap().push(line);
            }
        });
        Peer { address, lines }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

#[test]
fn no_message_leads_a_call_to_another_host() {
    let inside = Peer::start(|_| {
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}".to_owned()
    });
    let forbidden = inside.address;
    let erp = Peer::start(move |line| {
        match line.contains("redirect") {
        true => format!("HTTP/1.1 302 Found\r\nlocation: http://{forbidden}/x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
        false => "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}".to_owned(),
    }
    });
    let sandbox = Sandbox::new();
    sandbox.file(
        "systems/erp.yaml",
        &format!(
            "system: erp\nhttp: {{ base_url: \"http://{}/api\" }}\n",
            erp.address
        ),
    );
    sandbox.file(
        "flows/ask.yaml",
        "flow: ask\nsource: { webhook: { path: /ask, verify: none, headers: [X-Host] } }\nsteps:\n  - call: { system: erp, get: \"/things/{{id}}?of={{id}}\" }\n    into: thing\n    retry: { attempts: 1 }\nsinks:\n  out: { discard: {} }\n",
    );
    let _running = sandbox.start();
    let port = forbidden.port();
    let hostile = [
        format!("http://127.0.0.1:{port}/"),
        format!("//127.0.0.1:{port}/"),
        format!("@127.0.0.1:{port}/"),
        format!("\\\\127.0.0.1:{port}\\x"),
        format!("../../../127.0.0.1:{port}"),
        format!("2130706433:{port}"),
        format!("0x7f000001:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1/".to_owned(),
        format!("x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\nGET /"),
        "%2e%2e/%2e%2e".to_owned(),
        "redirect".to_owned(),
    ];
    for id in &hostile {
        let body = serde_json::json!({ "id": id, "url": format!("http://127.0.0.1:{port}/") });
        let headers = [
            ("x-host", "127.0.0.1"),
            ("content-type", "application/json"),
        ];
        let reply = sandbox.send("POST", "/ask", &headers, body.to_string().as_bytes());
        assert_eq!(reply.unwrap().status, 200);
    }
    let books = sandbox.books_at_rest(hostile.len() as i64);
    assert_eq!(books["balanced"], true);
    assert_eq!(inside.lines(), [""; 0], "nobody may come here");
    let lines = erp.lines();
    assert!(lines.len() >= 8, "{lines:?}");
    for line in &lines {
        let path = line.split(' ').nth(1).unwrap_or_default();
        assert!(
            path.starts_with("/api/things/") && line.ends_with(" HTTP/1.1"),
            "{line}"
        );
        let below = path.split('?').next().unwrap_or_default();
        assert_eq!(below.matches('/').count(), 3, "{line}");
    }
}

/// What it is, the headers, the body, and the statuses that are right.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8], &'a [u16]);

#[test]
fn bodies_that_explode_are_refused_in_time_and_within_bounds() {
    let sandbox = Sandbox::new();
    sandbox.file(
        "flows/hooks.yaml",
        "flow: hooks\nsource: { webhook: { path: /hooks, verify: none } }\naccepts: { schema: any, on_breach: refuse }\nsinks:\n  out: { discard: {} }\n",
    );
    sandbox.file("schemas/any.json", "{\"type\": \"object\"}");
    let mut running = sandbox.start();
    let gzip = |bytes: &[u8]| {
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zipped.write_all(bytes).unwrap();
        zipped.finish().unwrap()
    };
    let zeros = vec![b' '; 64 << 20];
    let (bomb, twice) = (gzip(&zeros), gzip(&gzip(&zeros)));
    drop(zeros);
    let key = format!("{{\"{}\": 1}}", "k".repeat(900 << 10));
    let wide = format!("{{\"l\": [{}1]}}", "1,".repeat(500_000));
    let before = running.memory_kib();
    let zip: &[(&str, &str)] = &[("content-encoding", "gzip")];
    let zips: &[(&str, &str)] = &[("content-encoding", "gzip, gzip")];
    let cases: [Case<'_>; 12] = [
        ("deep lists", &[], &b"[".repeat(100_000), &[422]),
        ("deep objects", &[], &b"{\"a\":".repeat(100_000), &[422]),
        ("a key of 900 KB", &[], key.as_bytes(), &[200, 422]),
        ("many items", &[], wide.as_bytes(), &[200, 413, 422]),
        ("a key twice", &[], br#"{"a": 1, "a": 2}"#, &[422]),
        ("a lone surrogate", &[], br#"{"a": "\ud800"}"#, &[422]),
        (
            "a number beyond all bounds",
            &[],
            br#"{"a": 1e400}"#,
            &[200],
        ),
        ("no UTF-8", &[], b"{\"a\": \"\xff\"}", &[422]),
        ("a gzip bomb", zip, &bomb, &[413]),
        ("gzip in gzip", zips, &twice, &[413, 415]),
        ("no gzip", zip, b"plain", &[415]),
        ("50 MB", &[], &vec![b'x'; 50 << 20], &[413]),
    ];
    for (what, headers, body, expected) in cases {
        let began = Instant::now();
        let reply = sandbox
            .send("POST", "/hooks", headers, body)
            .unwrap_or_else(|| panic!("{what}: no answer"));
        let took = began.elapsed();
        assert!(
            expected.contains(&reply.status),
            "{what}: {} {}",
            reply.status,
            reply.body
        );
        assert!(took < Duration::from_secs(2), "{what}: {took:?}");
        assert!(running.lives(), "{what}: {}", running.log());
    }
    let grown = running.memory_kib().saturating_sub(before);
    assert!(grown < MEMORY_MOST_KIB, "{grown} KiB more memory");
    assert_eq!(sandbox.post("/hooks", b"{}").status, 200);
}

#[test]
fn expressions_and_patterns_that_explode_end_in_time() {
    let sandbox = Sandbox::new();
    let list: Vec<String> = (0..3_000)
        .map(|n| format!("{{\"t\": \"{}\", \"n\": {n}}}", "a".repeat(300)))
        .collect();
    sandbox.file("sample.json", &format!("{{\"l\": [{}]}}", list.join(",")));
    let root = sandbox.root().to_owned();
    let sample = root.join("sample.json");
    for (expression, code) in [
        (
            "let $n = l in $n[*].[let $a = @ in $n[*].[let $b = @ in $n[*].[$a.n, $b.n, n]]]",
            1,
        ),
        ("length(l[?matches(t, '(a*)*b')])", 0),
        ("length(l[?matches(t, '(a|aa)+$')])", 0),
        ("matches(l[0].t, '.{1000}{1000}')", 1),
        (
            "[[l, l, l, l], [l, l, l, l]] | [@, @, @, @] | [@, @, @, @] | [@, @, @, @] | [@, @, @, @]",
            1,
        ),
    ] {
        let began = Instant::now();
        let output = sandbox.crossdock(&["map", "-e", expression, sample.to_str().unwrap()]);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{expression}: {took:?}");
        assert_eq!(output.status.code(), Some(code), "{expression}");
        assert!(output.stdout.len() < 64 << 20, "{expression}");
    }
}

#[test]
fn project_files_that_explode_are_findings() {
    let sandbox = Sandbox::new();
    let deep = format!("flow: a\nsource: {}\n", "{a: ".repeat(10_000));
    let aliases = format!("a: &a x\nb: [{}]\n", "*a, ".repeat(5_000));
    let many = format!("flow: a\nkeys:\n{}", "  k: v\n".repeat(100_000));
    let huge = format!("flow: a # {}\n", "x".repeat(2 << 20));
    for (what, yaml) in [
        ("deep", deep),
        ("aliases", aliases),
        ("many", many),
        ("huge", huge),
    ] {
        sandbox.file("flows/a.yaml", &yaml);
        let began = Instant::now();
        let check = sandbox.crossdock(&["check"]);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(3), "{what}: {took:?}");
        assert_eq!(
            check.status.code(),
            Some(1),
            "{what}: {}",
            text(&check.stderr)
        );
        assert!(check.stdout.len() < 1 << 20, "{what}");
    }
}

#[test]
fn answers_to_strangers_say_nothing_of_the_inside() {
    let sandbox = Sandbox::new();
    sandbox.file(
        "flows/hooks.yaml",
        "flow: secret-flow\nsource: { webhook: { path: /hooks, verify: { scheme: bearer, secret: \"${env:TOKEN}\" } } }\nsinks:\n  out: { discard: {} }\n",
    );
    let sandbox = sandbox.variable("TOKEN", "a-token-that-nobody-else-knows");
    let _running = sandbox.start();
    let no_token = sandbox.post("/hooks", b"{}");
    let wrong = sandbox
        .send("POST", "/hooks", &[("authorization", "Bearer x")], b"{}")
        .unwrap();
    let nowhere = sandbox.post("/hooks/other", b"{}");
    let method = sandbox.send("DELETE", "/hooks", &[], b"").unwrap();
    let statuses = [&no_token, &wrong, &nowhere, &method].map(|reply| reply.status);
    assert_eq!(statuses, [401, 401, 404, 405]);
    for reply in [&no_token, &wrong, &nowhere, &method] {
        for inside in [
            "secret-flow",
            "engine/",
            "panicked",
            "sqlite",
            "nobody-else",
            "/tmp",
        ] {
            assert!(!reply.body.contains(inside), "{}", reply.body);
        }
    }
}
