//! What systems promise, over real connections on loopback.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::request::Sending;
use super::stub::{Reply, Seen, Stub, answer};
use super::*;
use crate::diagnostic::{File, Findings};
use crate::step::bench::NoFormats;
use crate::yaml;

pub(super) fn system(text: &str) -> System {
    let file = File::new("systems/erp.yaml", text);
    let mut findings = Findings::new();
    let node = yaml::parse(&file, &mut findings).unwrap();
    let system = System::parse(&file, &node, &NoFormats, &mut findings);
    assert!(!findings.has_errors(), "{findings:?}");
    system.unwrap()
}

pub(super) fn post() -> Sending {
    Sending {
        method: http::Method::POST,
        path: "/orders".to_owned(),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: Some(Bytes::from_static(b"{\"n\":1}")),
    }
}

async fn tried(system: &System, sending: &Sending, safe: bool) -> String {
    let terms = Terms {
        safe,
        timeout: Duration::from_millis(300),
        high: false,
    };
    match system.attempt(sending, Some("K-1"), terms).await {
        Ended::Applied(answered) => format!("applied {}", answered.status),
        Ended::NotApplied(failure) => format!("not: {}", failure.class),
        Ended::Unknown(failure) => format!("?: {}", failure.class),
        Ended::Held(failure) => format!("held: {}", failure.class),
    }
}

/// What becomes of a POST and of a GET that are answered like this.
async fn check(
    reply: impl Fn() -> Reply + Send + Sync + 'static,
    unsafe_one: &str,
    safe_one: &str,
) {
    let stub = Stub::start(move |_| reply()).await;
    let system = system(&stub.system("", "limits: { answer: 64KB }\n"));
    assert_eq!(tried(&system, &post(), false).await, unsafe_one);
    assert_eq!(tried(&system, &Sending::get("/x"), true).await, safe_one);
}

#[tokio::test]
async fn what_is_sent_is_what_was_asked_for() {
    let stub = Stub::start(|_| Reply::Bytes(answer(201, "", "{\"id\":7}"))).await;
    let http = "  headers: { X-Tenant: t1 }\n  auth: { basic: { user: me, password: secret } }\n  idempotency_header: X-Once\n";
    let system = system(&stub.system(http, ""));
    assert_eq!(tried(&system, &post(), false).await, "applied 201");
    let seen = &stub.seen()[0];
    assert!(
        seen.head.starts_with("POST /orders HTTP/1.1\r\n"),
        "{}",
        seen.head
    );
    for line in [
        "content-type: application/json",
        "x-tenant: t1",
        "authorization: Basic bWU6c2VjcmV0",
        "x-once: K-1",
        "accept-encoding: gzip",
        "user-agent: crossdock/",
    ] {
        assert!(seen.head.contains(line), "{line} in {}", seen.head);
    }
    assert_eq!(seen.body, "{\"n\":1}");
}

#[tokio::test]
async fn explicit_answers_count() {
    check(
        || Reply::Bytes(answer(200, "", "")),
        "applied 200",
        "applied 200",
    )
    .await;
    check(
        || Reply::Bytes(answer(422, "", "no")),
        "not: validation",
        "not: validation",
    )
    .await;
    check(
        || Reply::Bytes(answer(500, "", "")),
        "?: ambiguous",
        "not: unavailable",
    )
    .await;
    let busy = || Reply::Bytes(answer(503, "retry-after: 1\r\n", ""));
    check(busy, "not: unavailable", "not: unavailable").await;
}

#[tokio::test]
async fn a_missing_or_broken_answer_is_ambiguous_unless_a_repeat_is_safe() {
    check(
        || Reply::Cut(Vec::new()),
        "?: ambiguous",
        "not: unavailable",
    )
    .await;
    check(
        || Reply::Cut(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec()),
        "?: ambiguous",
        "not: unavailable",
    )
    .await;
    let half = || Reply::Cut(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"a\":".to_vec());
    check(half, "?: ambiguous", "not: unavailable").await;
    check(
        || Reply::Cut(b"nonsense\r\n\r\n".to_vec()),
        "?: ambiguous",
        "not: unavailable",
    )
    .await;
    check(|| Reply::Hang, "?: ambiguous", "not: timeout").await;
    let stuck = || Reply::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec());
    check(stuck, "?: ambiguous", "not: timeout").await;
    let bad_zip = || {
        Reply::Bytes(answer(
            200,
            "content-encoding: gzip\r\n",
            "this is not gzip at all",
        ))
    };
    check(bad_zip, "?: ambiguous", "not: parse").await;
}

