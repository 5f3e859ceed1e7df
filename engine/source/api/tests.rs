//! Promises of the API, over real sockets.

use std::collections::BTreeSet;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::component::Library;
use crate::net::listener::Listener;
use crate::source::clients::Apis;
use crate::source::fake::{self, Fake};
use crate::world::World;
use crate::world::clock::StillClock;

const NOW_MS: i64 = 1_790_000_000_000;
const KEY: &str = "acme-key-0123456789-0123456789";
const OTHER: &str = "zeta-key-0123456789-0123456789";
const GONE: &str = "gone-key-0123456789-0123456789";
const SECRET: &str = "a secret of at least thirty-two bytes";

struct Served {
    fake: Arc<Fake>,
    listener: Listener,
    clock: Arc<StillClock>,
    cx: Intake,
    running: JoinHandle<Result<(), Failure>>,
}

fn library() -> Library {
    let apis = serde_json::json!({
        "issuers": { "login": { "issuer": "https://login.example.com", "audience": "crossdock", "secret": SECRET } },
        "clients": {
            "acme": { "keys": [KEY], "rate": "3/m" },
            "gone": { "keys": [GONE], "revoked": true },
            "portal": { "token": { "issuer": "login", "client": "portal-app" } },
            // The hash of OTHER.
            "zeta": { "key_hashes": [hash(OTHER)] }
        }
    });
    let apis: Apis = serde_json::from_value(apis).unwrap();
    let mut faults = Vec::new();
    let clients = Clients::of(&apis, &mut faults);
    assert!(faults.is_empty(), "{faults:?}");
    Library {
        clients: Arc::new(clients),
        ..Library::default()
    }
}

