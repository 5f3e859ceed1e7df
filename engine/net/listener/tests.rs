//! Promises of the listener, over real sockets: whatever a peer sends, it gets one clear answer and holds little.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// Says how many bytes came; the body `wait` waits first.
struct Echo {
    body_max: usize,
    waits: Duration,
}

impl Receive for Echo {
    fn receive(&self, request: Received) -> Pending<'_, Reply> {
        Box::pin(async move {
            if &*request.body == b"wait" {
                tokio::time::sleep(self.waits).await;
            }
            let said = format!("{} {} {}", request.method, request.uri, request.body.len());
            Reply::json(StatusCode::OK, said)
        })
    }

    fn body_max(&self) -> usize {
        self.body_max
    }
}

async fn listener(change: impl FnOnce(&mut Limits)) -> (Listener, Registration) {
    let mut limits = Limits::default();
    change(&mut limits);
    let listener = Listener::bind_with("127.0.0.1:0", limits).await.unwrap();
    listener.set_ready();
    let echo = Echo {
        body_max: 1024,
        waits: Duration::from_millis(150),
    };
    let registration = listener.register(Method::POST, "/echo", Arc::new(echo));
    (listener, registration)
}

/// Sends these bytes and reads until the server closes, for five seconds at most.
async fn exchange(listener: &Listener, request: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(listener.local_addr()).await.unwrap();
    // The server may answer and close before it has read everything.
    drop(stream.write_all(request.as_ref()).await);
    rest(&mut stream).await
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    drop(
        tokio::time::timeout(Duration::from_secs(30), reading)
            .await
            .expect("the server closes"),
    );
    String::from_utf8_lossy(&answer).into_owned()
}