#[tokio::test]
async fn answers_have_a_limit_before_and_after_unpacking() {
    let big = || Reply::Bytes(answer(200, "", &"x".repeat(70_000)));
    check(big, "?: ambiguous", "not: too_large").await;
    let chunked = || {
        let chunk = format!("{:x}\r\n{}\r\n", 40_000, "x".repeat(40_000));
        let text =
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n");
        Reply::Bytes(text.into_bytes())
    };
    check(chunked, "?: ambiguous", "not: too_large").await;
    let bomb = || Reply::Bytes(zipped(&"x".repeat(10 << 20)));
    check(bomb, "?: ambiguous", "not: too_large").await;
}

fn zipped(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        packed.len()
    );
    [head.into_bytes(), packed].concat()
}

#[tokio::test]
async fn packed_answers_are_unpacked() {
    let stub = Stub::start(|_| Reply::Bytes(zipped("{\"a\": 1}"))).await;
    let system = system(&stub.system("", ""));
    let answered = system
        .fetch(&Sending::get("/x"), Duration::from_secs(2))
        .await
        .unwrap();
    assert_eq!(answered.body.bytes(), &"{\"a\": 1}");
}

#[tokio::test]
async fn nothing_has_left_where_there_is_no_connection() {
    let refused = "system: erp\nhttp: { base_url: \"http://127.0.0.1:1\" }\n";
    assert_eq!(
        tried(&system(refused), &post(), false).await,
        "not: unavailable"
    );
    let nowhere = "system: erp\nhttp: { base_url: \"http://nowhere.invalid\" }\ntimeout: 5s\n";
    let terms = Terms {
        safe: false,
        timeout: Duration::from_secs(10),
        high: false,
    };
    let ended = system(nowhere).attempt(&post(), None, terms).await;
    assert!(
        matches!(&ended, Ended::NotApplied(failure) if failure.class == Class::Unavailable),
        "{ended:?}"
    );
    let no_tls = |mut stream: tokio::net::TcpStream| async move {
        use tokio::io::AsyncWriteExt;
        stream.write_all(b"no TLS here").await.unwrap();
        None::<tokio::net::TcpStream>
    };
    let stub = Stub::start_with("http", no_tls, |_| Reply::Hang).await;
    let https = format!(
        "system: erp\nhttp: {{ base_url: \"{}\" }}\n",
        stub.url.replace("http", "https")
    );
    assert_eq!(
        tried(&system(&https), &post(), false).await,
        "not: unavailable"
    );
}

#[tokio::test]
async fn redirects_are_followed_for_reading_and_within_the_host() {
    let stub = Stub::start(|seen| {
        let to = |to: &str| Reply::Bytes(answer(302, &format!("location: {to}\r\n"), ""));
        match seen.head.split(' ').nth(1) {
            Some("/a") => to("/b"),
            Some("/b") => Reply::Bytes(answer(200, "", "")),
            Some("/loop") => to("/loop"),
            Some("/out") => to("http://127.0.0.1:1/"),
            _ => to("/b"),
        }
    })
    .await;
    let system = system(&stub.system("  redirects: 3\n", ""));
    assert_eq!(
        tried(&system, &Sending::get("/a"), true).await,
        "applied 200"
    );
    assert_eq!(
        tried(&system, &Sending::get("/out"), true).await,
        "not: config"
    );
    assert_eq!(
        tried(&system, &Sending::get("/loop"), true).await,
        "not: config"
    );
    assert_eq!(stub.seen().len(), 2 + 1 + 4);
    assert_eq!(tried(&system, &post(), false).await, "?: ambiguous");
    assert_eq!(stub.seen().len(), 8);
}

#[tokio::test]
async fn paths_do_not_leave_the_base_url() {
    let system = system("system: erp\nhttp: { base_url: \"http://127.0.0.1:1/api/\" }\n");
    let url = |path: &str| system.url(path).map(|url| url.to_string());
    assert_eq!(url("/a?x=1").unwrap(), "http://127.0.0.1:1/api/a?x=1");
    assert_eq!(url("?x=1").unwrap(), "http://127.0.0.1:1/api?x=1");
    for path in [
        "/../x",
        "/a/%2e%2E/b",
        "/a/..",
        "/./a",
        "/a\\..\\b",
        "@evil.test/",
        ":2/x",
        "x",
    ] {
        assert_eq!(url(path).unwrap_err().class, Class::Mapping, "{path}");
    }
    let below = |url: &str| system.path_of(url);
    assert_eq!(
        below("http://127.0.0.1:1/api/a?b=1").as_deref(),
        Some("/a?b=1")
    );
    assert_eq!(below("http://127.0.0.1:1/apix/a"), None);
    assert_eq!(below("http://127.0.0.1:2/api/a"), None);
}