fn hash(text: &str) -> String {
    use sha2::{Digest, Sha256};
    let bytes = Sha256::digest(text);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn serve(config: &str, fake: Arc<Fake>) -> Served {
    let yaml = format!("source: {{ api: {{ path: /orders, version: v2{config} }} }}");
    let (ready, findings) = fake::build(&yaml, &library());
    let Some(Ready::Runs(source)) = ready else {
        panic!("{findings:?}")
    };
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    listener.set_ready();
    let clock = Arc::new(StillClock::at(NOW_MS));
    let world = World {
        clock: clock.clone(),
        ..World::real()
    };
    let cx = fake::intake(&fake, world, Path::new("."), &listener);
    let running = tokio::spawn(source.run(cx.clone()));
    while listener.registered("POST /v2/orders") == 0 {
        tokio::task::yield_now().await;
    }
    Served {
        fake,
        listener,
        clock,
        cx,
        running,
    }
}

impl Served {
    async fn post(&self, headers: &str, body: &str) -> String {
        let request = format!(
            "POST /v2/orders HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        let address = self.listener.local_addr();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn check(&self, headers: &str, body: &str, status: u16, says: &str) -> String {
        let answer = self.post(headers, body).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{headers}: {answer}");
        assert!(answer.contains(says), "{headers}: {answer}");
        answer
    }
}

fn token(claims: serde_json::Value) -> String {
    use base64::Engine as _;
    let text = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!(
        "{}.{}",
        text(br#"{"alg":"HS256"}"#),
        text(claims.to_string().as_bytes())
    );
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = ring::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", text(signature.as_ref()))
}

#[tokio::test]
async fn clients_call_by_key_or_token_and_the_message_says_who() {
    let served = serve(", headers: [X-Trace]", Fake::new()).await;
    let key = format!("X-API-Key: {KEY}\r\nx-trace: 7\r\n");
    let answer = served
        .check(&key, "{}", 202, r#""status":"accepted","id":""#)
        .await;
    let bearer = format!("authorization: bearer {OTHER}\r\n");
    served.check(&bearer, "{}", 202, "accepted").await;
    let claims = serde_json::json!({
        "iss": "https://login.example.com", "aud": "crossdock", "exp": NOW_MS / 1000 + 60, "azp": "portal-app"
    });
    let bearer = format!("authorization: Bearer {}\r\n", token(claims));
    served.check(&bearer, "{}", 202, "accepted").await;
    let state = served.fake.state();
    let named = |name: &str, at: usize| {
        let headers = &state.stored[at].headers;
        headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    };
    for (at, name) in ["acme", "zeta", "portal"].into_iter().enumerate() {
        assert_eq!(named("api-client", at).as_deref(), Some(name));
        assert_eq!(named("api-version", at).as_deref(), Some("v2"));
    }
    assert_eq!(named("x-trace", 0).as_deref(), Some("7"));
    let id = state.stored[0].id.unwrap().to_string();
    assert!(answer.contains(&id), "{answer}");
}

#[tokio::test]
async fn whoever_has_no_credential_that_counts_is_told_the_same() {
    let served = serve(", clients: [acme, gone, portal]", Fake::new()).await;
    let of = |changes: serde_json::Value| {
        let mut claims = serde_json::json!({
            "iss": "https://login.example.com", "aud": "crossdock", "exp": NOW_MS / 1000 + 60, "azp": "portal-app"
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        format!("authorization: Bearer {}\r\n", token(claims))
    };
    let mut told = BTreeSet::new();
    let all = [
        String::new(),
        "X-API-Key: nobody\r\n".to_owned(),
        "X-API-Key: \r\n".to_owned(),
        // Revoked, not allowed here, shown twice, shown in two ways, of another scheme.
        format!("X-API-Key: {GONE}\r\n"),
        format!("X-API-Key: {OTHER}\r\n"),
        format!("X-API-Key: {KEY}\r\nX-API-Key: {KEY}\r\n"),
        format!("X-API-Key: {KEY}\r\nauthorization: Bearer {KEY}\r\n"),
        format!("authorization: Basic {KEY}\r\n"),
        format!("authorization: {KEY}\r\n"),
        "authorization: Bearer a.b.c\r\n".to_owned(),
        of(serde_json::json!({"azp": "nobody"})),
        of(serde_json::json!({"exp": 5})),
        of(serde_json::json!({"aud": "other"})),
        of(serde_json::json!({"iss": "https://other.example.com"})),
    ];
    for headers in &all {
        let answer = served.check(headers, "{}", 401, "problem+json").await;
        let head_and_body = answer
            .split("\r\n")
            .filter(|line| !line.starts_with("date:"));
        told.insert(head_and_body.collect::<Vec<_>>().join("\n"));
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(served.fake.state().turned_away, all.len() as u64);
    assert!(served.fake.state().stored.is_empty());
    let key = format!("X-API-Key: {KEY}\r\n");
    served.check(&key, "{}", 202, "accepted").await;
}

#[tokio::test]
async fn each_client_has_its_rate_and_is_told() {
    let served = serve(", rate: 5/s", Fake::new()).await;
    let (acme, zeta) = (
        format!("X-API-Key: {KEY}\r\n"),
        format!("X-API-Key: {OTHER}\r\n"),
    );
    for left in [2, 1, 0] {
        let says = format!("ratelimit: \"default\";r={left};t=60\r\n");
        let answer = served.check(&acme, "{}", 202, &says).await;
        assert!(
            answer.contains("ratelimit-policy: \"default\";q=3;w=60\r\n"),
            "{answer}"
        );
    }
    served.clock.advance(20_000);
    served.check(&acme, "{}", 429, "retry-after: 40\r\n").await;
    served.check(&zeta, "{}", 202, "q=5;w=1").await;
    served.clock.advance(40_000);
    served.check(&acme, "{}", 202, "r=2").await;
    assert_eq!(served.fake.state().stored.len(), 5);
}

#[tokio::test]
async fn a_body_that_breaks_the_contract_is_refused_with_the_places() {
    let fake = Fake::new();
    fake.state().refuse = Some(b"bad");
    let served = serve(", clients: anyone", fake).await;
    let errors = r##""errors":[{"detail":"is no number","pointer":"#/a"},{"detail":"is missing","pointer":"#/b"}]"##;
    let answer = served.check("", "bad", 422, "problem+json").await;
    let body: serde_json::Value =
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&format!("{{{errors}}}")).unwrap();
    assert_eq!(body["errors"], expected["errors"]);
    served
        .check("content-type: text/xml\r\n", "<a/>", 415, "must be JSON")
        .await;
    served
        .check(
            "content-type: application/vnd.x+json; charset=utf-8\r\n",
            "{}",
            202,
            "",
        )
        .await;
    let large = " ".repeat((1 << 20) + 1);
    served.check("", &large, 413, "the limit is").await;
}

#[tokio::test]
async fn a_repeat_with_its_key_has_no_second_effect_and_clients_do_not_meet() {
    let served = serve("", Fake::new()).await;
    let with =
        |key: &str, repeat: &str| format!("X-API-Key: {key}\r\nIdempotency-Key: {repeat}\r\n");
    served.check(&with(KEY, "1"), "{}", 202, "accepted").await;
    served.check(&with(KEY, "1"), "{}", 202, "duplicate").await;
    served.check(&with(OTHER, "1"), "{}", 202, "accepted").await;
    // One that cannot be read, or that is not one, is no missing key.
    let twice = format!("{}Idempotency-Key: 2\r\n", with(OTHER, "1"));
    for bad in [
        with(OTHER, &"x".repeat(256)),
        with(OTHER, "bestellung-ü"),
        twice,
    ] {
        served.check(&bad, "{}", 400, "1 to 255").await;
    }
    assert_eq!(served.fake.state().stored.len(), 2);
}

#[tokio::test]
async fn an_api_that_is_on_its_way_out_says_so_with_every_answer() {
    let config =
        ", deprecated: { since: 2026-01-01, sunset: 2026-12-31, link: 'https://example.com/v3' }";
    let served = serve(config, Fake::new()).await;
    for (headers, status) in [(format!("X-API-Key: {KEY}\r\n"), 202), (String::new(), 401)] {
        let answer = served
            .check(&headers, "{}", status, "deprecation: @1767225600\r\n")
            .await;
        assert!(
            answer.contains("sunset: Thu, 31 Dec 2026 00:00:00 GMT\r\n"),
            "{answer}"
        );
        let link = "link: <https://example.com/v3>; rel=\"deprecation\"\r\n";
        assert!(answer.contains(link), "{answer}");
    }
}

#[tokio::test]
async fn who_has_called_is_noted_once_a_minute_and_at_the_end() {
    let served = serve("", Fake::new()).await;
    let (acme, zeta) = (
        format!("X-API-Key: {KEY}\r\n"),
        format!("X-API-Key: {OTHER}\r\n"),
    );
    for headers in [&acme, &acme, &zeta] {
        served.check(headers, "{}", 202, "accepted").await;
    }
    assert!(served.fake.state().called.is_empty());
    served.clock.advance(60_000);
    let noted = |state: &fake::State| {
        let lines = state.called.iter();
        let lines = lines.map(|calls| format!("{} {} {}", calls.api, calls.client, calls.count));
        lines.collect::<Vec<_>>()
    };
    let first = ["POST /v2/orders acme 2", "POST /v2/orders zeta 1"];
    served
        .fake
        .until("a minute is noted", |state| noted(state) == first)
        .await;
    served.check(&zeta, "{}", 202, "accepted").await;
    served.cx.stop.cancel();
    served.running.await.unwrap().unwrap();
    assert_eq!(noted(&served.fake.state())[2..], ["POST /v2/orders zeta 1"]);
}

#[tokio::test]
async fn failures_of_the_engine_are_told_with_a_time_to_come_back() {
    let served = serve(", clients: anyone", Fake::new()).await;
    let full = Failure::new(Class::Throttled, "secret detail").with_retry_after_ms(7_000);
    let stops = Failure::new(Class::Unavailable, "x");
    served.fake.state().failing = [Some(full), Some(stops)].into();
    let answer = served.check("", "1", 429, "retry-after: 7\r\n").await;
    assert!(!answer.contains("secret detail"));
    served.check("", "1", 503, "retry-after: 2\r\n").await;
    served.check("", "1", 202, "accepted").await;
}

#[test]
fn mistakes_in_the_config_are_found() {
    for (config, expect) in [
        ("path: orders, version: v1", vec!["bad-value 1:14"]),
        ("path: /orders/, version: v1", vec!["bad-value 1:14"]),
        ("path: '/a b', version: v1", vec!["bad-value 1:14"]),
        ("path: /v1/orders, version: v1", vec!["bad-value 1:14"]),
        ("path: /orders, version: '1'", vec!["bad-value 1:32"]),
        (
            "path: /orders, version: v1, clients: [acme, nobody]",
            vec!["unknown-client 1:52"],
        ),
        (
            "path: /orders, version: v1, headers: [X-API-Key, api-client, 'a b']",
            vec!["bad-value 1:46", "bad-value 1:57", "bad-value 1:69"],
        ),
        (
            "path: /orders, version: v1, deprecated: { since: 2026-02-01, sunset: 2026-01-01 }",
            vec!["conflicting-settings 1:77"],
        ),
        (
            "path: /orders, version: v1, deprecated: { since: soon, link: 'a b' }",
            vec!["bad-value 1:57", "bad-value 1:69"],
        ),
    ] {
        let yaml = format!("api: {{ {config} }}");
        assert_eq!(fake::build(&yaml, &library()).1, expect, "{yaml}");
    }
    let nobody = fake::build("api: { path: /orders, version: v1 }", &Library::default());
    assert_eq!(nobody.1, ["conflicting-settings 1:14"]);
}

#[test]
fn mistakes_among_clients_and_issuers_are_found() {
    let apis: Apis = serde_json::from_value(serde_json::json!({
        "issuers": {
            "login": { "issuer": "https://login.example.com", "audience": "b" },
            "plain": { "issuer": "http://login.example.com", "audience": "a" },
            "again": { "issuer": "https://login.example.com", "audience": "a" },
            "both": { "issuer": "i", "audience": "a", "jwks": "https://x.example.com", "secret": SECRET }
        },
        "clients": {
            "a b": { "keys": [KEY] },
            "lost": { "token": { "issuer": "nobody", "client": "x" } },
            "none": {},
            "odd": { "key_hashes": ["abc"] },
            "same": { "keys": [KEY] },
            "short": { "keys": ["x"] }
        }
    }))
    .unwrap();
    let mut faults = Vec::new();
    Clients::of(&apis, &mut faults);
    let paths: Vec<String> = faults.iter().map(|(path, ..)| path.join(".")).collect();
    let expected = [
        "issuers.both",
        "issuers.login",
        "issuers.plain",
        "clients.a b.",
        "clients.lost.token",
        "clients.none.",
        "clients.odd.key_hashes",
        "clients.same.keys",
        "clients.short.keys",
    ];
    assert_eq!(paths, expected, "{faults:?}");
    assert!(!format!("{apis:?}").contains(KEY));
}
