//! Promises of the webhook, over real sockets.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::component::Library;
use crate::net::listener::Listener;
use crate::source::fake::{self, Fake};
use crate::world::World;

struct Served {
    fake: Arc<Fake>,
    listener: Listener,
    cx: Intake,
    running: JoinHandle<Result<(), Failure>>,
}

async fn serve(config: &str, fake: Arc<Fake>) -> Served {
    let yaml = format!("source: {{ webhook: {config} }}");
    let (ready, findings) = fake::build(&yaml, &Library::default());
    let Some(Ready::Runs(source)) = ready else {
        panic!("{findings:?}")
    };
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    listener.set_ready();
    let cx = fake::intake(&fake, World::real(), Path::new("."), &listener);
    let running = tokio::spawn(source.run(cx.clone()));
    while exchange(
        &listener,
        "GET /hook HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await
    .starts_with("HTTP/1.1 404")
    {
        tokio::task::yield_now().await;
    }
    Served {
        fake,
        listener,
        cx,
        running,
    }
}

/// Sends these bytes and reads until the server closes.
async fn exchange(listener: &Listener, request: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(listener.local_addr()).await.unwrap();
    stream.write_all(request.as_ref()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /hook HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

impl Served {
    async fn check(&self, headers: &str, body: &[u8], status: u16, says: &str) -> String {
        let answer = exchange(&self.listener, post(headers, body)).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains(says), "{answer}");
        answer
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_stored_and_headers_are_kept_by_list() {
    let served = serve(
        "{ path: /hook, verify: none, headers: [X-Topic], delivery_id: X-Id }",
        Fake::new(),
    )
    .await;
    served
        .check(
            "X-Topic: orders\r\nX-Other: no\r\nX-Id: d1\r\n",
            b"{}",
            200,
            r#"{"accepted":true}"#,
        )
        .await;
    served
        .check("X-Id: d1\r\n", b"{}", 200, r#"{"duplicate":true}"#)
        .await;
    served
        .check("", b"\xff not json", 200, r#"{"accepted":true}"#)
        .await;
    let state = served.fake.state();
    assert_eq!(state.stored.len(), 2);
    assert_eq!(
        state.stored[0].headers,
        [("x-topic".to_owned(), "orders".to_owned())]
    );
    assert_eq!(state.stored[0].delivery.as_deref(), Some("d1"));
    assert_eq!(state.stored[1].body, &b"\xff not json"[..]);
}

#[tokio::test]
async fn forged_deliveries_are_turned_away_and_counted() {
    let served = serve(
        "{ path: /hook, verify: { scheme: bearer, secrets: [old, new] } }",
        Fake::new(),
    )
    .await;
    served
        .check("authorization: Bearer old\r\n", b"{}", 200, "accepted")
        .await;
    served
        .check("authorization: Bearer new\r\n", b"{}", 200, "accepted")
        .await;
    served
        .check(
            "authorization: Bearer none\r\n",
            b"{}",
            401,
            "no secret fits",
        )
        .await;
    served.check("", b"{}", 401, "problem+json").await;
    assert_eq!(served.fake.state().turned_away, 2);
    assert_eq!(served.fake.state().stored.len(), 2);
}

#[tokio::test]
async fn failures_of_the_engine_are_told_with_a_time_to_come_back() {
    let served = serve("{ path: /hook, verify: none }", Fake::new()).await;
    let (full, stops) = (
        Failure::new(Class::Throttled, "secret detail"),
        Failure::new(Class::Unavailable, "x"),
    );
    served.fake.state().failing = [Some(full.with_retry_after_ms(7_000)), Some(stops)].into();
    let answer = served.check("", b"1", 429, "retry-after: 7\r\n").await;
    assert!(!answer.contains("secret detail"));
    served.check("", b"1", 503, "retry-after: 2\r\n").await;
    served.check("", b"1", 200, "accepted").await;
    served.fake.state().refuse = Some(b"bad");
    served
        .check(
            "",
            b"bad",
            422,
            r#""breaches":["/a: is no number","/b: is missing"]"#,
        )
        .await;
}

#[tokio::test]
async fn gzip_is_inflated_up_to_the_limit() {
    use std::io::Write;
    let gzip = |bytes: &[u8]| {
        let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        zipped.write_all(bytes).unwrap();
        zipped.finish().unwrap()
    };
    let served = serve("{ path: /hook, verify: none, max_body: 64KB }", Fake::new()).await;
    served
        .check(
            "content-encoding: gzip\r\n",
            &gzip(b"{\"a\":1}"),
            200,
            "accepted",
        )
        .await;
    served
        .check(
            "content-encoding: gzip\r\n",
            &gzip(&vec![b' '; 10 << 20]),
            413,
            "larger than 65536",
        )
        .await;
    served
        .check("content-encoding: gzip\r\n", b"plain", 415, "not gzip")
        .await;
    served
        .check(
            "content-encoding: br\r\n",
            b"plain",
            415,
            "`br` is not known",
        )
        .await;
    served
        .check("", &vec![b' '; 65_537], 413, "the limit is 65536")
        .await;
    served.check("", &vec![b' '; 65_536], 200, "accepted").await;
    assert_eq!(served.fake.bodies()[0], "{\"a\":1}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_concurrent_posts_each_is_taken_once() {
    let fake = Fake::slow(Duration::from_millis(2));
    let served = serve("{ path: /hook, verify: none }", fake).await;
    let mut posts = tokio::task::JoinSet::new();
    for number in 0..1_000 {
        let listener = served.listener.clone();
        posts.spawn(
            async move { exchange(&listener, post("", number.to_string().as_bytes())).await },
        );
    }
    while let Some(answer) = posts.join_next().await {
        assert!(answer.unwrap().starts_with("HTTP/1.1 200"));
    }
    let mut bodies: Vec<u32> = served
        .fake
        .bodies()
        .iter()
        .map(|body| body.parse().unwrap())
        .collect();
    bodies.sort_unstable();
    assert_eq!(bodies, (0..1_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stop_answers_what_has_come_and_asks_the_rest_to_come_back() {
    let fake = Fake::slow(Duration::from_millis(100));
    let served = serve("{ path: /hook, verify: none }", fake).await;
    let listener = served.listener.clone();
    let under_way = tokio::spawn(async move { exchange(&listener, post("", b"1")).await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    served.cx.stop.cancel();
    tokio::time::timeout(Duration::from_secs(1), served.running)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(under_way.await.unwrap().starts_with("HTTP/1.1 200"));
    let late = exchange(&served.listener, post("", b"2")).await;
    assert!(
        late.starts_with("HTTP/1.1 503") && late.contains("retry-after"),
        "{late}"
    );
    assert_eq!(served.fake.bodies(), ["1"]);
}

#[test]
fn mistakes_in_the_config_are_found() {
    for (config, expect) in [
        ("{ path: /hook }", vec!["unverified-webhook 1:18"]),
        ("{ path: hook, verify: none }", vec!["bad-value 1:18"]),
        ("{ path: '/a b', verify: none }", vec!["bad-value 1:18"]),
        ("{ path: /healthz/x, verify: none }", vec!["bad-value 1:18"]),
        (
            "{ path: /h, verify: none, headers: [Cookie, 'a b'] }",
            vec!["bad-value 1:46", "bad-value 1:54"],
        ),
        (
            "{ path: /h, verify: { scheme: shopify, secret: x }, headers: [X-Shopify-Hmac-Sha256] }",
            vec!["bad-value 1:72"],
        ),
    ] {
        let yaml = format!("webhook: {config}");
        assert_eq!(fake::build(&yaml, &Library::default()).1, expect, "{yaml}");
    }
}