/// A token server and a system in one: tokens are `t1`, `t2` ..; the system takes those that `good` says.
async fn tokens(expires_in: u32, good: impl Fn(u32) -> bool + Send + Sync + 'static) -> Stub {
    let given = AtomicU32::new(0);
    Stub::start(move |seen| {
        if seen.head.starts_with("POST /token") {
            let number = given.fetch_add(1, Ordering::SeqCst) + 1;
            let body = format!(
                "{{\"access_token\":\"t{number}\",\"token_type\":\"Bearer\",\"expires_in\":{expires_in}}}"
            );
            return Reply::Late(Duration::from_millis(30), answer(200, "", &body));
        }
        let token = seen.head.split("authorization: Bearer t").nth(1);
        let number = token.and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        match number {
            Some(number) if good(number) => Reply::Bytes(answer(200, "", "")),
            _ => Reply::Bytes(answer(401, "", "")),
        }
    })
    .await
}

fn with_tokens(stub: &Stub) -> System {
    let http = format!(
        "  auth: {{ oauth2: {{ token_url: \"{}/token\", client_id: \"a b\", client_secret: s, scope: orders }} }}\n",
        stub.url
    );
    system(&stub.system(&http, ""))
}

fn asked_for_tokens(seen: &[Seen]) -> usize {
    seen.iter()
        .filter(|seen| seen.head.starts_with("POST /token"))
        .count()
}

#[tokio::test]
async fn a_token_is_fetched_once_for_all_who_wait() {
    let stub = tokens(3600, |_| true).await;
    let system = with_tokens(&stub);
    let get = Sending::get("/x");
    let (first, second) = tokio::join!(tried(&system, &get, true), tried(&system, &get, true));
    assert_eq!(
        (first.as_str(), second.as_str()),
        ("applied 200", "applied 200")
    );
    assert_eq!(tried(&system, &get, true).await, "applied 200");
    let seen = stub.seen();
    assert_eq!(asked_for_tokens(&seen), 1);
    assert_eq!(seen[0].body, "grant_type=client_credentials&scope=orders");
    assert!(
        seen[0].head.contains("authorization: Basic YSUyMGI6cw=="),
        "{}",
        seen[0].head
    );
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let stub = tokens(3600, |number| number == 2).await;
    let system = with_tokens(&stub);
    assert_eq!(tried(&system, &post(), false).await, "applied 200");
    assert_eq!(asked_for_tokens(&stub.seen()), 2);
    let stub = tokens(3600, |_| false).await;
    let system = with_tokens(&stub);
    assert_eq!(tried(&system, &post(), false).await, "held: auth");
    assert_eq!(asked_for_tokens(&stub.seen()), 2);
}

#[tokio::test]
async fn a_token_is_replaced_before_it_ends() {
    let stub = tokens(1, |_| true).await;
    let system = with_tokens(&stub);
    assert_eq!(
        tried(&system, &Sending::get("/x"), true).await,
        "applied 200"
    );
    tokio::time::sleep(Duration::from_millis(850)).await;
    assert_eq!(
        tried(&system, &Sending::get("/x"), true).await,
        "applied 200"
    );
    assert_eq!(asked_for_tokens(&stub.seen()), 2);
}

#[tokio::test]
async fn no_token_means_that_nothing_was_sent() {
    let stub =
        Stub::start(|_| Reply::Bytes(answer(400, "", "{\"error\":\"invalid_client\"}"))).await;
    let system = with_tokens(&stub);
    let terms = Terms {
        safe: false,
        timeout: Duration::from_secs(1),
        high: false,
    };
    let Ended::Held(failure) = system.attempt(&post(), None, terms).await else {
        panic!("it was sent");
    };
    assert_eq!(failure.class, Class::Auth);
    assert!(
        failure.message.contains("400, invalid_client"),
        "{}",
        failure.message
    );
    assert!(!failure.message.contains("a b"), "{}", failure.message);
}

#[tokio::test]
async fn keys_in_the_query_stay_out_of_failures() {
    let http = "  auth: { api_key: { query: api_key, value: hunter2 } }\n";
    let stub = Stub::start(|_| Reply::Bytes(answer(200, "", ""))).await;
    let open = system(&stub.system(http, ""));
    assert_eq!(
        tried(&open, &Sending::get("/x?a=1"), true).await,
        "applied 200"
    );
    assert!(
        stub.seen()[0]
            .head
            .starts_with("GET /x?a=1&api_key=hunter2 ")
    );
    let closed = system(&format!(
        "system: erp\nhttp:\n  base_url: http://127.0.0.1:1\n{http}"
    ));
    let failure = closed
        .fetch(&Sending::get("/x"), Duration::from_secs(1))
        .await;
    assert!(!failure.unwrap_err().to_string().contains("hunter2"));
}