async fn check(listener: &Listener, request: impl AsRef<[u8]>, status: u16, says: &str) {
    let request = request.as_ref();
    let answer = exchange(listener, request).await;
    let begins = format!("HTTP/1.1 {status} ");
    let shown = String::from_utf8_lossy(&request[..request.len().min(80)]);
    assert!(answer.starts_with(&begins), "{shown} -> {answer}");
    assert!(answer.contains(says), "{shown} -> {answer}");
    if status >= 400 && !says.contains("causes") {
        let length = answer
            .split_once("\r\n\r\n")
            .map_or(0, |(_, body)| body.len());
        assert!(answer.contains("application/problem+json"), "{answer}");
        assert!(
            answer.contains(&format!("content-length: {length}\r\n")),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn paths_methods_and_health_are_told_apart() {
    let (listener, registration) = listener(|_| {}).await;
    let close = "host: x\r\nconnection: close\r\n";
    check(
        &listener,
        format!("POST /echo?a=1 HTTP/1.1\r\n{close}content-length: 2\r\n\r\nhi"),
        200,
        "POST /echo?a=1 2",
    )
    .await;
    check(
        &listener,
        format!("GET /echo HTTP/1.1\r\n{close}\r\n"),
        405,
        "allow: POST\r\n",
    )
    .await;
    check(
        &listener,
        format!("GET /none HTTP/1.1\r\n{close}\r\n"),
        404,
        "no flow has a webhook",
    )
    .await;
    check(
        &listener,
        format!("GET /healthz/live HTTP/1.1\r\n{close}\r\n"),
        200,
        "live",
    )
    .await;
    check(
        &listener,
        format!("GET /healthz/ready HTTP/1.1\r\n{close}\r\n"),
        200,
        "ready",
    )
    .await;
    check(
        &listener,
        format!("POST /healthz/ready HTTP/1.1\r\n{close}\r\n"),
        405,
        "GET, HEAD",
    )
    .await;
    check(
        &listener,
        format!("GET /healthz/x HTTP/1.1\r\n{close}\r\n"),
        404,
        "health is at",
    )
    .await;
    listener.set_unready(vec!["store: disk full".to_owned()]);
    check(
        &listener,
        format!("GET /healthz/ready HTTP/1.1\r\n{close}\r\n"),
        503,
        r#""causes":["store: disk full"]"#,
    )
    .await;
    check(
        &listener,
        format!("GET /none HTTP/1.1\r\n{close}\r\n"),
        503,
        "retry-after",
    )
    .await;
    listener.set_ready();
    drop(registration);
    check(
        &listener,
        format!("POST /echo HTTP/1.1\r\n{close}\r\n"),
        503,
        "retry-after",
    )
    .await;
}

#[tokio::test]
async fn a_new_registration_serves_before_the_old_one_leaves() {
    let (listener, old) = listener(|_| {}).await;
    let echo = |body_max| {
        Arc::new(Echo {
            body_max,
            waits: Duration::ZERO,
        })
    };
    let new = listener.register(Method::POST, "/echo", echo(1));
    let request =
        "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
    check(&listener, request, 413, "the limit is 1 bytes").await;
    drop(new);
    check(&listener, request, 200, "").await;
    let new = listener.register(Method::POST, "/echo", echo(1));
    drop(old);
    check(&listener, request, 413, "").await;
    drop(new);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (listener, _registration) = listener(|_| {}).await;
    let mut requests = String::new();
    for number in 0..100 {
        let body = "x".repeat(number);
        requests += &format!(
            "POST /echo?{number} HTTP/1.1\r\nhost: x\r\ncontent-length: {number}\r\n\r\n{body}"
        );
    }
    requests += "GET /healthz/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = exchange(&listener, requests).await;
    let places: Vec<_> = (0..100)
        .map(|number| {
            answer
                .find(&format!("POST /echo?{number} {number}"))
                .unwrap()
        })
        .collect();
    assert!(places.is_sorted());
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_whatever_their_framing() {
    let (listener, _registration) = listener(|_| {}).await;
    let body = vec![b'x'; 50 << 20];
    let head = format!(
        "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    check(
        &listener,
        [head.as_bytes(), &body].concat(),
        413,
        "the limit is 1024 bytes",
    )
    .await;
    let head = format!(
        "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
        body.len()
    );
    check(
        &listener,
        [head.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat(),
        413,
        "has more",
    )
    .await;
    let head = format!(
        "POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    check(&listener, head, 413, "has 52428800 bytes").await;
    assert_eq!(listener.0.buffered.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_body_is_asked_for_when_it_is_expected() {
    let (listener, _registration) = listener(|_| {}).await;
    let mut stream = TcpStream::connect(listener.local_addr()).await.unwrap();
    let head = "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 25];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hi").await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn heads_over_the_limits_are_refused() {
    let (listener, _registration) = listener(|_| {}).await;
    let many = "a: b\r\n".repeat(98);
    check(
        &listener,
        format!("GET /echo HTTP/1.1\r\nhost: x\r\n{many}\r\n"),
        431,
        "the limit is 96",
    )
    .await;
    let long = format!(
        "GET /echo HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n",
        "b".repeat(17 << 10)
    );
    check(&listener, long, 431, "the limit is 16384").await;
    let endless = exchange(&listener, vec![b'a'; 1 << 20]).await;
    assert!(
        endless.is_empty() || endless.starts_with("HTTP/1.1 4"),
        "{endless}"
    );
    let garbage = exchange(&listener, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n").await;
    assert!(
        garbage.is_empty() || garbage.starts_with("HTTP/1.1 400"),
        "{garbage}"
    );
    check(
        &listener,
        "GET /healthz/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        200,
        "",
    )
    .await;
}

#[tokio::test]
async fn slow_peers_are_cut_off() {
    let (listener, _registration) = listener(|limits| {
        limits.head_timeout = Duration::from_millis(200);
        limits.body_timeout = Duration::from_millis(200);
        limits.idle_timeout = Duration::from_millis(600);
    })
    .await;
    // A head that drips in: the deadline does not move with each byte.
    let mut stream = TcpStream::connect(listener.local_addr()).await.unwrap();
    let began = Instant::now();
    for byte in b"POST /echo HTTP/1.1\r\nhost: x\r\nx-drip: aaaaaaaaaaaaa" {
        if stream.write_all(&[*byte]).await.is_err() || began.elapsed() > Duration::from_secs(2) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answer = rest(&mut stream).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
        "{answer}"
    );
    check(
        &listener,
        "POST /echo HTTP/1.1\r\nhost: x",
        408,
        "headers did not come in time",
    )
    .await;
    check(
        &listener,
        "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf",
        408,
        "body did not come in time",
    )
    .await;
    let began = Instant::now();
    let idle = exchange(&listener, "GET /healthz/live HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(
        idle.starts_with("HTTP/1.1 200") && !idle.contains("408"),
        "{idle}"
    );
    assert!((500..2_000).contains(&began.elapsed().as_millis()));
    assert_eq!(
        exchange(&listener, "").await.matches("408").count(),
        2,
        "status and document"
    );
}

#[tokio::test]
async fn a_slow_engine_and_a_full_one_ask_to_come_back() {
    let (listener, _registration) = listener(|limits| {
        limits.answer_timeout = Duration::from_millis(50);
        limits.requests_max = 1;
    })
    .await;
    let wait =
        "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 4\r\n\r\nwait";
    let (slow, full) = tokio::join!(exchange(&listener, wait), async {
        while listener.under_way() == 0 {
            tokio::task::yield_now().await;
        }
        exchange(&listener, wait).await
    });
    assert!(slow.contains("no answer in time"), "{slow}");
    assert!(
        full.contains("too many requests") && full.contains("retry-after"),
        "{full}"
    );
    assert_eq!(listener.under_way(), 0);
}

#[tokio::test]
async fn all_bodies_together_have_a_limit() {
    let (listener, _registration) = listener(|limits| limits.buffered_bytes_max = 1_500).await;
    let head =
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n";
    let begun = async || {
        let mut stream = TcpStream::connect(listener.local_addr()).await.unwrap();
        stream.write_all(head).await.unwrap();
        stream
    };
    let whole = || [&head[..], &[b'x'; 1000]].concat();
    // What is announced and never sent takes no room.
    let _idle = [begun().await, begun().await];
    while listener.under_way() < 2 {
        tokio::task::yield_now().await;
    }
    check(&listener, whole(), 200, "1000").await;
    let mut first = begun().await;
    first.write_all(&[b'x'; 900]).await.unwrap();
    while listener.0.buffered.load(Ordering::Relaxed) < 900 {
        tokio::task::yield_now().await;
    }
    check(&listener, whole(), 503, "too many bytes").await;
    first.write_all(&[b'x'; 100]).await.unwrap();
    assert!(rest(&mut first).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_stop_answers_what_is_under_way_and_closes_the_rest() {
    let (listener, _registration) = listener(|_| {}).await;
    let mut idle = TcpStream::connect(listener.local_addr()).await.unwrap();
    idle.write_all(b"GET /healthz/live HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut busy = TcpStream::connect(listener.local_addr()).await.unwrap();
    busy.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nwait")
        .await
        .unwrap();
    while listener.under_way() == 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(30)).await;
    let began = Instant::now();
    listener.stop(Duration::from_secs(5)).await;
    assert!((50..1_000).contains(&began.elapsed().as_millis()));
    let answer = rest(&mut busy).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"),
        "{answer}"
    );
    assert!(rest(&mut idle).await.starts_with("HTTP/1.1 200"));
    assert!(TcpStream::connect(listener.local_addr()).await.is_err());
}

#[tokio::test]
async fn a_stop_does_not_wait_longer_than_it_may() {
    let (listener, _registration) = listener(|_| {}).await;
    let mut slow = TcpStream::connect(listener.local_addr()).await.unwrap();
    slow.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nwa")
        .await
        .unwrap();
    while listener.under_way() == 0 {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    listener.stop(Duration::from_millis(100)).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(rest(&mut slow).await, "");
}

#[tokio::test]
async fn an_address_that_is_taken_is_told() {
    let (listener, _registration) = listener(|_| {}).await;
    let address = listener.local_addr().to_string();
    let failure = Listener::bind(&address).await.err().unwrap();
    assert!(failure.message.contains(&address), "{failure}");
}

#[tokio::test]
async fn with_a_certificate_only_tls_is_spoken_and_deadlines_hold() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
    let files = Some((&*certificate, &*key));
    let missing = Listener::bind_secure("127.0.0.1:0", files)
        .await
        .err()
        .unwrap();
    assert_eq!(missing.class, Class::Config);
    assert!(missing.message.contains("a.pem"), "{missing}");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    crate::world::disk::write_atomic(&certificate, made.cert.pem().as_bytes()).unwrap();
    crate::world::disk::write_atomic(&key, made.signing_key.serialize_pem().as_bytes()).unwrap();
    let open = async |limits: Limits| {
        let certified = Certified::load(&certificate, &key).unwrap();
        let listener = Listener::open("127.0.0.1:0", limits, Some(certified)).await;
        listener.unwrap()
    };
    let listener = open(Limits::default()).await;
    listener.set_ready();
    let echo = Echo {
        body_max: 1024,
        waits: Duration::ZERO,
    };
    let _registration = listener.register(Method::POST, "/echo", Arc::new(echo));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(listener.local_addr()).await.unwrap();
    let mut stream = connector.connect(name.clone(), stream).await.unwrap();
    // Two requests over one connection, the second one without a `close` before it.
    for _ in 0..2 {
        let request = b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
        stream.write_all(request).await.unwrap();
        // Head and body may come apart.
        let mut answer = Vec::new();
        let text = |answer: &[u8]| String::from_utf8_lossy(answer).into_owned();
        while !text(&answer).contains("POST /echo 3") {
            let many = stream.read_buf(&mut answer).await.unwrap();
            assert!(many > 0, "{}", text(&answer));
        }
        let answer = text(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    drop(stream);
    // Who speaks no TLS gets no answer in the clear, and neither does who says nothing.
    let plain = exchange(
        &listener,
        "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    assert!(!plain.contains("HTTP/1.1"), "{plain}");
    listener.stop(Duration::from_secs(1)).await;
    let short = open(Limits {
        head_timeout: Duration::from_millis(300),
        ..Limits::default()
    })
    .await;
    let silent = exchange(&short, "").await;
    assert!(!silent.contains("HTTP/1.1"), "{silent}");
    short.stop(Duration::from_secs(1)).await;
}