#[tokio::test]
async fn no_more_are_under_way_than_the_system_bears() {
    let under_way = std::sync::Arc::new(AtomicU32::new(0));
    let most = std::sync::Arc::new(AtomicU32::new(0));
    let (now, top) = (under_way.clone(), most.clone());
    let stub = Stub::start(move |_| {
        top.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Reply::Late(Duration::from_millis(30), answer(200, "", ""))
    })
    .await;
    let system = std::sync::Arc::new(system(&stub.system("", "limits: { concurrency: 2 }\n")));
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let (system, under_way) = (system.clone(), under_way.clone());
            tokio::spawn(async move {
                let terms = Terms {
                    safe: true,
                    timeout: Duration::from_secs(5),
                    high: false,
                };
                let ended = system.attempt(&Sending::get("/x"), None, terms).await;
                under_way.fetch_sub(1, Ordering::SeqCst);
                ended
            })
        })
        .collect();
    for call in calls {
        assert!(matches!(call.await.unwrap(), Ended::Applied(_)));
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_rate_that_is_used_up_is_throttling_and_nothing_is_sent() {
    let stub = Stub::start(|_| Reply::Bytes(answer(200, "", ""))).await;
    let system = system(&stub.system("", "limits: { rate: 1/m, burst: 1 }\n"));
    assert_eq!(tried(&system, &post(), false).await, "applied 200");
    assert_eq!(tried(&system, &post(), false).await, "held: throttled");
    assert_eq!(stub.seen().len(), 1);
}

#[tokio::test]
async fn a_proxy_is_used_where_one_is_named() {
    let proxy = Stub::start(|_| Reply::Bytes(answer(200, "", ""))).await;
    let text = format!(
        "system: erp\nhttp:\n  base_url: http://erp.test\n  proxy: {{ url: \"{}\", user: u, password: p }}\n",
        proxy.url
    );
    assert_eq!(tried(&system(&text), &post(), false).await, "applied 200");
    let seen = &proxy.seen()[0];
    assert!(
        seen.head.starts_with("POST http://erp.test/orders "),
        "{}",
        seen.head
    );
    assert!(
        seen.head.contains("proxy-authorization: Basic dTpw"),
        "{}",
        seen.head
    );
}

/// Sends until `many` requests were tried; gives how each ended.
async fn all(system: &System, many: usize) -> Vec<String> {
    let mut ends = Vec::with_capacity(many);
    for _ in 0..many {
        ends.push(tried(system, &post(), false).await);
    }
    ends
}

#[tokio::test]
async fn a_system_that_answers_5xx_is_not_asked_any_more() {
    let stub = Stub::start(|_| Reply::Bytes(answer(500, "", ""))).await;
    let system = system(&stub.system("", "circuit: { least: 4 }\n"));
    let ends = all(&system, 8).await;
    assert_eq!(ends[..4], ["?: ambiguous"; 4]);
    assert_eq!(ends[4..], ["held: unavailable"; 4]);
    assert_eq!(stub.seen().len(), 4);
    let told = system.admission().told();
    assert_eq!((told.health.name(), told.times), ("down", 1));
    assert!(
        told.reason.starts_with(
            "4 of 4 calls failed within 60s, the last one: ambiguous: erp answered 500"
        ),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_system_that_says_no_to_what_is_sent_is_up() {
    for status in [400, 404, 409, 422, 429] {
        let stub = Stub::start(move |_| Reply::Bytes(answer(status, "", ""))).await;
        let system = system(&stub.system("", "circuit: { least: 2 }\n"));
        all(&system, 5).await;
        assert_eq!(stub.seen().len(), 5, "{status}");
    }
}

#[tokio::test]
async fn a_circuit_that_never_opens_asks_on_and_on() {
    let stub = Stub::start(|_| Reply::Bytes(answer(500, "", ""))).await;
    let system = system(&stub.system("", "circuit: never\n"));
    all(&system, 20).await;
    assert_eq!(stub.seen().len(), 20);
}

#[tokio::test]
async fn refused_credentials_are_nobodys_attempt() {
    let stub = Stub::start(|_| Reply::Bytes(answer(401, "", ""))).await;
    let system = system(&stub.system("", ""));
    assert_eq!(all(&system, 3).await, ["held: auth"; 3]);
    assert_eq!(stub.seen().len(), 1);
    assert_eq!(
        system.admission().told().health.name(),
        "credentials refused"
    );
    let stub = Stub::start(|_| Reply::Bytes(answer(403, "", ""))).await;
    let system = self::system(&stub.system("", ""));
    assert_eq!(all(&system, 2).await, ["not: forbidden"; 2]);
}

#[tokio::test]
async fn a_system_in_maintenance_is_not_asked() {
    let stub = Stub::start(|_| Reply::Bytes(answer(200, "", ""))).await;
    let system = system(&stub.system("", "maintenance: ['daily 00:00-24:00 UTC']\n"));
    assert_eq!(all(&system, 2).await, ["held: unavailable"; 2]);
    assert_eq!(stub.seen().len(), 0);
}
